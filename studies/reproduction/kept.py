"""Copies of records that took hours to make, small enough and fit to be kept with the page."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from newton_krylov.errors import DataError
from newton_krylov.files import atomic_write
from newton_krylov.records.record import CONFIG, ENVIRONMENT, SUMMARY, TRACE, write_json
from newton_krylov.report.context import command
from newton_krylov.report.figures import slug
from newton_krylov.report.records import RunRecord


def keep(records: Sequence[RunRecord], out_dir: Path) -> list[Path]:
    """Copy what a page is made of: settings, trace, result, environment.

    What tells of the machine's folders and name is left out. A folder that is there already, of a
    run with the same name, is replaced.

    Parameters
    ----------
    records : sequence of RunRecord
        To be copied; runs of one study, label, size and seed are numbered.
    out_dir : Path
        Gets a folder of each, by study; to be given as a folder of runs later.

    Returns
    -------
    list of Path
        The copies.

    Raises
    ------
    DataError
        For a record that is not complete.
    """
    folders: dict[Path, RunRecord] = {}
    for record in records:
        if record.faults:
            raise DataError(f"{record.origin} cannot be kept: {record.faults[0]}")
        seed = record.settings.get("seed", 0)
        stem = f"{slug(record.label)}-{record.problem.n_samples}-{seed}"
        folder, number = out_dir / record.study / stem, 1
        while folder in folders:
            number += 1
            folder = out_dir / record.study / f"{stem}-{number}"
        folders[folder] = record
    for folder, record in folders.items():
        _copy(record, folder)
    return list(folders)


def _copy(record: RunRecord, folder: Path) -> None:
    trace = (record.folder / TRACE).read_bytes()  # it may be the same folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = {k: v for k, v in record.config.items() if k != "data_dir"}
    told = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode()
    for name, content in ((TRACE, trace), (CONFIG, told)):
        with atomic_write(folder / name) as stream:
            stream.write(content)
    summary = dict(record.summary)
    if isinstance(described := summary.get("dataset"), dict):
        summary["dataset"] = {k: v for k, v in described.items() if k != "source"}
    environment = {k: v for k, v in record.environment.items() if k != "hostname"}
    write_json(folder / SUMMARY, summary)
    write_json(folder / ENVIRONMENT, environment | {"command": command(record)})
