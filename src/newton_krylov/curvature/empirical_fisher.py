"""The empirical Fisher matrix, matrix-free."""

import torch

from newton_krylov.capabilities import LAYER_PRODUCTS, SAMPLE_GRADIENTS, SAMPLED_HESSIAN
from newton_krylov.curvature.base import Curvature
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register


@register(
    "hessian_approx",
    "empirical_fisher",
    needs=(SAMPLE_GRADIENTS,),
    offers=(SAMPLED_HESSIAN, LAYER_PRODUCTS),
)
class EmpiricalFisher(Curvature):
    """The mean of g_i g_i' over the samples' gradients, by its products; positive semidefinite.

    Cheap and always there, but no approximation of the Hessian away from a good fit: it measures
    how the samples' gradients disagree (Kunstner, Balles and Hennig, "Limitations of the empirical
    Fisher approximation for natural gradient descent", 2019). The regularizer enters by its own
    Hessian, and not by the gradients.
    """

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the empirical Fisher operator at a point."""
        return point.empirical_fisher()
