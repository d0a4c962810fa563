"""What methods reached and what it cost them, as tables."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from newton_krylov.records.trace import Column, shown
from newton_krylov.report.panel import SECONDS_PER, seconds_text
from newton_krylov.report.records import REPETITION_KEYS, RunRecord
from newton_krylov.report.study import Array, Entry, Study, Target, power_text, tied
from newton_krylov.report.tables import (
    Table,
    classes_text,
    count_text,
    majority_text,
    middle,
    number_text,
)

_REMARKS, _REMARK = 10, 500
"""So many remarks on a table's columns are shown, and so much of each: a record can hold any."""


def tables(groups: Sequence[Study]) -> list[Table]:
    """Tabulate studies: where each method ended, its times to targets, and what went wrong.

    Parameters
    ----------
    groups : sequence of Study
        Studies of any problems.

    Returns
    -------
    list of Table
        Two for each problem, and one of failures and faults where there are any.
    """
    made = []
    for study in groups:
        made.append(endings_table(study))
        if study.targets:
            made.append(times_table(study))
    wrong = [line for study in groups for line in failures(study)]
    return made + ([Table("Failed, missing or damaged", ["Run", "What"], wrong)] if wrong else [])


def failures(study: Study) -> Iterator[tuple[str, str]]:
    """Yield every run that did not come to a regular end, and everything that is damaged."""
    for entry in study.entries:
        for record in entry.records:
            name = f"{entry.label}{repetition_text(record)}"
            if record.failed:
                yield name, record.ending
            yield from ((name, fault) for fault in record.faults)


def repetition_text(record: RunRecord) -> str:
    """Return `" (seed 1, repeat 2)"`, of what is known."""
    known = {key.rpartition(".")[2]: record.settings.get(key) for key in REPETITION_KEYS}
    listed = ", ".join(f"{key} {value}" for key, value in known.items() if value is not None)
    return f" ({listed})" if listed else ""


def endings_table(study: Study) -> Table:
    """Tabulate what each method reached, and at what cost."""
    benchmark = None if study.benchmark is None else study.final_loss(study.benchmark)
    columns = [column for column in shown("table") if _has_place(study, column)]
    heads = ["Method", *(column.heading for column in columns), "Ending"]
    if benchmark is not None:
        heads.insert(3, f"f − {str(study.benchmark).lower()}'s")
    rows = []
    for entry in study.entries:
        row = [entry.label, *(_reached(entry, column) for column in columns), entry.ending]
        if benchmark is not None:
            row.insert(3, _gap(middle(entry.last("loss")) - benchmark))
        rows.append(row)
    return Table(study.problem.title, heads, rows, _remarks(study))


def _has_place(study: Study, column: Column) -> bool:
    """Say whether a table shows a column: a result where any run ended with a number in it.

    The test loss stands beside the measures for unequal classes, whose accuracy says little.
    """
    name = "test_balanced_accuracy" if column.name == "test_loss" else column.name
    known = any(np.isfinite(entry.last(name)).any() for entry in study.entries)
    return known or column.unit == "gap" or (column.kind != "result" and not column.optional)


def _reached(entry: Entry, column: Column) -> str:
    """Write what a method's runs reached in a column, or spent: the median of them."""
    values = entry.total(column.name) if column.kind == "step" else entry.last(column.name)
    if column.unit == "seconds":
        return _spread(values)
    if column.unit == "gap":
        return _gap(middle(values))
    if column.unit == "share":
        return _percent(middle(values))
    return number_text(middle(values), column.digits)


def _remarks(study: Study) -> list[str]:
    remarks = []
    if classes := study.problem.classes:
        remarks.append(f"{classes_text(classes)}.")
    if text := majority_text(study.records[0].summary.get("dataset")):
        remarks.append(text)
    remarks += _of_the_data(study)
    if study.optimum is None:
        remarks.append("No certified optimum is known, so no suboptimality is shown.")
    elif study.records[0].folds:
        remarks.append("Each fold has its own f*, certified.")
    elif study.floor is not None:
        remarks.append(
            f"f* = {study.optimum:.16g}, certified; differences below {study.floor:.0e} are "
            f"rounding errors."
        )
    if len({record.settings.get("model.dropout") for record in study.records}) > 1:
        remarks.append("The methods differ in dropout; what is shown is measured without it.")
    if text := repeats_text(study):
        remarks.append(f"{text.rstrip('.')}; least and greatest times in brackets.")
    return remarks


