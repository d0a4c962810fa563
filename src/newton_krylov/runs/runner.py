"""Drives an optimizer: keeps the time, measures, records, decides when to stop."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import NamedTuple

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor

from newton_krylov.data.dataset import Split
from newton_krylov.errors import UnsupportedError, UserError
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.optimizers.base import Optimizer, Step, Steps
from newton_krylov.records.checkpoint import Checkpoint, OnCheckpoint
from newton_krylov.records.trace import OnRow, Row
from newton_krylov.registry import register

_log = logging.getLogger(__name__)

OnStep = Callable[[Row, Point], None]
"""Called after every row with its step's point, outside the timed region."""


def _ignore(row: Row, point: Point) -> None:
    """Look at nothing."""


class Outcome(StrEnum):
    """How a run ended."""

    CONVERGED = "converged"
    LIMIT = "limit"
    ENDED = "ended"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    ERROR = "error"
    INTERRUPTED = "interrupted"

    @property
    def failed(self) -> bool:
        """Whether the run is to be marked as failed."""
        return self in (Outcome.DIVERGED, Outcome.OUT_OF_MEMORY, Outcome.ERROR)


class Glance(NamedTuple):
    """What a method knows of a step of its own accord, where that gets no row."""

    iteration: int
    loss: float
    suboptimality: float
    grad_norm: float
    seconds: float


@register("stop", "criteria")
@dataclass(frozen=True)
class Stopping:
    """When to stop; the first criterion that holds decides, and `None` leaves one out.

    Attributes
    ----------
    epochs : int or None
        Outer iterations.
    grad_norm : float or None
        Gradient norm at or below.
    suboptimality : float or None
        Loss minus the certified optimum at or below.
    gap : float or None
        Certified bound on loss minus minimum at or below: a duality gap, or by strong convexity.
    loss_change : float or None
        Change of the loss between two steps at or below, in absolute value.
    seconds : float or None
        The optimizer's own time.
    """

    epochs: NonNegativeInt | None = 100
    grad_norm: NonNegativeFloat | None = None
    suboptimality: NonNegativeFloat | None = None
    gap: NonNegativeFloat | None = None
    loss_change: NonNegativeFloat | None = None
    seconds: PositiveFloat | None = None

    def reason(
        self, row: Row | Glance, previous: float = math.nan, gap: float = math.inf
    ) -> tuple[Outcome, str] | None:
        """Return why to stop after this step, or None to go on.

        Parameters
        ----------
        row : Row or Glance
            The step just made.
        previous : float
            The loss at the one before; nan where there is none.
        gap : float
            The certified bound at its point.

        Returns
        -------
        tuple of Outcome and str, or None
            The outcome and a sentence.
        """
        if not math.isfinite(row.loss):
            return Outcome.DIVERGED, f"the loss is {row.loss} at iteration {row.iteration}"
        small = {
            "suboptimality": (row.suboptimality, self.suboptimality),
            "gradient norm": (row.grad_norm, self.grad_norm),
            "certified gap": (gap, self.gap),
            "change of the loss": (abs(previous - row.loss), self.loss_change),
        }
        for what, (value, limit) in small.items():
            if limit is not None and value <= limit:
                return Outcome.CONVERGED, f"{what} <= {limit:g}"
        return self.limit(row.iteration, row.seconds)

    def limit(self, iteration: int, seconds: float) -> tuple[Outcome, str] | None:
        """Return the limit of steps or seconds that a run has come to, or None."""
        if self.epochs is not None and iteration >= self.epochs:
            return Outcome.LIMIT, f"{self.epochs} epochs"
        if self.seconds is not None and seconds >= self.seconds:
            return Outcome.LIMIT, f"{self.seconds:g} seconds"
        return None


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes
    ----------
    outcome : Outcome
        How it ended.
    reason : str
        Reason in words.
    rows : list of Row
        The trace.
    w : Tensor, shape (dim,)
        The last iterate with a finite loss.
    """

    outcome: Outcome
    reason: str
    rows: list[Row]
    w: Tensor


class Clock:
    """Seconds, read after the device has finished what it was given.

    Parameters
    ----------
    device : torch.device
        Whose work is timed.
    of : {"wall", "processor"}
        The wall's clock, or the processor time of this process, all of its threads together.
    """

    def __init__(self, device: torch.device, of: str = "wall") -> None:
        self._device = device
        self._read = time.perf_counter if of == "wall" else time.process_time

    def __call__(self) -> float:
        """Return the time, in seconds from an arbitrary origin."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._read()


def spacing(iteration: int) -> int:
    """Return how many steps apart rows are where one may cost as much as a step.

    Each of the first 63 steps has one. From there on it is a power of two, at most a 32nd of the
    steps so far, and depends on their number alone: a run that was resumed has the rows of one that
    was not interrupted.
    """
    return 1 << max(0, iteration.bit_length() - 6)


