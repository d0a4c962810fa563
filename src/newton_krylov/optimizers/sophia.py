"""Sophia."""

from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import SAMPLES
from newton_krylov.objectives.base import Point
from newton_krylov.optimizers.diagonal_hessian import DiagonalHessianOptimizer, DiagonalMemory
from newton_krylov.optimizers.schedule import Schedule, constant
from newton_krylov.optimizers.training import Momentum
from newton_krylov.registry import register


@register("optimizer", "sophia", needs=(SAMPLES,))
class Sophia(DiagonalHessianOptimizer):
    """Newton's step with the Hessian's diagonal, each entry clipped at 1; a step is one epoch.

    Liu, Li, Hall, Liang and Ma, "Sophia: a scalable stochastic second-order optimizer for language
    model pre-training", 2024: w - rate clip(m / max(gamma h, epsilon), 1), m the gradient's running
    mean, h that of estimates of the diagonal.

    Parameters
    ----------
    learning_rate : float
        At the first step, and the most that an entry moves; the schedule multiplies it.
    beta1, beta2 : float
        Decay of the means of the gradient and of the diagonal, in [0, 1).
    gamma : float
        Multiplies the diagonal: the smaller, the more entries are clipped.
    epsilon : float
        The least denominator, which stands for a diagonal that is not positive, too.
    weight_decay : float
        A step multiplies the weights by 1 - learning_rate weight_decay, besides.
    estimator : {"hutchinson", "gauss_newton_bartlett"}
        z * (H z) with random signs z (Sophia-H): the Hessian's diagonal, in expectation; or
        B g * g (Sophia-G), g the gradient of the mini-batch of B samples at targets drawn from the
        model's predictions: the Gauss-Newton matrix's, never negative, and the cost of a gradient.
        The paper takes gamma = 0.01 with the first and 0.05 with the second.
    every : int
        Steps between two estimates.
    batch_size : int
        Samples in a mini-batch.
    schedule : Schedule
        What becomes of the learning rate.
    """

    def __init__(
        self,
        learning_rate: PositiveFloat = 1e-3,
        beta1: Momentum = 0.96,
        beta2: Momentum = 0.99,
        gamma: PositiveFloat = 0.01,
        epsilon: PositiveFloat = 1e-12,
        weight_decay: NonNegativeFloat = 0.01,
        estimator: Literal["hutchinson", "gauss_newton_bartlett"] = "hutchinson",
        every: PositiveInt = 10,
        batch_size: PositiveInt = 128,
        schedule: Schedule = constant,
    ) -> None:
        super().__init__(learning_rate, every, batch_size, schedule)
        self.beta1, self.beta2, self.gamma, self.epsilon = beta1, beta2, gamma, epsilon
        self.weight_decay, self.estimator = weight_decay, estimator

    def estimate(self, point: Point, generator: torch.Generator) -> Tensor:
        """Estimate the diagonal, of the Hessian or of the Gauss-Newton matrix."""
        if self.estimator == "hutchinson":
            return super().estimate(point, generator)
        return point.drawn_gradient(generator).square_().mul_(point.objective.n_samples)

    def learn(self, memory: DiagonalMemory, estimate: Tensor) -> None:
        """Take the estimate into the mean."""
        memory.diagonal.lerp_(estimate, 1 - self.beta2)

    def moved(self, w: Tensor, g: Tensor, memory: DiagonalMemory, length: float) -> Tensor:
        """Step along the gradient's mean, scaled and clipped entry by entry."""
        memory.mean.lerp_(g, 1 - self.beta1)
        scale = (self.gamma * memory.diagonal).clamp_min_(self.epsilon)
        direction = torch.div(memory.mean, scale).clamp_(-1.0, 1.0)
        return torch.add(w * (1 - length * self.weight_decay), direction, alpha=-length)
