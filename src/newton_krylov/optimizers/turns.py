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
        w, begun = w0, False
        while True:
            turn = memory.turn
            method, limit = self.turns[turn]
            steps = method.iterate(objective, w, memory.memories[str(turn)], generator)
            start = next(steps)
            if not begun:
                begun = True
                yield start
            while memory.turn == turn:
                try:
                    step = next(steps)
                except StopIteration as end:
                    if turn == len(self.turns) - 1:
                        return str(end.value)
                    memory.turn, memory.made = turn + 1, 0
                else:
                    w = step.point.w
                    memory.made += 1
                    if memory.made == limit:
                        memory.turn, memory.made = turn + 1, 0
                    yield step
