"""The Hessian of samples drawn in proportion to their share of its trace."""

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import ALL_SAMPLES, SAMPLED_HESSIAN, SQUARE_ROOT
from newton_krylov.curvature.base import Curvature
from newton_krylov.curvature.sampling import sample_size
from newton_krylov.curvature.square_root import single_output
from newton_krylov.objectives.base import Point
from newton_krylov.objectives.linear_model import WeightedGram
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register


@register(
    "hessian_approx",
    "leverage_subsampled",
    needs=(SQUARE_ROOT, ALL_SAMPLES),
    offers=(SAMPLED_HESSIAN,),
)
class LeverageSubsampled(Curvature):
    """The sampled Hessian of a linear model with row-norm sampling, plus alpha I.

    The Hessian is B'B + l2 I with B = D^(1/2) X, D the second derivatives of the loss. Sample i is
    drawn, with replacement, with the probability p_i = |b_i|^2 / |B|_F^2 of its row b_i and enters
    with the weight 1 / (|S| p_i), which makes the sampled matrix unbiased: the row-norm-squares
    sampling of Xu, Yang, Roosta-Khorasani, Re and Mahoney ("Sub-sampled Newton methods with
    non-uniform sampling", 2016), which needs as many samples as B has stable rank, |B|_F^2 /
    |B|_2^2, whereas uniform sampling needs as many more as its largest row exceeds the mean one.
    A loss that is not convex enters by its Gauss-Newton matrix.

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

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the regularized Hessian of a fresh sample at a point."""
        objective, weights = single_output(point, "leverage_subsampled")
        size = sample_size(self.size, self.fraction, objective.n_samples)
        norms = objective.features.row_square_norms
        mass = weights * norms
        drawn, times = _draw(mass, size, generator)
        # weight / (|S| p), and none where no row has any mass.
        tiny = torch.finfo(norms.dtype).tiny
        scaled = times * (mass.sum() / size) / norms[drawn].clamp_min(tiny)
        H = WeightedGram(objective.subset(drawn), scaled)
        return H.affine(shift=self.alpha)


def _draw(mass: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw numbers in proportion to their mass; return the distinct ones and how often each."""
    # By inversion: torch.multinomial refuses more than 2^24 categories.
    steps = torch.cumsum(mass, 0, dtype=torch.float64)
    uniform = torch.rand(size, dtype=torch.float64, generator=generator).to(mass.device)
    drawn = torch.searchsorted(steps, uniform * steps[-1], right=True)
    drawn, times = torch.unique(drawn.clamp_(max=len(mass) - 1), return_counts=True)
    return drawn, times.to(mass.dtype)
