"""The members of a sweep as its folder describes them, side by side: method by method, ranked."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newton_krylov.errors import UserError
from newton_krylov.records.record import Record
from newton_krylov.records.trace import shown
from newton_krylov.report.panel import seconds_text
from newton_krylov.report.records import REPETITION_KEYS
from newton_krylov.report.results import caution_text, fastest_text, repeats_text
from newton_krylov.report.study import Entry, Study, Target
from newton_krylov.report.tables import middle, number_text
from newton_krylov.runs.config import check
from newton_krylov.runs.console import MemberLine, MemberTable
from newton_krylov.runs.resume import task_overrides

_UNSAID = ("method", *REPETITION_KEYS)
"""Keys in which rows do not differ, or whose values their labels are."""

_MOST_NUMBERS = 4  # of members that are listed in a row


@dataclass(frozen=True)
class Member:
    """One run of a sweep, as its folder describes it.

    Attributes
    ----------
    record : Record
        The member's record.
    """

    record: Record

    @property
    def number(self) -> str:
        """The name of its folder."""
        return self.record.folder.name

    @property
    def status(self) -> str:
        """As in `summary.json`."""
        return str(self.record.summary.get("status"))

    @property
    def meant(self) -> list[str]:
        """Those of its overrides that change what is run."""
        idle = set(self.record.summary.get("idle") or [])
        given = [(key_of(line), line) for line in task_overrides(self.record.overrides)]
        return [line for key, line in given if idle.isdisjoint({key, key.partition(".")[0]})]

    @property
    def unused(self) -> list[str]:
        """Which of its explicit choices changed nothing, in sentences."""
        try:
            return check(self.record.config).unused(self.record.overrides)
        except UserError:  # its configuration was refused, as its record says
            return []

    @property
    def failed(self) -> bool:
        """Whether it should have come to something and did not."""
        return self.status not in ("finished", "skipped")

    @property
    def problem(self) -> str | None:
        """What became of it, where it did not finish."""
        if self.status == "finished":
            return None
        return f"{self.number}  {self.status}: {self.record.summary.get('reason')}"


def key_of(override: str) -> str:
    """Return the key of an override."""
    return override.lstrip("+~").partition("=")[0]


def member_tables(groups: Sequence[Study], members: Sequence[Member]) -> list[MemberTable]:
    """Return what is shown of a sweep's members: a table for each problem, the fastest first.

    Parameters
    ----------
    groups : sequence of Study
        The members' records, by problem and method.
    members : sequence of Member
        The members.

    Returns
    -------
    list of MemberTable
        A row for each method: medians where several members repeat it.
    """
    known = {member.record.folder.resolve(): member for member in members}
    if not members:
        return []
    shared = set(members[0].meant).intersection(*(m.meant for m in members))
    tables = [_table(study, known, shared, alone=len(groups) == 1) for study in groups]
    return [table for table in tables if table.rows]


def _table(
    study: Study, known: Mapping[Path, Member], shared: set[str], *, alone: bool
) -> MemberTable:
    rows = []
    for entry in study.ranked:
        mine = [known[place] for r in entry.records if (place := r.folder.resolve()) in known]
        if mine:
            rows.append(_line(study, entry, mine, shared))
    sentences = [fastest_text(study), repeats_text(study), caution_text(study)]
    return MemberTable(
        "" if alone else study.problem.title,
        rows,
        "" if study.headline is None else _brief(study.headline),
        [sentence for sentence in sentences if sentence],
    )


def _line(study: Study, entry: Entry, mine: Sequence[Member], shared: set[str]) -> MemberLine:
    """Return a method's row."""
    several = set(mine[0].meant).intersection(*(member.meant for member in mine))
    own = [
        line for line in mine[0].meant if line in several - shared and key_of(line) not in _UNSAID
    ]
    names = (column.name for column in shown("members"))
    summary: dict[str, Any] = {name: middle(entry.last(name)) for name in names}
    facts = (member.record.summary for member in mine)
    endings = Counter(str(each.get("outcome") or each.get("status")) for each in facts)
    counted = [ending if len(mine) == 1 else f"{n}x {ending}" for ending, n in endings.items()]
    summary["outcome"] = ", ".join(counted) if len(endings) > 1 else next(iter(endings))
    seconds = math.nan if study.headline is None else middle(entry.cost_to(study.headline))
    numbers = [member.number for member in mine]
    shown_numbers = numbers if len(numbers) <= _MOST_NUMBERS else [numbers[0], "...", numbers[-1]]
    label = mine[0].record.summary.get("label") if own else entry.label
    return MemberLine(", ".join(shown_numbers), str(label), own, summary, seconds_text(seconds))


def _brief(target: Target) -> str:
    """Return a target as the head of a narrow column."""
    return target.name if target.column != "loss" else f"f {number_text(target.value, digits=4)}"
