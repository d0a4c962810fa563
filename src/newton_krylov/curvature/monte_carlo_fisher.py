"""The Fisher matrix by Monte Carlo, matrix-free."""

import torch
from pydantic import PositiveInt

from newton_krylov.capabilities import LAYER_PRODUCTS, LIKELIHOOD, SAMPLED_HESSIAN
from newton_krylov.curvature.base import Curvature
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register


@register(
    "hessian_approx",
    "monte_carlo_fisher",
    needs=(LIKELIHOOD,),
    offers=(SAMPLED_HESSIAN, LAYER_PRODUCTS),
)
class MonteCarloFisher(Curvature):
    """The mean of g_i g_i' at targets drawn from the model's predictions; positive semidefinite.

    Unlike the empirical Fisher matrix, whose gradients are those of the data's own targets, its
    expectation is the Gauss-Newton matrix (Martens, "New insights and perspectives on the natural
    gradient method", 2020). A product costs what one with the Gauss-Newton matrix costs.

    Parameters
    ----------
    draws : int
        Targets drawn for each sample, once at each point.
    """

    def __init__(self, draws: PositiveInt = 1) -> None:
        self.draws = draws

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the Fisher operator at a point."""
        return point.monte_carlo_fisher(self.draws, generator)
