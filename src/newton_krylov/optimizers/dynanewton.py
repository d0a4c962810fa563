"""Newton's method on a path of growing samples and shrinking regularization."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import ALL_SAMPLES, LINEAR_MODEL
from newton_krylov.errors import ConfigError, UnsupportedError
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.objectives.linear_model import LinearModel
from newton_krylov.optimizers.base import Optimizer, Step, Steps, evaluate
from newton_krylov.optimizers.newton_step import Direction, NewtonStep, NoStep
from newton_krylov.registry import register

# How often `condition` takes the square root of the growth before it repeats a stage.
_REDUCTIONS = 4


@register("optimizer", "dynanewton", needs=(LINEAR_MODEL, ALL_SAMPLES))
class DynaNewton(Optimizer):
    """One Newton step on each of a path of objectives, then Newton's method on the last one.

    DynaNewton (Daneshmand, Lucchi and Hofmann, "DynaNewton: accelerating Newton's method for
    machine learning", 2016). Stage i minimizes the mean loss over m_i samples plus
    mu_i/2 |w|^2 with mu_i = max(lambda, c / m_i), lambda the objective's own regularizer. More
    regularization than the sample's statistical accuracy, O(1/m), leaves room for is not needed,
    and less makes the region of quadratic convergence smaller. The samples are nested: the first
    m_i of one random permutation. The defaults are those that took the fewest passes over several
    data sets (docs/dynanewton.md).

    Parameters
    ----------
    step : NewtonStep
        What each stage makes; its parameters are set by name.
    initial : int or None
        m_0; None takes as many as there are parameters. All samples give plain Newton.
    growth : float
        m_i+1 / m_i > 1 (at most, under `condition`).
    multiplier : float
        c >= 0.
    schedule : {"geometric", "condition"}
        Let the sample grow with every step; or only as far as the iterate lies in the next
        objective's region of quadratic convergence, judged by the Newton decrement there,
        sqrt(g'H^-1 g) <= radius: the growth is reduced to its square root until it does, and
        where 4 reductions do not help, a step more is made at the present stage. The next step
        begins with the last growth that did, squared, but not beyond `growth`.
    radius : float
        Bound on `condition`, in (0, 1).
    """

    def __init__(
        self,
        step: NewtonStep,
        initial: PositiveInt | None = None,
        growth: Annotated[float, Field(gt=1)] = 2.0,
        multiplier: NonNegativeFloat = 3.0,
        schedule: Literal["geometric", "condition"] = "geometric",
        radius: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    ) -> None:
        self.step = step
        self.initial = initial
        self.growth = growth
        self.multiplier = multiplier
        self.radius = radius if schedule == "condition" else math.inf

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0; ends where no direction of descent is left."""
        path = _Path(objective, self.step, self.multiplier, generator)
        stage = path.stage(self._first(path), w0)
        yield Step(path.full(stage), needed=stage.size == path.n)
        direction = path.direction(stage)
        while True:
            step = path.take(stage, direction)
            if isinstance(step, str):
                if stage.size == path.n:
                    return step
                # Nothing is left to gain on this sample: continue with all of them.
                stage = path.stage(path.n, stage.point.w)
                direction = path.direction(stage)
                continue
            stage = Stage(stage.size, step.point)
            yield replace(
                step,
                point=path.full(stage),
                notes=(*path.notes(stage), *step.notes),
                needed=stage.size == path.n,
            )
            stage, direction = self._next(path, stage)

    def _first(self, path: "_Path") -> int:
        if self.initial is None:
            return min(path.objective.dim, path.n)
        if self.initial > path.n:
            raise ConfigError(
                f"optimizer.initial={self.initial} exceeds the {path.n} samples there are; give at "
                f"most {path.n}, which is plain Newton."
            )
        return self.initial

    def _next(self, path: "_Path", stage: "Stage") -> tuple["Stage", Direction | str]:
        """Choose the stage of the next step, and solve for its direction."""
        if stage.size == path.n:
            return stage, path.direction(stage, go_on=True)
        while True:
            larger = path.stage(self._larger(stage.size, path), stage.point.w)
            direction = path.direction(larger)
            if _decrement(larger, direction) <= self.radius:
                path.reductions = max(path.reductions - 1, 0)
                return larger, direction
            if path.reductions == _REDUCTIONS:
                break
            path.reductions += 1
        own = path.direction(stage, go_on=True)
        if _decrement(stage, own) > self.radius:
            return stage, own
        # Further steps here would not bring the next objective's region any nearer.
        return larger, direction

    def _larger(self, size: int, path: "_Path") -> int:
        larger = max(size + 1, round(size * self.growth ** (2.0**-path.reductions)))
        # A stage that is nearly the last one costs as much, and is thrown away.
        return path.n if larger * math.sqrt(self.growth) >= path.n else larger


@dataclass(frozen=True)
class Stage:
    """Where the method stands on its path.

    Attributes
    ----------
    size : int
        Samples.
    point : Point
        Point of the mean over these samples and their regularizer.
    """

    size: int
    point: Point


class _Path:
    """The objectives of growing samples, and how cautiously they are followed."""

    def __init__(
        self,
        objective: Objective,
        step: NewtonStep,
        multiplier: float,
        generator: torch.Generator,
    ) -> None:
        if not isinstance(objective, LinearModel):
            raise UnsupportedError(
                "optimizer=dynanewton needs an objective whose samples and l2 term it can change: "
                "a linear model such as loss=logistic."
            )
        self.objective = objective
        self.n = objective.n_samples
        self._step, self._memory = step, step.memory()
        self._multiplier = multiplier
        self._generator = generator
        # How many square roots of the growth the next attempt takes. What one step has learnt the
        # next one starts from: an attempt that fails costs as much as a step.
        self.reductions = 0

    @cached_property
    def _samples(self) -> Tensor:
        """The order in which the samples come in, drawn where it is needed."""
        return torch.randperm(self.n, generator=self._generator).to(self.objective.device)

    def _l2(self, size: int) -> float:
        return max(self.objective.l2, self._multiplier / size)

    def stage(self, size: int, w: Tensor) -> Stage:
        """Return the stage of a size at w, value and gradient evaluated."""
        f = self.objective
        if size < self.n:
            # Sorted rows are gathered in the order in which they lie in memory.
            f = f.subset(self._samples[:size].sort().values).with_l2(self._l2(size))
        return Stage(size, evaluate(f.at(w)))

    def direction(self, stage: Stage, *, go_on: bool = False) -> Direction | str:
        """Solve the Newton system of a stage's objective, as `NewtonStep.direction` does.

        Where it does not `go_on` with the last step's objective, the forcing term begins again.
        """
        if not go_on:
            self._memory.last = None
        A = self._memory.curvature.at(stage.point, self._generator)
        return self._step.direction(stage.point, A, self._memory, self._generator)

    def take(self, stage: Stage, direction: Direction | str) -> Step | str:
        """Make the step, if there is one."""
        if isinstance(direction, str):
            return direction
        step = self._step.take(stage.point, direction, self._memory)
        return step.reason if isinstance(step, NoStep) else step

    def full(self, stage: Stage) -> Point:
        """Return the point of all samples: what a step shows, whatever it was made on."""
        return stage.point if stage.size == self.n else self.objective.at(stage.point.w)

    def notes(self, stage: Stage) -> tuple[str, ...]:
        """Say which objective a step was made on, where it was not the last."""
        if stage.size == self.n:
            return ()
        return (f"{stage.size} samples, l2 = {self._l2(stage.size):.3g}",)


def _decrement(stage: Stage, direction: Direction | str) -> float:
    """Return the Newton decrement sqrt(g'H^-1 g); 0 where there is no direction."""
    if isinstance(direction, str):
        return 0.0
    return math.sqrt(abs(float(torch.dot(stage.point.grad, direction.inner.x))))
