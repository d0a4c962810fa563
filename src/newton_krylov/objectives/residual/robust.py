"""Residuals under a loss that grows more slowly than their squares, for outliers."""

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from newton_krylov.objectives.residual.gauss_newton import GaussNewtonOperator
from newton_krylov.objectives.residual.objective import (
    GIB,
    Derivative,
    Function,
    ResidualObjective,
    ResidualPoint,
)
from newton_krylov.rectangular import Scaled

Rho = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""z = (r / scale)^2 to rho(z), rho'(z), rho''(z)."""


def _soft_l1(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = 1 + z
    value = torch.where(z < math.inf, 2 * z / (t.sqrt() + 1), z)
    return value, t**-0.5, -0.5 * t**-1.5


def _huber(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    near, far = z <= 1, z.clamp(min=1)
    one, zero = torch.ones_like(z), torch.zeros_like(z)
    return (
        torch.where(near, z, 2 * far.sqrt() - 1),
        torch.where(near, one, far**-0.5),
        torch.where(near, zero, -0.5 * far**-1.5),
    )


def _cauchy(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = 1 + z
    return torch.log1p(z), 1 / t, -1 / t**2


def _arctan(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = 1 + z**2
    return torch.atan(z), 1 / t, -2 * z / t**2


LOSSES: dict[str, Rho] = {
    "soft_l1": _soft_l1,
    "huber": _huber,
    "cauchy": _cauchy,
    "arctan": _arctan,
}
"""Those of SciPy's `least_squares`."""

_LEAST = 0.1
"""A row's share of rho' that is kept: r over its root must not be a number beyond all others."""


class RobustPoint(ResidualPoint):
    """A robust sum at one w.

    The Gauss-Newton matrix keeps the loss's own curvature as far as it is positive (Triggs and
    others, "Bundle adjustment: a modern synthesis", 2000): row i of J is scaled by
    sqrt(rho' + 2 z rho''), so that J'J is the Hessian of the loss along the linearized residuals;
    of an outlier, where that is negative, it is a tenth of rho'.
    """

    objective: "RobustObjective"

    @cached_property
    def _rho(self) -> tuple[Tensor, Tensor, Tensor]:
        f = self.objective
        return f.rho((self.r / f.scale) ** 2)

    @cached_property
    def value(self) -> float:
        """Half the sum of scale^2 rho((r / scale)^2)."""
        return float(self._rho[0].sum()) * self.objective.scale**2 / 2

    @cached_property
    def _rows(self) -> Tensor:
        """What the rows of J are scaled by."""
        _, slope, bend = self._rho
        z = (self.r / self.objective.scale) ** 2
        return torch.maximum(slope + 2 * bend * z, _LEAST * slope).sqrt()

    @cached_property
    def normal(self) -> GaussNewtonOperator:
        """J'J of the scaled rows, with the true gradient as its right side."""
        f, J = self.objective, self.jacobian
        r = self.r * self._rho[1] / self._rows
        return GaussNewtonOperator(Scaled(J, rows=self._rows), r, f.memory, f.counts, f.share)

    def decrease(self, other: ResidualPoint) -> float:
        """Return f here minus f at another point."""
        return self.value - other.value

    def bend(self, p: Tensor) -> Tensor:
        """Return the second derivative of the residuals along p, scaled as the rows of J are."""
        return self._rows * super().bend(p)


class RobustObjective(ResidualObjective):
    """f(w) = half the sum of scale^2 rho((r / scale)^2).

    Parameters
    ----------
    function, start, memory, derivative
        As in `ResidualObjective`.
    rho : callable
        See `Rho`.
    scale : float
        Residuals well below it count by their squares; above 0.
    """

    def __init__(
        self,
        function: Function,
        start: Tensor,
        rho: Rho,
        scale: float,
        memory: float = 2 * GIB,
        derivative: Derivative | None = None,
    ) -> None:
        self.rho, self.scale = rho, scale
        super().__init__(function, start, None, memory, derivative)

    def at(self, w: Tensor) -> RobustPoint:
        """Evaluate at w, shape (dim,)."""
        return RobustPoint(self, w)