class _Meter:
    """Turns steps into rows; evaluates metrics outside the timed region and the counts."""

    def __init__(
        self,
        objective: Objective,
        train: Split | None,
        test: Split | None,
        optimum: float | None,
        every: int | None,
    ) -> None:
        self.objective, self.train, self.test, self.optimum = objective, train, test, optimum
        self.every = 1 if every is None and objective.quickly_measured else every
        self.iteration, self.seconds = -1, 0.0  # the first step, the start, makes it 0
        self.due = False  # whether the number of the last step asks for a row
        self._begin()

    def _begin(self) -> None:
        """Begin what belongs to the steps since the last row, of which the last is kept."""
        self.step: Step | None = None
        self._took, self._inner, self._notes = 0.0, 0.0, dict[str, None]()

    def add(self, step: Step, seconds: float) -> None:
        """Count a step."""
        self.step, before = step, self.iteration
        self.iteration += step.iterations
        self.seconds += seconds
        self._took += seconds
        self._inner += step.inner_iterations
        self._notes.update(dict.fromkeys(step.notes))
        apart = self.every or spacing(self.iteration)
        self.due = self.iteration // apart > before // apart

    def stops(self, step: Step, stopping: Stopping, previous: float) -> bool:
        """Return whether a step is the last, as far as it shows without being measured."""
        if not step.needed:
            return stopping.limit(self.iteration, self.seconds) is not None
        point, gap = step.point, self._suboptimality(step.point)
        known = Glance(self.iteration, point.value, gap, _grad_norm(step), self.seconds)
        return stopping.reason(known, previous) is not None

    def row(self) -> Row:
        """Measure the last step; notes and costs are of all steps since the row before."""
        assert self.step is not None
        step, counts = self.step, self.objective.counts
        with counts.paused():
            test = self.test
            measures = {} if test is None else self.objective.measures(step.point.w, test)
            row = Row(
                iteration=self.iteration,
                loss=step.point.value,
                suboptimality=self._suboptimality(step.point),
                grad_norm=_grad_norm(step),
                train_accuracy=self._accuracy(step.point, self.train),
                test_accuracy=self._accuracy(step.point, self.test),
                test_loss=self._test_loss(step.point),
                l2_error=_known(self.objective.l2_error(step.point.w)),
                fresh_loss=_known(self.objective.fresh_loss(step.point.w)),
                test_balanced_accuracy=measures.get("balanced_accuracy", math.nan),
                test_auc=measures.get("auc", math.nan),
                test_d2=measures.get("d2", math.nan),
                test_mean_absolute_error=measures.get("mean_absolute_error", math.nan),
                step_size=step.step_size,
                inner_iterations=self._inner,
                function_count=counts.function,
                gradient_count=counts.gradient,
                hvp_count=counts.hvp,
                hessian_count=counts.hessian,
                data_passes=counts.passes,
                step_seconds=self._took,
                seconds=self.seconds,
                notes=tuple(self._notes),
            )
        self._begin()
        return row

    def gap(self, point: Point) -> float:
        """Return the certified bound at a point, uncounted."""
        with self.objective.counts.paused():
            return self.objective.suboptimality_bound(point)

    def _suboptimality(self, point: Point) -> float:
        return math.nan if self.optimum is None else point.value - self.optimum

    def _accuracy(self, point: Point, split: Split | None) -> float:
        if split is None:
            return math.nan
        return _known(self.objective.accuracy(point.w, split))

    def _test_loss(self, point: Point) -> float:
        return _known(None if self.test is None else self.objective.data_loss(point.w, self.test))


