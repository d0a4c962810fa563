"""The comparison as a CSV file: a line for every run."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from newton_krylov.files import atomic_write
from newton_krylov.records.trace import COLUMNS
from newton_krylov.report.records import RunRecord
from newton_krylov.report.study import Entry, Study
from newton_krylov.terminal import inert


def write_csv(groups: Sequence[Study], path: Path) -> None:
    """Write a line for every run, failed ones included.

    A text that a spreadsheet would take for a formula gets an apostrophe in front of it: labels,
    reasons and folders come with the runs, which may come from others.
    """
    lines = [
        _line(study, entry, record)
        for study in groups
        for entry in study.entries
        for record in entry.records
    ]
    heads = dict.fromkeys(key for line in lines for key in line)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_inert(head) for head in heads])
    writer.writerows([[_inert(line.get(head)) for head in heads] for line in lines])
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())


_BEGINS = (
    "[\\s\u00ad\u200b-\u200d\u2060\ufeff\"']*"
    "(?=[=+\\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b])"
)
_FORMULA, _INSIDE = re.compile(_BEGINS), re.compile(f"(;{_BEGINS})")
"""Where a formula may begin: also behind a semicolon, which separates cells in many countries."""


def _inert(value: Any) -> Any:
    """Return a cell that no spreadsheet evaluates; numbers stay as they are."""
    if not isinstance(value, str):
        return value
    value = inert(value)
    try:
        float(value)
    except ValueError:
        value = _INSIDE.sub(r"\1'", value)
        return f"'{value}" if _FORMULA.match(value) else value
    return value


def _last_columns() -> list[str]:
    """Return the columns whose last value describes the run: results first."""
    whole = [column for column in COLUMNS.values() if column.kind != "step"]
    return [c.name for c in sorted(whole, key=lambda column: column.kind != "result")]


def _line(study: Study, entry: Entry, record: RunRecord) -> dict[str, Any]:
    problem, last = study.problem, record.rows[-1] if record.rows else None
    benchmark = None if study.benchmark is None else study.final_loss(study.benchmark)
    above = None if last is None or benchmark is None else last.loss - benchmark
    return {
        "dataset": problem.dataset,
        "n_samples": problem.n_samples,
        "n_features": problem.n_features,
        "loss_name": problem.loss,
        **{f"loss_{key}": value for key, value in problem.parameters},
        "method": entry.label,
        "seed": record.settings.get("seed"),
        "repeat": record.settings.get("repeat"),
        "status": record.status,
        "ending": record.ending,
        **{name: None if last is None else getattr(last, name) for name in _last_columns()},
        "inner_iterations": float(record.column("inner_iterations").sum()),
        "suboptimality_to_benchmark": above,
        **dict(_times(study, record)),
        "folder": record.origin,
        "faults": " ".join(record.faults),
    }


def _times(study: Study, record: RunRecord) -> Iterator[tuple[str, float | None]]:
    for target in study.targets:
        seconds = record.cost_to(target.value, column=target.column)
        name = target.name.replace(" ", "_")
        yield f"seconds_to_{name}", seconds if np.isfinite(seconds) else None
