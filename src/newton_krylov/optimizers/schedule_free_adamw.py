"""Schedule-free AdamW."""

import math

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import SAMPLES
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import ContinuedOptimizer, Steps
from newton_krylov.optimizers.schedule import constant
from newton_krylov.optimizers.training import EpochMemory, Epochs, Momentum, Update
from newton_krylov.registry import register


class _Memory(EpochMemory):
    """AdamW's own iterate z, the mean of squares, and the weights of the average so far."""

    def __init__(self, w: Tensor) -> None:
        super().__init__()
        self.steps, self.weights = 0, 0.0
        self.z, self.square = w.detach().clone(), torch.zeros_like(w)


@register("optimizer", "schedule_free_adamw", needs=(SAMPLES,))
class ScheduleFreeAdamW(ContinuedOptimizer[_Memory]):
    """AdamW whose iterates are averaged, in the place of a falling rate; a step is one epoch.

    Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky, "The road less scheduled", 2024: the
    gradient is taken at y = (1 - beta1) z + beta1 x; AdamW without momentum moves z, and x is the
    mean of the z, weighted by the squares of the rates. The run's iterate is x.

    Parameters
    ----------
    learning_rate : float
        From the end of the warm-up on.
    beta1 : float
        How much of the average there is in the point at which the gradient is taken.
    beta2 : float
        Decay of the mean of the gradient's square.
    epsilon : float
        Added to the denominator.
    weight_decay : float
        Times y and the rate, is subtracted besides.
    warmup : int
        Steps over which the rate grows to its value.
    batch_size : int
        Samples in a mini-batch.
    """

    def __init__(
        self,
        learning_rate: PositiveFloat = 2.5e-3,
        beta1: Momentum = 0.9,
        beta2: Momentum = 0.999,
        epsilon: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.01,
        warmup: NonNegativeInt = 0,
        batch_size: PositiveInt = 128,
    ) -> None:
        self.learning_rate, self.beta1, self.beta2 = learning_rate, beta1, beta2
        self.epsilon, self.weight_decay, self.warmup = epsilon, weight_decay, warmup
        self.batch_size = batch_size

    def memory(self, objective: Objective, w0: Tensor) -> _Memory:
        """Start all three sequences at w0."""
        return _Memory(w0)

    def iterate(
        self, objective: Objective, w0: Tensor, memory: _Memory, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0, without end; a step is one epoch."""

        def advance(batch: Objective, x: Tensor, _: float, generator: torch.Generator) -> Update:
            y = torch.lerp(memory.z, x, self.beta1)
            point = batch.at(y)
            g = point.grad
            memory.steps += 1
            t = memory.steps
            memory.square.lerp_(g.square(), 1 - self.beta2)
            rate = self.learning_rate * math.sqrt(1 - self.beta2**t)
            rate *= min(1.0, t / self.warmup) if self.warmup else 1.0
            move = torch.div(g, memory.square.sqrt().add_(self.epsilon))
            memory.z.sub_(move.add_(y, alpha=self.weight_decay), alpha=rate)
            memory.weights += rate**2
            new = torch.lerp(x, memory.z, rate**2 / memory.weights)
            return Update(new, point.later(), lambda: point.grad_norm, rate)

        epochs = Epochs(self.batch_size, constant, memory)
        return (yield from epochs.steps(objective, w0, generator, advance))
