"""MLflow's database as a file: made whole or not at all, and recognized where it is not whole."""

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from newton_krylov.errors import DataError
from newton_krylov.files import cache_dir

_PREFIX = "sqlite:///"
_PATIENCE = 300  # seconds to wait for another process that makes the same database


def prepare(uri: str, patience: float = 10.0) -> None:
    """Make the database if there is none, and check that it is one that MLflow can use.

    MLflow builds its tables by some sixty migrations, in seconds; a kill in one of them leaves a
    file that MLflow refuses ever after. So they are made in a file of another name, which is
    renamed when it is whole.

    Parameters
    ----------
    uri : str
        Other addresses than of SQLite files are left alone.
    patience : float
        Seconds to wait while another process writes to the database.

    Raises
    ------
    DataError
        If there is a file that MLflow cannot use.
    """
    name = uri.removeprefix(_PREFIX).partition("?")[0]
    if not uri.startswith(_PREFIX) or not name or name.startswith((":memory:", "file:")):
        return
    path = Path(name)
    if not _begun(path):
        with _one_at_a_time(path):
            if not _begun(path):
                _build(path)
    _require_whole(path, patience)


def is_locked(error: Exception) -> bool:
    """Return whether an error says that another process holds a database of SQLite's.

    Parameters
    ----------
    error : Exception
        SQLite's, or one that repeats what it says.

    Returns
    -------
    bool
        It may be free later.
    """
    return "database is locked" in str(error)


def _begun(path: Path) -> bool:
    """Return whether there is anything but the empty file that opening a database leaves."""
    return path.exists() and (not path.is_file() or path.stat().st_size > 0)


def _build(path: Path) -> None:
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}.*.part*"):  # by a killed process
        left.unlink(missing_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        client = MlflowClient(f"{_PREFIX}{part}")
        client.search_experiments(max_results=1)  # connects and migrates
        client._tracking_client.store.engine.dispose()
        if path.exists():  # empty
            part.replace(path)
        else:
            with suppress(FileExistsError):  # another machine's process was quicker
                os.link(part, path)
    finally:
        for left in path.parent.glob(f"{part.name}*"):
            left.unlink(missing_ok=True)


def _require_whole(path: Path, patience: float) -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision as head

    if not path.is_file():
        raise DataError(f"{path} is no file of a database; give another tracking.uri.")
    try:
        address = f"file:{quote(str(path.absolute()))}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=patience)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        if is_locked(error):
            raise DataError(
                f"{path} is locked by another process that writes to it; when that has ended, send "
                f"the record again."
            ) from error
        if "no such table" not in str(error):
            raise DataError(
                f"{path} cannot be used as MLflow's database ({error}); if it is damaged, move it "
                f"away and send the records again."
            ) from error
        row = None
    if row is None or row[0] != head():  # type: ignore[no-untyped-call]
        raise DataError(
            f"{path} is not a whole database of this version of MLflow: its making was broken off, "
            f"or it is of another version. Move it away (mv {path.name} {path.name}.old), or if it "
            f"holds runs, update it: mlflow db upgrade {_PREFIX}{path}"
        )


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock while a database is made: two that migrate a new one crash each other."""
    place = cache_dir() / "mlflow"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        yield
        return
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
    try:
        lock = FileLock(place / f"{name}.lock").acquire(timeout=_PATIENCE)
    except Timeout:
        raise DataError(
            f"{path} is being made by another process, which has not ended within {_PATIENCE} s."
        ) from None
    with lock:
        yield