def _grad_norm(step: Step) -> float:
    return step.point.grad_norm if step.grad_norm is None else step.grad_norm


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def run(
    optimizer: Optimizer,
    objective: Objective,
    w0: Tensor,
    stopping: Stopping,
    generator: torch.Generator,
    *,
    train: Split | None = None,
    test: Split | None = None,
    optimum: float | None = None,
    on_row: OnRow | None = None,
    on_step: OnStep = _ignore,
    resume: Checkpoint | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    clock_of: str = "wall",
    every: int | None = None,
) -> RunResult:
    """Run an optimizer from w0 until a criterion holds, it ends, or it is interrupted.

    The clock runs only while the optimizer does. An interrupt (Ctrl-C), a loss that is not
    finite, a lack of memory and any error after the first step end the run with what it had.

    Parameters
    ----------
    optimizer : Optimizer
        The outer loop.
    objective : Objective
        What to minimize.
    w0 : Tensor, shape (dim,)
        The start.
    stopping : Stopping
        When to stop.
    generator : torch.Generator
        The run's source of randomness, on the CPU.
    train, test : Split, optional
        For the accuracies and the test loss.
    optimum : float, optional
        The certified optimal value.
    on_row : callable, optional
        Called with each row.
    on_step : callable, optional
        Called with each row and its point, after `on_row`, to look at more than the trace holds.
    resume : Checkpoint, optional
        Go on from here instead of w0: of the same optimizer, objective and generator.
    on_checkpoint : OnCheckpoint, optional
        Given a checkpoint after a row, but the start, if one is due and the optimizer can be
        continued; only then is one made.
    clock_of : {"wall", "processor"}
        What the seconds are of.
    every : int, optional
        Steps from one row to the next. By default each step has a row, but where measuring it may
        cost as much as making it; see `spacing`. The last step of a run that ends has one always.

    Returns
    -------
    RunResult
        The trace, the last good iterate, and why it ended.

    Raises
    ------
    UserError
        If the optimizer refuses to start, or parts cannot be combined.
    """
    clock = Clock(objective.device, clock_of)
    meter = _Meter(objective, train, test, optimum, every)
    rows: list[Row] = []
    w, previous = w0, math.nan
    if resume is None:
        steps = optimizer.steps(objective, w0, generator)
    else:
        w, rows = resume.w.to(w0), list(resume.rows)
        meter.iteration, meter.seconds = rows[-1].iteration, rows[-1].seconds
        stop = stopping.reason(rows[-1], rows[-2].loss if len(rows) > 1 else math.nan)
        if stop is not None:
            return RunResult(*stop, rows, w)
        previous = rows[-1].loss
        steps = _continued(optimizer, objective, w, generator, resume)

    def record(step: Step) -> Row:
        nonlocal w
        row = meter.row()
        # Before it is kept: what interrupts a run then leaves the weights of its last row.
        w = step.point.w if math.isfinite(row.loss) else w
        rows.append(row)
        if on_row is not None:
            on_row(row)
        on_step(row, step.point)
        return row

    try:
        while True:
            start = clock()
            try:
                step = next(steps).evaluated()
            except StopIteration as end:
                if (last := meter.step) is not None:
                    record(last)
                return RunResult(Outcome.ENDED, str(end.value), rows, w)
            seconds = clock() - start if step.seconds is None else step.seconds
            meter.add(step, objective.from_rank_zero(seconds))
            if not meter.due and not meter.stops(step, stopping, previous):
                previous = step.point.value if step.needed else previous
                continue
            row = record(step)
            _keep(on_checkpoint, optimizer, objective, step.point.w, generator, rows)
            gap = math.inf if stopping.gap is None else meter.gap(step.point)
            stop = stopping.reason(row, previous, gap)
            if stop is not None:
                return RunResult(*stop, rows, w)
            previous = row.loss
    except KeyboardInterrupt:
        return RunResult(Outcome.INTERRUPTED, "interrupted by the user", rows, w)
    except Exception as error:
        if isinstance(error, UnsupportedError) or (isinstance(error, UserError) and not rows):
            raise
        _log.info("the run ends with an error", exc_info=error)
        return RunResult(*failure(error), rows, w)
    finally:
        steps.close()


def failure(error: Exception) -> tuple[Outcome, str]:
    """Return what an exception makes of a run, and a sentence."""
    text = " ".join(str(error).split())
    # On the CPU, torch raises a bare RuntimeError for memory that it, or any machine, cannot have.
    lacking = "allocate memory" in text or "Storage size calculation overflowed" in text
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or lacking:
        return Outcome.OUT_OF_MEMORY, f"out of memory: {text}"
    if isinstance(error, UserError):
        return Outcome.ERROR, text
    return Outcome.ERROR, f"{type(error).__name__}: {text}"


def _continued(
    optimizer: Optimizer,
    objective: Objective,
    w: Tensor,
    generator: torch.Generator,
    checkpoint: Checkpoint,
) -> Steps:
    """Start an optimizer's steps where a checkpoint left them; its row is in the trace already."""
    optimizer.load_state_dict(checkpoint.optimizer)
    steps = optimizer.steps(objective, w, generator)
    next(steps).evaluated()
    objective.counts.add(
        **{name: n - getattr(objective.counts, name) for name, n in checkpoint.counts.items()}
    )
    generator.set_state(checkpoint.generator)
    return steps


def _keep(
    on_checkpoint: OnCheckpoint | None,
    optimizer: Optimizer,
    objective: Objective,
    w: Tensor,
    generator: torch.Generator,
    rows: list[Row],
) -> None:
    """Make a checkpoint after a row, if one is wanted and the method can be continued."""
    if on_checkpoint is None or not on_checkpoint.due or len(rows) < 2:
        return
    state = optimizer.state_dict()
    if state is None or not math.isfinite(rows[-1].loss):
        return
    counts = asdict(objective.counts)
    del counts["active"]
    on_checkpoint(Checkpoint(w, state, generator.get_state(), counts, list(rows)))
