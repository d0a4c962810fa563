"""What a run shows in the terminal: a line a step, and a summary."""

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from newton_krylov.records.trace import COLUMNS, Column, Row, shown
from newton_krylov.report.folds import CrossValidation
from newton_krylov.report.tables import classes_text, majority_text
from newton_krylov.report.verdict import Race
from newton_krylov.terminal import console, say

_EVERY_ROW_UP_TO = 25  # rows that get a line each; after these, one a second
_SECONDS_BETWEEN_LINES = 1.0
_SECONDS_BETWEEN_REFRESHES = 0.1
_SHARE_BETWEEN_LINES = 0.1  # of the time that a sweep's member has taken

_MOST_MEMBERS = 40
_LABEL, _OVERRIDE, _NARROW = 20, 32, 12
"""Widths to which a label and an override are folded, and both where it is narrow."""
_FIRST_LEFT_OUT = (
    "fresh_loss", "hvp_count", "iteration", "test_accuracy", "test_balanced_accuracy", "loss",
    "test_auc",
)  # fmt: skip
"""Columns that a narrow terminal does without, the first of them first."""


class Progress:
    """Prints a line a step; many steps are thinned out, the last one always shows.

    On a terminal the line of the current step is drawn in place meanwhile. All of it happens
    where the runner calls it: outside the timed region, and in no other thread.

    Parameters
    ----------
    out : Console
        Where to print.
    """

    def __init__(self, out: Console) -> None:
        self._out = out
        self._live = Live(console=out, auto_refresh=False, transient=True)
        self._printed, self._last_line, self._last_refresh = 0, 0.0, 0.0
        self._pending: Row | None = None
        self._columns: list[Column] = []

    def __enter__(self) -> "Progress":
        if self._out.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._out.is_terminal:
            self._live.stop()
        if self._pending is not None:
            self._print(self._pending)

    def __call__(self, row: Row) -> None:
        """Show a step."""
        if not self._columns:
            self._columns = columns_of(row)
            self._out.print(Text("".join(f"{c.brief:>{c.width}}" for c in self._columns)))
        now = time.monotonic()
        if self._printed < _EVERY_ROW_UP_TO or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._print(row)
            self._last_line = now
            return
        self._pending = row
        if self._out.is_terminal and now - self._last_refresh >= _SECONDS_BETWEEN_REFRESHES:
            self._live.update(Text(line(row, self._columns)), refresh=True)
            self._last_refresh = now

    def _print(self, row: Row) -> None:
        self._out.print(Text(line(row, self._columns)))
        self._printed += 1
        self._pending = None


