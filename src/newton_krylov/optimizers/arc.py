"""Adaptive cubic regularization: Newton's method whose model has a cubic bound on its error."""

import math
import sys
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
    Cubic,
    DenseModel,
    KrylovModel,
    ModelStep,
    first_radius,
)
from newton_krylov.registry import register

_POOR, _GOOD = 0.1, 0.9
_CHANGE = 4.0


@register("optimizer", "arc")
class ARC(ModelDescent):
    """Newton's method with an adaptive cubic regularization, of Cartis, Gould and Toint.

    "Adaptive cubic regularisation methods for unconstrained optimization, part I", Mathematical
    Programming 127 (2011). The model g'p + p'H p / 2 + sigma |p|^3 / 3 is minimized globally in the
    Krylov space of the gradient; sigma stands for the Lipschitz constant of the Hessian: it
    quadruples where f fell by less than a tenth of what the model promised, and falls to a quarter
    where it fell by nine tenths. Negative curvature is followed, and a saddle is left from the very
    point. The first sigma is |g| over the square of the best step along -g, so that neither the
    unit of the loss nor that of the parameters changes anything.

    Parameters
    ----------
    curvature : Curvature
        What stands for the Hessian.
    forcing : Forcing
        Chooses the relative size of the model's gradient at the step.
    subproblem : {"krylov", "exact"}
        In Krylov space, or by the eigenvalues of the dense matrix: for small problems.
    basis_size : int
        Vectors of the Krylov space that are kept at most.
    """

    accepted, word = _POOR, "sigma"

    def __init__(
        self,
        curvature: Curvature,
        forcing: Forcing,
        subproblem: Literal["krylov", "exact"] = "krylov",
        basis_size: PositiveInt = 100,
    ) -> None:
        super().__init__(curvature, forcing)
        self.subproblem, self.basis_size = subproblem, basis_size

    def solve(self, A: LinearOperator, point: Point, generator: torch.Generator) -> Solve:
        """Return what minimizes the model with one sigma after the other."""
        dense, g = self.subproblem == "exact", point.grad
        model = DenseModel(A, g) if dense else KrylovModel(A, g, generator, self.basis_size)
        return lambda sigma, rtol: model.step(Cubic(sigma), rtol)

    def first(self, A: LinearOperator, point: Point) -> float:
        """Return |g| over the square of the best step along -g."""
        return (point.grad_norm or 1.0) / first_radius(A, point.grad, point.w) ** 2

    def penalty(self, value: float, size: float) -> float:
        """Return the cubic term."""
        return float(value * size**3 / 3) if size < 1e100 else math.inf

    def adapted(self, value: float, ratio: float, made: ModelStep, grad_norm: float) -> float:
        """Return the next sigma."""
        if not ratio >= _POOR:
            return value * _CHANGE
        if not ratio > _GOOD:
            return value
        size = euclidean(made.p)
        least = sys.float_info.epsilon * grad_norm / size / size if size > 0 else 0.0
        return max(value / _CHANGE, least, sys.float_info.min)
