"""Limited-memory BFGS."""

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Tensor

from newton_krylov.norms import euclidean
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, State, Step, Steps
from newton_krylov.optimizers.line_search import LineSearch, first_length
from newton_krylov.registry import register


class Pairs(Memory):
    """The last steps s, changes of the gradient y, and s'y, the newest last.

    Where there are none, `stride` is the last step's length, if it had no curvature to learn.
    """

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, float]] = []
        self.stride: float | None = None

    def state_dict(self) -> State:
        """Return the pairs as lists, which a checkpoint moves to a device."""
        return {"pairs": [list(pair) for pair in self.pairs], "stride": self.stride}


@register("optimizer", "lbfgs")
class LBFGS(ContinuedOptimizer[Pairs]):
    """Limited-memory BFGS by the two-loop recursion (Nocedal and Wright, algorithms 7.4 and 7.5).

    Pairs without enough curvature are skipped, so any line search does; `strong_wolfe` makes
    every pair usable.

    Parameters
    ----------
    line_search : LineSearch
        Chooses the step size.
    memory : int
        Pairs kept.
    """

    def __init__(self, line_search: LineSearch, memory: PositiveInt = 10) -> None:
        self.line_search = line_search
        self.pairs = memory

    def memory(self, objective: Objective, w0: Tensor) -> Pairs:
        """Return a memory without pairs."""
        return Pairs()

    def iterate(
        self, objective: Objective, w0: Tensor, memory: Pairs, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends where no direction of descent is left."""
        point = objective.at(w0)
        yield Step(point)
        pairs = memory.pairs
        while point.grad_norm > 0:
            p = _two_loops(point.grad, pairs).neg_()
            if not pairs:
                p.mul_(first_length(point, memory.stride) / point.grad_norm)
            found = self.line_search(point.ray(p))
            if not found.accepted:
                if not pairs:
                    return "no step along -gradient lowers the loss beyond its rounding error"
                pairs.clear()
                memory.stride = None
                continue
            new = found.point
            s, y = new.w - point.w, new.grad - point.grad
            sy, memory.stride = float(torch.dot(s, y)), euclidean(s)
            if sy > torch.finfo(objective.dtype).eps * euclidean(y) * memory.stride:
                pairs.append((s, y, sy))
                del pairs[: -self.pairs]
            point = new
            yield Step(point, found.alpha)
        return "the gradient is zero"


def _two_loops(g: Tensor, pairs: Sequence[tuple[Tensor, Tensor, float]]) -> Tensor:
    """Apply the inverse Hessian approximation of the pairs to g."""
    q = g.clone()
    weights = []
    for s, y, sy in reversed(pairs):
        weight = torch.dot(s, q) / sy
        q.sub_(y * weight)
        weights.append(weight)
    if pairs:
        _, y, sy = pairs[-1]
        q.mul_(sy / torch.dot(y, y))
    for (s, y, sy), weight in zip(pairs, reversed(weights), strict=True):
        q.add_(s * (weight - torch.dot(y, q) / sy))
    return q
