"""Trust regions: the model is minimized in a ball whose radius follows the gain ratio."""

from typing import Literal

import torch
from pydantic import PositiveInt

from newton_krylov.curvature.base import Curvature
from newton_krylov.norms import euclidean
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.optimizers.forcing import Forcing
from newton_krylov.optimizers.model_descent import ModelDescent, Solve
from newton_krylov.optimizers.model_step import (
    Ball,
    DenseModel,
    KrylovModel,
    ModelStep,
    first_radius,
    steihaug,
)
from newton_krylov.registry import register

Subproblem = Literal["steihaug", "gltr", "exact"]

_POOR, _GOOD = 0.25, 0.75


@register("optimizer", "trust_region")
class TrustRegion(ModelDescent):
    """Newton's method in a ball (Nocedal and Wright, "Numerical Optimization", algorithm 4.1).

    The model with the chosen curvature is minimized in |p| <= radius. The radius shrinks to a
    quarter of the step where f fell by less than a quarter of what the model promised, and doubles
    where it fell by three quarters and the step met the boundary. Negative curvature is followed
    to the boundary, so saddles are left; `gltr` and `exact` leave one from the very point. The
    first radius is the length of the best step along the gradient.

    Parameters
    ----------
    curvature : Curvature
        What stands for the Hessian.
    forcing : Forcing
        Chooses the tolerance of `steihaug` and `gltr`.
    subproblem : {"steihaug", "gltr", "exact"}
        By conjugate gradients, which stop at the boundary; by Lanczos's process, which goes on
        along it (Gould, Lucidi, Roma and Toint 1999; a smaller radius costs no products); or by the
        eigenvalues of the dense matrix, for small problems (Moré and Sorensen 1983).
    basis_size : int
        Vectors that `gltr` keeps at most.
    """

    accepted, word = 1e-4, "radius"

    def __init__(
        self,
        curvature: Curvature,
        forcing: Forcing,
        subproblem: Subproblem = "steihaug",
        basis_size: PositiveInt = 100,
    ) -> None:
        super().__init__(curvature, forcing)
        self.subproblem: Subproblem = subproblem
        self.basis_size = basis_size

    def solve(self, A: LinearOperator, point: Point, generator: torch.Generator) -> Solve:
        """Return what minimizes the model in one ball after the other."""
        g = point.grad
        if self.subproblem == "steihaug":
            limit = 2 * len(g) + 10
            at_zero = point.grad_norm == 0
            return lambda radius, rtol: None if at_zero else steihaug(A, g, radius, rtol, limit)
        dense = self.subproblem == "exact"
        model = DenseModel(A, g) if dense else KrylovModel(A, g, generator, self.basis_size)
        return lambda radius, rtol: model.step(Ball(radius), rtol)

    def first(self, A: LinearOperator, point: Point) -> float:
        """Return the length of the best step along -gradient."""
        return first_radius(A, point.grad, point.w)

    def adapted(self, value: float, ratio: float, made: ModelStep, grad_norm: float) -> float:
        """Return the next radius."""
        if not ratio >= _POOR:
            return euclidean(made.p) / 4
        return 2 * value if ratio > _GOOD and not made.inside else value
