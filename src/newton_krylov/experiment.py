"""One run, from a composed configuration to its record: the only place that knows all rooms."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from newton_krylov import (
    curvature,
    data,
    device,
    linear_solvers,
    models,
    objectives,
    optimizers,
    preconditioners,
    tracking,
)
from newton_krylov.config import RunConfig, check
from newton_krylov.console import Progress, console, print_summary, short
from newton_krylov.data import Dataset, Split, load_dataset
from newton_krylov.environment import describe
from newton_krylov.errors import UserError
from newton_krylov.interruption import Interruption, interruptible
from newton_krylov.models import Interface, initialized
from newton_krylov.objectives.base import Objective
from newton_krylov.objectives.network import Network
from newton_krylov.optimizers.base import Optimizer
from newton_krylov.optimum import Optimum, certified_optimum
from newton_krylov.record import FIGURES, TRACE, Record
from newton_krylov.runner import Outcome, RunResult, run
from newton_krylov.trace import Row, TraceWriter
from newton_krylov.tracking.base import Tracker

ROOMS = (
    curvature,
    data,
    device,
    linear_solvers,
    models,
    objectives,
    optimizers,
    preconditioners,
    tracking,
)
"""Imported so that their parts are registered."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a run is told beside its configuration.

    Attributes
    ----------
    folder : Path
        Where its record goes.
    overrides : sequence of str
        What the user changed in the configuration.
    repository : Path
        A folder of the code, whose git state is recorded.
    parent : str or None
        The tracker's identifier of the sweep it belongs to.
    in_sweep : bool
        Whether it belongs to one: then a line, not a page, is shown.
    """

    folder: Path
    overrides: Sequence[str]
    repository: Path
    parent: str | None = None
    in_sweep: bool = False


def run_experiment(plain: Mapping[str, Any], job: Job) -> Record:
    """Run a configuration and record it.

    Parameters
    ----------
    plain : mapping
        The composed configuration, plain values.
    job : Job
        Where and for whom.

    Returns
    -------
    Record
        Ended; its summary tells how.

    Raises
    ------
    UserError
        For a mistake in the configuration or the data, before anything is tracked.
    KeyboardInterrupt
        If a signal came before or after the optimizer's loop; the record says so.
    """
    started = time.perf_counter()
    config = check(plain)
    with interruptible() as interruption:
        place = config.build("device")()
        parts = build_parts(config)
        record = Record.begin(
            job.folder, config.plain, job.overrides, describe(job.repository), config.label
        )
        tracker: Tracker = config.build("tracking")
        experiment = _Experiment(config, job, record, tracker, place, parts, interruption)
        try:
            experiment.run()
        except BaseException as error:
            experiment.fail(error)
            raise
        finally:
            interruption.hold()
            experiment.finish(started)
    return record


def build_parts(config: RunConfig) -> dict[str, Any]:
    """Make the optimizer's parts.

    Parameters
    ----------
    config : RunConfig
        Checked.

    Returns
    -------
    dict
        Parameter name, as optimizers call it, to part.
    """
    return {
        "solver": config.build("solver"),
        "curvature": config.build("hessian_approx"),
        "line_search": config.build("line_search"),
        "forcing": config.build("forcing"),
        "preconditioner": config.build("preconditioner"),
    }


def objective_of(config: RunConfig, dataset: Dataset) -> Objective:
    """Bind the loss to the data, and to the network if it takes one.

    Parameters
    ----------
    config : RunConfig
        Its `loss` and `model`; the network's first weights depend on `seed` alone.
    dataset : Dataset
        On its device.

    Returns
    -------
    Objective
        What the run minimizes.
    """
    parts: dict[str, Any] = {"dataset": dataset}
    if "model" in config.entry_of("loss").parts:
        generator, _ = generators(config.settings.seed)
        parts["model"] = initialized(config.build("model"), Interface.of(dataset), generator)
    loss: Objective = config.build("loss", **parts)
    return loss


def start_of(config: RunConfig, objective: Objective) -> Tensor:
    """Draw w0: by the seed alone, so all methods of a sweep start at the same point.

    Parameters
    ----------
    config : RunConfig
        Its `start` and `seed`.
    objective : Objective
        Gives shape, dtype and device.

    Returns
    -------
    Tensor, shape (dim,)
        The start.
    """
    generator, _ = generators(config.settings.seed)
    shape, kind = objective.dim, config.settings.start
    if isinstance(objective, Network) and kind == "model":
        return objective.initial()
    if kind == "uniform":
        w0 = torch.rand(shape, generator=generator, dtype=torch.float64)
    elif kind == "normal":
        w0 = torch.randn(shape, generator=generator, dtype=torch.float64)
    else:
        w0 = torch.zeros(shape, dtype=torch.float64)
    return w0.to(objective.device, objective.dtype)


def generators(seed: int) -> tuple[torch.Generator, torch.Generator]:
    """Return the start's and the run's sources of randomness, independent of each other.

    Parameters
    ----------
    seed : int
        Of the configuration.

    Returns
    -------
    tuple of torch.Generator
        On the CPU.
    """
    states = np.random.SeedSequence(seed).generate_state(2, np.uint64)
    start, run_ = (torch.Generator().manual_seed(int(state >> np.uint64(1))) for state in states)
    return start, run_


@lru_cache(maxsize=1)
def _load(
    name: str, options: tuple[tuple[str, Any], ...], folder: str | None, dtype: str, place: str
) -> Dataset:
    """Load a data set and move it to its device; a sweep's jobs share the last one."""
    loaded = load_dataset(
        name,
        dict(options),
        data_dir=Path(folder).expanduser() if folder else None,
        dtype=getattr(torch, dtype),
    )
    target = torch.device(place)
    test = None if loaded.test is None else _moved(loaded.test, target)
    return replace(loaded, train=_moved(loaded.train, target), test=test)


