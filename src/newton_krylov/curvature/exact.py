"""The exact Hessian as a dense matrix."""

import torch

from newton_krylov.curvature.base import Curvature
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator, MatrixOperator
from newton_krylov.registry import register


@register("hessian_approx", "exact")
class ExactHessian(Curvature):
    """The exact Hessian, formed as a dense matrix: O(dim^2) memory, products without the data."""

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the Hessian matrix at a point."""
        return MatrixOperator(point.hessian().dense())
