"""The exact Hessian, matrix-free."""

import torch

from newton_krylov.curvature.base import Curvature
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register


@register("hessian_approx", "hvp")
class HessianProduct(Curvature):
    """The exact Hessian by its products with vectors; no matrix is formed.

    Each product reads the data once (Pearlmutter, "Fast exact multiplication by the Hessian",
    1994).
    """

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the Hessian at a point."""
        return point.hessian()
