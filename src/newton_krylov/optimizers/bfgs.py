"""BFGS with the whole matrix, plain or self-scaled."""

from typing import Literal

import torch
from torch import Tensor

from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, Step, Steps
from newton_krylov.optimizers.line_search import LineSearch
from newton_krylov.registry import register

Scaling = Literal["first", "always"]


class InverseHessian(Memory):
    """The approximation H of the inverse Hessian, shape (dim, dim); None before the first pair."""

    def __init__(self) -> None:
        self.H: Tensor | None = None

    def update(self, s: Tensor, y: Tensor, size: float | None = None) -> None:
        """Let H meet H y = s, unless s'y is not safely positive.

        Parameters
        ----------
        s, y : Tensor, shape (dim,)
            The step, and the change of the gradient along it.
        size : float or None
            s'H^-1 s, by which H is scaled before (see `BFGS`); None for no scaling.
        """
        sy, yy, ss = torch.stack([torch.dot(s, y), torch.dot(y, y), torch.dot(s, s)]).tolist()
        if not sy > torch.finfo(s.dtype).eps * (yy * ss) ** 0.5:
            return
        if self.H is None:
            size = None
            self.H = torch.eye(len(s), dtype=s.dtype, device=s.device) * (sy / yy)
        Hy = self.H @ y
        yHy = float(torch.dot(y, Hy))
        factor = 1.0 if size is None else max(1.0, size / sy)
        # H + (1 + y'Hy / s'y) ss' / s'y - (s (Hy)' + Hy s') / s'y, with H scaled before.
        H = self.H * factor
        cross = torch.outer(s, Hy * (factor / sy))
        H.addr_(s, s, alpha=(1 + factor * yHy / sy) / sy).sub_(cross).sub_(cross.T)
        self.H = H


@register("optimizer", "bfgs")
class BFGS(ContinuedOptimizer[InverseHessian]):
    """BFGS with a dense matrix of dim^2 numbers (Nocedal and Wright, algorithm 6.1).

    Pairs without enough curvature are skipped, so any line search does; `strong_wolfe` makes
    every pair usable.

    Parameters
    ----------
    line_search : LineSearch
        Chooses the step size.
    scaling : {"first", "always"}
        Scaling of H before an update: `first` makes s'y / y'y of the identity once; `always` is the
        self-scaled method of Oren and Luenberger (1974) in Al-Baali's form (1998), which divides
        H by min(1, s'y / s'H^-1 s) each time: curvature that has been overestimated, which BFGS
        corrects slowly, is corrected at once.
    """

    def __init__(self, line_search: LineSearch, scaling: Scaling = "first") -> None:
        self.line_search = line_search
        self.scaling: Scaling = scaling

    def memory(self, objective: Objective, w0: Tensor) -> InverseHessian:
        """Return a memory without a matrix."""
        return InverseHessian()

    def iterate(
        self, objective: Objective, w0: Tensor, memory: InverseHessian, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends where no direction of descent is left."""
        point = objective.at(w0)
        yield Step(point)
        while point.grad_norm > 0:
            if memory.H is None:  # nothing is known of the scale: a step of at most unit length
                p = -point.grad * min(1.0, 1.0 / point.grad_norm)
            else:
                p = -(memory.H @ point.grad)
            found = self.line_search(point.ray(p))
            if not found.accepted:
                if memory.H is None:
                    return "no step along -gradient lowers the loss beyond its rounding error"
                memory.H = None
                continue
            s, y = found.point.w - point.w, found.point.grad - point.grad
            # s = -alpha H g, so s'H^-1 s needs no inverse.
            size = -found.alpha * float(torch.dot(s, point.grad))
            memory.update(s, y, size if self.scaling == "always" else None)
            point = found.point
            yield Step(point, found.alpha)
        return "the gradient is zero"
