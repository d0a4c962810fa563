"""Run folders as typed records.

A run's folder is read whole: `trace.csv`, `config.yaml`, `summary.json` and `environment.json`.
What is missing or damaged becomes a sentence in the record's `faults`; the rest is used. So a run
that was killed, or never got to its first step, stays in every table.
"""

import csv
import logging
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from sys import float_info
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from newton_krylov.errors import DataError, UserError
from newton_krylov.records.archive import SUFFIX, read_archive
from newton_krylov.records.record import (
    CONFIG,
    ENVIRONMENT,
    SUMMARY,
    TRACE,
    Record,
    flatten,
    read_json,
    read_yaml,
)
from newton_krylov.records.trace import COLUMNS, Row, cut_short, read_trace
from newton_krylov.terminal import inert, one_line

_log = logging.getLogger(__name__)

_SWEEP_MARK = "multirun.yaml"
"""Hydra puts it beside the folders of a sweep's jobs."""

REPETITION_KEYS = ("dataset.fold", "seed", "repeat")
"""Runs whose configurations differ in these only are repetitions of one another."""

_INCIDENTAL_KEYS = frozenset(
    {
        "data_dir",
        "tracking",
        "label",
        "name",
        "objective_metric",
        "benchmark",
        "spectrum",
        "resume",
    }
)
"""Say where a run was filed and what it was called, not what was computed."""


_COMPUTATION_KEYS = frozenset({"chunk", "memory"})
"""Keys of a loss that say how it is computed, not what."""

_TRAINING_KEYS = frozenset({"name", "dropout"})
"""Keys of a model that do not tell one problem from another: dropout is of the method, which trains
with it; what is recorded, loss and accuracies, is measured without."""


_LARGEST, _LONGEST, _LONGEST_NAME, _MOST_VALUES = 1e300, 400, 200, 5000
"""Limits of the numbers, texts, names of archived runs and values of a file that a page can show.
"""


@dataclass(frozen=True)
class Problem:
    """What was minimized; runs on equal problems are compared with each other.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    n_samples, n_features : int
        Shape of the training data, a bias column included; 0 where unknown.
    loss : str
        Name of the objective.
    parameters : tuple of (str, object)
        The objective's parameters, sorted by name.
    dtype : str
        Precision of the arithmetic.
    checksum : str
        Checksum of the data.
    model : tuple of (str, object)
        The network's name and parameters, but dropout; empty where there is none to choose.
    detail : str
        What tells it from other problems of the same title that are shown with it.
    classes : tuple of str
        The classes' names, in the order of their indices; empty where they have none.
    """

    dataset: str
    n_samples: int = 0
    n_features: int = 0
    loss: str = ""
    parameters: tuple[tuple[str, Any], ...] = ()
    dtype: str = "float64"
    checksum: str = ""
    model: tuple[tuple[str, Any], ...] = ()
    detail: str = field(default="", compare=False)
    classes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def title(self) -> str:
        """One line for the head of a figure or a table."""
        parts = [self.dataset]
        if self.n_samples:
            parts.append(f"n = {self.n_samples:,}, d = {self.n_features:,}")
        if self.model:
            parts.append(str(dict(self.model).get("name")).replace("_", " "))
        if self.loss:
            parts.append(", ".join([f"{self.loss.replace('_', ' ')} loss", *self._parameters()]))
        if self.dtype != "float64":
            parts.append(self.dtype)
        if self.detail:
            parts.append(self.detail)
        return " · ".join(parts)

    def _parameters(self) -> Iterator[str]:
        for key, value in self.parameters:
            if value is None:
                continue
            yield (
                f"{'λ' if key == 'l2' else key} = {value:g}"
                if isinstance(value, float) and isfinite(value)
                else f"{key} = {value}"
            )

    @property
    def eps(self) -> float:
        """The unit roundoff (machine epsilon) of the arithmetic."""
        return float(np.finfo(np.float32 if self.dtype == "float32" else np.float64).eps)


