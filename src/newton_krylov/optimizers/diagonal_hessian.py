"""What AdaHessian and Sophia share: a mean of estimates of the Hessian's diagonal."""

from abc import abstractmethod

import torch
from torch import Tensor

from newton_krylov.objectives.base import Layered, Objective, Point
from newton_krylov.optimizers.base import ContinuedOptimizer, Steps
from newton_krylov.optimizers.schedule import Schedule
from newton_krylov.optimizers.training import EpochMemory, Epochs, Update


class DiagonalMemory(EpochMemory):
    """The gradient's mean, that of the diagonal's estimates, and the number of steps."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.steps, self.estimates = 0, 0
        self.mean, self.diagonal = torch.zeros_like(w), torch.zeros_like(w)


class DiagonalHessianOptimizer(ContinuedOptimizer[DiagonalMemory]):
    """A first-order method scaled by estimates of the Hessian's diagonal.

    Parameters
    ----------
    learning_rate : float
        At the first step; the schedule multiplies it.
    every : int
        Steps between two estimates, each a Hessian product with the mini-batch.
    batch_size : int
        Samples in a mini-batch.
    schedule : Schedule
        What becomes of the learning rate.
    """

    def __init__(
        self, learning_rate: float, every: int, batch_size: int, schedule: Schedule
    ) -> None:
        self.learning_rate, self.every = learning_rate, every
        self.batch_size, self.schedule = batch_size, schedule

    def memory(self, objective: Objective, w0: Tensor) -> DiagonalMemory:
        """Return means of nothing yet."""
        return DiagonalMemory(w0)

    def iterate(
        self, objective: Objective, w0: Tensor, memory: DiagonalMemory, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0, without end; a step is one epoch."""

        def advance(batch: Objective, w: Tensor, rate: float, generator: torch.Generator) -> Update:
            point = batch.at(w)
            if memory.steps % self.every == 0:
                estimate = self.estimate(point, generator)
                self.learn(memory, self.shaped(objective, estimate))
                memory.estimates += 1
            memory.steps += 1
            length = rate * self.learning_rate
            new = self.moved(point.w, point.grad, memory, length)
            return Update(new, point.later(), lambda: point.grad_norm, length)

        epochs = Epochs(self.batch_size, self.schedule, memory)
        return (yield from epochs.steps(objective, w0, generator, advance))

    def estimate(self, point: Point, generator: torch.Generator) -> Tensor:
        """Estimate the diagonal at a mini-batch's point, shape (dim,)."""
        return hutchinson(point, generator)

    def shaped(self, objective: Objective, estimate: Tensor) -> Tensor:
        """Return what becomes of an estimate, shape (dim,), before it is learned."""
        return estimate

    @abstractmethod
    def learn(self, memory: DiagonalMemory, estimate: Tensor) -> None:
        """Take an estimate into the mean."""

    @abstractmethod
    def moved(self, w: Tensor, g: Tensor, memory: DiagonalMemory, length: float) -> Tensor:
        """Return the new iterate, a tensor of its own."""


def hutchinson(point: Point, generator: torch.Generator) -> Tensor:
    """Return z * (H z) with random signs z, whose expectation is the Hessian's diagonal."""
    w = point.w
    z = torch.randint(0, 2, w.shape, generator=generator).to(w.dtype).mul_(2).sub_(1).to(w.device)
    return z * (point.hessian() @ z)


def mean_over_kernels(objective: Objective, estimate: Tensor) -> Tensor:
    """Replace the entries that belong to one convolution kernel by their mean."""
    if isinstance(objective, Layered):
        for kernel in objective.kernels(estimate):
            kernel.copy_(kernel.mean(tuple(range(2, kernel.ndim)), keepdim=True))
    return estimate
