"""Newton's method that makes secant steps where these gain more for their cost."""

import math
import sys
from dataclasses import asdict, dataclass, replace

import torch
from pydantic import PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.result import Preconditioner
from newton_krylov.objectives.base import Objective, Point, Ray
from newton_krylov.optimizers.base import ContinuedOptimizer, State, Step, Steps
from newton_krylov.optimizers.compiled_secants import secants_for
from newton_krylov.optimizers.lbfgs import Secants
from newton_krylov.optimizers.line_search import armijo
from newton_krylov.optimizers.newton_step import NewtonMemory, NewtonStep
from newton_krylov.optimizers.sample_start import Start, from_a_sample
from newton_krylov.preconditioners.base import Unit
from newton_krylov.registry import register

_PRODUCT = 0.7
"""The time of a product, in evaluations of the loss and its gradient."""
_EXPECTED = 0.25
"""The gain of a Newton step where none has been made: a decimal digit in four evaluations."""
_PAUSE = 4
"""Half the Newton steps after the first failure of secant steps."""
_AGREEMENT = 0.25
"""The share of a secant step's slope by which the loss has to fall; where the secants' matrix is
right it is a half."""
_WATCHED = 3
"""Secant steps whose mean gain decides."""
_SHORT = 3
"""Iterations of a solve by which the preconditioner is nearly the inverse: secants are enough."""


@dataclass(frozen=True)
class _Made:
    """A step that was made, to be judged by the decrement at its end.

    Attributes
    ----------
    decrement : float
        At its start.
    cost : float
        In evaluations.
    secant : bool
        Whether it was a secant step.
    easy : bool
        Whether it was of full length, and its solve, if any, short.
    """

    decrement: float
    cost: float
    secant: bool
    easy: bool


def _made(step: Step, decrement: float, secant: bool) -> _Made:
    cost = 1 + _PRODUCT * step.inner_iterations + (0.5 if step.step_size < 1 else 0.0)
    easy = step.step_size == 1 and step.inner_iterations <= _SHORT
    return _Made(decrement, cost, secant, easy)


class _Memory(NewtonMemory):
    """What it carries beside a Newton step's memory.

    Attributes
    ----------
    secants : Secants
        The last steps with the gradient's changes.
    origin : Tensor or None, shape (dim,)
        Where the secants' preconditioner was made; None while there is none.
    gains : list of float
        Of the last secant steps in a row.
    newton : float
        The last Newton step's.
    secant : bool
        Whether the next step is to be a secant step.
    pause, wait : int
        Newton steps after the last failure of secant steps, twice as many after each; and those
        that are left.
    made : _Made or None
        The last step.
    begun : bool
        Whether the start on a sample is over.
    """

    def __init__(self, newton: NewtonMemory, secants: Secants) -> None:
        super().__init__(newton.curvature, newton.damping, newton.preconditioner)
        self.secants = secants
        self.origin: Tensor | None = None
        self.gains: list[float] = []
        self.newton = _EXPECTED
        self.wait, self.pause = 0, _PAUSE
        self.secant = True
        self.made: _Made | None = None
        self.begun = False

    def wants_secant(self, decrement: float) -> bool:
        """Return whether a secant step is to be next, by what the last one has gained for its cost.

        A gain is the decimal digits by which the root of the decrement has fallen, an evaluation.
        Once made, secant steps go on while they gain more than Newton steps, and are tried again
        after a Newton step of full length whose solve was short.
        """
        if self.made is not None:
            tiny = sys.float_info.min
            fall = max(self.made.decrement, tiny) / max(decrement, tiny)
            self._learn(self.made, 0.5 * math.log10(fall) / self.made.cost)
        return self.secant and decrement > 0.0

    @property
    def goes_well(self) -> bool:
        """Whether the next secant step, too, is likely to be followed by one."""
        return not self.gains or self.gains[-1] >= max(self.newton, _EXPECTED)

    def _learn(self, made: _Made, gain: float) -> None:
        if not made.secant:
            self.newton, self.gains, self.wait = gain, [], self.wait - 1
            self.secant = made.easy and self.wait <= 0
            return
        self.gains = [*self.gains[1 - _WATCHED :], gain]
        mean = sum(self.gains) / len(self.gains)
        if len(self.gains) == _WATCHED and mean < max(self.newton, _EXPECTED):
            self.stop_secants()

    def stop_secants(self) -> None:
        """Let Newton steps follow, twice as many as the last time."""
        self.secant, self.pause = False, 2 * self.pause
        self.wait = self.pause

    def state_dict(self) -> State:
        """Return the attributes, the last step as a dict."""
        return {**super().state_dict(), "made": None if self.made is None else asdict(self.made)}

    def load_state_dict(self, state: State) -> None:
        """Take the attributes from a checkpoint."""
        made = state["made"]
        super().load_state_dict({**state, "made": None if made is None else _Made(**made)})


