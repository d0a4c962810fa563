"""Shampoo, its step lengths grafted from Adam."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import LAYERS
from newton_krylov.objectives.base import Objective
from newton_krylov.operators import eigh
from newton_krylov.optimizers.schedule import Schedule, constant
from newton_krylov.optimizers.training import Momentum
from newton_krylov.optimizers.training_torch import LayeredTorchOptimizer
from newton_krylov.registry import register

Grafting = Literal["adam", "sgd", "none"]


class LayerSteps(torch.optim.Optimizer, ABC):
    """Steps that each layer makes by its own gradient and its own state."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make a step by the gradients that the parameters have, and return a closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.numel():
                    self.advance(p, p.grad, self.state[p], group)
        return loss

    @abstractmethod
    def advance(self, p: Tensor, G: Tensor, s: dict[str, Any], at: dict[str, Any]) -> None:
        """Change a parameter by its gradient G, with its state s and its group's settings."""


class ShampooSteps(LayerSteps):
    """Shampoo's steps, for matrices and vectors.

    With L and R the running means of G G' and G'G of a layer's gradients G, and M their mean, the
    direction is L^-1/4 M R^-1/4; of one side alone L^-1/2 M, where the other is too long. Vectors,
    and matrices with two long sides, get Adam's step.

    Parameters
    ----------
    params : iterable of Tensor
        Of one dimension or two.
    lr : float
        Length of a step.
    betas : tuple of float
        Decay of the gradient's mean, and of the means of its square and of L and R.
    eps : float
        Added to Adam's denominator; and times the largest eigenvalue, to L and R.
    weight_decay : float
        A step multiplies the weights by 1 - lr weight_decay, besides.
    every : int
        Steps between two updates of the roots.
    largest : int
        The longest side that has a factor.
    grafting : {"adam", "sgd", "none"}
        Whose step's length a layer's direction is given; none keeps its own.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        every: int = 20,
        largest: int = 1024,
        grafting: Grafting = "adam",
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "every": every, "largest": largest, "grafting": grafting,
        }  # fmt: skip
        super().__init__(params, defaults)

    def advance(self, p: Tensor, G: Tensor, s: dict[str, Any], at: dict[str, Any]) -> None:
        """Step by the gradient's mean times the factors' roots."""
        (beta1, beta2), sides = at["betas"], sides_of(G, at["largest"])
        if not s:
            s |= {"step": 0, "mean": torch.zeros_like(G), "square": torch.zeros_like(G)}
            s |= {f"factor{k}": torch.zeros_like(outer(G, k)) for k in sides}
        s["step"] += 1
        t = s["step"]
        s["mean"].lerp_(G, 1 - beta1)
        s["square"].lerp_(G.square(), 1 - beta2)
        for k in sides:
            s[f"factor{k}"].lerp_(outer(G, k), 1 - beta2)
            if (t - 1) % at["every"] == 0:
                factor = s[f"factor{k}"] / (1 - beta2**t)
                s[f"root{k}"] = inverse_root(factor, 2 * len(sides), at["eps"])
        mean = s["mean"] / (1 - beta1**t)
        adam = mean / (s["square"] / (1 - beta2**t)).sqrt_().add_(at["eps"])
        direction = mean if sides else adam
        for k in sides:
            direction = s["root0"] @ direction if k == 0 else direction @ s["root1"]
        if sides and at["grafting"] != "none":
            length = (adam if at["grafting"] == "adam" else mean).norm()
            tiny = torch.finfo(p.dtype).tiny
            direction = direction * (length / direction.norm().clamp_min(tiny))
        p.mul_(1 - at["lr"] * at["weight_decay"]).add_(direction, alpha=-at["lr"])


def sides_of(G: Tensor, largest: int) -> list[int]:
    """Return the dimensions of G that have a factor: those of a matrix, of `largest` at most."""
    return [k for k in range(2) if G.shape[k] <= largest] if G.ndim == 2 else []


def outer(G: Tensor, side: int) -> Tensor:
    """Return G G' (side 0) or G'G."""
    return G @ G.T if side == 0 else G.T @ G


def inverse_root(matrix: Tensor, power: int, eps: float) -> Tensor:
    """Return (A + eps |A| I)^(-1/power) of a semidefinite matrix, by its eigenvalues in float64.

    Of zero, where no gradient has come yet, it is the identity.
    """
    values, Q = eigh(matrix.double())
    shifted = values.clamp_min(0) + eps * values[-1]
    scale = torch.where(values[-1] > 0, shifted, 1.0).pow(-1 / power)  # without a look at it
    root: Tensor = (Q * scale) @ Q.T
    return root.to(matrix.dtype)


@register("optimizer", "shampoo", needs=(LAYERS,))
class Shampoo(LayeredTorchOptimizer):
    """A Kronecker product of roots of gradient covariances for each layer; a step is one epoch.

    Gupta, Koren and Singer, "Shampoo: preconditioned stochastic tensor optimization", 2018, with
    means in the place of sums and each layer's step as long as another method's would be (grafting;
    Anil, Gupta, Koren, Regan and Singer, "Scalable second order optimization for deep learning",
    2021).

    Parameters
    ----------
    learning_rate : float
        At the first step; the schedule multiplies it.
    beta1, beta2 : float
        Decay of the gradient's mean, and of the means of its square and of the factors.
    epsilon : float
        Added to Adam's denominator, and to the factors in units of their largest eigenvalue.
    weight_decay : float
        A step multiplies the weights by 1 - learning_rate weight_decay, besides.
    every : int
        Steps between two updates of the roots.
    largest : int
        The largest side of a layer's matrix that has a factor; longer ones have the identity.
    grafting : {"adam", "sgd", "none"}
        Whose step's length a layer's step is given.
    batch_size : int
        Samples in a mini-batch.
    schedule : Schedule
        What becomes of the learning rate.
    """

    def __init__(
        self,
        learning_rate: PositiveFloat = 1e-3,
        beta1: Momentum = 0.9,
        beta2: Momentum = 0.99,
        epsilon: PositiveFloat = 1e-6,
        weight_decay: NonNegativeFloat = 0.01,
        every: PositiveInt = 20,
        largest: NonNegativeInt = 1024,
        grafting: Grafting = "adam",
        batch_size: PositiveInt = 128,
        schedule: Schedule = constant,
    ) -> None:
        super().__init__(learning_rate, batch_size, schedule)
        self.options: dict[str, Any] = {
            "betas": (beta1, beta2), "eps": epsilon, "weight_decay": weight_decay,
            "every": every, "largest": largest, "grafting": grafting,
        }  # fmt: skip

    def make(
        self, objective: Objective, parameters: list[Tensor]
    ) -> Sequence[torch.optim.Optimizer]:
        """Make Shampoo's steps for the parameters."""
        return [ShampooSteps(parameters, self.learning_rate, **self.options)]
