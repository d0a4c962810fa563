"""Records arranged for comparison: problems, the methods on each, repetitions of each method."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from newton_krylov.report.records import Problem, RunRecord, differences

Array = NDArray[np.float64]

_SAME = 1.1
"""Medians within this ratio are a tie, whatever the spread."""

TARGETS = (1e-3, 1e-6, 1e-9, 1e-12)
"""Suboptimalities whose costs are shown, where the optimum is known."""

_ERRORS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Relative errors of an equation's solution whose costs are shown."""

SHARES_LEFT = (0.5, 0.1, 0.01, 0.001)
"""Where it is not: shares of the way from the first loss to the lowest one that are still left."""


@dataclass(frozen=True)
class Target:
    """What a run has to reach for its cost to be shown.

    Attributes
    ----------
    column : str
        Column of the trace; its first value at or below `value` counts.
    value : float
        Largest value that counts.
    name : str
        The same for targets that different problems have in common.
    """

    column: str
    value: float
    name: str


@dataclass(frozen=True)
class Band:
    """A column of the trace over the repetitions of a method, step by step.

    Attributes
    ----------
    middle, low, high : ndarray, shape (n_rows,)
        Medians, least and greatest values of the runs; nan where no run has one.
    """

    middle: Array
    low: Array
    high: Array


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
    _bands: dict[str, Band | None] = field(default_factory=dict, repr=False, compare=False)

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
        """Return a column's last value in every run, shape (n_runs,); nan for one without rows."""
        columns = (record.column(column) for record in self.records)
        return np.array([c[-1] if c.size else math.nan for c in columns])

    def total(self, column: str) -> Array:
        """Return a column's sum in every run, shape (n_runs,)."""
        return np.array([record.column(column).sum() for record in self.records])

    def seconds_to(self, suboptimality: float) -> Array:
        """Return each run's seconds to a suboptimality, shape (n_runs,); inf: never reached."""
        return np.array([record.seconds_to(suboptimality) for record in self.records])

    def cost_to(self, target: Target, cost: str = "seconds") -> Array:
        """Return each run's cost of a target, shape (n_runs,); inf: never reached."""
        return np.array([r.cost_to(target.value, cost, target.column) for r in self.records])

    def band(self, column: str) -> Band | None:
        """Return a column over the runs, step by step: medians and ranges.

        Nothing is interpolated: between two steps there is no iterate. A run that ended before
        the others keeps its last values; the band ends where half of the runs have ended, since
        beyond that it would show the slow ones only.
        """
        if column not in self._bands:
            self._bands[column] = self._make_band(column)
        return self._bands[column]

    def _make_band(self, column: str) -> Band | None:
        columns = [record.column(column) for record in self.records if record.rows]
        if all(np.isnan(values).all() for values in columns):
            return None
        length = int(np.median([len(values) for values in columns]))
        if column == "iteration":  # the steps are what is lined up
            columns = [max(columns, key=len)]
        if len(columns) == 1:
            only = columns[0][:length]
            return Band(only, only, only)
        stack = np.stack([_fitted(values, length) for values in columns])
        if not np.isnan(stack).any():
            return Band(np.median(stack, axis=0), stack.min(axis=0), stack.max(axis=0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a step where every run has a nan
            return Band(
                np.nanmedian(stack, axis=0), np.nanmin(stack, axis=0), np.nanmax(stack, axis=0)
            )

    def curve(self, x: str, y: str) -> Curve | None:
        """Return one column against another by their bands; None where no run has both."""
        across, up = self.band(x), self.band(y)
        if across is None or up is None:
            return None
        return Curve(across.middle, up.middle, (across.low, across.high), (up.low, up.high))


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
    family : sequence of str
        The labels of all the studies that are shown together, which share colours; none where
        this study is shown alone.
    """

    problem: Problem
    entries: Sequence[Entry]
    family: Sequence[str] = ()

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
        named = {record.settings.get("benchmark") for record in self.records if record.config}
        return str(named.pop()) if len(named) == 1 and None not in named else None

    @property
    def clock(self) -> str:
        """What the runs' seconds are of, as an adjective: `wall-clock`, `processor`, or both."""
        words = {"wall": "wall-clock", "processor": "processor"}
        return " or ".join(dict.fromkeys(words[record.clock] for record in self.records))

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

    @cached_property
    def solution_known(self) -> bool:
        """Whether a run knows how far its solution is from the true one."""
        return any(np.isfinite(record.column("l2_error")).any() for record in self.records)

    @cached_property
    def targets(self) -> list[Target]:
        """The targets up to which the methods' costs are shown.

        With a certified optimum these are suboptimalities; of an equation whose solution is known,
        relative errors of the solution. Else they are losses: those at which some share of the way
        from the start to the lowest loss of all runs is left (the convergence test of More and
        Wild, "Benchmarking derivative-free optimization algorithms", 2009). Such a loss is only as
        good as the best of the methods, and its name says so.
        """
        if self.optimum is not None:
            return [Target("suboptimality", value, power_text(value)) for value in TARGETS]
        if self.solution_known:
            return [Target("l2_error", value, f"error {power_text(value)}") for value in _ERRORS]
        columns = [record.column("loss") for record in self.records if record.rows]
        finite = [values[np.isfinite(values)] for values in columns]
        finite = [values for values in finite if values.size]
        if not finite:
            return []
        start, lowest = max(v[0] for v in finite), min(v.min() for v in finite)
        if not start > lowest:
            return []
        values = [float(lowest + left * (start - lowest)) for left in SHARES_LEFT]
        names = [f"{100 * (1 - left):.4g}% of the way" for left in SHARES_LEFT]
        return [Target("loss", *each) for each in zip(values, names, strict=True)]

    @cached_property
    def headline(self) -> Target | None:
        """The hardest target that two methods reach, else one; by it methods are ranked."""
        for least in (2, 1):
            for target in reversed(self.targets):
                reached = [math.isfinite(self._time(entry, target)) for entry in self.entries]
                if sum(reached) >= least:
                    return target
        return None

    @cached_property
    def ranked(self) -> list[Entry]:
        """The methods, the best first: by their times to the headline, then to easier targets."""
        targets = self.targets
        easier = targets[: targets.index(self.headline) + 1] if self.headline else []

        def place(entry: Entry) -> tuple[float, ...]:
            last = entry.last("l2_error" if self.solution_known else "loss")
            last = last[np.isfinite(last)]
            times = (self._time(entry, target) for target in reversed(easier))
            return (*times, float(np.median(last)) if last.size else math.inf)

        return sorted(self.entries, key=place)

    @staticmethod
    def _time(entry: Entry, target: Target) -> float:
        return float(np.median(entry.cost_to(target)))


def tied(a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether two methods' times are the same up to noise.

    Parameters
    ----------
    a, b : sequence of float
        Seconds of each run.

    Returns
    -------
    bool
        Whether the ranges overlap, or the medians are within 10 % of each other.
    """
    slow, fast = sorted([median(a), median(b)], reverse=True)
    return max(min(a), min(b)) <= min(max(a), max(b)) or slow <= _SAME * fast


def power_text(value: float) -> str:
    """Write a power of ten briefly: `1e-6`."""
    return f"{value:.0e}".replace("e-0", "e-")


def studies(records: Iterable[RunRecord]) -> list[Study]:
    """Arrange records by problem, then by method.

    Runs whose configurations are the same but for seed and repetition make one entry. Where two
    entries of a problem carry the same label, the settings in which they differ are added to it.
    A run that failed before its data were described is put to the one problem that it fits.

    Parameters
    ----------
    records : iterable of RunRecord
        Records of any problems.

    Returns
    -------
    list of Study
        Ordered by data set, loss and size.
    """
    records = list(records)
    described = {record.problem for record in records if record.problem.n_samples}
    problems: dict[Problem, dict[Any, list[RunRecord]]] = {}
    for record in records:
        methods = problems.setdefault(_problem_of(record, described), {})
        methods.setdefault(_key(record), []).append(record)
    ordered = sorted(problems, key=lambda p: (p.dataset, p.loss, p.n_features, p.n_samples))
    made = [
        Study(named, _entries(list(problems[problem].values())))
        for problem, named in zip(ordered, _with_details(ordered), strict=True)
    ]
    family = list(dict.fromkeys(entry.label for study in made for entry in study.entries))
    return [replace(study, family=family) for study in made]


def _with_details(problems: Sequence[Problem]) -> list[Problem]:
    """Give problems of one title what tells them apart: the network's parameters, or the data."""
    same = Counter(problem.title for problem in problems)
    found = []
    for problem in problems:
        alike = [other for other in problems if other.title == problem.title]
        shared = set(problem.model).intersection(*(other.model for other in alike))
        own = set(problem.model) - shared
        detail = ", ".join(f"{key} = {value}" for key, value in sorted(own, key=lambda kv: kv[0]))
        if not detail:
            detail = f"data {problem.checksum[:8]}" if problem.checksum else "data not described"
        found.append(problem if same[problem.title] == 1 else replace(problem, detail=detail))
    return found


def _problem_of(record: RunRecord, described: Iterable[Problem]) -> Problem:
    """Return a run's problem, or, where it never got to describe it, the one it must be."""
    own = record.problem
    if own.n_samples:
        return own
    fitting = [
        problem
        for problem in described
        if not record.config
        or (own.dataset, own.loss, own.parameters)
        == (problem.dataset, problem.loss, problem.parameters)
    ]
    return fitting[0] if len(fitting) == 1 else own


def _key(record: RunRecord) -> Any:
    if not record.config:  # nothing is known of it, so it is nobody's repetition
        return record.origin
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


def _implied(key: str, changed: Mapping[str, Sequence[Any]]) -> bool:
    """Say whether a key differs only since some of the parts chosen have it and others do not."""
    named = f"{key.rpartition('.')[0]}.name"
    having = {value for value in changed[key] if value is not None}
    return key != named and named in changed and len(having) == 1


def setting_text(key: str, value: Any) -> str:
    """Write a setting for a reader, to whom a key without a value (null) is one that is not set."""
    return f"{key} not set" if value in (None, "null") else f"{key}={value}"


def _distinct(name: str, groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """Distinguish entries of one label by the settings in which they differ."""
    if len(groups) == 1:
        return [name]
    heads = [group[0] for group in groups]
    known = set().union(*(head.method for head in heads))
    changed = {key: values for key, values in differences(heads).items() if key in known}
    changed = {key: values for key, values in changed.items() if not _implied(key, changed)}
    # A part is called by its group: preconditioner.name=jacobi is preconditioner=jacobi.
    short = {key: key.removesuffix(".name").rpartition(".")[2] for key in changed}
    last = Counter(short.values())
    described = [
        ", ".join(
            setting_text(short[key] if last[short[key]] == 1 else key, values[i])
            for key, values in changed.items()
            if key in head.method  # not every part has every key
        )
        for i, head in enumerate(heads)
    ]
    return [
        f"{name} ({text or head.folder.name})" for text, head in zip(described, heads, strict=True)
    ]