ACCURACIES = ("train_accuracy", "test_accuracy")
"""Columns of the trace that rise: a target of theirs is reached at or above it."""


@dataclass(frozen=True)
class RunRecord:
    """One run, as read from its folder.

    Attributes
    ----------
    folder : Path
        Folder of the record.
    rows : list of Row
        The trace; empty where there is none.
    config, summary, environment : dict
        The files' contents; empty where there are none.
    faults : list of str
        What is missing or damaged, one sentence each.
    source : str
        What it is a copy of, such as a run of MLflow; empty where the folder is its own.
    """

    folder: Path
    rows: list[Row] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    source: str = ""

    @property
    def origin(self) -> str:
        """Where it comes from, for people."""
        return inert(self.source or str(self.folder))

    @property
    def label(self) -> str:
        """The method's name for people; the folder's name where none was recorded."""
        label = self.summary.get("label") or self.config.get("label")
        return str(label or inert(self.folder.name))

    @property
    def study(self) -> str:
        """The name of the study (the MLflow experiment) that the run belongs to."""
        return str(self.config.get("name") or "")

    @cached_property
    def status(self) -> str:
        """`finished`, `failed`, `killed`, `interrupted`, `running`, `unfinished`, or `unknown`."""
        status = str(self.summary.get("status") or "unknown")
        if status != "running":
            return status
        if self.source:  # a copy does not show whether its original goes on
            return "unfinished"
        # The process that writes a run holds a lock on its folder; a killed one does not.
        return status if Record(self.folder).alive else "killed"

    @property
    def failed(self) -> bool:
        """Whether the run did not come to a regular end."""
        return self.status != "finished"

    @property
    def ending(self) -> str:
        """How the run ended and why, in words."""
        reason = str(self.summary.get("reason") or "")
        if self.status == "finished":
            return reason or str(self.summary.get("outcome") or "finished")
        word = "no summary" if self.status == "unknown" else self.status
        return f"{word}: {reason}" if reason else word

    @property
    def load(self) -> float:
        """The machine's load average while it ran: the larger of start and end; nan if unknown."""
        found = self.summary.get("load_average")
        known = [v for v in found if _is_number(v)] if isinstance(found, list) else []
        return max(map(float, known), default=math.nan)

    @property
    def cores(self) -> int:
        """The machine's processors; 0 where unknown."""
        return _count(self.environment.get("cpu_count"))

    @property
    def overload(self) -> float:
        """The load average over the processors: above 1, something had to wait; 0 if unknown."""
        return self.load / self.cores if self.cores and math.isfinite(self.load) else 0.0

    @property
    def folds(self) -> int:
        """The number of folds of the cross-validation that it is part of; 0 where it is of none."""
        return _count(self._described.get("folds"))

    @property
    def fold(self) -> int:
        """The fold that is held out, from 1 on; 0 where it is of none."""
        return _count(self._described.get("fold"))

    @property
    def clock(self) -> str:
        """What its seconds are of: `wall`, or `processor`, the time that the process computed."""
        return "processor" if self.config.get("clock") == "processor" else "wall"

    @property
    def optimum(self) -> float | None:
        """The certified optimal value, where there is one."""
        value = self.summary.get("optimum")
        return float(value) if _is_number(value) else None

    @cached_property
    def problem(self) -> Problem:
        """What was minimized."""
        data, loss, model = (self._section(key) for key in ("dataset", "loss", "model"))
        described = self._described
        folds = "folds_" if self.folds else ""  # of a cross-validation are one problem
        return Problem(
            dataset=str(described.get("name") or data.get("name") or "unknown data"),
            n_samples=_count(described.get(f"{folds}samples" if folds else "n_samples")),
            n_features=_count(described.get("n_features")),
            loss=str(loss.get("name") or ""),
            parameters=_sorted(loss, _unsaid(loss)),
            dtype=str(self.summary.get("dtype") or self.config.get("dtype") or "float64"),
            checksum=str(described.get(f"{folds}checksum") or ""),
            model=() if model.get("name") in (None, "auto") else _network(model),
            classes=tuple(map(str, described.get("classes") or ())),
        )

    @property
    def _described(self) -> dict[str, Any]:
        """What it says of its data."""
        found = self.summary.get("dataset")
        return found if isinstance(found, dict) else {}

    def _section(self, key: str) -> dict[str, Any]:
        value = self.config.get(key)
        return value if isinstance(value, dict) else {}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration, flat, of the parts that the run used: dotted key to value."""
        known = self.summary.get("idle")  # records from before there was the key lack it
        idle = {str(name) for name in known} if isinstance(known, list) else set()
        return {
            key: _hashable(value)
            for key, value in flatten(self.config).items()
            if idle.isdisjoint({key, key.partition(".")[0]})
        }

    @cached_property
    def method(self) -> dict[str, Any]:
        """The settings but those of repetitions (seed, repeat) and of filing (label, name, ...)."""
        skipped = _INCIDENTAL_KEYS.union(REPETITION_KEYS)
        return {
            k: v for k, v in self.settings.items() if skipped.isdisjoint({k, k.partition(".")[0]})
        }

    def column(self, name: str) -> NDArray[np.float64]:
        """Return a column of the trace.

        Parameters
        ----------
        name : str
            A numeric column of `trace.Row`.

        Returns
        -------
        ndarray, shape (n_rows,)
            In order; cached, not to be changed.
        """
        return self._columns[name]

    @cached_property
    def _columns(self) -> dict[str, NDArray[np.float64]]:
        return {
            name: np.array([getattr(row, name) for row in self.rows], dtype=np.float64)
            for name in COLUMNS
        }

    def steps_to(self, value: float, column: str = "suboptimality") -> int | None:
        """Return the first row at or below a value; of an accuracy, at or above it.

        There is no interpolation: between two steps there is no iterate, so a method has an
        accuracy only when the step that reaches it is done.

        Parameters
        ----------
        value : float
            The target.
        column : str
            What has to reach it; suboptimality is against the certified optimum.

        Returns
        -------
        int or None
            Row number; None where it was never reached (or nothing is known of the column).
        """
        values = self.column(column)
        reached = np.flatnonzero(values >= value if column in ACCURACIES else values <= value)
        return int(reached[0]) if reached.size else None

    def cost_to(self, value: float, cost: str = "seconds", column: str = "suboptimality") -> float:
        """Return what it cost until the first iterate at or below a value.

        Parameters
        ----------
        value : float
            The target.
        cost : str
            A column of the trace that grows: seconds, data_passes, iteration, ...
        column : str
            What has to reach the target.

        Returns
        -------
        float
            inf where it was never reached.
        """
        step = self.steps_to(value, column)
        return float("inf") if step is None else float(self.column(cost)[step])

    def seconds_to(self, suboptimality: float) -> float:
        """Return the optimizer's seconds until the first iterate at or below a suboptimality."""
        return self.cost_to(suboptimality)


