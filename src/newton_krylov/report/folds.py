"""What a cross-validation found: the mean loss of the held-out samples at each penalty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from newton_krylov.report.records import Problem, RunRecord
from newton_krylov.report.study import Study
from newton_krylov.report.tables import Table, number_text

_PENALTY = ("l2", "l1")
"""Keys of the loss among whose values one is chosen."""


@dataclass(frozen=True)
class Penalty:
    """A penalty over the folds.

    Attributes
    ----------
    values : dict
        `l2`, and `l1` where the loss has one.
    mean, error : float
        Of the folds' mean losses of held-out samples: their mean, and its standard error.
    folds : int
        How many have one.
    """

    values: Mapping[str, float]
    mean: float
    error: float
    folds: int

    @property
    def size(self) -> float:
        """What larger penalties are larger in."""
        return sum(self.values.values())


@dataclass(frozen=True)
class CrossValidation:
    """The penalties that one method was run with on the folds of one data set.

    Attributes
    ----------
    title : str
        The data set and the method.
    penalties : sequence of Penalty
        Falling.
    folds : int
        How many there are.
    """

    title: str
    penalties: Sequence[Penalty]
    folds: int

    @property
    def best(self) -> Penalty | None:
        """The penalty of the least mean, of those that every fold has; None where there is none."""
        whole = [each for each in self.penalties if each.folds == self.folds]
        return min(whole, key=lambda each: each.mean, default=None)

    @property
    def plain(self) -> Penalty | None:
        """The largest penalty whose mean is within one standard error of the least."""
        if (best := self.best) is None:
            return None
        bound = best.mean + best.error
        return next(p for p in self.penalties if p.folds == self.folds and p.mean <= bound)

    @property
    def text(self) -> str:
        """The choice in a sentence or two."""
        if (best := self.best) is None or (plain := self.plain) is None:
            return f"Cross-validation of {self.title}: no penalty has a result of every fold."
        found = (
            f"Cross-validation of {self.title}: the mean loss of held-out samples is least, "
            f"{number_text(best.mean, 4)} with a standard error of {number_text(best.error, 2)}, "
            f"at {self._typed(best)}; the largest penalty within one standard error of that is "
            f"{self._typed(plain)}."
        )
        ends = (self.penalties[0], self.penalties[-1])
        if len(self.penalties) > 1 and best in ends:
            found += " The least is at the end of what was tried: try further."
        return found

    def facts(self) -> dict[str, Any]:
        """Return it as plain values, for `sweep.json`."""
        chosen = {"least": self.best, "one_standard_error": self.plain}
        return {
            "title": self.title,
            "text": self.text,
            "folds": self.folds,
            **{key: None if p is None else dict(p.values) for key, p in chosen.items()},
            "penalties": [
                {**p.values, "mean": p.mean, "standard_error": p.error, "folds": p.folds}
                for p in self.penalties
            ],
        }

    def table(self) -> Table:
        """Return a row for each penalty."""
        heads = [*(f"loss.{key}" for key in self._keys), "Held-out loss", "Standard error", "Folds"]
        rows = [
            [
                *(f"{p.values[key]:.6g}" for key in self._keys),
                number_text(p.mean, 4),
                number_text(p.error, 2),
                str(p.folds),
                ", ".join(self._words(p)),
            ]
            for p in self.penalties
        ]
        return Table(f"Cross-validation of {self.title}", [*heads, "Choice"], rows)

    @property
    def _keys(self) -> list[str]:
        """The keys that say which penalty it is."""
        known = list(self.penalties[0].values)
        varied = [k for k in known if len({p.values[k] for p in self.penalties}) > 1]
        return varied or [known[0]]

    def _typed(self, penalty: Penalty) -> str:
        return " ".join(f"loss.{key}={penalty.values[key]:g}" for key in self._keys)

    def _words(self, penalty: Penalty) -> list[str]:
        words = ["least"] if penalty is self.best else []
        return [*words, "within one standard error"] if penalty is self.plain else words


def cross_validations(groups: Sequence[Study]) -> list[CrossValidation]:
    """Find the cross-validations among studies.

    Parameters
    ----------
    groups : sequence of Study
        Studies of any problems.

    Returns
    -------
    list of CrossValidation
        One for each method on each data set whose runs are of folds.
    """
    found: dict[tuple[Problem, str], list[Penalty]] = {}
    counts: dict[tuple[Problem, str], int] = {}
    for study in groups:
        parameters = study.problem.parameters
        values = {k: float(v) for k, v in parameters if k in _PENALTY and v is not None}
        others = tuple((k, v) for k, v in parameters if k not in _PENALTY)
        for entry in study.entries:
            folds = max((record.folds for record in entry.records), default=0)
            if not folds or not values:
                continue
            key = (replace(study.problem, parameters=others), entry.label)
            counts[key] = folds
            if (penalty := _penalty(values, entry.records)) is not None:
                found.setdefault(key, []).append(penalty)
    several = len({label for _, label in found}) > 1
    return [
        CrossValidation(
            f"{problem.title} by {label}" if several else problem.title,
            sorted(penalties, key=lambda p: p.size, reverse=True),
            counts[problem, label],
        )
        for (problem, label), penalties in found.items()
    ]


def _penalty(values: Mapping[str, float], records: Sequence[RunRecord]) -> Penalty | None:
    """Return what the folds' finished runs say of a penalty; None where they say nothing."""
    losses: dict[int, list[float]] = {}
    for record in records:
        column = record.column("test_loss")
        if record.fold and not record.failed and column.size and np.isfinite(column[-1]):
            losses.setdefault(record.fold, []).append(float(column[-1]))
    if not losses:
        return None
    means = np.array([np.mean(each) for each in losses.values()])
    error = float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("nan")
    return Penalty(values, float(means.mean()), error, len(means))