class MemberProgress:
    """Prints a line now and then of a sweep's member: plain, whole, and with the member's number.

    Several members may share the terminal, so nothing is drawn in place. A short member shows no
    step; a long one shows them ever more rarely.

    Parameters
    ----------
    number : str
        Number of the member.
    """

    def __init__(self, number: str) -> None:
        self._number = number
        self._began = self._last_line = time.monotonic()

    def __enter__(self) -> "MemberProgress":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held back."""

    def __call__(self, row: Row) -> None:
        """Show a step, where it is time for one."""
        now = time.monotonic()
        gap = max(_SECONDS_BETWEEN_LINES, _SHARE_BETWEEN_LINES * (now - self._began))
        if now - self._last_line >= gap:
            say(f"{self._number:>4} {named_line(row)}")
            self._last_line = now


def named_line(row: Row) -> str:
    """Return the main columns of a row with their names, for a line that has no heading."""
    known = [c for c in shown("members") if not math.isnan(getattr(row, c.name))]
    order = sorted(known, key=lambda column: column.name != "iteration")
    return "  ".join(f"{c.brief} {format(getattr(row, c.name), c.form)}" for c in order)


def columns_of(row: Row) -> list[Column]:
    """Return the columns of a run's lines: the step, where it stands, what it took.

    A result that the start does not have, as the accuracy of a regression, no step has.
    """

    def known(name: str) -> bool:
        return not math.isnan(getattr(row, name))

    names = {c.name for c in shown("line", known) if c.kind != "result" or known(c.name)}
    there = [column for name, column in COLUMNS.items() if name in names]
    return sorted(there, key=lambda c: (c.name != "iteration", c.kind != "result"))


def line(row: Row, columns: Sequence[Column] | None = None) -> str:
    """Return a row of the trace as one line of text."""
    cells = [_cell(getattr(row, c.name), c.width, c.form) for c in columns or columns_of(row)]
    note = f"  {row.note}" if row.note else ""
    return "".join(cells) + note


def _cell(value: float, width: int, form: str) -> str:
    text = "-" if isinstance(value, float) and math.isnan(value) else format(value, form)
    return f" {text:>{width - 1}}"  # what is too wide stays apart from its neighbour


def print_heading(out: Console, label: str, summary: Mapping[str, Any]) -> None:
    """Print what is about to run.

    Parameters
    ----------
    out : Console
        Console to print to.
    label : str
        The run's name.
    summary : mapping
        As in `summary.json`.
    """
    data = summary["dataset"]
    shape = f"{data['n_samples']:,} samples, {data['n_features']:,} features"
    where = f"{summary['dtype']} on {summary['device']}"
    out.print(f"{label} on {data['name']}: {shape}, {where}", markup=False, highlight=False)
    if classes := data.get("classes"):
        out.print(classes_text(classes), markup=False, highlight=False)
    if text := majority_text(data):
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def print_member_heading(number: str, label: str, own: Sequence[str], name: str) -> None:
    """Print which member of a sweep is about to run.

    Parameters
    ----------
    number, label : str
        Number and label of the member.
    own : sequence of str
        What it was given of its own.
    name : str
        Name of the data.
    """
    given = f" ({' '.join(own)})" if own else ""
    say(f"{number:>4} {label} on {name}{given}")


def say_unused(sentences: Iterable[str]) -> None:
    """Print what was chosen for nothing, each sentence once."""
    for sentence in dict.fromkeys(sentences):
        console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)


def print_line(number: str, summary: Mapping[str, Any], standing: str = "") -> None:
    """Print a sweep member's result in one line.

    Parameters
    ----------
    number : str
        Number of the member.
    summary : mapping
        As in `summary.json`.
    standing : str
        How far the sweep has come.
    """
    cells = [f"{number:>4}", f"{summary['label']:<28}", f"{summary['status']:<11}"]
    for name in ("loss", "suboptimality", "seconds"):
        column, value = COLUMNS[name], summary.get(name)
        cells.append("" if value is None or math.isnan(value) else format(value, column.form))
        cells[-1] = f"{cells[-1]:>{column.width}}"
    text = f"{' '.join(cells)}  {summary.get('reason') or ''}".rstrip()
    say(f"{text}  [{standing}]" if standing else text)


def print_summary(
    out: Console,
    label: str,
    summary: Mapping[str, Any],
    places: Sequence[tuple[str, str]],
    clock: str = "wall",
) -> None:
    """Print the result of a run.

    Parameters
    ----------
    out : Console
        Console to print to.
    label : str
        The run's name.
    summary : mapping
        As in `summary.json`.
    places : sequence of (str, str)
        Where its results lie: title and place.
    clock : str
        What its seconds are of, as in the configuration.
    """
    table = Table(title=label, show_header=False, title_justify="left", title_style="bold")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for title, text in _figures(summary, clock):
        table.add_row(title, Text(text))
    out.print()
    out.print(table)
    print_places(out, places)


def print_places(out: Console, places: Sequence[tuple[str, str]]) -> None:
    """Print where results lie, each path whole in its line, so that it can be copied.

    Parameters
    ----------
    out : Console
        Console to print to.
    places : sequence of (str, str)
        Title and place.
    """
    width = max((len(title) for title, _ in places), default=0)
    for title, place in places:
        text = f"{title:<{width}}  {place}"
        out.print(text, markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class MemberLine:
    """What is shown of a method: one member of a sweep, or those that repeat it.

    Attributes
    ----------
    number, label : str
        Numbers of the members, and the method's label.
    overrides : sequence of str
        In what it differs from the others.
    summary : mapping
        As in `summary.json`; medians of several members.
    time : str
        When it reached the target.
    """

    number: str
    label: str
    overrides: Sequence[str]
    summary: Mapping[str, Any]
    time: str = ""


@dataclass(frozen=True)
class MemberTable:
    """What is shown of the members on one problem.

    Attributes
    ----------
    title : str
        The problem.
    rows : sequence of MemberLine
        At least one, the best first.
    target : str
        What the methods' times are to; empty where there is nothing to reach.
    remarks : sequence of str
        Sentences below the table.
    """

    title: str
    rows: Sequence[MemberLine]
    target: str = ""
    remarks: Sequence[str] = ()


def print_members(
    out: Console, tables: Sequence[MemberTable], failures: Sequence[str], best: str | None
) -> None:
    """Print the results of a sweep's members, side by side; of very many the first only.

    Parameters
    ----------
    out : Console
        Console to print to.
    tables : sequence of MemberTable
        One for each problem.
    failures : sequence of str
        A line for each member that came to nothing.
    best : str or None
        What a search found.
    """
    for table in tables:
        _print_table(out, table)
    for line in [*failures, *([] if best is None else [f"best: {best}"])]:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_table(out: Console, members: MemberTable) -> None:
    known = [member.summary for member in members.rows]
    columns = [c for c in shown("members") if any(_is_known(each.get(c.name)) for each in known)]
    longest = max(len(line) for m in members.rows for line in ["", *m.overrides])
    own = min(max(longest, len("differs by")), _OVERRIDE) if longest else 0
    longest = max(len(member.label) for member in members.rows)
    label = min(longest, _LABEL)
    for name in ("", *_FIRST_LEFT_OUT):  # where it is narrow; comparison.csv has all columns
        columns = [c for c in columns if c.name != name]
        left = out.width - _width(out, _table_of(members, columns, label, own))
        if left >= 0:
            break
    lacking = max(0, -left)
    spared = min(lacking, max(0, label - _NARROW))
    label = min(longest, label + max(left, 0)) - spared
    own = max(own - lacking + spared, min(own, _NARROW))
    out.print()
    out.print(_table_of(members, columns, label, own))
    if (more := len(members.rows) - _MOST_MEMBERS) > 0:
        out.print(f"... and {more} more, in comparison.csv")
    for remark in members.remarks:
        out.print(remark, markup=False, highlight=False, soft_wrap=True)


def _width(out: Console, table: Table) -> int:
    """Return how wide a table is; rich's own measure is some columns too small."""
    lines = out.render_lines(table, out.options.update(width=10_000), pad=False)
    return max(sum(len(part.text) for part in line) for line in lines)


