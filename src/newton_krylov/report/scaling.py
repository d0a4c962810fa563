"""How the time to a suboptimality grows with the number of features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from newton_krylov.report.panel import seconds_text
from newton_krylov.report.study import Array, Study
from newton_krylov.report.tables import Table


@dataclass(frozen=True)
class Scaling:
    """Times to a suboptimality, by method and size.

    Attributes
    ----------
    title : str
        What the problems have in common.
    target : float
        The suboptimality.
    sizes : ndarray, shape (k,)
        Numbers of features, increasing.
    seconds : dict
        Label to medians of seconds, shape (k,): inf where never reached, nan where not run.
    clock : str
        What the seconds are of, as an adjective.
    """

    title: str
    target: float
    sizes: Array
    seconds: dict[str, Array]
    clock: str = "wall-clock"

    def slope(self, label: str, last: int = 3) -> float:
        """Return the exponent p of seconds ~ d^p, fitted by least squares on logarithms."""
        known = np.isfinite(self.seconds[label])
        d, t = self.sizes[known][-last:], self.seconds[label][known][-last:]
        if len(d) < 2:
            return float("nan")
        return float(np.polyfit(np.log(d), np.log(t), 1)[0])

    def table(self) -> Table:
        """Return the times as a table, a row a method, with the fitted exponents of d."""
        rows = []
        for label, times in self.seconds.items():
            slope = self.slope(label)
            exponent = f"{slope:.2f}" if np.isfinite(slope) else "–"
            rows.append([label, *(seconds_text(t) for t in times), exponent])
        heads = ["Time", *(f"d = {size:,.0f}" for size in self.sizes), "exponent of d"]
        remark = "The exponent is fitted to the three largest sizes."
        return Table("", heads, rows, [remark])

    def ratios(self) -> dict[str, Array]:
        """Return every method's times over the fastest method's at each size."""
        fastest = np.nanmin(np.stack(list(self.seconds.values())), axis=0)
        return {label: seconds / fastest for label, seconds in self.seconds.items()}


def scaling(studies: Sequence[Study], target: float = 1e-6) -> Scaling | None:
    """Arrange studies of one data set and loss by their number of features."""
    kinds = {(s.problem.dataset, s.problem.loss, s.problem.parameters) for s in studies}
    ordered = sorted(studies, key=lambda s: s.problem.n_features)
    sizes = [study.problem.n_features for study in ordered]
    if len(kinds) != 1 or len(set(sizes)) != len(sizes) or len(sizes) < 3:
        return None
    labels = dict.fromkeys(entry.label for study in ordered for entry in study.entries)
    seconds = {}
    for label in labels:
        entries = [study.entry(label) for study in ordered]
        seconds[label] = np.array(
            [np.nan if e is None else np.median(e.seconds_to(target)) for e in entries]
        )
    first, counts = ordered[0].problem, {s.problem.n_samples for s in ordered}
    samples = f"n = {counts.pop():,}" if len(counts) == 1 else "n as given below"
    return Scaling(
        f"{first.dataset} data, {samples} · {first.loss} loss",
        target,
        np.array(sizes, dtype=float),
        seconds,
        " or ".join(dict.fromkeys(study.clock for study in ordered)),
    )
