"""Drives an optimizer: keeps the time, measures, records, decides when to stop."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum

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
"""Called after every step with its row and its point, outside the timed region."""


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
        self, row: Row, previous: Row | None, gap: float = math.inf
    ) -> tuple[Outcome, str] | None:
        """Return why to stop after this row, or None to go on.

        Parameters
        ----------
        row : Row
            The step just made.
        previous : Row or None
            The one before.
        gap : float
            The certified bound at its point.

        Returns
        -------
        tuple of Outcome and str, or None
            The outcome and a sentence.
        """
        if not math.isfinite(row.loss):
            return Outcome.DIVERGED, f"the loss is {row.loss} at iteration {row.iteration}"
        change = math.inf if previous is None else abs(previous.loss - row.loss)
        small = {
            "suboptimality": (row.suboptimality, self.suboptimality),
            "gradient norm": (row.grad_norm, self.grad_norm),
            "certified gap": (gap, self.gap),
            "change of the loss": (change, self.loss_change),
        }
        for what, (value, limit) in small.items():
            if limit is not None and value <= limit:
                return Outcome.CONVERGED, f"{what} <= {limit:g}"
        if self.epochs is not None and row.iteration >= self.epochs:
            return Outcome.LIMIT, f"{self.epochs} epochs"
        if self.seconds is not None and row.seconds >= self.seconds:
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


class _Meter:
    """Turns steps into rows; evaluates metrics outside the timed region and the counts."""

    def __init__(
        self, objective: Objective, train: Split | None, test: Split | None, optimum: float | None
    ) -> None:
        self.objective, self.train, self.test, self.optimum = objective, train, test, optimum
        self.iteration, self.seconds = -1, 0.0  # the first step, the start, makes it 0

    def row(self, step: Step, seconds: float) -> Row:
        self.seconds += seconds
        self.iteration += step.iterations
        counts = self.objective.counts
        with counts.paused():
            test = self.test
            measures = {} if test is None else self.objective.measures(step.point.w, test)
            return Row(
                iteration=self.iteration,
                loss=step.point.value,
                suboptimality=self._suboptimality(step.point),
                grad_norm=step.point.grad_norm if step.grad_norm is None else step.grad_norm,
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
                inner_iterations=step.inner_iterations,
                function_count=counts.function,
                gradient_count=counts.gradient,
                hvp_count=counts.hvp,
                hessian_count=counts.hessian,
                data_passes=counts.passes,
                step_seconds=seconds,
                seconds=self.seconds,
                notes=step.notes,
            )

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
        Given a checkpoint after a step, but the start, if one is due and the optimizer can be
        continued; only then is one made.
    clock_of : {"wall", "processor"}
        What the seconds are of.

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
    meter = _Meter(objective, train, test, optimum)
    rows: list[Row] = []
    w = w0
    if resume is None:
        steps = optimizer.steps(objective, w0, generator)
    else:
        w, rows = resume.w.to(w0), list(resume.rows)
        meter.iteration, meter.seconds = rows[-1].iteration, rows[-1].seconds
        stop = stopping.reason(*_last_two(rows))
        if stop is not None:
            return RunResult(*stop, rows, w)
        steps = _continued(optimizer, objective, w, generator, resume)
    try:
        while True:
            start = clock()
            try:
                step = next(steps).evaluated()
            except StopIteration as end:
                return RunResult(Outcome.ENDED, str(end.value), rows, w)
            seconds = clock() - start if step.seconds is None else step.seconds
            row = meter.row(step, objective.from_rank_zero(seconds))
            w = step.point.w if math.isfinite(row.loss) else w
            rows.append(row)
            if on_row is not None:
                on_row(row)
            on_step(row, step.point)
            if on_checkpoint is not None and on_checkpoint.due and len(rows) > 1:
                _keep(on_checkpoint, optimizer, objective, step.point.w, generator, rows)
            gap = math.inf if stopping.gap is None else meter.gap(step.point)
            stop = stopping.reason(*_last_two(rows), gap)
            if stop is not None:
                return RunResult(*stop, rows, w)
    except KeyboardInterrupt:
        return RunResult(Outcome.INTERRUPTED, "interrupted by the user", rows, w)
    except Exception as error:
        if isinstance(error, UnsupportedError) or (isinstance(error, UserError) and not rows):
            raise
        _log.info("the run ends with an error", exc_info=error)
        return RunResult(*failure(error), rows, w)
    finally:
        steps.close()


def _last_two(rows: list[Row]) -> tuple[Row, Row | None]:
    return rows[-1], rows[-2] if len(rows) > 1 else None


def failure(error: Exception) -> tuple[Outcome, str]:
    """Return what an exception makes of a run, and a sentence."""
    text = " ".join(str(error).split())
    # On the CPU, torch raises a bare RuntimeError for memory that it cannot have.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text:
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
    on_checkpoint: OnCheckpoint,
    optimizer: Optimizer,
    objective: Objective,
    w: Tensor,
    generator: torch.Generator,
    rows: list[Row],
) -> None:
    state = optimizer.state_dict()
    if state is None or not math.isfinite(rows[-1].loss):
        return
    counts = asdict(objective.counts)
    del counts["active"]
    on_checkpoint(Checkpoint(w, state, generator.get_state(), counts, list(rows)))
