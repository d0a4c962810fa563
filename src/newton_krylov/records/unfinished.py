"""Finds the records of killed processes and says in them what happened.

A process that is killed cannot say so. It leaves a note in the cache folder, and the next command
marks its record as killed.
"""

import logging
import platform
import time
from collections.abc import Iterable
from pathlib import Path

from newton_krylov.errors import UserError
from newton_krylov.records.notes import forget, noted, remember
from newton_krylov.records.record import Record, SweepRecord

_log = logging.getLogger(__name__)


def mark_killed() -> list[Record]:
    """Mark the records that this machine's killed processes left.

    Returns
    -------
    list of Record
        Killed while running, or after that, while the record was being sent; or ended while it
        could not be. Each keeps its note until it is sent (`notes.forget`), and is returned once an
        hour at most.
    """
    found = []
    for identifier, folder in noted():
        record = load(folder)
        if record is None or record.summary.get("id") != identifier:
            if not Record(folder).alive:  # killed before its first file, or since removed
                forget(identifier)
            continue
        if record.alive:
            continue
        record.mark_killed()
        remember(folder, identifier, tried=time.time())
        found.append(record)
    return found


def mark_killed_in(folders: Iterable[Path]) -> None:
    """Mark the records of killed processes of this machine that lie in some folders.

    Parameters
    ----------
    folders : iterable of Path
        Folders of runs or sweeps, or anything above them.
    """
    for folder in folders:
        for kind in (SweepRecord, Record):
            for path in folder.rglob(kind.summary_file):
                record = load(path.parent)
                if record is not None and record.environment.get("hostname") == platform.node():
                    record.mark_killed()


def load(folder: Path) -> Record | None:
    """Read the record of a run or a sweep.

    Parameters
    ----------
    folder : Path
        The record's folder.

    Returns
    -------
    Record or None
        None where there is none that can be read.
    """
    kind = SweepRecord if (folder / SweepRecord.summary_file).exists() else Record
    try:
        return kind.load(folder)
    except UserError as error:
        _log.info("%r", str(error))  # as repr escapes control characters
        return None