@register("optimizer", "enriched_newton")
class EnrichedNewton(ContinuedOptimizer[_Memory]):
    """Newton's method that makes secant steps where these gain more for their cost.

    Morales and Nocedal, "Enriched methods for large-scale unconstrained optimization" (2002),
    interlace steps of L-BFGS and of Newton's method with conjugate gradients. Here the
    preconditioner is the matrix from which L-BFGS begins: with that of a sample's Hessian a secant
    step, one evaluation, often gains what a Newton step gains by a few products more. Steps are
    judged by what they take off the decrement g'Bg, B the secants' inverse, for their cost. A
    secant step is made at full length, where the loss falls by half of what the secants' matrix
    predicts, or not at all: where that matrix is too small, others lead to where the Newton steps
    that follow have to be short, too. All are Newton steps where the loss is not convex, and where
    there is no preconditioner.

    Parameters
    ----------
    step : NewtonStep
        The Newton step; its parts are set by name.
    memory : int
        Secants kept.
    start : {"none", "sample", "auto"}
        As that of `optimizer=newton`.
    """

    def __init__(self, step: NewtonStep, memory: PositiveInt = 10, start: Start = "auto") -> None:
        self.step, self.pairs, self.start = step, memory, start

    def memory(self, objective: Objective, w0: Tensor) -> _Memory:
        """Return the step's memory, and no secants."""
        return _Memory(self.step.memory(), secants_for(objective, self.pairs))

    def iterate(
        self, objective: Objective, w0: Tensor, memory: _Memory, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends where no direction of descent is left."""
        w0, notes = yield from from_a_sample(
            self.start, objective, w0, generator, begun=memory.begun
        )
        memory.begun = True
        M = None
        if memory.origin is not None:  # of a continued run
            M = self._preconditioner(objective.at(memory.origin), memory, generator)
        steps = self.from_point(objective.at(w0), memory, generator, M, brief=True)
        yield replace(next(steps), notes=notes)
        return (yield from steps)

    def from_point(
        self,
        point: Point,
        memory: _Memory,
        generator: torch.Generator,
        M: Preconditioner | None = None,
        *,
        brief: bool = False,
    ) -> Steps:
        """Iterate from a point, of which something may be known already.

        Parameters
        ----------
        point : Point
            The start.
        memory : _Memory
            As `memory` returns it; changed.
        generator : torch.Generator
            The run's source of randomness.
        M : callable, optional
            The preconditioner of the secants, where there is one.
        brief : bool
            Whether no more than loss and gradient is asked for where steps end; see `Ray`.

        Yields
        ------
        Step
            The start, then each iterate.

        Returns
        -------
        str
            Why there is no direction of descent left.
        """
        yield Step(point)
        while True:
            made: Step | str | None = None
            decrement = math.nan
            if point.objective.convexity is not None and point.grad_norm > 0.0:
                M = M or self._preconditioner(point, memory, generator)
                scaled = isinstance(M, Unit)  # the secants know a scale, if there are any
                if M is not None and not (scaled and not memory.secants.pairs):
                    ray = memory.secants.ray(point, None if scaled else M)
                    decrement = -ray.slope
                    if memory.wants_secant(decrement):
                        ray.brief = brief and memory.goes_well
                        made = _secant(ray)
                        if made is None:
                            memory.stop_secants()
            secant = made is not None
            if made is None:
                made = self.step(point, memory, generator)
                M = memory.origin = None
            if isinstance(made, str):
                return made
            memory.secants.add(made.point, point)
            memory.made = _made(made, decrement, secant)
            point = made.point
            note = memory.curvature.note
            yield replace(made, notes=(note, *made.notes)) if note else made

    def _preconditioner(
        self, point: Point, memory: _Memory, generator: torch.Generator
    ) -> Preconditioner | None:
        """Build the preconditioner of the curvature at a point, and remember where."""
        memory.origin = point.w
        A = memory.damping.damped(memory.curvature.at(point, generator), generator)
        return memory.preconditioner.build(A, generator)


def _secant(ray: Ray) -> Step | None:
    """Make a secant step of full length; None where that does not lower the loss enough."""
    found = armijo(ray, c1=_AGREEMENT, max_steps=1)
    return Step(found.point, found.alpha, notes=("secant",)) if found.accepted else None
