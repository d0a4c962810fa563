"""Performance profiles: how often a method is how close to the fastest, over many problems.

Source: E. D. Dolan and J. J. Moré, "Benchmarking optimization software with performance profiles",
Mathematical Programming 91 (2002), 201-213.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from newton_krylov.records.trace import COLUMNS
from newton_krylov.report.study import Array, Study, Target

PROFILE_COSTS = tuple(c.name for c in reversed([*COLUMNS.values()]) if c.kind == "cost")
"""Columns of the trace that can be compared between all methods."""


@dataclass(frozen=True)
class Profile:
    """The performance profiles of some methods.

    Attributes
    ----------
    target : str
        Name of what had to be reached.
    cost : str
        Column of the trace.
    problems : int
        How many there are; a method failed on those where it never reached the target.
    unsolved : int
        How many of them no method solved.
    not_run : dict
        Label to the number of problems on which the method was not run, where there are any.
    ratios : dict
        Label to the ratios to the best method's cost, increasing, of the problems solved.
    """

    target: str
    cost: str
    problems: int
    unsolved: int
    not_run: Mapping[str, int]
    ratios: Mapping[str, Array]

    def share(self, label: str, ratio: float) -> float:
        """Return the share of the problems that a method solved within a ratio to the best."""
        solved = np.searchsorted(self.ratios[label], ratio, side="right")
        return float(solved) / self.problems

    @property
    def largest(self) -> float:
        """The largest ratio of all, at least 2."""
        return max([2.0, *(float(r[-1]) for r in self.ratios.values() if r.size)])


def profiles(groups: Sequence[Study]) -> list[Profile]:
    """Make the performance profiles of methods over several problems."""
    common = dict.fromkeys(t.name for study in groups for t in study.targets)
    made = []
    for name in common:
        having = [
            (study, target) for study in groups for target in study.targets if target.name == name
        ]
        if len(having) > 1:
            made += [_profile(having, cost) for cost in PROFILE_COSTS]
    return [profile for profile in made if len(profile.ratios) > 1]


def _profile(having: Sequence[tuple[Study, Target]], cost: str) -> Profile:
    costs: dict[str, list[float]] = {}
    for i, (study, target) in enumerate(having):
        for entry in study.entries:
            row = costs.setdefault(entry.label, [math.nan] * len(having))
            row[i] = float(np.median(entry.cost_to(target, cost)))
    runs = {label: int(np.sum(~np.isnan(row))) for label, row in costs.items()}
    costs = {label: row for label, row in costs.items() if runs[label] > 1}
    best = np.full(len(having), math.inf)
    for row in costs.values():
        best = np.fmin(best, row)
    return Profile(
        having[0][1].name,
        cost,
        len(having),
        int(np.sum(np.isinf(best))),
        {label: len(having) - runs[label] for label in costs if runs[label] < len(having)},
        {label: _ratios(np.array(row), best) for label, row in costs.items()},
    )


def _ratios(costs: Array, best: Array) -> Array:
    """Return the ratios to the best where a method solved the problem, increasing."""
    solved = np.isfinite(costs)
    costs, best = costs[solved], best[solved]
    # A start that is good enough already costs nothing, and such a method is the best.
    ratios = np.where(costs == best, 1.0, costs / np.maximum(best, np.finfo(float).tiny))
    return np.sort(ratios)
