"""SAGA: stochastic average gradient, without bias."""

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


@register("optimizer", "saga", needs=(LINEAR_MODEL, ALL_SAMPLES))
class SAGA(Optimizer):
    """SAGA with mini-batches, for linear models.

    Defazio, Bach and Lacoste-Julien ("SAGA: a fast incremental gradient method with support for
    non-strongly convex composite objectives", 2014). Samples come in random permutations rather
    than with replacement; the table starts from one pass over the data.

    Parameters
    ----------
    step_size : float or None
        a > 0; None takes 1 / (4 max(S, s + mu n / (4 b))) with S and s the expected smoothness
        and the noise of batches of b samples, mu the modulus of strong convexity (Gazagnadou,
        Gower and Salmon, "Optimal mini-batch and step sizes for SAGA", 2019).
    batch_size : int
        Samples in a batch.
    steps_per_pass : int
        Steps that one pass over the data is recorded as.
    """

    def __init__(
        self,
        step_size: PositiveFloat | None = None,
        batch_size: PositiveInt = 64,
        steps_per_pass: PositiveInt = 1,
    ) -> None:
        self.step_size = step_size
        self.batch_size = batch_size
        self.steps_per_pass = steps_per_pass

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0, without end."""
        f = linear_model(objective, "saga")
        size = min(self.batch_size, f.n_samples)
        a = self.step_size or self._default_step(f, size, generator)
        w = w0
        yield Step(f.at(w), needed=False)
        table = GradientTable(f, w)
        samples = batches(f.n_samples, size, generator)
        updates = max(1, math.ceil(f.n_samples / size) // self.steps_per_pass)
        while True:
            for _ in range(updates):
                g = table.estimate(w, next(samples), remember=True)
                w = w.add(add_diagonal(g, w, f.ridge), alpha=-a)
            yield Step(f.at(w), a, needed=False)

    def _default_step(self, f: LinearModel, size: int, generator: torch.Generator) -> float:
        n = f.n_samples
        expected, noise = batch_smoothness(*smoothness(f, generator), n, size)
        return 1 / (4 * max(expected, noise + (f.convexity or 0.0) * n / (4 * size)))
