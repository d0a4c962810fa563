"""Ridge regression, and least squares without a penalty."""

import math
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from newton_krylov.capabilities import CORNERS, LIKELIHOOD, NORMAL_EQUATIONS, TABLE
from newton_krylov.objectives.linear_model import (
    LinearModel,
    LinearModelPoint,
    SingleOutputTerms,
    WeightedGram,
)
from newton_krylov.objectives.regression import Regression
from newton_krylov.operators import LeastSquares as Problem
from newton_krylov.operators import RectangularOperator
from newton_krylov.registry import register


class LeastSquaresTerms(SingleOutputTerms):
    """(z - y)^2 / 2 and its derivatives; targets are y."""

    loop = "least_squares"

    @cached_property
    def value(self) -> Tensor:
        """Mean of (z - y)^2 / 2."""
        return self.mean((self.Z - self.targets).square_()) / 2

    @cached_property
    def gradient(self) -> Tensor:
        """(z - y) / n."""
        return self.averaged(self.Z - self.targets)

    def drawn(self, generator: torch.Generator) -> Tensor:
        """Return normal targets of variance 1 around z."""
        e = torch.randn(len(self.Z), generator=generator, dtype=torch.float64)
        return self.Z + e.to(self.Z)

    @cached_property
    def weights(self) -> Tensor:
        """1 / n."""
        return self.averaged(torch.ones_like(self.Z))


@register(
    "loss", "least_squares", needs=(TABLE,), offers=(LIKELIHOOD,), needs_with={"l1": (CORNERS,)}
)
class LeastSquares(Regression):
    """Ridge regression: mean (x'w - y)^2 / 2 + l2/2 |w|^2.

    Parameters
    ----------
    dataset : Dataset
        Data set of a regression task.
    l2, intercept, l1, penalty
        As in `LinearModel`.

    Notes
    -----
    Without a penalty, and with columns that depend on each other, the solution is not unique. From
    w = 0 the solvers `lsmr`, `lsqr`, `qr` and `minres_qlp` find the shortest one, that of
    `numpy.linalg.lstsq`.
    """

    name = "least_squares"
    terms = LeastSquaresTerms
    offers = Regression.offers | {NORMAL_EQUATIONS}

    def hessian_at(self, point: LinearModelPoint) -> WeightedGram:
        """Return the Hessian of f, which knows its least-squares problem."""
        return ResidualGram(point)

    def rounding(self, value: float) -> float:
        """Return how far a computed value can be off; more than the value's own last bits.

        The residual z - y of a good fit is a small difference of large numbers: it is off by the
        rounding of y, whose effect on the value is the product of both.

        Parameters
        ----------
        value : float
            A computed value of f.

        Returns
        -------
        float
            A bound on its rounding error, in the unit of f.
        """
        y = float(torch.linalg.vector_norm(self._targets)) / math.sqrt(self.n_samples)
        off = torch.finfo(self.dtype).eps * y
        return super().rounding(value) + 10 * off * (math.sqrt(2 * abs(value)) + off)


class ResidualGram(WeightedGram):
    """The Hessian J'J of least squares, with the residual whose J'u the gradient is.

    Parameters
    ----------
    point : LinearModelPoint
        Where the residual is.
    """

    def __init__(self, point: LinearModelPoint) -> None:
        super().__init__(point.objective, cast(LeastSquaresTerms, point.terms).weights)
        self._point = point

    def least_squares(self, b: Tensor) -> Problem | None:
        """Return the problem of minimizing |J x - u|, for the gradient b = J'u or its negative."""
        point = self._point
        sign = next((s for s in (-1.0, 1.0) if torch.equal(b, s * point.grad)), None)
        if sign is None:
            return None
        J = Residuals(point.objective)
        u = J.roots * (point.Z - point.objective._targets)
        if J.below is not None:
            u = torch.cat((u, J.below * point.w))
        return Problem(J, sign * u)


class Residuals(RectangularOperator):
    """J = [diag(v / n)^(1/2) X; diag(ridge)^(1/2)], the second part where there is a penalty.

    Parameters
    ----------
    objective : LinearModel
        Gives X, the samples' weights v, the L2 term and the counts.

    Attributes
    ----------
    roots : Tensor, shape (n,)
        (v / n)^(1/2).
    below : Tensor or None, shape (d,)
        ridge^(1/2).
    """

    def __init__(self, objective: LinearModel) -> None:
        n, d = objective.features.X.shape
        ridge = objective.ridge * torch.ones(d, dtype=objective.dtype, device=objective.device)
        self.below = ridge.sqrt() if bool(ridge.any()) else None
        rows = n if self.below is None else n + d
        super().__init__((rows, d), objective.dtype, objective.device)
        v = objective.sample_weight
        self.roots = (ridge.new_ones(n) if v is None else v).div(n).sqrt()
        self._objective = objective

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (d,)."""
        top = self.roots * self._objective.outputs(v)
        return top if self.below is None else torch.cat((top, self.below * v))

    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector of the rows' number."""
        n = len(self.roots)
        product = self._objective.adjoint(self.roots * u[:n])
        return product if self.below is None else product.add_(self.below * u[n:])
