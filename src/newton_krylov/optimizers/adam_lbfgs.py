"""Adam, then L-BFGS: the usual pair for physics-informed networks."""

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import SAMPLES
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.adam import Adam
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, Steps
from newton_krylov.optimizers.lbfgs import LBFGS, Secants
from newton_krylov.optimizers.line_search import LineSearch
from newton_krylov.optimizers.training_torch import TorchMemory
from newton_krylov.registry import register


class _Turns(Memory):
    """Both methods' memories, and how many epochs Adam has made."""

    def __init__(self, first: TorchMemory, second: Secants) -> None:
        self.first, self.second, self.epochs = first, second, 0


@register("optimizer", "adam_lbfgs", needs=(SAMPLES,))
class AdamLBFGS(ContinuedOptimizer[_Turns]):
    """Adam for some epochs, and L-BFGS from there.

    Parameters
    ----------
    line_search : LineSearch
        Of L-BFGS; `strong_wolfe` makes every pair usable.
    switch : int
        Epochs of Adam.
    learning_rate : float
        Adam's.
    batch_size : int
        Samples in a mini-batch of Adam; more than there are takes all.
    memory : int
        Pairs that L-BFGS keeps.
    """

    def __init__(
        self,
        line_search: LineSearch,
        switch: PositiveInt = 1000,
        learning_rate: PositiveFloat = 1e-3,
        batch_size: PositiveInt = 32,
        memory: PositiveInt = 10,
    ) -> None:
        self.switch = switch
        self.adam = Adam(learning_rate, batch_size=batch_size)
        self.lbfgs = LBFGS(line_search, memory)

    def memory(self, objective: Objective, w0: Tensor) -> _Turns:
        """Return both methods' memories."""
        return _Turns(self.adam.memory(objective, w0), self.lbfgs.memory(objective, w0))

    def iterate(
        self, objective: Objective, w0: Tensor, memory: _Turns, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends where L-BFGS does."""
        w = w0
        if memory.epochs < self.switch:
            steps = self.adam.iterate(objective, w0, memory.first, generator)
            yield next(steps)
            while memory.epochs < self.switch:
                step = next(steps)
                memory.epochs, w = memory.epochs + 1, step.point.w
                yield step
        steps = self.lbfgs.iterate(objective, w, memory.second, generator)
        start = next(steps)
        if w is w0:
            yield start
        return (yield from steps)
