"""The Hessian of a random subset of the samples plus a multiple of the identity."""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt

from newton_krylov.capabilities import SAMPLED_HESSIAN, SAMPLES
from newton_krylov.curvature.base import Curvature
from newton_krylov.curvature.sampling import Blocks, sample_size
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register


@register("hessian_approx", "regularized_subsampled", needs=(SAMPLES,), offers=(SAMPLED_HESSIAN,))
class RegularizedSubsampled(Curvature):
    """H_S + alpha I: the Hessian of |S| random samples, made large enough to bound the full one.

    The regularized sub-sampled Newton matrix of Ye, Luo and Zhang ("Nesterov's acceleration for
    approximate Newton", 2020; its preprint of 2017 is by Ye and Zhang). By a matrix Chernoff
    bound the sampled Hessian is within a factor of the full one once alpha is of the order of its
    sampling error, so that (1 - pi) H <= Hess f <= H with 1 - pi about mu / (mu + alpha), mu the
    smallest eigenvalue of Hess f: a larger alpha is safer, and slower.

    Samples are drawn without replacement, afresh for every step (see `Blocks`). All samples and
    alpha = 0 give the exact Hessian.

    Parameters
    ----------
    size : int or None
        |S|; None takes `fraction` of the samples.
    fraction : float
        |S| / n, in (0, 1].
    alpha : float
        Added to the diagonal, in the unit of the Hessian; >= 0.
    """

    def __init__(
        self,
        size: PositiveInt | None = None,
        fraction: Annotated[float, Field(gt=0, le=1)] = 0.05,
        alpha: NonNegativeFloat = 0.01,
    ) -> None:
        self.size = size
        self.fraction = fraction
        self.alpha = alpha
        self._blocks = Blocks()

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the regularized Hessian of a fresh subset at a point."""
        n = point.objective.n_samples
        size = sample_size(self.size, self.fraction, n)
        if size < n:
            point = point.subset(self._blocks.draw(size, n, generator).to(point.w.device))
        H = point.hessian()
        return H.affine(shift=self.alpha)
