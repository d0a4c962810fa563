"""Limited-memory BFGS."""

from collections import deque

import torch
from pydantic import PositiveInt
from torch import Tensor

from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import Optimizer, Step, Steps
from newton_krylov.optimizers.line_search import LineSearch
from newton_krylov.registry import register


@register("optimizer", "lbfgs")
class LBFGS(Optimizer):
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
        self.memory = memory

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0; ends by itself where no direction of descent is left."""
        point = objective.at(w0)
        yield Step(point)
        pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=self.memory)
        while point.grad_norm > 0:
            p = _two_loops(point.grad, pairs).neg_()
            if not pairs:
                # Nothing is known of the scale yet: a step of at most unit length.
                p.mul_(min(1.0, 1.0 / point.grad_norm))
            found = self.line_search(point.ray(p))
            if not found.accepted:
                if not pairs:
                    return "no step along -gradient lowers the loss beyond its rounding error"
                pairs.clear()
                continue
            new = found.point
            s, y = new.w - point.w, new.grad - point.grad
            sy, yy, ss = torch.stack([torch.dot(s, y), torch.dot(y, y), torch.dot(s, s)]).tolist()
            if sy > torch.finfo(objective.dtype).eps * (yy * ss) ** 0.5:
                pairs.append((s, y, sy))
            point = new
            yield Step(point, found.alpha)
        return "the gradient is zero"


def _two_loops(g: Tensor, pairs: deque[tuple[Tensor, Tensor, float]]) -> Tensor:
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
