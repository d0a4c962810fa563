"""A cache of arrays that are expensive to compute: optional, safe for concurrent processes."""

import logging
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from newton_krylov.files import atomic_write, cache_dir, remove_parts

Arrays = dict[str, NDArray[Any]]
_log = logging.getLogger(__name__)
_PATIENCE = 600.0  # seconds to wait for another process that computes the same


def cached(kind: str, key: str, compute: Callable[[], Arrays]) -> Arrays:
    """Return arrays from the cache, or compute and keep them.

    Of several processes that ask at the same time one computes and the others wait for it. A
    damaged file is computed again; a folder that cannot be written, or a full disk, costs a warning
    and the time to compute.

    Parameters
    ----------
    kind : str
        A folder of the cache.
    key : str
        Equal keys mean equal arrays: a checksum of all that they depend on.
    compute : callable
        Returns the arrays by name.

    Returns
    -------
    dict of str to ndarray
        Writable arrays of the caller's own.
    """
    path = cache_dir() / kind / f"{key}.npz"
    arrays = _read(path)
    if arrays is None:
        with _one_at_a_time(path):
            arrays = _read(path)  # another process may have made it while this one waited
            if arrays is None:
                arrays = compute()
                _write(path, arrays)
    return arrays


def _read(path: Path) -> Arrays | None:
    try:
        # NumPy reads no further than an array's header says, so the checksums are looked at first.
        with zipfile.ZipFile(path) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"{damaged} is damaged")
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except FileNotFoundError:
        return None
    except Exception as error:  # damaged bytes bring a dozen kinds out of zipfile and NumPy
        _log.warning("The cache file %s cannot be read and is computed again: %s", path, error)
        return None


def _write(path: Path, arrays: Arrays) -> None:
    try:
        with atomic_write(path) as stream:
            np.savez(stream, allow_pickle=False, **arrays)
    except OSError as error:
        _log.warning("The cache file %s cannot be written; going on without it: %s", path, error)


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Hold the file's lock, which the system lets go of when its holder dies."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_PATIENCE)
    except (OSError, NotImplementedError):  # nowhere to write, or the holder hangs: do not wait
        yield
        return
    try:
        remove_parts(path.parent, path.name)
        yield
    finally:
        lock.release()
