"""The exact Hessian, matrix-free."""

import torch

from newton_krylov.capabilities import ALL_SAMPLES, LAYER_PRODUCTS, LINEAR_MODEL, SAMPLED_HESSIAN
from newton_krylov.curvature.base import Curvature
from newton_krylov.curvature.precision import Precision, in_precision
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register


@register(
    "hessian_approx",
    "hvp",
    offers=(SAMPLED_HESSIAN, LAYER_PRODUCTS),
    needs_with={"dtype": (LINEAR_MODEL, ALL_SAMPLES)},
)
class HessianProduct(Curvature):
    """The exact Hessian by its products with vectors; no matrix is formed.

    Each product reads the data once (Pearlmutter, "Fast exact multiplication by the Hessian",
    1994).

    Parameters
    ----------
    dtype : {"float32"} or None
        Precision of the products, where it is not the objective's own. Single precision reads
        less memory, and its relative error of 1e-7 does not matter to a solve to a tolerance of
        1e-4; values and gradients keep their precision, and so does the solution.
    """

    def __init__(self, dtype: Precision = None) -> None:
        self.dtype = dtype

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the Hessian at a point."""
        return in_precision(point, self.dtype, lambda p: p.hessian())
