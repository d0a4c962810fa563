"""How the runs of a section were made, and on what, out of their records."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from newton_krylov.report.context import command
from newton_krylov.report.records import RunRecord
from studies.reproduction.page import Origin

_FACTS: Mapping[str, tuple[str, ...]] = {
    "Python": ("python",),
    "torch": ("packages", "torch"),
    "NumPy": ("packages", "numpy"),
    "SciPy": ("packages", "scipy"),
    "Processor": ("cpu",),
    "Cores": ("cpu_count",),
    "Threads": ("threads",),
    "Platform": ("platform",),
    "Commit": ("git_commit",),
    "Uncommitted changes": ("git_dirty",),
}
"""Properties to where they are in the record of an environment."""

_MOVED: Mapping[str, tuple[str, str]] = {
    "experiment=ye_zhang_2017": ("regularized_subsampled", "experiment=ye_zhang_2017_grid"),
}
"""Experiments to the curvature of those members that are of another one today, and to that one."""


def origin(runs: Mapping[str, Sequence[RunRecord]]) -> Origin:
    """Say where runs come from."""
    made: Counter[str] = Counter()
    for study, records in runs.items():
        known = [(shlex.join(words), r) for r in records if (words := _todays(r))]
        made.update(command for command, _ in {(c, _member(r)): r for c, r in known})
        unknown = len(records) - len(known)
        made.update({f"python run.py experiment={study}": unknown} if unknown else {})
    everything = [record for records in runs.values() for record in records]
    facts = {name: _values(everything, path) for name, path in _FACTS.items()}
    return Origin(
        commands=dict(made),
        environment={name: values for name, values in facts.items() if values},
        failures=dict(Counter(record.ending for record in everything if record.failed)),
    )


def _todays(record: RunRecord) -> list[str]:
    """Return the command that made a run, with the experiment that makes it today."""
    curvature = record.settings.get("hessian_approx.name")
    moved = {old: new for old, (of, new) in _MOVED.items() if of == curvature}
    return [moved.get(word, word) for word in command(record)]


def _member(record: RunRecord) -> tuple[str, str]:
    """Return what tells the runs of one command apart; one that was made again is the same."""
    return record.label, str(sorted(record.settings.items()))


def _values(records: Sequence[RunRecord], path: Sequence[str]) -> list[str]:
    """Return the distinct values of an entry of the runs' environments."""
    found: dict[str, None] = {}
    for record in records:
        value: object = record.environment
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            found[str(value)] = None
    return list(found)
