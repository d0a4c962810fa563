"""One run, from a composed configuration to its record: the only place that combines all parts."""

import json
import logging
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from newton_krylov import distributed
from newton_krylov.capabilities import GENERATED
from newton_krylov.data import Dataset, LabelledData, Table, load_dataset
from newton_krylov.data.sparse import by_row_length
from newton_krylov.device import denormals_flushed
from newton_krylov.errors import CombinationError, ConfigError, UnsupportedError, UserError
from newton_krylov.files import expand_home, remove_parts, title_of
from newton_krylov.models import Interface, initialized
from newton_krylov.objectives.base import Counts, Objective, Renewed, Started
from newton_krylov.objectives.function import FunctionObjective
from newton_krylov.objectives.linear_model import LinearModel
from newton_krylov.optimizers.base import ContinuedOptimizer, Optimizer
from newton_krylov.optimizers.saddle import below_saddle
from newton_krylov.records.checkpoint import CHECKPOINT, Checkpoint, Saver
from newton_krylov.records.fields import Fields
from newton_krylov.records.record import FIGURES, TRACE, Record
from newton_krylov.records.trace import Row, TraceWriter
from newton_krylov.registry import entry, import_plugins
from newton_krylov.runs.config import RunConfig, check
from newton_krylov.runs.console import (
    MemberProgress,
    Progress,
    print_heading,
    print_line,
    print_member_heading,
    print_summary,
    say_unused,
)
from newton_krylov.runs.environment import code_checksum, describe, load_average
from newton_krylov.runs.interruption import Interruption, interruptible
from newton_krylov.runs.optimum import Optimum, certified_optimum
from newton_krylov.runs.parts import register_parts
from newton_krylov.runs.predecessor import PENALTY, Predecessor, predecessor
from newton_krylov.runs.resume import EarlierRun, earlier
from newton_krylov.runs.runner import Outcome, RunResult, failure, run
from newton_krylov.runs.standing import standing
from newton_krylov.runs.watch import Watch
from newton_krylov.terminal import console, say, short
from newton_krylov.tracking.base import Tracker

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a run receives beside its configuration.

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
    sweep : Path or None
        Folder of the sweep it belongs to: then lines, not a page, are shown.
    own : sequence of str
        Those of the overrides in which the sweep's members may differ.
    title : str or None
        What tells it from the sweep's other members, where its label does not.
    """

    folder: Path
    overrides: Sequence[str]
    repository: Path
    parent: str | None = None
    sweep: Path | None = None
    own: Sequence[str] = ()
    title: str | None = None


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
        The record of a run that has ended; its summary says how. With `resume`, a run that had
        finished before is not run again.

    Raises
    ------
    UserError
        For a mistake in the configuration or the data, and for a folder that cannot be written.
    KeyboardInterrupt
        If a signal came before or after the optimizer's loop; the record says so.
    """
    started = time.perf_counter()
    register_parts()
    import_plugins()
    config = check(plain)
    if config.settings.start == "previous" and job.sweep is None:
        raise ConfigError(
            "start=previous begins where a sweep's last run ended: give several values by -m, such "
            "as loss.l2=0.1,0.01, or take start=zeros."
        )
    before = earlier(job.folder, config.plain, resume=config.settings.resume)
    if before is not None and before.finished:
        for folder in (job.folder, job.folder / FIGURES):  # a kill after its end may have left some
            remove_parts(folder)
        if before.record.undrawn:
            try:
                before.record.update(drawn=_draw(before.record.folder))
            except OSError as error:
                raise UserError(_cannot_write(before.record.folder, error)) from error
            config.build("tracking").send(before.record)
        console().print(f"{short(job.folder)}: finished before", markup=False, soft_wrap=True)
        return before.record
    if job.sweep is None and not config.settings.quiet:  # a sweep says it once for all its members
        say_unused(config.unused(job.overrides))
    with interruptible() as interruption, denormals_flushed():
        place = config.build("device")()
        parts = build_parts(config)
        if job.sweep is None and config.name_of("tracking") != "none":
            say(f"opening the run: tracking={config.name_of('tracking')}")
        tracker: Tracker = config.build("tracking")
        address = tracker.address
        interruption.hold()  # what has begun is ended
        record = _begin(config, job, before, address)
        checkpoint = None if before is None else before.checkpoint
        experiment = _Experiment(
            config, job, record, tracker, place, parts, interruption, checkpoint, started
        )
        try:
            interruption.obey()
            experiment.run()
        except BaseException as error:
            interruption.hold()
            experiment.fail(error)
            if isinstance(error, Exception) and not isinstance(error, UserError):
                outcome, text = failure(error)
                if outcome is Outcome.OUT_OF_MEMORY:
                    said = text[:300].rstrip(". ")
                    raise UserError(f"{said}. Choose a smaller problem or model.") from error
            raise
        finally:
            interruption.hold()
            try:
                distributed.leave()  # a process that waits for this one would wait for its figures
            finally:
                experiment.finish()
    return record


