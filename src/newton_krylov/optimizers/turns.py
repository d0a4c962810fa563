"""Methods one after another: each goes on from where the one before it stood."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, Steps

Turn = tuple[ContinuedOptimizer[Any], int | None]
"""A method and the number of its steps; None for as many as it makes."""


class Progress(Memory):
    """All methods' memories, whose turn it is, and the steps made in it."""

    def __init__(self, memories: Mapping[str, Memory]) -> None:
        self.memories, self.turn, self.made = memories, 0, 0


class Turns(ContinuedOptimizer[Progress]):
    """Several methods in turns; a turn is over after its steps, or where its method ends.

    Parameters
    ----------
    *turns : tuple of ContinuedOptimizer and int or None
        The methods, in their order, and how many steps each makes.
    """

    def __init__(self, *turns: Turn) -> None:
        self.turns = turns

    def memory(self, objective: Objective, w0: Tensor) -> Progress:
        """Return all methods' memories."""
        return Progress(
            {str(k): method.memory(objective, w0) for k, (method, _) in enumerate(self.turns)}
        )

    def iterate(
        self, objective: Objective, w0: Tensor, memory: Progress, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends where the last method does."""
        w, steps = w0, self._begun(objective, w0, memory, generator)
        yield next(steps)
        while True:
            step = None
            try:
                step = next(steps)
            except StopIteration as end:
                if memory.turn == len(self.turns) - 1:
                    return str(end.value)
            else:
                w, memory.made = step.point.w, memory.made + 1
            if step is None or memory.made == self.turns[memory.turn][1]:
                memory.turn, memory.made = memory.turn + 1, 0
                steps = self._begun(objective, w, memory, generator)
                next(steps).evaluated()  # in this step, as a resumed run has it behind itself
            if step is not None:
                yield step

    def _begun(
        self, objective: Objective, w: Tensor, memory: Progress, generator: torch.Generator
    ) -> Steps:
        """Return the steps of the method whose turn it is."""
        method, _ = self.turns[memory.turn]
        return method.iterate(objective, w, memory.memories[str(memory.turn)], generator)
