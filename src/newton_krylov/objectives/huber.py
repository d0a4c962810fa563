"""L2-regularized regression by Huber's loss."""

from functools import cached_property, partial

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from newton_krylov.capabilities import CORNERS, TABLE
from newton_krylov.data.dataset import Dataset
from newton_krylov.objectives.linear_model import Factors, Intercept, SingleOutputTerms, averaged
from newton_krylov.objectives.regression import Regression
from newton_krylov.registry import register


class HuberTerms(SingleOutputTerms):
    """Huber's loss of r = z - y and its derivatives; targets are y.

    Parameters
    ----------
    Z, targets, sample_weight
        As in `Terms`.
    delta : float
        Where the loss becomes linear, > 0.
    """

    def __init__(
        self, Z: Tensor, targets: Tensor, sample_weight: Tensor | None = None, *, delta: float
    ) -> None:
        super().__init__(Z, targets, sample_weight)
        self.delta = delta

    @cached_property
    def _residuals(self) -> Tensor:
        return self.Z - self.targets

    @cached_property
    def _clipped(self) -> Tensor:
        return self._residuals.clamp(-self.delta, self.delta)

    @cached_property
    def value(self) -> Tensor:
        """Mean of r^2 / 2 where |r| <= delta, else of delta (|r| - delta / 2)."""
        return self.mean(self._clipped * (self._residuals - self._clipped / 2))

    @cached_property
    def gradient(self) -> Tensor:
        """R clipped to [-delta, delta], divided by n."""
        return self.averaged(self._clipped.clone())

    @cached_property
    def weights(self) -> Tensor:
        """[|r| <= delta] / n."""
        return self.averaged((self._residuals.abs() <= self.delta).to(self.Z.dtype))


@register("loss", "huber", needs=(TABLE,), needs_with={"l1": (CORNERS,)})
class Huber(Regression):
    """Robust regression: mean h(x'w - y) + l2/2 |w|^2, h Huber's loss (1964).

    h(r) is r^2 / 2 where |r| <= delta and delta (|r| - delta / 2) beyond, as `scipy.special.huber`.
    Once differentiable; the generalized Hessian takes the second derivative 0 beyond delta.

    Parameters
    ----------
    dataset : Dataset
        Data set of a regression task.
    l2, intercept, l1, penalty
        As in `LinearModel`.
    delta : float
        > 0, in the targets' unit; scikit-learn's `HuberRegressor` has epsilon in units of a scale
        that it estimates.
    """

    name = "huber"

    def __init__(
        self,
        dataset: Dataset,
        l2: NonNegativeFloat = 0.01,
        intercept: Intercept = "auto",
        l1: NonNegativeFloat = 0.0,
        penalty: Factors = None,
        delta: PositiveFloat = 1.35,
    ) -> None:
        self.delta = delta
        self.terms = partial(HuberTerms, delta=delta)
        super().__init__(dataset, l2, intercept, l1, penalty)

    def largest_curvatures(self) -> Tensor:
        """Return 1 / n."""
        return averaged(torch.ones_like(self._targets), self.sample_weight)
