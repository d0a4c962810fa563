"""The loop of trust regions and of cubic regularization: a bound on the step follows the gain."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.norms import euclidean
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.operators import LinearOperator
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, Step, Steps
from newton_krylov.optimizers.forcing import Forcing, Outer
from newton_krylov.optimizers.model_step import ModelStep

Solve = Callable[[float, float], ModelStep | None]
"""(bound, rtol) -> the model's minimizer, or None where the gradient is zero and none is known."""

_TRIALS = 60


class BoundMemory(Memory):
    """The radius, or the cubic's weight; None before the first step."""

    def __init__(self) -> None:
        self.value: float | None = None


class ModelDescent(ContinuedOptimizer[BoundMemory]):
    """Makes the steps that lower f by enough of what the model promises.

    Parameters
    ----------
    curvature : Curvature
        What stands for the Hessian.
    forcing : Forcing
        Chooses the relative size of the model's gradient at a step.
    """

    accepted: ClassVar[float]
    """Share of the promised decrease from which a step is made."""
    word: ClassVar[str]
    """What notes call the bound."""

    def __init__(self, curvature: Curvature, forcing: Forcing) -> None:
        self.curvature, self.forcing = curvature, forcing

    @abstractmethod
    def solve(self, A: LinearOperator, point: Point, generator: torch.Generator) -> Solve:
        """Return what minimizes the model at a point under one bound after the other."""

    @abstractmethod
    def first(self, A: LinearOperator, point: Point) -> float:
        """Return the first bound."""

    @abstractmethod
    def adapted(self, value: float, ratio: float, made: ModelStep, grad_norm: float) -> float:
        """Return the next bound, after a step that gained this share of what was promised."""

    def penalty(self, value: float, size: float) -> float:
        """Return what a step of this size adds to the model."""
        return 0.0

    def memory(self, objective: Objective, w0: Tensor) -> BoundMemory:
        """Return no bound yet."""
        return BoundMemory()

    def iterate(
        self, objective: Objective, w0: Tensor, memory: BoundMemory, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends where the model promises no decrease beyond rounding."""
        point = objective.at(w0)
        yield Step(point)
        while True:
            A = self.curvature.at(point, generator)
            rtol = self.forcing(Outer(point.grad_norm, None))
            value = self.first(A, point) if memory.value is None else memory.value
            solve, products = self.solve(A, point, generator), 0
            for _ in range(_TRIALS):
                made = solve(value, rtol)
                if made is None:
                    return "the gradient is zero"
                products += made.iterations
                new = objective.at(point.w + made.p)
                model = float(torch.dot(point.grad, made.p) + torch.dot(made.p, A @ made.p) / 2)
                promised = -model - self.penalty(value, euclidean(made.p))
                gained = point.value - new.value
                rounding = objective.rounding(point.value)
                # Where both are rounding, the model is believed.
                ratio = 1.0 if max(promised, abs(gained)) <= rounding else gained / promised
                value = self.adapted(value, ratio, made, point.grad_norm)
                if ratio > self.accepted:
                    break
            else:
                return "no step lowers the loss beyond its rounding error"
            if promised <= rounding and new.grad_norm >= point.grad_norm:
                if point.grad_norm == 0:
                    return "the gradient is zero and the curvature is not negative"
                return "no step lowers the loss beyond its rounding error"
            memory.value = value
            point = new
            yield Step(point, 1.0, products, (f"{self.word} {value:.3g}",))