def _moved(split: Split, target: torch.device) -> Split:
    return Split(split.X.to(target), split.y.to(target))


def _hashable(value: Any) -> Any:
    return tuple(_hashable(item) for item in value) if isinstance(value, list) else value


class _Experiment:
    """A run between its record's beginning and its end."""

    def __init__(
        self,
        config: RunConfig,
        job: Job,
        record: Record,
        tracker: Tracker,
        place: torch.device,
        parts: dict[str, Any],
        interruption: Interruption,
    ) -> None:
        self.config, self.job, self.record, self.tracker = config, job, record, tracker
        self.place, self.parts, self.interruption = place, parts, interruption
        self.out = console()

    def run(self) -> None:
        """Load, solve for the optimum, run the optimizer, keep what came of it."""
        dataset = self._dataset()
        self.record.update(
            device=str(self.place),
            dtype=self.config.settings.dtype,
            dataset=_description(dataset),
        )
        objective = objective_of(self.config, dataset)
        optimizer: Optimizer = self.config.build("optimizer", **self.parts)
        self.tracker.start(self.record, self.job.parent)
        self.record.update(mlflow_run_id=self.tracker.place.run_id)
        optimum = self._optimum(dataset, objective)
        result = self._optimize(optimizer, objective, dataset, optimum)
        self.interruption.hold()
        self._keep(result)

    def fail(self, error: BaseException) -> None:
        """Record why the run did not come to its end."""
        if isinstance(error, KeyboardInterrupt):
            self.record.update(status=self.interruption.status, outcome=None, reason="interrupted")
            return
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        self.record.update(status="failed", outcome=None, reason=text)
        if not isinstance(error, UserError):
            _log.info("the run failed", exc_info=error)

    def finish(self, started: float) -> None:
        """Draw, send and summarize; whatever happened, the record ends whole."""
        self.record.update(wall_seconds=time.perf_counter() - started)
        self._draw()
        self.tracker.finish()
        self.record.end(tracking_problem=self.tracker.place.problem)

    def _dataset(self) -> Dataset:
        settings = self.config.settings
        options = tuple((k, _hashable(v)) for k, v in self.config.options_of("dataset").items())
        return _load(
            self.config.name_of("dataset"),
            options,
            settings.data_dir,
            settings.dtype,
            str(self.place),
        )

    def _optimum(self, dataset: Dataset, objective: Objective) -> Optimum | None:
        settings = self.config.settings
        if settings.optimum == "none" or objective.convexity is None:
            return None
        optimum = certified_optimum(
            dataset,
            self.config.entry_of("loss"),
            self.config.options_of("loss"),
            getattr(torch, settings.dtype),
        )
        if optimum is not None:
            self.record.update(optimum=optimum.value, optimum_gap_bound=optimum.gap_bound)
        return optimum

    def _optimize(
        self,
        optimizer: Optimizer,
        objective: Objective,
        dataset: Dataset,
        optimum: Optimum | None,
    ) -> RunResult:
        w0 = start_of(self.config, objective)
        _, generator = generators(self.config.settings.seed)
        writer = TraceWriter(self.record.folder / TRACE)
        try:
            with Progress(self.out) as progress:

                def on_row(row: Row) -> None:
                    writer(row)
                    self.tracker.log(row)
                    progress(row)

                return run(
                    optimizer,
                    objective,
                    w0,
                    self.config.stopping,
                    generator,
                    train=dataset.train,
                    test=dataset.test,
                    optimum=None if optimum is None else optimum.value,
                    on_row=on_row,
                )
        finally:
            writer.close()

    def _keep(self, result: RunResult) -> None:
        self.record.write_weights(result.w)
        last = asdict(result.rows[-1]) if result.rows else {}
        last.pop("note", None)
        status = "finished"
        if result.outcome.failed:
            status = "failed"
        elif result.outcome is Outcome.INTERRUPTED:
            status = self.interruption.status
        self.record.update(
            status=status, outcome=str(result.outcome), reason=result.reason, **last
        )

    def _draw(self) -> None:
        try:
            from newton_krylov.report.figures import draw_run
        except ImportError:
            return
        draw_run(self.record.folder)


def _description(dataset: Dataset) -> dict[str, Any]:
    X = dataset.train.X
    return {
        "name": dataset.name,
        "n_samples": len(dataset.train),
        "n_features": dataset.n_features,
        "nnz": int(X.values().numel()) if X.layout is torch.sparse_csr else X.numel(),
        "task": dataset.task,
        "source": dataset.source,
        "checksum": dataset.checksum,
    }