def _table_of(members: MemberTable, columns: Sequence[Column], label: int, own: int) -> Table:
    """Lay out a table: `label` and `own` are the widths of the methods and of their overrides."""
    table = Table(
        title=Text(members.title), title_justify="left", box=SIMPLE_HEAD, collapse_padding=True,
        pad_edge=False,
    )  # fmt: skip
    table.add_column("#", justify="right", overflow="fold")
    table.add_column("method", overflow="fold", width=max(label, len("method")))
    if own:
        table.add_column("differs by", overflow="fold", width=own)
    if members.target:
        table.add_column(f"to {members.target}", justify="right", no_wrap=True)
    for column in columns:
        table.add_column(column.brief, justify="right", no_wrap=True)
    table.add_column("ending", no_wrap=True, min_width=9)
    for member in members.rows[:_MOST_MEMBERS]:
        time_to = [member.time] if members.target else []
        values = [_known(member.summary.get(c.name), c.form) for c in columns]
        ending = str(member.summary.get("outcome") or member.summary.get("status"))
        overrides = ["\n".join(_folded(line, own) for line in member.overrides)] if own else []
        cells = [member.number, member.label, *overrides, *time_to, *values, ending]
        table.add_row(*map(Text, cells))
    return table


def _folded(override: str, width: int) -> str:
    """Break what is too wide behind its signs, not inside a word or a number."""
    lines = [""]
    for part in re.split(r"(?<=[=,/_ ])|(?<=\.)(?=[a-z])", override):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _known(value: Any, form: str) -> str:
    if value is None or not _is_known(value):
        return "-"
    return format(value, "g" if form == "d" else form)  # a median of counts may be no whole number


def _is_known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _figures(summary: Mapping[str, Any], clock: str) -> list[tuple[str, str]]:
    own = {"seconds": "processor seconds"} if clock == "processor" else {}
    rows = [
        (own.get(column.name, column.words), format(summary[column.name], column.full))
        for column in shown("summary", lambda name: _is_known(summary.get(name)))
        if _is_known(summary.get(column.name))
    ]
    if summary.get("optimum") is not None:
        bound = f"{summary['optimum']:.16g}, certified to {summary['optimum_gap_bound']:.1e}"
        rows.insert(2, ("optimum", bound))
    sought = summary.get("sought") or {}
    for name, value in (summary.get("found") or {}).items():
        true = sought.get(name)
        off = "" if true is None else f" (true {true:g}, off by {abs(value - true):.1e})"
        rows.append((name, f"{value:.8g}{off}"))
    ending = summary.get("outcome") or summary.get("status")
    return [*rows, ("stopped", f"{ending}: {summary.get('reason')}")]


def print_cross_validations(out: Console, found: Sequence[CrossValidation]) -> None:
    """Show what cross-validations found: the tables, and which penalties they choose."""
    for each in found:
        out.print()
        out.print(each.table().rich())
        out.print(each.text, markup=False, highlight=False, soft_wrap=True)


def print_verdict(out: Console, race: Race) -> None:
    """Show the result of a race: the table, the answer, and why."""
    out.print(race.short_table().rich())
    for line in ("", race.paragraph, "", *(f"  {reason}" for reason in race.reasons), ""):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
