"""SPRING against dense algebra: its direction, and that without momentum."""

from itertools import islice, pairwise

import pytest
import torch
from torch import Tensor

from newton_krylov.objectives.residual.objective import ResidualObjective
from newton_krylov.optimizers.line_search import fixed
from newton_krylov.optimizers.spring import Spring


def residual(n: int, m: int) -> ResidualObjective:
    A = torch.randn(m, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return ResidualObjective(lambda w: torch.tanh(A @ w) - 0.3, torch.zeros(n).double())


def direction(f: ResidualObjective, w: Tensor, q: Tensor, damping: float) -> Tensor:
    """Least squares with the stacked matrix: |r + J p|^2 + mu |p - q|^2."""
    J, r = torch.func.jacrev(f.residuals)(w), f.residuals(w)
    root = (damping * float(r @ r) / 2) ** 0.5
    stacked = torch.cat((J, root * torch.eye(f.dim).double()))
    return torch.linalg.lstsq(stacked, torch.cat((-r, root * q))).solution


@pytest.mark.parametrize(("n", "m"), [(5, 12), (12, 5)], ids=["tall", "wide"])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_its_steps_are_those_of_least_squares(n: int, m: int, momentum: float):
    f, damping = residual(n, m), 1e-2
    made = Spring(lambda ray: fixed(ray, step_size=0.5), momentum, damping)
    points = [s.point for s in islice(made.steps(f, torch.zeros(n).double(), torch.Generator()), 5)]
    last = torch.zeros(n).double()
    for before, after in pairwise(points):
        expected = 0.5 * direction(f, before.w, momentum * last, damping)
        assert torch.allclose(after.w - before.w, expected, rtol=1e-8, atol=1e-10)
        last = after.w - before.w


def test_without_momentum_it_is_the_sample_space_step():
    """p = -J' (J J' + mu I)^-1 r."""
    f, w = residual(12, 5), torch.linspace(-1, 1, 12).double()
    steps = list(islice(Spring(fixed, 0.0).steps(f, w, torch.Generator()), 2))
    J, r = torch.func.jacrev(f.residuals)(w), f.residuals(w)
    mu = 1e-3 * float(r @ r) / 2
    p = -J.T @ torch.linalg.solve(J @ J.T + mu * torch.eye(5).double(), r)
    assert torch.allclose(steps[1].point.w - w, p, rtol=1e-9)
