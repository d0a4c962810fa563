"""SOAP: Adam in the eigenbasis of Shampoo's factors."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import LAYERS
from newton_krylov.objectives.base import Objective
from newton_krylov.operators import eigh
from newton_krylov.optimizers.schedule import Schedule, constant
from newton_krylov.optimizers.shampoo import LayerSteps, outer, sides_of
from newton_krylov.optimizers.training import Momentum
from newton_krylov.optimizers.training_torch import LayeredTorchOptimizer
from newton_krylov.registry import register


class SoapSteps(LayerSteps):
    """SOAP's steps, for matrices and vectors.

    With L and R the running means of G G' and G'G of a layer's gradients G, and Q_L, Q_R their
    eigenvectors, Adam runs on Q_L'G Q_R: its mean in the layer's own coordinates, turned at each
    step, its mean of squares in those of the basis. Every `every` steps the eigenvectors are
    brought up to date by one step of orthogonal iteration.

    Parameters
    ----------
    params : iterable of Tensor
        Of one dimension or two. A vector, and a side of more than `largest` rows or columns, has
        the identity for a basis.
    lr : float
        Length of a step.
    betas : tuple of float
        Decay of the gradient's mean, and of the means of its square and of L and R.
    eps : float
        Added to the denominator.
    weight_decay : float
        A step multiplies the weights by 1 - lr weight_decay, besides.
    every : int
        Steps between two updates of the eigenvectors.
    largest : int
        The largest side that has a basis.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        every: int = 10,
        largest: int = 1024,
    ) -> None:
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "every": every, "largest": largest,
        }  # fmt: skip
        super().__init__(params, defaults)

    def advance(self, p: Tensor, G: Tensor, s: dict[str, Any], at: dict[str, Any]) -> None:
        """Step as Adam does, in the basis."""
        beta1, beta2 = at["betas"]
        sides = sides_of(G, at["largest"])
        if not s:
            s |= {"step": 0, "mean": torch.zeros_like(G), "square": torch.zeros_like(G)}
            for k in sides:
                covariance = outer(G, k)
                s[f"factor{k}"] = torch.zeros_like(covariance)
                s[f"basis{k}"] = eigh(covariance)[1].flip(1)
        s["step"] += 1
        s["mean"].lerp_(G, 1 - beta1)
        s["square"].lerp_(_into(s, sides, G).square(), 1 - beta2)
        mean = _into(s, sides, s["mean"]) / (1 - beta1 ** s["step"])
        root = (s["square"] / (1 - beta2 ** s["step"])).sqrt_().add_(at["eps"])
        p.mul_(1 - at["lr"] * at["weight_decay"])
        p.add_(_back(s, sides, mean / root), alpha=-at["lr"])
        for k in sides:
            s[f"factor{k}"].lerp_(outer(G, k), 1 - beta2)
            if s["step"] % at["every"] == 0:
                _turn(s, k)


def _into(s: dict[str, Any], sides: Sequence[int], G: Tensor) -> Tensor:
    """Return Q_L'G Q_R."""
    for k in sides:
        G = s["basis0"].T @ G if k == 0 else G @ s["basis1"]
    return G


def _back(s: dict[str, Any], sides: Sequence[int], G: Tensor) -> Tensor:
    """Return Q_L G Q_R'."""
    for k in sides:
        G = s["basis0"] @ G if k == 0 else G @ s["basis1"].T
    return G


def _turn(s: dict[str, Any], k: int) -> None:
    """Make one step of orthogonal iteration, columns in the order of their eigenvalues."""
    Q = s[f"basis{k}"]
    product = s[f"factor{k}"] @ Q
    order = (Q * product).sum(0).argsort(descending=True)
    s["square"] = s["square"].index_select(k, order)
    s[f"basis{k}"] = torch.linalg.qr(product[:, order])[0]


@register("optimizer", "soap", needs=(LAYERS,))
class SOAP(LayeredTorchOptimizer):
    """Adam in the slowly turning eigenbasis of Shampoo's factors; a step is one epoch.

    Vyas, Morwani, Zhao, Shapira, Brandfonbrener, Janson and Kakade, "SOAP: improving and
    stabilizing Shampoo using Adam", 2025. The first step is Adam's, in the first gradient's basis
    (the authors' program makes none).

    Parameters
    ----------
    learning_rate : float
        At the first step; the schedule multiplies it.
    beta1, beta2 : float
        Decay of the gradient's mean, and of the means of its square and of the factors.
    epsilon : float
        Added to the denominator.
    weight_decay : float
        A step multiplies the weights by 1 - learning_rate weight_decay, besides.
    every : int
        Steps between two updates of the eigenvectors.
    largest : int
        The largest side of a layer's matrix that has a basis; longer ones have the identity.
    batch_size : int
        Samples in a mini-batch.
    schedule : Schedule
        What becomes of the learning rate.
    """

    def __init__(
        self,
        learning_rate: PositiveFloat = 1e-3,
        beta1: Momentum = 0.95,
        beta2: Momentum = 0.95,
        epsilon: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.01,
        every: PositiveInt = 10,
        largest: NonNegativeInt = 1024,
        batch_size: PositiveInt = 128,
        schedule: Schedule = constant,
    ) -> None:
        super().__init__(learning_rate, batch_size, schedule)
        self.options: dict[str, Any] = {
            "betas": (beta1, beta2), "eps": epsilon, "weight_decay": weight_decay,
            "every": every, "largest": largest,
        }  # fmt: skip

    def make(
        self, objective: Objective, parameters: list[Tensor]
    ) -> Sequence[torch.optim.Optimizer]:
        """Make SOAP's steps for the parameters."""
        return [SoapSteps(parameters, self.learning_rate, **self.options)]
