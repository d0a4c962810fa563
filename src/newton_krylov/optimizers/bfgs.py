"""Quasi-Newton methods with the whole matrix: BFGS, self-scaled BFGS, self-scaled Broyden."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from newton_krylov.norms import euclidean
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, Step, Steps
from newton_krylov.optimizers.line_search import LineSearch, first_length
from newton_krylov.registry import register

Scaling = Literal["first", "always"]


@dataclass(frozen=True)
class Update:
    """A member of Broyden's family.

    Attributes
    ----------
    scale : float
        The inverse Hessian's factor before the update: 1 / tau.
    phi : float
        1 for BFGS, 0 for DFP.
    """

    scale: float = 1.0
    phi: float = 1.0


Rule = Callable[[float, float, int], Update]
"""(b, h, n) -> the update, with b = s'B s / s'y, h = y'H y / s'y and n parameters; B = H^-1."""


def bfgs(b: float, h: float, n: int) -> Update:
    """Return the plain update."""
    return Update()


def ssbfgs(b: float, h: float, n: int) -> Update:
    """Return Oren and Luenberger's scaling, where it makes the curvature smaller."""
    return Update(max(1.0, b))


def ssbroyden(b: float, h: float, n: int) -> Update:
    """Return the update of Al-Baali and Khalfan (2005) that suits the pair's curvature.

    theta is the direct update's weight between BFGS (0) and DFP (1): (1 - b) / b, whose update is
    the symmetric rank-1's, between the bounds that keep B's condition under control.
    """
    a = b * h - 1  # at least 0 by Cauchy and Schwarz; 0 where all members are the same
    if not a > 1e-12:
        return Update(max(1.0, b))
    least = h / (2 * (1 + a))  # where the next line has no digits left
    low = min(1.0, max(least, h * (1 - math.sqrt(a / (1 + a)))))
    theta = max((low - 1) / a, min(1 / low, (1 - b) / b))
    sigma = 1 + theta * a
    tau, root = min(1.0, 1 / b), sigma ** (-1 / (n - 1)) if n > 1 else 1.0
    tau = tau * min(root, 1 / theta) if theta > 0 else min(tau * root, sigma)
    return Update(1 / tau, (1 - theta) / sigma)


class InverseHessian(Memory):
    """The approximation H of the inverse Hessian, shape (dim, dim); None before the first pair.

    Then `stride` is the length of the step before, if there was one without curvature to learn.
    """

    def __init__(self) -> None:
        self.H: Tensor | None = None
        self.stride: float | None = None

    def update(self, s: Tensor, y: Tensor, size: float | None = None, rule: Rule = ssbfgs) -> None:
        """Let H meet H y = s, unless s'y is not safely positive.

        Parameters
        ----------
        s, y : Tensor, shape (dim,)
            The step, and the change of the gradient along it.
        size : float or None
            s'H^-1 s; None for the plain update, which does not need it.
        rule : callable
            Chooses the member of Broyden's family.
        """
        sy, length, change = float(torch.dot(s, y)), euclidean(s), euclidean(y)
        if not sy > torch.finfo(s.dtype).eps * length * change:
            return
        Hy = y if self.H is None else self.H @ y
        yHy = float(torch.dot(y, Hy))
        lost = yHy <= 0 or (size is not None and size <= 0)  # by rounding H is definite no more
        if self.H is None or lost:
            size = None  # it would be that of another matrix
            self.H = torch.eye(len(s), dtype=s.dtype, device=s.device) * (sy / change / change)
            Hy = self.H @ y
            yHy = float(torch.dot(y, Hy))
        made = Update() if size is None else rule(size / sy, yHy / sy, len(s))
        # scale (H - Hy (Hy)' / y'Hy + phi v v') + s s' / s'y, v = sqrt(y'Hy) (s / s'y - Hy / y'Hy).
        H, scale, phi = self.H * made.scale, made.scale, made.phi
        cross = torch.outer(s, Hy * (scale * phi / sy))
        H.addr_(s, s, alpha=(1 + scale * phi * yHy / sy) / sy).sub_(cross).sub_(cross.T)
        if phi != 1.0:
            H.addr_(Hy, Hy, alpha=scale * (phi - 1) / yHy)
        self.H = H


class DenseQuasiNewton(ContinuedOptimizer[InverseHessian]):
    """A quasi-Newton method with a dense matrix (Nocedal and Wright, algorithm 6.1).

    Parameters
    ----------
    line_search : LineSearch
        Chooses the step size.
    rule : callable
        Chooses the update.
    """

    def __init__(self, line_search: LineSearch, rule: Rule) -> None:
        self.line_search, self.rule = line_search, rule

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
            if memory.H is None:
                p = -point.grad * (first_length(point, memory.stride) / point.grad_norm)
            else:
                p = -(memory.H @ point.grad)
            found = self.line_search(point.ray(p))
            if not found.moves(point):
                if memory.H is None:
                    return "no step along -gradient lowers the loss beyond its rounding error"
                memory.H = memory.stride = None
                continue
            s, y = found.point.w - point.w, found.point.grad - point.grad
            # s = -alpha H g, so s'H^-1 s needs no inverse.
            size = -found.alpha * float(torch.dot(s, point.grad))
            memory.update(s, y, size, self.rule)
            memory.stride = euclidean(s)
            point = found.point
            yield Step(point, found.alpha)
        return "the gradient is zero"


@register("optimizer", "bfgs")
class BFGS(DenseQuasiNewton):
    """BFGS with a dense matrix of dim^2 numbers (Nocedal and Wright, algorithm 6.1).

    Pairs without enough curvature are skipped, so any line search does; `hager_zhang` and
    `strong_wolfe` make every pair usable.

    Parameters
    ----------
    line_search : LineSearch
        Chooses the step size.
    scaling : {"first", "always"}
        Scaling of H before an update: `first` makes s'y / y'y of the identity once; `always` is the
        self-scaled method `ssbfgs`.
    """

    def __init__(self, line_search: LineSearch, scaling: Scaling = "first") -> None:
        super().__init__(line_search, ssbfgs if scaling == "always" else bfgs)


@register("optimizer", "ssbfgs")
class SSBFGS(DenseQuasiNewton):
    """Self-scaled BFGS with a dense matrix, of Oren and Luenberger, and Al-Baali.

    Oren and Luenberger's factor (1974) in Al-Baali's form (1998): H is divided by
    min(1, s'y / s'H^-1 s) before each update, so that curvature that has been overestimated, which
    BFGS corrects slowly, is corrected at once.

    Parameters
    ----------
    line_search : LineSearch
        Chooses the step size.
    """

    def __init__(self, line_search: LineSearch) -> None:
        super().__init__(line_search, ssbfgs)


@register("optimizer", "ssbroyden")
class SSBroyden(DenseQuasiNewton):
    """Self-scaled Broyden method with a dense matrix, of Al-Baali and Khalfan.

    Al-Baali and Khalfan, "Wide interval for efficient self-scaling quasi-Newton algorithms",
    Optimization Methods and Software 20 (2005): each step chooses a member of Broyden's family,
    between BFGS and DFP or beyond them, and scales H before it. Urbán, Stefanou and Pons
    ("Unveiling the optimization process of physics informed neural networks", 2025) and Kiyani et
    al. (2025) find it the best of these for differential equations.

    Parameters
    ----------
    line_search : LineSearch
        Chooses the step size.
    """

    def __init__(self, line_search: LineSearch) -> None:
        super().__init__(line_search, ssbroyden)
