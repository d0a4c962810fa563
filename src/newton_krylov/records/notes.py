"""Notes in the cache folder on which records are being written, to be found after a kill."""

import json
import platform
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from newton_krylov.files import atomic_write, cache_dir

_SECONDS_BETWEEN_TRIES = 3600.0
"""A record whose server is gone is not tried again by every run of a sweep."""


def remember(folder: Path, identifier: str, tried: float = 0.0) -> None:
    """Note that a record is being written, or when its sending was last tried.

    Parameters
    ----------
    folder : Path
        Folder of the record.
    identifier : str
        Identifier of the record.
    tried : float
        Seconds since the epoch; 0 for never.
    """
    note = {"folder": str(folder.absolute()), "host": platform.node(), "tried": tried}
    with suppress(OSError), atomic_write(_note(identifier)) as stream:
        stream.write(json.dumps(note).encode())


def forget(identifier: str) -> None:
    """Take a note back: the record has ended and is where it belongs.

    Parameters
    ----------
    identifier : str
        Identifier of the record.
    """
    with suppress(OSError):
        _note(identifier).unlink(missing_ok=True)


def noted() -> Iterator[tuple[str, Path]]:
    """Yield identifiers and folders of this machine's records that have a note.

    Yields
    ------
    tuple of str and Path
        But those that were tried within the hour.
    """
    for path in sorted((cache_dir() / "unfinished").glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            folder, host = Path(content["folder"]), content["host"]
            tried = float(content.get("tried", 0.0))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        # A lock says nothing about another machine's processes.
        if host == platform.node() and time.time() - tried >= _SECONDS_BETWEEN_TRIES:
            yield path.stem, folder


def _note(identifier: str) -> Path:
    return cache_dir() / "unfinished" / f"{identifier}.json"
