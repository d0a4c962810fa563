"""AdaHessian."""

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import SAMPLES
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.diagonal_hessian import (
    DiagonalHessianOptimizer,
    DiagonalMemory,
    mean_over_kernels,
)
from newton_krylov.optimizers.schedule import Schedule, constant
from newton_krylov.optimizers.training import Momentum
from newton_krylov.registry import register


@register("optimizer", "adahessian", needs=(SAMPLES,))
class AdaHessian(DiagonalHessianOptimizer):
    """Adam with the Hessian's diagonal in the place of the gradient; a step is one epoch.

    Yao, Gholami, Shen, Mustafa, Keutzer and Mahoney, "ADAHESSIAN: an adaptive second order
    optimizer for machine learning", 2021: Hutchinson's estimate, averaged over each convolution
    kernel, squared, in a running mean; the step divides by its root.

    Parameters
    ----------
    learning_rate : float
        At the first step; the schedule multiplies it.
    beta1, beta2 : float
        Decay of the means of the gradient and of the diagonal's square, in [0, 1).
    epsilon : float
        Added to the denominator.
    weight_decay : float
        A step multiplies the weights by 1 - learning_rate weight_decay, besides.
    every : int
        Steps between two estimates.
    batch_size : int
        Samples in a mini-batch.
    schedule : Schedule
        What becomes of the learning rate.
    """

    def __init__(
        self,
        learning_rate: PositiveFloat = 0.1,
        beta1: Momentum = 0.9,
        beta2: Momentum = 0.999,
        epsilon: PositiveFloat = 1e-4,
        weight_decay: NonNegativeFloat = 0.0,
        every: PositiveInt = 1,
        batch_size: PositiveInt = 128,
        schedule: Schedule = constant,
    ) -> None:
        super().__init__(learning_rate, every, batch_size, schedule)
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.weight_decay = weight_decay

    def shaped(self, objective: Objective, estimate: Tensor) -> Tensor:
        """Average over kernels."""
        return mean_over_kernels(objective, estimate)

    def learn(self, memory: DiagonalMemory, estimate: Tensor) -> None:
        """Take the square into the mean."""
        memory.diagonal.lerp_(estimate.square(), 1 - self.beta2)

    def moved(self, w: Tensor, g: Tensor, memory: DiagonalMemory, length: float) -> Tensor:
        """Step along the gradient's mean, divided by the diagonal's root mean square."""
        memory.mean.lerp_(g, 1 - self.beta1)
        mean = memory.mean / (1 - self.beta1**memory.steps)
        square = memory.diagonal / (1 - self.beta2**memory.estimates)
        direction = mean.div_(square.sqrt_().add_(self.epsilon))
        return torch.add(w * (1 - length * self.weight_decay), direction, alpha=-length)
