"""The Hessian of a random subset of the samples."""

from typing import Annotated

import torch
from pydantic import Field

from newton_krylov.capabilities import ALL_SAMPLES, LINEAR_MODEL, SAMPLED_HESSIAN, SAMPLES
from newton_krylov.curvature.base import Curvature
from newton_krylov.curvature.precision import Precision, in_precision
from newton_krylov.curvature.sampling import Blocks
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register


@register(
    "hessian_approx",
    "subsampled",
    needs=(SAMPLES,),
    needs_with={"dtype": (LINEAR_MODEL, ALL_SAMPLES)},
    offers=(SAMPLED_HESSIAN,),
)
class SubsampledHessian(Curvature):
    """The Hessian of the mean over a random subset of the samples, matrix-free.

    The gradient stays exact, so the steps converge to the optimum, linearly in the relative error
    of the sampled Hessian (Roosta-Khorasani and Mahoney, "Sub-sampled Newton methods", 2019);
    `growth` > 1 lets the sample grow to all of the data, which makes the convergence superlinear.

    Samples are consecutive blocks of a random permutation; a new one is drawn when it is used up:
    without replacement, and O(sample) work a step.

    Parameters
    ----------
    fraction : float
        Share of the samples in the first step's subset, in (0, 1].
    growth : float
        Factor >= 1 by which the share grows with each step, up to 1.
    dtype : {"float32"} or None
        Precision of the products, as in `hvp`.
    """

    def __init__(
        self,
        fraction: Annotated[float, Field(gt=0, le=1)] = 0.1,
        growth: Annotated[float, Field(ge=1)] = 1.0,
        dtype: Precision = None,
    ) -> None:
        self.fraction = fraction
        self.growth = growth
        self.dtype = dtype
        self._share = fraction
        self._blocks = Blocks()

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the Hessian of a fresh subset's objective at a point."""
        return in_precision(point, self.dtype, lambda p: self._of_some(p, generator))

    def _of_some(self, point: Point, generator: torch.Generator) -> LinearOperator:
        n = point.objective.n_samples
        size = max(1, round(self._share * n))
        self._share = min(1.0, self._share * self.growth)
        if size >= n:
            return point.hessian()
        index = self._blocks.draw(size, n, generator)
        return point.subset(index.to(point.w.device)).hessian()
