"""Different functions and modules of a program are different problems, and the same are one."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from newton_krylov.calls.identity import identity


def shifted(by: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda w: ((w - by) ** 2).sum()


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.layer = scale, nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.layer(x)


def weighted(outputs: torch.Tensor, y: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    return weight * (outputs - y).square().mean()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda w: (w**2).sum(), lambda w: (w**4).sum()),
        (shifted(1.0), shifted(2.0)),
        (shifted(torch.zeros(2)), shifted(torch.ones(2))),
        (functools.partial(weighted, weight=1.0), functools.partial(weighted, weight=2.0)),
        (
            nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])),
            nn.CrossEntropyLoss(weight=torch.tensor([2.0, 1.0])),
        ),
        (Scaled(1.0), Scaled(2.0)),
        (nn.Sequential(nn.Linear(3, 2), nn.ReLU()), nn.Sequential(nn.Linear(3, 2), nn.Tanh())),
        (torch.nn.functional.mse_loss, torch.nn.functional.l1_loss),
        (object(), object()),
    ],
)
def test_what_differs_is_told_apart(one: Any, other: Any) -> None:
    assert identity(one) != identity(other)
    assert identity(one) == identity(one)


def test_the_same_content_is_the_same_problem() -> None:
    assert identity(shifted(1.0)) == identity(shifted(1.0))
    assert identity(Scaled(1.0)) == identity(Scaled(1.0))  # its weights are drawn by the seed
    count: list[int] = []

    def counting(w: torch.Tensor) -> torch.Tensor:
        count.append(1)
        return w.sum()

    before = identity(counting)
    counting(torch.ones(2))
    assert identity(counting) == before