def _of_the_data(study: Study) -> list[str]:
    """Return what was made of a table's columns, as its runs say."""
    described = study.records[0].summary.get("dataset")
    found = described.get("remarks") if isinstance(described, dict) else None
    lines = [line for line in found if isinstance(line, str)] if isinstance(found, list) else []
    return [f"{line[:_REMARK].rstrip('.')}." for line in lines[:_REMARKS]]


def repeats_text(study: Study) -> str | None:
    """Say of how many runs the figures are medians; None where each is of one run."""
    counts = {len(entry.records) for entry in study.entries}
    if counts == {1}:
        return None
    runs = "–".join(str(count) for count in sorted({min(counts), max(counts)}))
    return f"Medians of {runs} runs each."


@dataclass(frozen=True)
class Time:
    """What a method needed to reach a target.

    Attributes
    ----------
    seconds : float
        The median of its runs; inf where half of them or more never reached it.
    ratio : float
        Ratio to the fastest method's time.
    reached, runs : int
        How many of its runs reached it, and how many there are.
    """

    seconds: float
    ratio: float
    reached: int
    runs: int

    @property
    def text(self) -> str:
        """Such as `12 ms`, `never`, or `1 of 3 runs`."""
        if np.isfinite(self.seconds) or not self.reached:
            return seconds_text(self.seconds)
        return f"{self.reached} of {self.runs} runs"


def times(study: Study) -> dict[Target, list[Time]]:
    """Return every method's time to every target."""
    found = {}
    for target in study.targets:
        costs = [entry.cost_to(target) for entry in study.entries]
        medians = [float(np.median(cost)) for cost in costs]
        best = min(medians)
        found[target] = [
            Time(
                seconds,
                1.0 if seconds == best else seconds / best if best else float("inf"),
                int(np.isfinite(cost).sum()),
                len(cost),
            )
            for cost, seconds in zip(costs, medians, strict=True)
        ]
    return found


def times_table(study: Study) -> Table:
    """Tabulate the optimizer's seconds to each target, and the ratio to the fastest method."""
    found = times(study)
    rows = []
    for i, entry in enumerate(study.entries):
        reached = [each[i] for each in found.values()]
        cells = [
            f"{time.text} ({time.ratio:.2f}×)" if np.isfinite(time.seconds) else time.text
            for time in reached
        ]
        rows.append([entry.label, *cells])
    head, remark = times_words(study)
    remarks = [remark, *([caution] if (caution := caution_text(study)) else [])]
    return Table("", [head, *(target_text(target) for target in found)], rows, remarks)


def target_text(target: Target) -> str:
    """Return a target as the head of a column."""
    if target.column != "loss":
        return power_text(target.value)
    return f"{number_text(target.value, digits=4)} ({target.name})"


def times_words(study: Study) -> tuple[str, str]:
    """Return the head of a table of times, and a sentence on what they are."""
    rule = "Until the end of the first step at or below the target; × the fastest method's."
    if study.optimum is not None:
        return "Time to f − f* ≤", rule
    if study.solution_known:
        return "Time to ‖u − u*‖ / ‖u*‖ ≤", f"{rule} Of the solution's error, which is known."
    return "Time to f ≤", (
        f"{rule} The targets are shares of the way from the start to the lowest loss that any of "
        f"the runs found, since no optimum is known."
    )


def _gap(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1e}" if value else "0"


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.2%}"


def _spread(seconds: Array) -> str:
    """Write the median with the least and the greatest value, `12 [11 – 14] ms`."""
    known = seconds[np.isfinite(seconds)]
    value, _, unit = seconds_text(middle(seconds)).partition(" ")
    if known.size < 2 or not unit:
        return f"{value} {unit}".rstrip()
    ends = (known.min() / SECONDS_PER[unit], known.max() / SECONDS_PER[unit])
    low, high = (f"{end:,.0f}" if end >= 999.5 else f"{end:.3g}" for end in ends)
    return f"{value} [{low} – {high}] {unit}"


