"""Ridge regression."""

import math
from functools import cached_property

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from newton_krylov.capabilities import TABLE
from newton_krylov.data.dataset import Dataset, Split
from newton_krylov.objectives.linear_model import SingleOutputModel, SingleOutputTerms
from newton_krylov.registry import register


class LeastSquaresTerms(SingleOutputTerms):
    """(z - y)^2 / 2 and its derivatives; targets are y."""

    @cached_property
    def value(self) -> Tensor:
        """Mean of (z - y)^2 / 2."""
        return (self.Z - self.targets).square_().mean() / 2

    @cached_property
    def gradient(self) -> Tensor:
        """(z - y) / n."""
        return (self.Z - self.targets).mul_(1 / len(self.Z))

    @cached_property
    def weights(self) -> Tensor:
        """1 / n."""
        return torch.full_like(self.Z, 1 / len(self.Z))


@register("loss", "least_squares", needs=(TABLE,))
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
    terms = LeastSquaresTerms

    def __init__(self, dataset: Dataset, l2: NonNegativeFloat = 0.01) -> None:
        super().__init__(dataset, l2)

    def _encode(self, y: Tensor) -> Tensor:
        return y.to(self.dtype)

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

    def accuracy(self, w: Tensor, split: Split) -> float | None:
        """Return None: a regression has no accuracy."""
        return None
