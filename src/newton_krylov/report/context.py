"""What the compared runs have in common and in what they differ: settings, and environments."""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from newton_krylov.records.record import flatten
from newton_krylov.report.records import RunRecord, differences
from newton_krylov.report.study import Study
from newton_krylov.report.tables import Table

INSTALLED = "newton-krylov"
"""The name of the installed command."""

_MANY = 8
"""More values than this are not listed but counted."""

_PACKAGES = "packages."

_FILING = ("tracking", "resume=", "hydra.run.dir=", "hydra.sweep.dir=", "hydra.sweep.subdir=")
"""Overrides that say where a run was filed, not what was computed."""

_NOT_SHOWN = frozenset({"label"})
"""It is the row's own name."""


def differences_table(groups: Sequence[Study]) -> Table | None:
    """Tabulate the settings that are not the same in all runs."""
    records = [record for study in groups for record in study.records if record.config]
    keys = _shown_keys(records) if records else []
    if not keys:
        return None
    several = len(groups) > 1
    rows = [
        [
            entry.label,
            *([study.problem.title] if several else []),
            *(_values([record.settings.get(key) for record in entry.records]) for key in keys),
        ]
        for study in groups
        for entry in study.entries
    ]
    return Table("Settings", ["Method", *(["Problem"] if several else []), *keys], rows)


def _shown_keys(records: Sequence[RunRecord]) -> list[str]:
    """Return the keys that differ, but not those that only some parts have, alike in all of them.

    That gradient descent has no `damping` is said by `optimizer.name` already.
    """
    different = differences(records)
    shown = []
    for key in different:
        named = f"{key.rpartition('.')[0]}.name"
        having = {record.settings[key] for record in records if key in record.settings}
        implied = len(having) == 1 and named in different
        if key not in _NOT_SHOWN and not implied:
            shown.append(key)
    return shown


def _values(values: Sequence[Any]) -> str:
    """Write the distinct values of repetitions."""
    distinct = list(dict.fromkeys("–" if value is None else _text(value) for value in values))
    if len(distinct) > _MANY:
        return f"{len(distinct)} values, {distinct[0]} to {distinct[-1]}"
    return ", ".join(distinct)


def _text(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def environments_table(groups: Sequence[Study]) -> Table:
    """Tabulate what the runs ran in."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for study in groups:
        for entry in study.entries:
            for record in entry.records:
                found.setdefault(_environment(record), []).append(entry.label)
    each = [dict(environment) for environment in found]
    keys = list(dict.fromkeys(key for environment in each for key in environment))
    rows = [[key, *(environment.get(key, "–") for environment in each)] for key in keys]
    different = [row for row in rows if len(set(row[1:])) > 1]
    same = [row for row in rows if row not in different]
    packages = [row for row in same if row[0].startswith(_PACKAGES)]
    alike = [row for row in same if row not in packages]
    if packages:
        listed = ", ".join(f"{row[0].removeprefix(_PACKAGES)} {row[1]}" for row in packages)
        alike.append(["packages", *([listed] * len(each))])
    heads = ["Property", *(_who(labels) for labels in found.values())]
    if len(found) == 1:
        heads[1] = "All runs"
    return Table("Environment", heads, different + alike)


def _who(labels: Sequence[str]) -> str:
    names = list(dict.fromkeys(labels))
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
    return f"{len(labels)} run{'s' if len(labels) > 1 else ''}: {listed}"


def _environment(record: RunRecord) -> tuple[tuple[str, str], ...]:
    """Return what a run ran in, name to text, without what is its own: the command."""
    common = {key: value for key, value in record.environment.items() if key != "command"}
    flat = flatten(common)
    flat["device"] = record.summary.get("device")
    if not record.environment:
        flat["environment"] = "not recorded"
    return tuple((key, str(value)) for key, value in flat.items() if value is not None)


def commands(records: Iterable[RunRecord]) -> Counter[str]:
    """Return the commands that made some runs, and how many runs each made."""
    return Counter(shlex.join(words) for record in records if (words := command(record)))


def command(record: RunRecord) -> list[str]:
    """Return the command that made a run, as one would type it, without where it was filed."""
    words = record.environment.get("command")
    if not isinstance(words, list) or len(words) < 2:
        return []
    kept = [str(word) for word in words if not str(word).startswith(_FILING)]
    names = [Path(word).name for word in kept[:2]]
    if INSTALLED in names:  # a script of its own: nobody types the Python that it starts
        return [INSTALLED, *kept[names.index(INSTALLED) + 1 :]]
    return ["python", names[1], *kept[2:]]