def fastest_text(study: Study) -> str | None:
    """Say in a sentence or two who is first; a difference within the noise is a tie."""
    if study.headline is None or len(study.entries) < 2:
        return None
    (time, first), *others = _finishers(study, study.headline)
    place = _place(study, study.headline)
    after = seconds_text(time)
    if not others:
        return f"{first.label} is the first at {place}, after {after}; no other method gets there."
    following, second = others[0]
    if tied(first.cost_to(study.headline).tolist(), second.cost_to(study.headline).tolist()):
        both = f"{after} and {seconds_text(following)}"
        text = f"{first.label} and {second.label} tie at {place} ({both})."
    else:
        ratio = following / time if time else math.inf
        text = (
            f"{first.label} is the first at {place}, after {after}; {second.label} follows, "
            f"{ratio:.2f} times as long."
        )
    for target in reversed(study.targets[study.targets.index(study.headline) + 1 :]):
        for time, entry in _finishers(study, target):  # at most one method gets there
            place = target_text(target)
            return f"{text} Only {entry.label} gets to {place}, after {seconds_text(time)}."
    return text


def caution_text(study: Study) -> str | None:
    """Say what to know of a study's times: clock, warm starts, one run each, a busy machine."""
    found = [text for text in (_clock_text(study), _warm_text(study.records)) if text]
    if study.headline is None or len(study.entries) < 2:
        return " ".join(found) or None
    ends = [time for time, _ in _finishers(study, study.headline)[:2]]
    close = len(ends) == 2 and ends[1] < _CLEAR * ends[0]
    if close and all(len(entry.records) == 1 for entry in study.entries):
        found.append(
            "Each method ran once, so the noise of the times is unknown: sweep over repeat=0,1,2."
        )
    if busy := busy_text(study.records):
        found.append(busy)
    return " ".join(found) or None


def _clock_text(study: Study) -> str | None:
    """Say what the times are of, where not of the wall's clock alone."""
    if study.clock == "wall-clock":
        return None
    if study.clock == "processor":
        return "Times are of the processor: the seconds that each run computed (clock=processor)."
    return (
        "The times are of two clocks, the wall's and the processor's (clock=processor), which "
        "differ where a run waits or uses several threads."
    )


def _warm_text(records: Sequence[RunRecord]) -> str | None:
    """Say that runs began at another penalty's solution, which their costs leave out."""
    warm = sum(bool(record.summary.get("started_from")) for record in records)
    if not warm:
        return None
    who = "The run" if len(records) == 1 else f"{warm} of the {count_text(len(records), 'run')}"
    return (
        f"{who} started from the weights found for "
        f"another penalty (start=previous), whose cost is not counted here."
    )


def busy_text(records: Sequence[RunRecord]) -> str | None:
    """Say that more processes wanted the machine than it has processors; None if not."""
    busiest = max(records, key=lambda record: record.overload, default=None)
    if busiest is None or busiest.overload <= 1:
        return None
    return (
        f"The machine was busy (load average {busiest.load:.1f} on "
        f"{count_text(busiest.cores, 'core')}), so the times are noisy and too long."
    )


_CLEAR = 2.0
"""From this ratio on, times of single runs are different whatever their usual noise."""


def _finishers(study: Study, target: Target) -> list[tuple[float, Entry]]:
    """Return the methods that reach a target with their times, the fastest first."""
    reached = zip(times(study)[target], study.entries, strict=True)
    known = [(time.seconds, entry) for time, entry in reached if math.isfinite(time.seconds)]
    return sorted(known, key=lambda pair: (pair[0], pair[1].label))


def _place(study: Study, target: Target) -> str:
    return f"{times_words(study)[0].removeprefix('Time to ')} {target_text(target)}"


def entry_text(entry: Entry) -> str:
    """Return how many runs an entry has, and how many of them failed."""
    runs = f"{len(entry.records)} run" + ("s" if len(entry.records) > 1 else "")
    return f"{runs}, {len(entry.failures)} failed" if entry.failures else runs
