"""Records of runs, a compact file a study, fit to be kept beside the code of the page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from newton_krylov.errors import DataError
from newton_krylov.records.archive import SUFFIX, ArchivedRun, read_archive, write_archive
from newton_krylov.records.trace import Row
from newton_krylov.report.context import command
from newton_krylov.report.figures import slug
from newton_krylov.report.records import RunRecord


def keep(records: Sequence[RunRecord], out_dir: Path) -> list[Path]:
    """Keep what a page is made of: settings, trace, result, environment.

    What names the machine and its folders is left out; long traces are thinned out. A run of the
    same name that is there already is replaced.

    Parameters
    ----------
    records : sequence of RunRecord
        To be kept; runs of one study, label, size and seed are numbered.
    out_dir : Path
        Gets a file for each study, `<study>.jsonl.gz`, to be given as a folder of runs later.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    DataError
        For a record that is not complete.
    """
    named: dict[Path, dict[str, ArchivedRun]] = {}
    for record in records:
        if record.faults:
            raise DataError(f"{record.origin} cannot be kept: {record.faults[0]}")
        runs = named.setdefault(out_dir / f"{record.study}{SUFFIX}", {})
        name = _free_name(record, runs)
        runs[name] = _without_machine(record, name)
    for file, runs in named.items():
        before = {run.name: run for run in read_archive(file)} if file.exists() else {}
        write_archive((before | runs).values(), file)
    return list(named)


def _free_name(record: RunRecord, taken: dict[str, ArchivedRun]) -> str:
    seed = record.settings.get("seed", 0)
    stem = f"{slug(record.label)}-{record.problem.n_samples}-{seed}"
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name


def _without_machine(record: RunRecord, name: str) -> ArchivedRun:
    config = _without(record.config, "data_dir")
    summary = dict(record.summary)
    if isinstance(described := summary.get("dataset"), dict):
        summary["dataset"] = _without(described, "source")
    environment = _without(record.environment, "hostname") | {"command": command(record)}
    return ArchivedRun(name, config, summary, environment, thinned(record.rows))


def _without(values: dict[str, Any], left_out: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != left_out}


def thinned(rows: Sequence[Row], most: int = 500) -> list[Row]:
    """Thin a long trace out, as far as neither curves nor the costs of targets change."""
    if len(rows) <= most:
        return list(rows)
    kept = set(np.unique(np.geomspace(1, len(rows), most).round().astype(int) - 1).tolist())
    kept |= set(np.linspace(0, len(rows) - 1, most // 2).round().astype(int).tolist())
    gaps = np.array([row.suboptimality for row in rows])
    for power in range(-17, 3):
        reached = np.flatnonzero(gaps <= 10.0**power)
        kept |= {int(reached[0])} if reached.size else set()
    return [rows[number] for number in sorted(kept)]
