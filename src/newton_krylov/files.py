"""Where data and caches lie, and how a file gets there whole."""

import hashlib
import os
import re
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from newton_krylov.errors import DataError

DATA_VARIABLE = "NEWTON_KRYLOV_DATA"
CACHE_VARIABLE = "NEWTON_KRYLOV_CACHE"
_APPLICATION = "newton-krylov"
_PART = ".part"
_SPARE = 2**26  # bytes that a process may take even where it has more than its container allows


def expand_home(path: str) -> Path:
    """Return a path with a leading `~` or `~user` replaced by that home, where there is one.

    A name that only begins with a tilde (`~data.svm`) is a name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def override(key: str, path: object) -> str:
    """Write `key=path` as a command line takes it: quoted for Hydra and the shell where need be."""
    text = str(path)
    if re.fullmatch(r"[\w./~-]+", text, re.ASCII) and not text.startswith("~"):
        return f"{key}={text}"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return shlex.quote(f'{key}="{escaped}"')


def title_of(path: Path | str, target: object = None) -> str:
    """Return what a data file is called for people: its name, but no checksum of a kept frame's.

    Parameters
    ----------
    path : Path or str
        The file. Data of a program's memory are kept as `frame-...` or `arrays-...`, named by their
        content.
    target : object, optional
        Name of the column to predict, which tells one frame from another.

    Returns
    -------
    str
        Such as `people.csv`, or `frame (income)`.
    """
    name = Path(path).name
    kept = re.fullmatch(r"(frame|arrays)-[0-9a-f]{12}\.(parquet|npz)", name)
    if kept is None:
        return name
    return f"frame ({target})" if kept[1] == "frame" and target else kept[1]


def default_data_dir() -> Path:
    """Return the folder of downloaded data: `$NEWTON_KRYLOV_DATA`, else the user's data folder.

    Returns
    -------
    Path
        Need not exist yet.
    """
    if chosen := os.environ.get(DATA_VARIABLE):
        return expand_home(chosen)
    from platformdirs import user_data_path

    return user_data_path(_APPLICATION)


def cache_dir() -> Path:
    """Return the folder of recomputable files: `$NEWTON_KRYLOV_CACHE`, else the user's cache.

    Returns
    -------
    Path
        Need not exist yet.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return expand_home(chosen)
    from platformdirs import user_cache_path

    return user_cache_path(_APPLICATION)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Parameters
    ----------
    path : Path
        A regular file; a device or a pipe could be read for ever.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    require_file(path)
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def is_regular(path: Path) -> bool:
    """Return whether a path leads to a file that can be read to an end.

    Pipes and devices are none, nor are the kernel's own files, which look like empty ones: reading
    `/proc/kmsg` waits until there is something to say.

    Parameters
    ----------
    path : Path
        Links are followed.

    Returns
    -------
    bool
        False as well where there is nothing.
    """
    try:
        if not path.is_file():
            return False
        return path.stat().st_size > 0 or os.statvfs(path).f_blocks > 0
    except OSError:  # links in a circle, a folder that may not be entered
        return False


def require_file(path: Path) -> None:
    """Check that there is a regular file.

    Parameters
    ----------
    path : Path
        Where it should be.

    Raises
    ------
    DataError
        If there is none, or something else.
    """
    if is_regular(path):
        return
    if path.exists():
        raise DataError(f"{path} is not a regular file; give the file that holds the data.")
    raise DataError(f"There is no file {path} (looked in {path.parent.absolute()}).")


def require_inside(path: Path, folder: Path) -> None:
    """Check that a file is a regular one of a folder's own, not one that a link leads out to.

    Parameters
    ----------
    path : Path
        The file.
    folder : Path
        Where it, and what it is a link to, should be; may be a link itself.

    Raises
    ------
    DataError
        If it is missing, a pipe or a device, or lies somewhere else.
    """
    require_file(path)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{path} is a link to a file outside of {folder}; put the file there.")


def read_text(path: Path, limit: int) -> str:
    """Return a text file's content, unless it could be read for ever.

    Parameters
    ----------
    path : Path
        A regular file in UTF-8.
    limit : int
        Bytes that it may have.

    Returns
    -------
    str
        The file's text.

    Raises
    ------
    DataError
        If it is a pipe or a device, or larger.
    OSError, ValueError
        If it cannot be read, or is no text.
    """
    if path.exists() and not is_regular(path):
        raise DataError(f"{path} is not a regular file.")
    with path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise DataError(f"{path} is larger than the {limit / 2**20:,.0f} MiB that it may have.")
    return data.decode("utf-8")


def require_memory(n_bytes: int, what: str) -> None:
    """Refuse an allocation that this machine's memory cannot hold, before it is made.

    Parameters
    ----------
    n_bytes : int
        Size of the allocation.
    what : str
        What it is for; the beginning of the sentence.

    Raises
    ------
    DataError
        If it is more than the memory that this process may use.
    """
    memory = usable_memory()
    if n_bytes > memory:
        raise DataError(
            f"{what} takes {n_bytes / 2**30:,.1f} GiB, "
            f"but this machine has {memory / 2**30:,.1f} GiB of memory for it."
        )


@contextmanager
def memory_bounded() -> Iterator[None]:
    """Let allocations beyond the usable memory fail, which the system would answer by a kill.

    It lends what it cannot give, and a library that unpacks a foreign file takes it. Where there
    are no such limits (but on Linux), nothing is bounded.
    """
    try:
        import resource

        words = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except (ImportError, OSError):
        yield
        return
    page = os.sysconf("SC_PAGE_SIZE")
    resident, data = page * int(words[1]), page * int(words[5])
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = data + max(usable_memory() - resident, _SPARE)
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([bound, *known]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def usable_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or its container's.

    Returns
    -------
    int
        The physical memory, or the limit of the process's control group or one above it.
    """
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _limits():
        try:
            found = min(found, int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # "max", or none at this height
            continue
    return found


def _limits(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> Iterator[Path]:
    """Yield the files that may limit this process's memory (Linux's control groups, 1 and 2).

    Beyond `memory.high` it is not killed, but made to wait at each allocation.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for _, kinds, group in (line.split(":", 2) for line in lines if line.count(":") > 1):
        if kinds and "memory" not in kinds.split(","):
            continue
        base = root / "memory" if kinds else root
        names = ("memory.limit_in_bytes",) if kinds else ("memory.max", "memory.high")
        place = base / group.lstrip("/")
        for above in (place, *place.parents):
            if above.is_relative_to(base):
                yield from (above / name for name in names)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name whole, or not at all.

    The bytes go to a file of another name in the same folder, which is renamed at the end; a
    reader, or another writer of the same file, never sees a part.

    Parameters
    ----------
    path : Path
        The file's final name; missing folders are made.

    Yields
    ------
    BinaryIO
        Open for writing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_PART}")
    try:
        with part.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def remove_parts(folder: Path, name: str = "*") -> None:
    """Remove what processes left that were killed in `atomic_write`.

    Parameters
    ----------
    folder : Path
        Where they wrote. The caller knows that nobody writes there now.
    name : str
        Name of the file they wrote; all by default.
    """
    for part in folder.glob(f".{name}.*{_PART}"):
        with suppress(OSError):
            part.unlink()
