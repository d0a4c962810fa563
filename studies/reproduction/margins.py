"""Whether a difference is larger than what repeated runs differ by among themselves."""

from collections.abc import Iterable, Sequence

import numpy as np

from newton_krylov.report.records import Problem, RunRecord
from newton_krylov.report.study import Array, Entry, studies
from newton_krylov.report.tables import number_text

ALONE = 1.25
"""The time of a method that was run once is taken as known to this factor, either way."""


def less(ours: Array | Sequence[float], theirs: Array | Sequence[float]) -> bool | None:
    """Return whether our cost is less, beyond the spread of the runs.

    Parameters
    ----------
    ours, theirs : array of float
        Of each run; inf for one that did not get there.

    Returns
    -------
    bool or None
        True where each of our runs costs less than each of theirs, False where it is the other way
        round, None where the ranges overlap: then the runs do not decide it.
    """
    (low, high), (their_low, their_high) = _range(ours), _range(theirs)
    if high < their_low:
        return True
    return False if their_high < low else None


def less_in_every_pair(
    ours: Array | Sequence[float], theirs: Array | Sequence[float]
) -> bool | None:
    """Return whether our cost is less in every one of the repetitions, which were interleaved."""
    if len(ours) != len(theirs) or len(ours) < 2:
        return less(ours, theirs)
    answers = {bool(a < b) if a != b else None for a, b in zip(ours, theirs, strict=True)}
    return answers.pop() if len(answers) == 1 else None


def all_of(answers: Iterable[bool | None]) -> bool | None:
    """Return True where all are, False where one is, else None: it hangs on what is undecided."""
    known = set(answers)
    return False if False in known else None if None in known else True


def _range(costs: Array | Sequence[float]) -> tuple[float, float]:
    values = np.asarray(costs, dtype=np.float64)
    if values.size == 1:
        low, high = sorted((float(values[0]) / ALONE, float(values[0]) * ALONE))
        return low, high
    return float(values.min()), float(values.max())


def costs(entry: Entry, target: float, cost: str = "seconds") -> Array:
    """Return what a suboptimality cost each run of a method, shape (n_runs,); inf: not reached."""
    return np.array([record.cost_to(target, cost) for record in entry.records])


def by_label(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Group entries by the method's own label: one method with several settings."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.records[0].label, []).append(entry)
    return found


def best(settings: Sequence[Entry], target: float, cost: str = "seconds") -> Entry:
    """Return the setting that is the first at a target, by the median of its runs."""
    return min(settings, key=lambda entry: float(np.median(costs(entry, target, cost))))


def typical(settings: Sequence[Entry], target: float, cost: str = "seconds") -> Entry:
    """Return the median setting (the slower of the middle two): what a method does untuned."""
    ordered = sorted(settings, key=lambda entry: float(np.median(costs(entry, target, cost))))
    return ordered[len(ordered) // 2]


def on_problem(runs: Iterable[RunRecord], problem: Problem) -> list[Entry]:
    """Return the methods of another study that were run on the same problem."""
    return [entry for s in studies(runs) if s.problem == problem for entry in s.entries]


def unreached(entry: Entry) -> str:
    """Say how far a method was given to go that did not get to a target."""
    passes = float(np.median(entry.last("data_passes")))
    return f"not there after {number_text(passes)} passes"