def read_record(folder: Path, source: str = "") -> RunRecord:
    """Read a run's folder.

    Parameters
    ----------
    folder : Path
        A run's folder, complete or not.
    source : str
        What it is a copy of, if of anything.

    Returns
    -------
    RunRecord
        With a sentence in `faults` for each file that is missing or damaged.
    """
    faults: list[str] = []
    rows: list[Row] = []
    try:
        rows = read_trace(folder / TRACE)
    except FileNotFoundError:
        faults.append(f"{folder / TRACE} is missing: the run never made its first step.")
    except (OSError, ValueError, TypeError, OverflowError, csv.Error) as error:
        faults.append(f"{folder / TRACE} cannot be read: {error}.")
    files: dict[str, dict[str, Any]] = {}
    for name in (CONFIG, SUMMARY, ENVIRONMENT):
        read = read_yaml if name == CONFIG else read_json
        try:
            files[name] = read(folder / name)
        except (UserError, RecursionError) as error:  # the latter: nested thousands deep
            files[name] = {}
            sentence = f"{folder / name} cannot be read: {error}"
            if isinstance(error, UserError):
                sentence = str(error)
            faults.append(f"{sentence.rstrip('.')}.")
    if source:
        faults = [fault.replace(str(folder), source) for fault in faults]
    return _believed(
        RunRecord(folder, rows, files[CONFIG], files[SUMMARY], files[ENVIRONMENT], faults, source)
    )


