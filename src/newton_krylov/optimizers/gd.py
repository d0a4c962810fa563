"""Gradient descent with a constant step."""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from newton_krylov.errors import ConfigError
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, Step, Steps
from newton_krylov.registry import register
from newton_krylov.spectral.lanczos import lanczos, largest_eigenvalue

_ROUGHLY = 1e-3  # of an eigenvalue that changes along the way


def largest_curvature(objective: Objective, generator: torch.Generator) -> float:
    """Return the largest eigenvalue that the Hessian can have, by Lanczos, with no matrix.

    For a linear model this is a Lipschitz constant of the gradient (see `Objective.steepest`).

    Parameters
    ----------
    objective : Objective
        Function to minimize.
    generator : torch.Generator
        Draws the start vector.

    Returns
    -------
    float
        lambda_max(H) at its largest, for most losses at w = 0.
    """
    return largest_eigenvalue(objective.steepest(), generator=generator)


def smoothness_at_start(objective: Objective, w0: Tensor, generator: torch.Generator) -> float:
    """Return the Hessian's largest eigenvalue where it says most about the way ahead.

    At w = 0, where a convex loss curves most; at the start, in absolute value, where the objective
    need not be convex: a network at w = 0 has nearly no curvature at all, and where all curvature
    is negative the step must be positive still.

    Parameters
    ----------
    objective : Objective
        Function to minimize.
    w0 : Tensor, shape (dim,)
        The start.
    generator : torch.Generator
        For Lanczos.

    Returns
    -------
    float
        lambda_max or |lambda|_max, positive.

    Raises
    ------
    ConfigError
        If it is zero: no step follows from it.
    """
    if objective.convexity is not None:
        largest = largest_curvature(objective, generator)
    else:
        hessian = objective.at(w0).hessian()
        pair = lanczos(hessian, 1, which="magnitude", generator=generator, rtol=_ROUGHLY)
        largest = abs(float(pair.values[0]))
    if not largest > 0:
        raise ConfigError(
            "The Hessian is zero where the step size is taken from it: set optimizer.step_size."
        )
    return largest


class StepMemory(Memory):
    """The constant step, once it is known."""

    def __init__(self) -> None:
        self.step_size: float | None = None


@register("optimizer", "gd")
class GradientDescent(ContinuedOptimizer[StepMemory]):
    """Gradient descent: w - a g with the constant a = 1 / lambda_max(H) unless given.

    The paper's baseline (section 0.3.1).

    Parameters
    ----------
    step_size : float or None
        a > 0; None takes 1 / lambda_max(H) at w = 0, for a network at the start.
    """

    def __init__(self, step_size: PositiveFloat | None = None) -> None:
        self.step_size = step_size

    def memory(self, objective: Objective, w0: Tensor) -> StepMemory:
        """Return a memory without a step size."""
        return StepMemory()

    def iterate(
        self, objective: Objective, w0: Tensor, memory: StepMemory, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends only where the gradient is exactly zero."""
        if memory.step_size is None:
            memory.step_size = self.step_size or 1 / smoothness_at_start(objective, w0, generator)
        step_size = memory.step_size
        point = objective.at(w0)
        yield Step(point)
        while point.grad_norm > 0:
            point = objective.at(point.w.add(point.grad, alpha=-step_size))
            yield Step(point, step_size)
        return "the gradient is zero"
