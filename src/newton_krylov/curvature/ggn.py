"""The generalized Gauss-Newton matrix, matrix-free."""

import torch

from newton_krylov.capabilities import LAYER_PRODUCTS, SAMPLED_HESSIAN
from newton_krylov.curvature.base import Curvature
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register


@register("hessian_approx", "ggn", offers=(SAMPLED_HESSIAN, LAYER_PRODUCTS))
class GaussNewton(Curvature):
    """The generalized Gauss-Newton matrix by its products; positive semidefinite.

    J' L J with J the Jacobian of the model's outputs and L the loss's Hessian by the outputs
    (Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent",
    2002). Equal to the Hessian for a convex loss of a linear model.
    """

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the Gauss-Newton operator at a point."""
        return point.gauss_newton()
