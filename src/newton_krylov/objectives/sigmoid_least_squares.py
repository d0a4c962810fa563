"""Nonlinear least squares of a sigmoid: a nonconvex loss of a linear model."""

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from newton_krylov.data.dataset import Dataset
from newton_krylov.objectives.linear_model import SingleOutputModel
from newton_krylov.registry import register


@register("loss", "sigmoid_least_squares")
class SigmoidLeastSquares(SingleOutputModel):
    """Nonconvex binary classification: mean (sigmoid(x'w) - t)^2 / 2 + l2/2 |w|^2, t = 0 or 1.

    The test problem of inexact nonconvex Newton methods (Xu, Roosta and Mahoney, "Second-Order
    Optimization for Non-Convex Machine Learning: An Empirical Study", 2020). Its Hessian is
    indefinite away from a solution, and its Gauss-Newton matrix is another one, so here
    `hessian_approx=ggn` differs from `hvp`.

    Parameters
    ----------
    dataset : Dataset
        Of two classes; class 1 is t = 1.
    l2 : float
        lambda >= 0.
    """

    name = "sigmoid_least_squares"
    task = "binary"
    convex = False

    def __init__(self, dataset: Dataset, l2: NonNegativeFloat = 0.01) -> None:
        super().__init__(dataset, l2)

    def _encode(self, y: Tensor) -> Tensor:
        return y.to(self.dtype)

    def loss(self, Z: Tensor) -> Tensor:
        """Return the mean of (sigmoid(z) - t)^2 / 2."""
        return (torch.sigmoid(Z) - self._targets).square_().mean() / 2

    def loss_gradient(self, Z: Tensor) -> Tensor:
        """Return (s - t) s (1 - s) / n with s = sigmoid(z)."""
        s = torch.sigmoid(Z)
        return (s - self._targets) * s * (1 - s) / self.n_samples

    def weights(self, Z: Tensor) -> Tensor:
        """Return the second derivatives, of either sign, / n."""
        s = torch.sigmoid(Z)
        slope = s * (1 - s)
        return (slope.square() + (s - self._targets) * slope * (1 - 2 * s)) / self.n_samples

    def gauss_newton_weights(self, Z: Tensor) -> Tensor:
        """Return (s (1 - s))^2 / n with s = sigmoid(z)."""
        s = torch.sigmoid(Z)
        return (s * (1 - s)).square_().mul_(1 / self.n_samples)