def _believed(record: RunRecord) -> RunRecord:
    """Return a record within what a page can show, with a fault for what is not to be believed."""
    faults = [_cut(fault) for fault in record.faults]
    rows, trace = record.rows, f"{record.origin}/{TRACE}"
    if (fault := cut_short(record.summary, rows)) is not None:
        faults.append(f"{trace} {fault}")
    if any(_beyond(row) for row in rows):
        faults.append(f"{trace} holds numbers beyond {_LARGEST:g}: taken as infinite.")
        rows = [_within_bounds(row) for row in rows]
    sections = {CONFIG: record.config, SUMMARY: record.summary, ENVIRONMENT: record.environment}
    for name, section in sections.items():
        if (count := _size(section)) > _MOST_VALUES:
            faults.append(f"{record.origin}/{name} holds {count:,} values, too many to be shown.")
            sections[name] = {}
    config, summary, environment = map(_cut, sections.values())
    return replace(
        record, rows=rows, faults=faults, config=config, summary=summary, environment=environment
    )


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """Find the run folders at and below some folders.

    Parameters
    ----------
    paths : iterable of Path
        Run folders, sweep folders, or anything above them.

    Returns
    -------
    list of Path
        Without duplicates; jobs of a sweep in the order of their numbers.

    Raises
    ------
    DataError
        For a path that is not a folder.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise DataError(
                f"{path} is not a folder; give run or sweep folders, as in outputs/, or archives "
                f"of runs (*{SUFFIX})."
            )
        files = (p for name in (TRACE, SUMMARY, CONFIG) for p in path.rglob(name))
        folders = {p.parent for p in files if p.parent.name != ".hydra"}
        # A job that failed before its first file has left an empty folder in its sweep's.
        for sweep in path.rglob(_SWEEP_MARK):
            folders |= {p for p in sweep.parent.iterdir() if p.is_dir() and p.name.isdigit()}
        found |= {p.resolve(): p for p in sorted(folders, key=_natural)}
    return list(found.values())


def read_records(paths: Iterable[Path]) -> list[RunRecord]:
    """Read every run at and below some paths.

    Parameters
    ----------
    paths : iterable of Path
        Run folders, sweep folders, archives of runs (`*.jsonl.gz`), or folders above any of these.

    Returns
    -------
    list of RunRecord
        In the order of `find_runs` and of the archives' lines.

    Raises
    ------
    DataError
        For a path that is neither, and where there is nothing but damaged archives, or no run.
    """
    paths = list(paths)
    records: list[RunRecord] = []
    damaged: list[DataError] = []
    for path in paths:
        alone = path.is_file() and path.name.endswith(SUFFIX)
        records += [] if alone else [read_record(folder) for folder in find_runs([path])]
        for file in [path] if alone else sorted(path.rglob(f"*{SUFFIX}")):
            try:
                records += [] if file.is_dir() else _archived(file)
            except DataError as error:
                damaged.append(error)
                _log.warning("%s", one_line(str(error)))
    # A path may be given twice, or lie below another.
    records = list({record.folder.resolve(): record for record in records}.values())
    if not records and damaged:
        raise damaged[0]
    if not records:
        places = ", ".join(str(path) for path in paths) or "no folder"
        raise DataError(f"No runs in {places}: a run's folder holds {TRACE} and {SUMMARY}.")
    return records


def _archived(file: Path) -> list[RunRecord]:
    """Return the runs of an archive, as if each lay in a folder below the file."""
    return [
        _believed(
            RunRecord(
                file / name, list(run.rows), run.config, run.summary, run.environment,
                source=f"{file}: {name}",
            )
        )
        for run in read_archive(file)
        for name in [_file_name(run.name)]
    ]  # fmt: skip


def _file_name(text: str) -> str:
    """Return what a path can hold of a name that anybody may have written."""
    return "".join(letter for letter in text if letter.isprintable())[:_LONGEST_NAME]


def differences(records: Iterable[RunRecord]) -> dict[str, list[Any]]:
    """Return the settings that are not the same in all records.

    Parameters
    ----------
    records : iterable of RunRecord
        At least one.

    Returns
    -------
    dict
        Dotted key to the values, one a record; None where a record lacks the key.
    """
    flat = [record.settings for record in records]
    keys = sorted(set().union(*flat))
    values = {key: [settings.get(key) for settings in flat] for key in keys}
    return {key: each for key, each in values.items() if any(v != each[0] for v in each)}


def _beyond(row: Row) -> bool:
    """Return whether a row has a number with which no axis can be drawn."""
    return any(_LARGEST < abs(value) < math.inf for value in row.metrics().values())


def _within_bounds(row: Row) -> Row:
    """Return a row with infinity in place of what is beyond the bounds."""
    values = row.metrics()
    large: dict[str, Any] = {
        name: math.copysign(math.inf, value)
        for name, value in values.items()
        if abs(value) > _LARGEST
    }
    return replace(row, **large)


def _size(value: Any) -> int:
    """Return how many values a value holds, itself included."""
    if isinstance(value, dict):
        return 1 + sum(map(_size, value.values()))
    return 1 + sum(map(_size, value)) if isinstance(value, list | set | tuple) else 1


def _cut(value: Any) -> Any:
    """Cut long texts, which would make a page of a label, and what is no plain text or number."""
    if isinstance(value, dict):
        return {_cut(key): _cut(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item) for item in value]
    if isinstance(value, float) and abs(value) > _LARGEST:
        return math.copysign(math.inf, value)
    if isinstance(value, str):
        return inert(f"{value[:_LONGEST]}..." if len(value) > _LONGEST else value)
    return value


def _is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value that a file holds is a finite number, and no truth value."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -float_info.max <= value <= float_info.max  # an integer may be larger than any float


def _count(value: Any) -> int:
    """Return a count, 0 where a file holds something else."""
    return int(value) if _is_number(value) else 0


def _unsaid(loss: Mapping[str, Any]) -> Set[str]:
    """Return the keys of a loss that do not tell one problem from another.

    A loss without an intercept of its own is that of the records from before there was the key; a
    column of ones may be the intercept. The same holds of a penalty that is not there.
    """
    without = {"intercept"} if loss.get("intercept") in ("none", "auto") else set()
    without |= {key for key in ("l1", "penalty") if not loss.get(key)}
    return _COMPUTATION_KEYS | {"name"} | without


def _network(model: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return a network's name and the parameters that tell one problem from another."""
    return (("name", str(model["name"])), *_sorted(model, _TRAINING_KEYS))


def _sorted(
    section: Mapping[str, Any], left_out: Set[str] = frozenset()
) -> tuple[tuple[str, Any], ...]:
    """Return a section's keys and values, sorted by key."""
    items = {str(key): _hashable(value) for key, value in section.items() if key not in left_out}
    return tuple((key, items[key]) for key in sorted(items))


def _hashable(value: Any) -> Any:
    """Turn lists to tuples, and what else cannot be a key to text, so that settings can be keys."""
    if isinstance(value, list):
        return tuple(_hashable(v) for v in value)
    return value if isinstance(value, Hashable) else repr(value)


def _natural(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Order 2 before 10."""
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in path.parts)
