"""A table as text cells, for Markdown and for the terminal."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from newton_krylov.report.study import Array

if TYPE_CHECKING:
    from rich.table import Table as RichTable

_CLASSES = 20


@dataclass(frozen=True)
class Table:
    """Cells with a title, column heads and remarks.

    Attributes
    ----------
    title : str
        Title above the table.
    heads : sequence of str
        The first column holds names, the others numbers.
    rows : list of sequence of str
        As wide as `heads`.
    remarks : list of str
        Sentences below it.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    remarks: Sequence[str] = field(default_factory=tuple)

    def markdown(self) -> str:
        """Return the table in GitHub's Markdown."""
        lines = [f"**{_escape(self.title)}**", ""] if self.title else []
        lines.append(_line(self.heads))
        lines.append(_line(["---", *["---:"] * (len(self.heads) - 1)]))
        lines += [_line(row) for row in self.rows]
        lines += ["", *(f"- {_escape(remark)}" for remark in self.remarks)] if self.remarks else []
        return "\n".join(lines) + "\n"

    def only(self, *heads: str) -> "Table":
        """Return the columns of some heads, in the table's order; heads that it lacks are none."""
        kept = [i for i, head in enumerate(self.heads) if head in heads]
        rows = [[row[i] for i in kept] for row in self.rows]
        return replace(self, heads=[self.heads[i] for i in kept], rows=rows)

    def rich(self) -> "RichTable":
        """Return the table for a `rich` console."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            title=Text(self.title),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            caption=Text("\n".join(self.remarks)) if self.remarks else None,
            caption_justify="left",
        )
        for i, head in enumerate(self.heads):
            table.add_column(Text(head), justify="right" if i else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table


class Preface(Protocol):
    """What stands above a comparison: an answer, a table and reasons."""

    @property
    def paragraph(self) -> str:
        """The answer in plain words."""

    @property
    def reasons(self) -> Sequence[str]:
        """Sentences."""

    def table(self) -> Table:
        """Numbers behind the answer."""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_escape(cell) for cell in cells)} |"


def _escape(text: str) -> str:
    """Return a text as one line that is no mark-up: no cell's end, element, link or picture."""
    text = " ".join(text.split()).replace("|", "\\|").replace("](", "]\\(")
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)


def number_text(value: float, digits: int = 3) -> str:
    """Write a number: counts in full, others with some significant digits."""
    if np.isnan(value):
        return "–"
    whole = abs(value) < 1e15 and value == round(value)
    if whole or 10**digits <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def count_text(count: int, noun: str) -> str:
    """Write a count with its noun: 1 run, 1,200 runs."""
    return f"{number_text(count)} {noun}{'' if count == 1 else 's'}"


def majority_text(described: Any) -> str | None:
    """Say what answering the most frequent class always is worth, as a record describes its data.

    None where the classes are about equal, or the record does not say.
    """
    found = described.get("majority") if isinstance(described, Mapping) else None
    share = found.get("share") if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or not isinstance(share, float):
        return None
    of_test = found.get("test_share")
    test = f" ({of_test:.1%} of the test samples)" if isinstance(of_test, float) else ""
    return (
        f"The classes are unequal: always answering {str(found.get('class'))[:40]} is right for "
        f"{share:.1%} of the samples{test}, which accuracies are to be compared with."
    )


def classes_text(names: Sequence[str]) -> str:
    """Write the classes' names, the first of many: 2 classes: no, yes."""
    more = f", and {len(names) - _CLASSES} more" if len(names) > _CLASSES else ""
    return f"{len(names)} classes: {', '.join(names[:_CLASSES])}{more}"


def middle(values: Array) -> float:
    """Return the median of what is known, nan where nothing is."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else float("nan")