_IN_THE_LABEL = ("optimizer", "solver", "hessian_approx", "method")


def _begin(
    config: RunConfig, job: Job, before: EarlierRun | None, tracking_uri: str | None
) -> Record:
    """Open the run's record: the earlier process's, if its checkpoint is there to go on from."""
    restart = before is not None and before.checkpoint is None
    record = Record.begin(
        job.folder,
        config.plain,
        job.overrides,
        describe(job.repository),
        config.label,
        previous=None if before is None else before.record,
        tracking_uri=tracking_uri,
        restart=restart,
    )
    own = [line for line in job.own if line.partition("=")[0] not in _IN_THE_LABEL]
    title = job.title or " · ".join([config.label, *filter(None, [" ".join(own)])])
    record.update(idle=config.idle, title=title)
    if before is not None and before.problem is not None:
        console().print(before.problem, markup=False, soft_wrap=True)
    return record


def build_parts(config: RunConfig) -> dict[str, Any]:
    """Make the optimizer's parts.

    Parameters
    ----------
    config : RunConfig
        Checked configuration.

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
        "damping": config.build("damping"),
        "schedule": config.build("schedule"),
    }


def dataset_of(config: RunConfig, place: torch.device | None = None) -> Dataset:
    """Load the data of a configuration; a sweep's jobs share the last one loaded.

    Parameters
    ----------
    config : RunConfig
        Checked configuration.
    place : torch.device, optional
        Where to; by default, where the configuration's device is.

    Returns
    -------
    Dataset
        On its device.
    """
    settings = config.settings
    options = tuple((k, _hashable(v)) for k, v in config.options_of("dataset").items())
    place = config.build("device")() if place is None else place
    return _load(
        config.name_of("dataset"),
        options,
        settings.data_dir,
        settings.dtype,
        str(place),
        _versions(options),
    )


def objective_of(config: RunConfig, dataset: Dataset) -> Objective:
    """Bind the loss to the data, and to the network if it takes one.

    A sweep's jobs share the data as a linear model has laid them out, if they differ in the penalty
    alone.

    Parameters
    ----------
    config : RunConfig
        Configuration; `loss` and `model` are used, and the first weights depend on `seed` alone.
    dataset : Dataset
        On its device.

    Returns
    -------
    Objective
        What the run minimizes.
    """
    options = config.options_of("loss")
    rest = {key: value for key, value in options.items() if key not in PENALTY}
    for data, name, others, laid_out in _layouts:
        if data is dataset and (name, others) == (config.name_of("loss"), rest):
            return laid_out.with_l2(options["l2"], options["l1"], counts=Counts())
    parts: dict[str, Any] = {"dataset": dataset}
    if "model" in config.entry_of("loss").parts:
        if isinstance(dataset, LabelledData) and dataset.train.weights is not None:
            raise CombinationError(
                f"loss={config.name_of('loss')} is of a network and counts all samples alike, but "
                f"the data have weights; leave out dataset.weight or weights_path, or take a "
                f"linear loss."
            )
        generator, _ = generators(config.settings.seed)
        module = initialized(config.build("model"), Interface.of(dataset), generator)
        parts["model"] = _cast(module, getattr(torch, config.settings.dtype))
    loss: Objective = config.build("loss", **parts)
    if isinstance(loss, LinearModel):
        _layouts[:] = [(dataset, config.name_of("loss"), rest, loss)]
    return loss


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast a module's real numbers, and complex ones to complex, whose parts torch would drop."""

    def cast(t: Tensor) -> Tensor:
        if t.is_complex():
            return t.to(dtype.to_complex())
        return t.to(dtype) if t.is_floating_point() else t

    cast_all: Callable[[Callable[[Tensor], Tensor]], nn.Module] = module._apply
    return cast_all(cast)


