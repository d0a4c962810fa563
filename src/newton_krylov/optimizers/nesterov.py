"""Nesterov's accelerated gradient."""

import math
from typing import Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor

from newton_krylov.objectives.base import Objective, Point
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, Step, Steps
from newton_krylov.optimizers.gd import smoothness_at_start
from newton_krylov.registry import register


class Momentum(Memory):
    """The step size, t, and the point from which the next gradient step is made."""

    def __init__(self, y: Tensor) -> None:
        self.step_size: float | None = None
        self.t = 1.0
        self.y = y


@register("optimizer", "nesterov")
class Nesterov(ContinuedOptimizer[Momentum]):
    """Accelerated gradient: a gradient step from y = x_t + b_t (x_t - x_t-1).

    Where the objective is mu-strongly convex, b = (1 - sqrt(mu a)) / (1 + sqrt(mu a)) throughout
    (Nesterov, "Introductory Lectures on Convex Optimization", 2004, scheme 2.2.11); else
    b_t = (t_k - 1) / t_k+1 (Nesterov, 1983). The gradient restart of O'Donoghue and Candes (2015)
    drops the momentum when it points uphill.

    Parameters
    ----------
    step_size : float or None
        a > 0; None takes 1 / lambda_max(H) at w = 0. Where the objective need not be convex, it
        takes 1 / |lambda|_max at the start, which bounds no curvature elsewhere: a is then halved
        whenever f(y - a g) <= f(y) - a |g|^2 / 2 fails (Beck and Teboulle, "A fast iterative
        shrinkage-thresholding algorithm", 2009, section 4); the values are counted.
    restart : {"gradient", "none"}
        Whether to drop momentum that points uphill.
    momentum : {"auto", "strongly_convex", "convex"}
        Which b: `auto` takes the strongly convex one where mu > 0 is known.
    """

    def __init__(
        self,
        step_size: PositiveFloat | None = None,
        restart: Literal["gradient", "none"] = "gradient",
        momentum: Literal["auto", "strongly_convex", "convex"] = "auto",
    ) -> None:
        self.step_size = step_size
        self.restart = restart
        self.momentum = momentum

    def memory(self, objective: Objective, w0: Tensor) -> Momentum:
        """Return a memory without momentum."""
        return Momentum(w0)

    def iterate(
        self, objective: Objective, w0: Tensor, memory: Momentum, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends only where the gradient is exactly zero."""
        a = memory.step_size
        if a is None:
            a = self.step_size or 1 / smoothness_at_start(objective, w0, generator)
        mu = 0.0 if self.momentum == "convex" else objective.convexity or 0.0
        root = math.sqrt(min(mu * a, 1.0))
        search = self.step_size is None and objective.convexity is None
        x, t, y = w0, memory.t, memory.y
        yield Step(objective.at(x), needed=False)
        while True:
            at_y = objective.at(y)
            g = at_y.grad
            reached = objective.at(y.add(g, alpha=-a))
            if search:
                reached, a = _backtracked(at_y, reached, a)
            new = reached.w
            moved = new - x
            uphill, norm = torch.stack([torch.dot(g, moved), torch.linalg.vector_norm(g)]).tolist()
            if norm == 0:
                return "the gradient is zero"
            if self.restart == "gradient" and uphill > 0:
                t = 1.0
                y = new
            else:
                t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
                b = (1 - root) / (1 + root) if root > 0 else (t - 1) / t_next
                y = new.add(moved, alpha=b)
                t = t_next
            x = new
            memory.step_size, memory.t, memory.y = a, t, y
            yield Step(reached, a, needed=False)


def _backtracked(point: Point, reached: Point, a: float) -> tuple[Point, float]:
    """Halve a until a gradient step of that length does what it does on a parabola 1 / a wide.

    Returns what it reaches, whose value is known then, and the last a.
    """
    f, shortest = point.objective, torch.finfo(point.w.dtype).eps * a
    while a > shortest:
        # not "> ...": a value that is not finite is no decrease
        if reached.value <= point.value - 0.5 * a * point.grad_norm**2 + f.rounding(point.value):
            break
        a *= 0.5
        reached = f.at(point.w.add(point.grad, alpha=-a))
    return reached, a
