"""The optimizer: a generator of steps over an objective."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Objective, Point, Renewed

State = dict[str, Any]
"""What an optimizer must remember beside w: nested dicts and lists of tensors, numbers, texts."""


@dataclass(frozen=True)
class Step:
    """Where an optimizer stands after a step.

    Attributes
    ----------
    point : Point
        The new iterate.
    step_size : float
        Step size of this step; nan where the method has none (or for the start).
    inner_iterations : float
        Iterations of the linear solver in this step; nan where a library does not say.
    notes : tuple of str
        What else happened, in words a user reads: the solver's status, a fallback taken.
    seconds : float or None
        The step's own duration, where only the optimizer can know it (a library that runs in one
        call); None lets the runner's clock decide.
    iterations : int
        How many iterations of the method led here from the step before, where it does not yield
        each.
    grad_norm : float or None
        The gradient norm to record, where that at the new iterate would cost a pass over the data
        that the method does not need: a mini-batch method gives its last batch's. None lets the
        runner ask the point.
    needed : bool
        Whether the method continues from the value and the gradient at the point. Then they are its
        own work: whoever drives it evaluates them inside the clock and the counts (`evaluated`).
        False for a point that is only recorded, which costs the method nothing.
    """

    point: Point
    step_size: float = float("nan")
    inner_iterations: float = 0
    notes: tuple[str, ...] = ()
    seconds: float | None = None
    iterations: int = 1
    grad_norm: float | None = None
    needed: bool = True

    def evaluated(self) -> Self:
        """Evaluate what the method needs of the point, and return the step."""
        if self.needed:
            evaluate(self.point)
        return self


Steps = Generator[Step, None, str]
"""Yields the start as the first step, then one step an iteration; returns the reason for ending
by itself (an optimizer may also never end)."""


class Optimizer(ABC):
    """The outer loop w_t -> w_t+1.

    One that can be continued from a checkpoint derives from `ContinuedOptimizer`.

    Attributes
    ----------
    offers : frozenset of str
        What other parts may ask of it; see `newton_krylov.capabilities`.
    """

    offers: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0.

        Parameters
        ----------
        objective : Objective
            What to minimize.
        w0 : Tensor, shape (dim,)
            The start; not changed.
        generator : torch.Generator
            The run's source of randomness, on the CPU.

        Yields
        ------
        Step
            The start, then each iterate.

        Returns
        -------
        str
            Why it ended, as a generator's return value.
        """

    def state_dict(self) -> State | None:
        """Return what a later process needs, beside w and the generator, to resume from here.

        Asked for after a step, while `steps` waits.

        Returns
        -------
        dict or None
            See `State`; None where the method cannot be continued, or not from this step.
        """
        return None

    def load_state_dict(self, state: State) -> None:
        """Let the next `steps` resume from a state, its w0 being the w that belongs to it.

        Parameters
        ----------
        state : dict
            What `state_dict` returned, of an optimizer with the same settings.

        Raises
        ------
        UnsupportedError
            If the method cannot be continued.
        """
        raise UnsupportedError(f"{type(self).__name__} cannot be continued from a checkpoint.")


class NotNowError(Exception):
    """A memory that cannot be saved after this step, but may be after a later one."""


class Memory:
    """What a method carries from one step to the next: all attributes are saved and restored.

    An attribute is a tensor, a number, a text, None, something with a `state_dict` and a
    `load_state_dict` of its own (another memory, a curvature, torch's optimizer), or a dict of
    these.
    """

    def state_dict(self) -> State:
        """Return the attributes for a checkpoint.

        Raises
        ------
        NotNowError
            If the memory holds what a checkpoint cannot.
        """
        return {name: _saved(value) for name, value in vars(self).items()}

    def load_state_dict(self, state: State) -> None:
        """Take the attributes from a checkpoint."""
        for name, saved in state.items():
            setattr(self, name, _restored(getattr(self, name), saved))


def _saved(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _saved(item) for name, item in value.items()}
    return value.state_dict() if hasattr(value, "state_dict") else value


def _restored(value: Any, saved: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _restored(item, saved[name]) for name, item in value.items()}
    if not hasattr(value, "load_state_dict"):
        return saved
    value.load_state_dict(saved)
    return value