_layouts: list[tuple[Dataset, str, dict[str, Any], LinearModel]] = []
"""The last linear model after what it was made of, but the penalty."""

_SADDLE = "but at a saddle point or a maximum: along negative curvature the loss is lower"

_STATIONARY = 1e-6

_MADE_WITHOUT_INTERCEPT = ("a9a", "synthetic")
"""The paper's data set, which its authors give a column of ones, and data drawn without a mean."""


def intercept_of(config: RunConfig, dataset: Dataset) -> str | None:
    """Say which intercept a linear model of a table has.

    Parameters
    ----------
    config : RunConfig
        Checked configuration.
    dataset : Dataset
        Its data.

    Returns
    -------
    str or None
        A sentence; None for what is no such model, and for the paper's and generated data.
    """
    intercept = config.options_of("loss").get("intercept")
    kind = entry("loss", config.name_of("loss")).target
    linear = isinstance(kind, type) and issubclass(kind, LinearModel)
    if not linear or not isinstance(dataset, Table) or dataset.name in _MADE_WITHOUT_INTERCEPT:
        return None
    if intercept == "free":
        return "There is an intercept without a penalty: loss.intercept=none leaves it out."
    if dataset.bias:
        return "There is an intercept, whose weight is penalized like the others."
    centred = config.options_of("dataset").get("scaling") == "standardize"
    centred = centred and dataset.train.X.layout is torch.strided
    return f"There is no intercept{', and the columns are centred' if centred else ''}: " + (
        "dataset.bias=true adds one."
        if intercept is None  # a loss of the user's own without such a key
        else "loss.intercept=free adds one without a penalty, dataset.bias=true one with it."
    )


def start_of(config: RunConfig, objective: Objective, before: Predecessor | None = None) -> Tensor:
    """Draw w0: by the seed alone, so all methods of a sweep start at the same point.

    Parameters
    ----------
    config : RunConfig
        Configuration; `start` and `seed` are used.
    objective : Objective
        Gives shape, dtype and device.
    before : Predecessor, optional
        Whose weights are taken instead.

    Returns
    -------
    Tensor, shape (dim,)
        The start.
    """
    generator, _ = generators(config.settings.seed)
    shape, kind = objective.dim, config.settings.start
    if before is not None:
        w = torch.from_numpy(np.load(before.weights, allow_pickle=False))
        return w.to(objective.device, objective.dtype)
    if kind in ("model", "previous") and isinstance(objective, Started):
        return objective.initial()
    if kind == "uniform":
        w0 = torch.rand(shape, generator=generator, dtype=torch.float64)
    elif kind == "normal":
        w0 = torch.randn(shape, generator=generator, dtype=torch.float64)
    else:
        w0 = torch.zeros(shape, dtype=torch.float64)
    w0 = w0.to(objective.device, objective.dtype)
    return w0 + objective.start if isinstance(objective, FunctionObjective) else w0


