"""Ridge regression."""

import math
from functools import cached_property

import torch
from torch import Tensor

from newton_krylov.capabilities import CORNERS, LIKELIHOOD, TABLE
from newton_krylov.objectives.linear_model import SingleOutputTerms
from newton_krylov.objectives.regression import Regression
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
    """

    name = "least_squares"
    terms = LeastSquaresTerms

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
