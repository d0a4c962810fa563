"""Limited-memory BFGS."""

import torch
from pydantic import PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.result import Preconditioner
from newton_krylov.norms import euclidean
from newton_krylov.objectives.base import Objective, Point, Ray
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, State, Step, Steps
from newton_krylov.optimizers.line_search import LineSearch, first_length
from newton_krylov.registry import register


class Secants(Memory):
    """The last steps s, changes of the gradient y, and s'y: an approximation of a Hessian.

    Pairs without enough curvature are left out.

    Parameters
    ----------
    most : int
        Pairs kept.

    Attributes
    ----------
    pairs : list of (Tensor, Tensor, float)
        s, y and s'y, the newest last.
    stride : float or None
        The last step's length, where it had no curvature to learn and there are no pairs.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.pairs: list[tuple[Tensor, Tensor, float]] = []
        self.stride: float | None = None

    def add(self, new: Point, old: Point) -> None:
        """Learn from a step from one point to another."""
        s, y = new.w - old.w, new.grad - old.grad
        sy, self.stride = float(torch.dot(s, y)), euclidean(s)
        if sy > torch.finfo(s.dtype).eps * euclidean(y) * self.stride:
            self.pairs.append((s, y, sy))
            del self.pairs[: -self._most]

    def inverse_times(self, g: Tensor, M: Preconditioner | None = None) -> Tensor:
        """Apply the approximate inverse to g, by the two-loop recursion.

        Parameters
        ----------
        g : Tensor, shape (dim,)
            Any vector.
        M : callable, optional
            The inverse that the pairs correct; by default the unit matrix, times the newest pair's
            s'y / y'y where there is one.

        Returns
        -------
        Tensor, shape (dim,)
            A new vector.
        """
        q = g.clone()
        weights = []
        for s, y, sy in reversed(self.pairs):
            weight = float(torch.dot(s, q)) / sy
            q.sub_(y, alpha=weight)
            weights.append(weight)
        if M is not None:
            q = M(q)
        elif self.pairs:
            _, y, sy = self.pairs[-1]
            size = euclidean(y)  # whose square may be 0
            q.mul_(sy / size / size)
        for (s, y, sy), weight in zip(self.pairs, reversed(weights), strict=True):
            q.add_(s, alpha=weight - float(torch.dot(y, q)) / sy)
        return q

    def ray(self, point: Point, M: Preconditioner | None = None) -> Ray:
        """Restrict the objective to the line from a point along -B g; see `inverse_times`."""
        return point.ray(self.inverse_times(point.grad, M).neg_())

    def state_dict(self) -> State:
        """Return the pairs as lists, which a checkpoint moves to a device."""
        return {"pairs": [list(pair) for pair in self.pairs], "stride": self.stride}


@register("optimizer", "lbfgs")
class LBFGS(ContinuedOptimizer[Secants]):
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

    def memory(self, objective: Objective, w0: Tensor) -> Secants:
        """Return a memory without pairs."""
        return Secants(self.pairs)

    def iterate(
        self, objective: Objective, w0: Tensor, memory: Secants, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends where no direction of descent is left."""
        point = objective.at(w0)
        yield Step(point)
        pairs = memory.pairs
        while point.grad_norm > 0:
            p = memory.inverse_times(point.grad).neg_()
            if not pairs:
                p.mul_(first_length(point, memory.stride) / point.grad_norm)
            found = self.line_search(point.ray(p))
            if not found.moves(point):
                if not pairs:
                    return "no step along -gradient lowers the loss beyond its rounding error"
                pairs.clear()
                memory.stride = None
                continue
            memory.add(found.point, point)
            point = found.point
            yield Step(point, found.alpha)
        return "the gradient is zero"
