"""Stochastic variance-reduced gradient."""

import math

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import ALL_SAMPLES, LINEAR_MODEL
from newton_krylov.objectives.base import Objective
from newton_krylov.objectives.linear_model import LinearModel
from newton_krylov.operators import add_diagonal
from newton_krylov.optimizers.base import Optimizer, Step, Steps
from newton_krylov.optimizers.minibatch import (
    GradientTable,
    batch_smoothness,
    batches,
    linear_model,
    smoothness,
)
from newton_krylov.registry import register


@register("optimizer", "svrg", needs=(LINEAR_MODEL, ALL_SAMPLES))
class SVRG(Optimizer):
    """Stochastic variance-reduced gradient with mini-batches, for linear models.

    Johnson and Zhang ("Accelerating stochastic gradient descent using predictive variance
    reduction", 2013), option I: every outer step evaluates the full gradient at its start and then
    goes once through the data in batches. One outer step is two passes over the data.

    Parameters
    ----------
    step_size : float or None
        a > 0; None takes 1 / (2 (S + 2 s)) with S and s the expected smoothness and the noise of
        batches (Sebbouh, Gazagnadou, Jelassi, Bach and Gower, "Towards closing the gap between
        the theory and practice of SVRG", 2019), which for single samples is 1 / (6 L_max).
    batch_size : int
        Samples in a batch.
    """

    def __init__(
        self, step_size: PositiveFloat | None = None, batch_size: PositiveInt = 64
    ) -> None:
        self.step_size = step_size
        self.batch_size = batch_size

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0, without end."""
        f = linear_model(objective, "svrg")
        size = min(self.batch_size, f.n_samples)
        a = self.step_size or self._default_step(f, size, generator)
        w = w0
        yield Step(f.at(w), needed=False)
        table = None
        samples = batches(f.n_samples, size, generator)
        while True:
            if table is None:
                table = GradientTable(f, w)
            else:
                table.refresh(w)
            for _ in range(math.ceil(f.n_samples / size)):
                g = table.estimate(w, next(samples), remember=False)
                w = w.add(add_diagonal(g, w, f.ridge), alpha=-a)
            yield Step(f.at(w), a, needed=False)

    def _default_step(self, f: LinearModel, size: int, generator: torch.Generator) -> float:
        expected, noise = batch_smoothness(*smoothness(f, generator), f.n_samples, size)
        return 1 / (2 * (expected + 2 * noise))