M = TypeVar("M", bound=Memory)


class ContinuedOptimizer(Optimizer, Generic[M]):
    """An optimizer whose runs can be continued: it says what it remembers, and this keeps it."""

    _memory: M
    _draws: "_Draws | None" = None
    _resumed: State | None = None

    @abstractmethod
    def memory(self, objective: Objective, w0: Tensor) -> M:
        """Return what a run starts with.

        Parameters
        ----------
        objective : Objective
            What to minimize.
        w0 : Tensor, shape (dim,)
            The start.

        Returns
        -------
        Memory
            Changed by `iterate`; a continued run's is given its state before that begins.
        """

    @abstractmethod
    def iterate(
        self, objective: Objective, w0: Tensor, memory: M, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0 with this memory; see `steps`."""

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0, with a new memory or that of a checkpoint."""
        self._memory = self.memory(objective, w0)
        self._draws = None
        resumed, self._resumed = self._resumed, None
        renews = isinstance(objective, Renewed) and objective.renewal > 0
        if renews:
            self._draws = _Draws(objective)
            if resumed is not None:
                resumed = dict(resumed)
                self._draws.load_state_dict(resumed.pop(_DRAWS))
        if resumed is not None:
            self._memory.load_state_dict(_moved(resumed, w0.device))
        if self._draws is None:
            return (yield from self.iterate(objective, w0, self._memory, generator))
        return (yield from self._renewing(self._draws, w0, generator))

    def _renewing(self, draws: "_Draws", w: Tensor, generator: torch.Generator) -> Steps:
        """Iterate, and begin again at the points of a new draw every few steps."""
        steps = self.iterate(draws.objective, w, self._memory, generator)
        yield draws.noted(next(steps))
        while True:
            if draws.due:  # at once where a checkpoint was made after a draw's last step
                draws.renew(w)
                steps = self.iterate(draws.objective, w, self._memory, generator)
                next(steps).evaluated()
            try:
                step = next(steps)
            except StopIteration as end:
                if not draws.steps:  # it ended at once at new points, too
                    return str(end.value)
                draws.due = True
            else:
                draws.made()
                w = step.point.w
                yield draws.noted(step)

    def state_dict(self) -> State | None:
        """Return the memory's state; None where it cannot be saved now."""
        try:
            # A copy, since a memory may change its tensors in place.
            state = copy.deepcopy(self._memory.state_dict())
        except NotNowError:
            return None
        return state if self._draws is None else {**state, _DRAWS: self._draws.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Let the next `steps` resume from a checkpoint."""
        self._resumed = state


_DRAWS = "draws"


class _Draws(Memory):
    """An objective whose points are drawn again every few steps, and the steps since."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.steps = objective, 0
        self.due = False  # whether it is time for the next draw

    def made(self) -> None:
        """Count a step."""
        self.steps += 1
        self.due = self.steps >= self._renewed.renewal

    @property
    def _renewed(self) -> Renewed:
        assert isinstance(self.objective, Renewed)
        return self.objective

    def renew(self, w: Tensor) -> None:
        """Take the points of the next draw."""
        self.objective, self.steps, self.due = self._renewed.renewed(w), 0, False

    def noted(self, step: Step) -> Step:
        """Return a step with a note of the draw."""
        note = self._renewed.note
        return replace(step, notes=(*step.notes, note)) if note else step

    def state_dict(self) -> State:
        """Return which draw it is, and the steps since."""
        return {"draw": self._renewed.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: State) -> None:
        """Return to a draw."""
        self.objective, self.steps = self._renewed.restored(state["draw"]), state["steps"]
        self.due = self.steps >= self._renewed.renewal


def _moved(state: Any, device: torch.device) -> Any:
    """Move the tensors of a state, which a checkpoint keeps on the CPU."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, dict):
        return {key: _moved(value, device) for key, value in state.items()}
    return [_moved(item, device) for item in state] if isinstance(state, list) else state


def evaluate(point: Point) -> Point:
    """Evaluate gradient and value now, in this order: a network's gradient brings its value."""
    _ = point.grad_norm, point.value
    return point