def generators(seed: int) -> tuple[torch.Generator, torch.Generator]:
    """Return the start's and the run's sources of randomness, independent of each other.

    Parameters
    ----------
    seed : int
        Seed of the configuration.

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
    name: str,
    options: tuple[tuple[str, Any], ...],
    folder: str | None,
    dtype: str,
    place: str,
    versions: tuple[Any, ...],
) -> Dataset:
    """Load a data set and move it to its device; a sweep's jobs share the last one.

    `versions` tells files that were written anew, or are others of the same name, from the last.
    """
    _layouts.clear()  # of other data
    made = GENERATED in (entry("dataset", name).offers or ())
    file, target = (dict(options).get(key) for key in ("path", "target"))
    what = f"{name} {title_of(file, target)}" if isinstance(file, str) else name
    say(f"{'generating' if made else 'reading'} the data: {what}")
    loaded = load_dataset(
        name,
        dict(options),
        data_dir=expand_home(folder) if folder else None,
        dtype=getattr(torch, dtype),
    )
    for remark in loaded.remarks if isinstance(loaded, Table) else ():
        say(f"  {remark}")
    if isinstance(loaded, LabelledData):
        loaded = replace(loaded, train=by_row_length(loaded.train))
    return loaded.to(torch.device(place))


def _versions(options: tuple[tuple[str, Any], ...]) -> tuple[Any, ...]:
    """Return what changes where a file is written anew, for each file that the options name."""
    found: list[Any] = []
    for key, value in options:
        if key in ("path", "test_path") and isinstance(value, str):
            file = expand_home(value).absolute()
            with suppress(OSError):  # reading it will say what is wrong
                now = file.stat()
                found.append((file, now.st_ino, now.st_size, now.st_mtime_ns))
    return tuple(found)


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
        checkpoint: Checkpoint | None,
        started: float,
    ) -> None:
        self.started = started
        self.config, self.job, self.record, self.tracker = config, job, record, tracker
        self.place, self.parts, self.interruption = place, parts, interruption
        self.checkpoint = checkpoint
        self.out = console()
        self.problems: list[str] = []
        self.origin: dict[str, str] = {}
        self.load = load_average()
        self.last = None if checkpoint is None else checkpoint.rows[-1]
        self.before: Predecessor | None = None

    def run(self) -> None:
        """Load, solve for the optimum, run the optimizer, keep what came of it."""
        whole = dataset_of(self.config, self.place)
        self._note(
            device=str(self.place),
            dtype=self.config.settings.dtype,
            dataset=_description(whole),
        )
        self.origin = {"data": whole.checksum, "code": code_checksum()}
        if self.checkpoint is not None:
            self._compare(self.checkpoint.origin)
        dataset, objective = self._shard(whole)
        optimizer: Optimizer = self.config.build("optimizer", **self.parts)
        if objective.threads is not None and not self.config.options_of("device").get("threads"):
            torch.set_num_threads(objective.threads)
        renews = isinstance(objective, Renewed) and objective.renewal > 0
        if renews and not isinstance(optimizer, ContinuedOptimizer):
            raise UnsupportedError(
                f"optimizer={self.config.name_of('optimizer')} keeps its points from the first "
                f"step to the last; set dataset.resample=0 and dataset.window=1."
            )
        if self.config.settings.start == "previous" and self.job.sweep is not None:
            self.before = predecessor(self.job.sweep, self.job.folder, self.config.plain)
            self._note(started_from=None if self.before is None else self.before.facts)
        self.tracker.start(self.record, self.job.parent)
        self._head(dataset)
        optimum = self._optimum(whole, objective)
        del whole  # of several processes, each keeps its own part alone
        result = self._optimize(optimizer, objective, dataset, optimum)
        if result.outcome is Outcome.CONVERGED and self._at_saddle(objective, result):
            result = replace(result, reason=f"{result.reason}, {_SADDLE}")
        self.interruption.hold()
        self._keep(result, objective)

    def _head(self, dataset: Dataset) -> None:
        """Show what is about to run."""
        if self.job.sweep is not None:
            number, name = self.job.folder.name, self.record.summary["dataset"]["name"]
            print_member_heading(number, self.config.label, self.job.own, name)
            if self.before is not None:
                say(f"     starts from the weights of {self.before.text}")
            return
        print_heading(self.out, self.config.label, self.record.summary)
        if sentence := intercept_of(self.config, dataset):
            say(sentence)

    def _compare(self, before: Mapping[str, str]) -> None:
        """Refuse to resume with other data; warn where the program has changed."""
        if before.get("data") != self.origin["data"]:
            raise UserError(
                f"The data has changed since the run in {short(self.record.folder)} began "
                f"(its checksum was {str(before.get('data'))[:12]}, and is "
                f"{self.origin['data'][:12]} now): restore it, or start again in another folder."
            )
        if before.get("code") != self.origin["code"]:
            self.problems.append(
                "The program has changed since the run began: its trace is of both versions."
            )

    def fail(self, error: BaseException) -> None:
        """Record why the run did not come to its end, and how far it came."""
        last = self._reached()
        if isinstance(error, KeyboardInterrupt):
            status = self.interruption.status
            self._note_end(status=status, outcome=None, reason="interrupted", **last)
            return
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        status = "skipped" if isinstance(error, UnsupportedError) else "failed"
        outcome = None
        if isinstance(error, Exception) and failure(error)[0] is Outcome.OUT_OF_MEMORY:
            outcome, text = Outcome.OUT_OF_MEMORY.value, failure(error)[1]
        self._note_end(status=status, outcome=outcome, reason=text, **last)
        if not isinstance(error, UserError):
            _log.info("the run failed", exc_info=error)

    def finish(self) -> None:
        """Draw, send and summarize; whatever happened, the record ends whole."""
        if self.record.summary["status"] == "running":  # a signal came before `fail` could hold it
            self.fail(KeyboardInterrupt())
        alone = self.job.sweep is None
        if self.last is not None:
            if alone:
                say("drawing the figures")
            self._write(lambda: self.record.update(drawn=_draw(self.record.folder)))
        if alone and self.tracker.place.run_id is not None:
            say(f"sending the run: tracking={self.config.name_of('tracking')}")
        self.tracker.finish()
        place = self.tracker.place
        self._write(lambda: self.record.end(sent=not place.open, tracking_problem=place.problem))
        if self.job.sweep is not None:
            so_far = standing(self.job.sweep)
            text = "" if so_far is None else so_far.text
            print_line(self.job.folder.name, self.record.summary, text)
        elif self.record.summary.get("outcome") or self.interruption.signal is not None:
            clock = self.config.settings.clock
            print_summary(self.out, self.config.label, self.record.summary, self._places(), clock)
        if self.config.settings.quiet and self.job.sweep is None and place.problem is not None:
            self.problems.append(place.problem)
        for problem in dict.fromkeys(self.problems):
            console(stderr=True).print(problem, markup=False, soft_wrap=True)

    def _places(self) -> list[tuple[str, str]]:
        """Say where the results lie."""
        folder, place = self.record.folder, self.tracker.place
        places = [("record", short(folder))]
        if (folder / FIGURES).is_dir():
            places.append(("figures", short(folder / FIGURES)))
        if place.run_id is not None:
            places.append(("MLflow", str(place.url)))
        if place.problem is not None:
            places.append(("not tracked", place.problem))
            command = f"python -m newton_krylov.tracking.upload {shlex.quote(short(folder))}"
            places.append(("send it later", command))
        return places

    def _reached(self) -> dict[str, Any]:
        """Return the last row, as the summary has it; nothing before the first."""
        last = {} if self.last is None else asdict(self.last)
        last.pop("notes", None)
        return last

    def _note(self, **values: Any) -> None:
        """Set keys of the summary."""
        self._write(lambda: self.record.update(**values))

    def _note_end(self, **values: Any) -> None:
        """Set the keys of the summary that say how the run ended."""
        load = [self.load, load_average()]
        self._note(wall_seconds=time.perf_counter() - self.started, load_average=load, **values)

    def _write(self, action: Callable[[], None]) -> None:
        """Write to the record; on a full disk the run's end is shown all the same."""
        try:
            action()
        except OSError as error:
            self.record.unwritten = True
            self.problems.append(_cannot_write(self.record.folder, error))

    def _shard(self, whole: Dataset) -> tuple[Dataset, Objective]:
        """Return this process's samples, and the objective over those of all processes."""
        group = distributed.current()
        if group is None:
            return whole, objective_of(self.config, whole)
        self._note(processes=group.size)
        settings = {k: v for k, v in self.config.plain.items() if k not in ("tracking", "label")}
        origin = {**self.origin, "configuration": json.dumps(settings, default=str)}
        for what, text in origin.items():
            if not group.agree(text):
                raise UserError(
                    f"The processes of the run do not have the same {what}: give each machine the "
                    f"same files, program and command."
                )
        dataset = distributed.shard(whole, group)
        _load.cache_clear()
        _layouts.clear()
        local = objective_of(self.config, dataset)
        train, _ = whole.splits
        assert train is not None  # it has been divided
        return dataset, distributed.data_parallel(local, group, train.X)

    def _optimum(self, dataset: Dataset, objective: Objective) -> Optimum | None:
        settings = self.config.settings
        network = "model" in self.config.entry_of("loss").parts
        if settings.optimum == "none" or objective.convexity is None or network:
            return None
        laid_out = None
        if isinstance(objective, LinearModel) and objective.dtype is torch.float64:
            laid_out = objective.with_l2(objective.l2, counts=Counts())
        optimum = certified_optimum(
            dataset,
            self.config.entry_of("loss"),
            self.config.options_of("loss"),
            getattr(torch, settings.dtype),
            on_solve=lambda: say("certifying the optimum: once for a problem, then it is kept"),
            objective=laid_out,
            near=None if self.before is None else start_of(self.config, objective, self.before),
        )
        if optimum is not None:
            self._note(optimum=optimum.value, optimum_gap_bound=optimum.gap_bound)
        return optimum

    def _at_saddle(self, objective: Objective, result: RunResult) -> bool:
        """Say whether a stationary point is no minimum: by some products, of networks too many."""
        network = "model" in self.config.entry_of("loss").parts
        if network or objective.convexity is not None or result.rows[-1].grad_norm > _STATIONARY:
            return False
        lower, _ = below_saddle(objective.at(result.w))
        return lower is not None

    def _optimize(
        self,
        optimizer: Optimizer,
        objective: Objective,
        dataset: Dataset,
        optimum: Optimum | None,
    ) -> RunResult:
        if self.config.stopping.gap is not None and not objective.certified:
            raise CombinationError(
                f"stop.gap needs a certificate, which loss={self.config.name_of('loss')} has if it "
                f"is convex and all weights but a free intercept's are penalized: set loss.l2, or "
                f"stop.grad_norm."
            )
        w0 = start_of(self.config, objective, self.before)
        _, generator = generators(self.config.settings.seed)
        watch = self._watch(objective)
        writer = self._trace_writer()
        with (
            self._closing(watch),
            self._closing(writer),
            self._progress() as progress,
        ):

            def on_row(row: Row) -> None:
                with self.interruption.held():
                    self.last = row
                    self.tracker.log(row)
                    progress(row)
                    try:
                        writer(row)
                    except OSError as error:
                        path = self.record.folder / TRACE
                        raise UserError(_cannot_write(path, error)) from error

            for row in [] if self.checkpoint is None else self.checkpoint.rows:
                self.tracker.log(row)
                progress(row)
            objective.from_rank_zero(
                0.0
            )  # no clock runs while one process waits for another to load
            train, test = dataset.splits
            result = run(
                optimizer,
                objective,
                w0,
                self.config.stopping,
                generator,
                train=train,
                test=test,
                optimum=None if optimum is None else optimum.value,
                on_row=on_row,
                on_step=watch.step,
                resume=self.checkpoint,
                on_checkpoint=Saver(
                    self.record.folder / CHECKPOINT,
                    self.config.settings.checkpoint_seconds,
                    self.origin,
                ),
                clock_of=self.config.settings.clock,
                every=self.config.settings.trace_every,
            )
            watch.end(result)
            return result

    def _progress(self) -> Progress | MemberProgress:
        if self.job.sweep is None:
            return Progress(self.out)
        return MemberProgress(self.job.folder.name)

    def _watch(self, objective: Objective) -> Watch:
        """Look at the curvature's spectrum along the run, where that is asked for."""
        last = -1 if self.checkpoint is None else self.checkpoint.rows[-1].iteration
        return Watch(self.config, objective, self.record.folder, self.tracker.log, last)

    def _trace_writer(self) -> TraceWriter:
        path = self.record.folder / TRACE
        try:
            return TraceWriter(path, [] if self.checkpoint is None else self.checkpoint.rows)
        except OSError as error:
            raise UserError(_cannot_write(path, error)) from error

    @contextmanager
    def _closing(self, writer: TraceWriter | Watch) -> Iterator[None]:
        try:
            yield
        finally:
            self._write(writer.close)

    def _keep(self, result: RunResult, objective: Objective) -> None:
        self._write(lambda: self.record.write_weights(result.w.numpy(force=True)))
        if shown := objective.fields(result.w):
            arrays = {name: t.numpy(force=True).astype(np.float64) for name, t in shown.items()}
            self._write(lambda: Fields(**arrays).write(self.record.folder))
        unmeasured = self.config.settings.optimum == "none" and distributed.current() is None
        if objective.certified and unmeasured:
            with objective.counts.paused():
                self._note(gap_bound=objective.suboptimality_bound(objective.at(result.w)))
        if found := objective.found(result.w):
            self._note(found=found, sought=objective.sought())
        status = "finished"
        if result.outcome.failed:
            status = "failed"
        elif result.outcome is Outcome.INTERRUPTED:
            status = self.interruption.status
        last = self._reached()
        self._note_end(status=status, outcome=str(result.outcome), reason=result.reason, **last)
        if status == "finished":
            self._write(lambda: (self.record.folder / CHECKPOINT).unlink(missing_ok=True))


def _draw(folder: Path) -> list[str]:
    """Draw the figures of a run and return their names; a run is not lost for a picture of it."""
    try:
        from newton_krylov.report.fields import draw_fields
        from newton_krylov.report.figures import draw_run
        from newton_krylov.report.spectrum import draw_spectrum

        drawn = [*draw_run(folder), *draw_fields(folder), *draw_spectrum(folder)]
        return [str(path.relative_to(folder)) for path in drawn]
    except OSError:  # the disk is full
        raise
    except Exception as error:
        _log.info("no figures", exc_info=error)
        return []


def _cannot_write(path: Path, error: OSError) -> str:
    # NumPy counts what it wrote, and has no word of the system's for why that was not all.
    reason = error.strerror or f"is the disk full? ({error})"
    return f"{short(path)} cannot be written: {reason}."


def _description(dataset: Dataset) -> dict[str, Any]:
    origin = {"source": dataset.source, "checksum": dataset.checksum}
    remarks = list(dataset.remarks) if isinstance(dataset, Table) else []
    found = {"name": dataset.name, **dataset.facts(), **origin}
    if isinstance(dataset, LabelledData) and (majority := dataset.majority) is not None:
        found["majority"] = majority
    return found | ({"remarks": remarks} if remarks else {})
