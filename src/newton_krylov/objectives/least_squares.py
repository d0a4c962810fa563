"""Ridge regression."""

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from newton_krylov.data.dataset import Dataset, Split
from newton_krylov.objectives.linear_model import SingleOutputModel
from newton_krylov.registry import register


@register("loss", "least_squares")
class LeastSquares(SingleOutputModel):
    """Ridge regression: mean (x'w - y)^2 / 2 + l2/2 |w|^2.

    Parameters
    ----------
    dataset : Dataset
        Of a regression.
    l2 : float
        lambda >= 0.
    """

    name = "least_squares"
    task = "regression"

    def __init__(self, dataset: Dataset, l2: NonNegativeFloat = 0.01) -> None:
        super().__init__(dataset, l2)

    def _encode(self, y: Tensor) -> Tensor:
        return y.to(self.dtype)

    def loss(self, Z: Tensor) -> Tensor:
        """Return the mean of (z - y)^2 / 2."""
        return (Z - self._targets).square_().mean() / 2

    def loss_gradient(self, Z: Tensor) -> Tensor:
        """Return (z - y) / n."""
        return (Z - self._targets).mul_(1 / self.n_samples)

    def weights(self, Z: Tensor) -> Tensor:
        """Return 1 / n."""
        return torch.full_like(Z, 1 / self.n_samples)

    def accuracy(self, w: Tensor, split: Split) -> float | None:
        """Return None: a regression has no accuracy."""
        return None
