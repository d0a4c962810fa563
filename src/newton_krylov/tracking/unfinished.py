"""Remembers which records are being written, so that the next start finds those of the killed.

A process that is killed cannot say so. It leaves a note in the cache folder, and whoever starts
next marks the record as killed and sends the rest of it; `newton_krylov.tracking.upload` does the
same for the folders that it is given.
"""

import json
import logging
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from newton_krylov.errors import UserError
from newton_krylov.files import atomic_write, cache_dir
from newton_krylov.records.record import Record, SweepRecord

_log = logging.getLogger(__name__)


def remember(record: Record) -> None:
    """Note that a record is being written.

    Parameters
    ----------
    record : Record
        Of a run or a sweep.
    """
    note = {"folder": str(record.folder.absolute()), "host": platform.node()}
    with suppress(OSError), atomic_write(_note(record)) as stream:  # without a note: by hand
        stream.write(json.dumps(note).encode())


def forget(record: Record) -> None:
    """Take the note back: the record has ended.

    Parameters
    ----------
    record : Record
        Of a run or a sweep.
    """
    with suppress(OSError):
        _note(record).unlink(missing_ok=True)


def bury_the_dead() -> list[Record]:
    """Mark the records that this machine's killed processes left, and take their notes back.

    Returns
    -------
    list of Record
        Killed while running, or after that, while the record was being sent.
    """
    found = []
    for note, folder in _notes():
        record = load(folder)
        if record is not None and record.alive:
            continue
        if record is not None:
            record.bury()
            found.append(record)
        with suppress(OSError):
            note.unlink(missing_ok=True)
    return found


def load(folder: Path) -> Record | None:
    """Read the record of a run or a sweep.

    Parameters
    ----------
    folder : Path
        Its folder.

    Returns
    -------
    Record or None
        None where there is none that can be read.
    """
    kind = SweepRecord if (folder / SweepRecord.summary_file).exists() else Record
    try:
        return kind.load(folder)
    except UserError as error:
        _log.info("%s", error)
        return None


def _notes() -> Iterator[tuple[Path, Path]]:
    for note in sorted((cache_dir() / "unfinished").glob("*.json")):
        try:
            content = json.loads(note.read_text(encoding="utf-8"))
            folder, host = Path(content["folder"]), content["host"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if host == platform.node():  # a lock tells nothing of another machine's processes
            yield note, folder


def _note(record: Record) -> Path:
    return cache_dir() / "unfinished" / f"{record.summary['id']}.json"
