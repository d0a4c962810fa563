"""Nonlinear least squares of a sigmoid: a nonconvex loss of a linear model."""

from functools import cached_property

import torch
from torch import Tensor

from newton_krylov.capabilities import CORNERS, TABLE
from newton_krylov.objectives.linear_model import SingleOutputModel, SingleOutputTerms
from newton_krylov.registry import register


class SigmoidLeastSquaresTerms(SingleOutputTerms):
    """(s - t)^2 / 2 with s = sigmoid(z), and its derivatives; targets are t = 0 or 1."""

    @cached_property
    def _s(self) -> Tensor:
        return torch.sigmoid(self.Z)

    @cached_property
    def _slope(self) -> Tensor:
        """The slope s (1 - s) of s by z."""
        return self._s * (1 - self._s)

    @cached_property
    def value(self) -> Tensor:
        """Mean of (s - t)^2 / 2."""
        return self.mean((self._s - self.targets).square_()) / 2

    @cached_property
    def gradient(self) -> Tensor:
        """(s - t) s (1 - s) / n."""
        return self.averaged((self._s - self.targets).mul_(self._slope))

    @cached_property
    def weights(self) -> Tensor:
        """((s (1 - s))^2 + (s - t) s (1 - s) (1 - 2 s)) / n, of either sign."""
        bend = (self._s - self.targets) * self._slope * (1 - 2 * self._s)
        return self.averaged(self._slope.square() + bend)

    @cached_property
    def gauss_newton_weights(self) -> Tensor:
        """(s (1 - s))^2 / n."""
        return self.averaged(self._slope.square())


@register("loss", "sigmoid_least_squares", needs=(TABLE,), needs_with={"l1": (CORNERS,)})
class SigmoidLeastSquares(SingleOutputModel):
    """Nonconvex binary classification: mean (sigmoid(x'w) - t)^2 / 2 + l2/2 |w|^2, t = 0 or 1.

    The test problem of inexact nonconvex Newton methods (Xu, Roosta and Mahoney, "Second-Order
    Optimization for Non-Convex Machine Learning: An Empirical Study", 2020). Its Hessian is
    indefinite away from a solution, and its Gauss-Newton matrix is another one, so here
    `hessian_approx=ggn` differs from `hvp`.

    Parameters
    ----------
    dataset : Dataset
        Data set of two classes; class 1 is t = 1.
    l2, intercept, l1, penalty
        As in `LinearModel`.
    """

    name = "sigmoid_least_squares"
    task = "binary"
    terms = SigmoidLeastSquaresTerms
    convex = False

    def _encode(self, y: Tensor) -> Tensor:
        return y.to(self.dtype)
