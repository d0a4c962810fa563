"""Records arranged for comparison: problems, the methods on each, repetitions of each method."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from newton_krylov.report.records import Problem, RunRecord, differences

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One column of a trace against another, over the repetitions of a method, step by step.

    Attributes
    ----------
    x, y : ndarray, shape (n_rows,)
        Medians over the runs at each iteration.
    x_range, y_range : tuple of two ndarrays, shape (n_rows,)
        The runs' least and greatest values at each iteration.
    """

    x: Array
    y: Array
    x_range: tuple[Array, Array]
    y_range: tuple[Array, Array]


@dataclass(frozen=True)
class Entry:
    """A method on a problem: one run, or several that differ only by seed or repetition.

    Attributes
    ----------
    label : str
        Unique within its study.
    records : list of RunRecord
        At least one.
    """

    label: str
    records: Sequence[RunRecord]

    @property
    def failures(self) -> list[RunRecord]:
        """The runs that did not come to a regular end."""
        return [record for record in self.records if record.failed]

    @property
    def ending(self) -> str:
        """How the runs ended, in words, each ending once."""
        endings = Counter(record.ending for record in self.records)
        if len(endings) == 1:
            return next(iter(endings))
        return "; ".join(f"{count}x {ending}" for ending, count in endings.items())

    def last(self, column: str) -> Array:
        """Return a column's last value in every run.

        Parameters
        ----------
        column : str
            Of the trace.

        Returns
        -------
        ndarray, shape (n_runs,)
            nan for a run without rows.
        """
        columns = (record.column(column) for record in self.records)
        return np.array([c[-1] if c.size else math.nan for c in columns])

    def total(self, column: str) -> Array:
        """Return a column's sum in every run, shape (n_runs,)."""
        return np.array([record.column(column).sum() for record in self.records])

    def seconds_to(self, suboptimality: float) -> Array:
        """Return each run's seconds to a suboptimality, shape (n_runs,); inf: never reached."""
        return np.array([record.seconds_to(suboptimality) for record in self.records])

    def curve(self, x: str, y: str) -> Curve | None:
        """Return one column against another, step by step: medians and ranges.

        Nothing is interpolated: between two steps there is no iterate. A run that ended before
        the others keeps its last values; the curve ends where half of the runs have ended, since
        beyond that it would tell of the slow ones only.

        Parameters
        ----------
        x, y : str
            Columns of the trace.

        Returns
        -------
        Curve or None
            None where no run has a value of y.
        """
        runs = [r for r in self.records if r.rows and not np.isnan(r.column(y)).all()]
        if not runs:
            return None
        length = int(np.median([len(r.rows) for r in runs]))
        if x == "iteration":  # the steps are what is lined up
            longest = max(runs, key=lambda r: len(r.rows))
            xs = np.stack([longest.column(x)[:length]] * len(runs))
        else:
            xs = np.stack([_fitted(r.column(x), length) for r in runs])
        ys = np.stack([_fitted(r.column(y), length) for r in runs])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a step where every run has a nan
            return Curve(
                np.median(xs, axis=0),
                np.nanmedian(ys, axis=0),
                (xs.min(axis=0), xs.max(axis=0)),
                (np.nanmin(ys, axis=0), np.nanmax(ys, axis=0)),
            )


def _fitted(column: Array, length: int) -> Array:
    """Cut a column to a length, or continue it by its last value."""
    return np.pad(column, (0, max(0, length - len(column))), mode="edge")[:length]


@dataclass(frozen=True)
class Study:
    """The methods that were run on one problem.

    Attributes
    ----------
    problem : Problem
        What was minimized.
    entries : list of Entry
        In the order in which the methods were first run.
    """

    problem: Problem
    entries: Sequence[Entry]

    @property
    def records(self) -> list[RunRecord]:
        """All runs."""
        return [record for entry in self.entries for record in entry.records]

    @cached_property
    def optimum(self) -> float | None:
        """The certified optimal value, where there is one."""
        known = (record.optimum for record in self.records)
        return next((value for value in known if value is not None), None)

    @property
    def benchmark(self) -> str | None:
        """The label of the method that the runs name as a second benchmark, if they agree."""
        named = {record.config.get("benchmark") for record in self.records if record.config}
        return str(named.pop()) if len(named) == 1 and None not in named else None

    @property
    def floor(self) -> float | None:
        """The suboptimality below which a computed loss says nothing: eps |f*|."""
        if self.optimum is None:
            return None
        return self.problem.eps * max(abs(self.optimum), float(np.finfo(float).tiny))

    def entry(self, label: str) -> Entry | None:
        """Return the entry of a label, or None."""
        return next((entry for entry in self.entries if entry.label == label), None)

    def final_loss(self, label: str) -> float | None:
        """Return the lowest final loss of a method's runs, or None where it has none."""
        entry = self.entry(label)
        losses = entry.last("loss") if entry is not None else np.array([])
        losses = losses[np.isfinite(losses)]
        return float(losses.min()) if losses.size else None

    def fastest(self, suboptimality: float) -> float:
        """Return the smallest median of seconds to a suboptimality; inf where none reached it."""
        times = [float(np.median(e.seconds_to(suboptimality))) for e in self.entries]
        return min(times, default=math.inf)


def studies(records: Iterable[RunRecord]) -> list[Study]:
    """Arrange records by problem, then by method.

    Runs whose configurations are the same but for seed and repetition make one entry. Where two
    entries of a problem carry the same label, the settings in which they differ are added to it.

    Parameters
    ----------
    records : iterable of RunRecord
        Of any problems.

    Returns
    -------
    list of Study
        Ordered by data set, loss and size.
    """
    problems: dict[Problem, dict[Any, list[RunRecord]]] = {}
    for record in records:
        methods = problems.setdefault(record.problem, {})
        methods.setdefault(_key(record), []).append(record)
    ordered = sorted(problems, key=lambda p: (p.dataset, p.loss, p.n_features, p.n_samples))
    return [Study(problem, _entries(list(problems[problem].values()))) for problem in ordered]


def _key(record: RunRecord) -> Any:
    if not record.config:  # nothing is known of it, so it is nobody's repetition
        return str(record.folder)
    return record.label, tuple(sorted(record.method.items(), key=lambda item: item[0]))


def _entries(groups: Sequence[Sequence[RunRecord]]) -> list[Entry]:
    by_label: dict[str, list[Sequence[RunRecord]]] = {}
    for group in groups:
        by_label.setdefault(group[0].label, []).append(group)
    labels = {
        id(group): label
        for name, same in by_label.items()
        for group, label in zip(same, _distinct(name, same), strict=True)
    }
    return [Entry(labels[id(group)], group) for group in groups]


def _distinct(name: str, groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """Tell entries of one label apart by the settings in which they differ."""
    if len(groups) == 1:
        return [name]
    heads = [group[0] for group in groups]
    known = set().union(*(head.method for head in heads))
    changed = {key: values for key, values in differences(heads).items() if key in known}
    last = Counter(key.rpartition(".")[2] for key in changed)
    short = {key: key.rpartition(".")[2] for key in changed}
    described = [
        ", ".join(
            f"{short[key] if last[short[key]] == 1 else key}={values[i]}"
            for key, values in changed.items()
            if values[i] is not None
        )
        for i in range(len(heads))
    ]
    return [
        f"{name} ({text or head.folder.name})" for text, head in zip(described, heads, strict=True)
    ]
