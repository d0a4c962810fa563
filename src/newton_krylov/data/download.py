"""Fetch a file once: with progress, whole or not at all, and with the checksum of its first use.

LIBSVM's site publishes no checksums, so the first download is trusted and its SHA-256 recorded
beside it, in the format of `sha256sum`; a file that differs from its record is refused.

Why not pooch: it checks a file against a registry of known checksums, which there is none of here,
and would keep a login page or an answer without an end. Two processes that fetch the same file
share one download here, and what the disk has no room for is refused before it is fetched.
"""

import hashlib
import http.client
import logging
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from newton_krylov.errors import DataError
from newton_krylov.files import atomic_write, remove_parts, sha256_file

_log = logging.getLogger(__name__)
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 2**20
MAX_BYTES = 64 * 2**30
"""More than any file of LIBSVM's site; an answer without an end must have one."""


def fetch(url: str, target: Path, *, sha256: str | None = None, md5: str | None = None) -> None:
    """Download a file, unless it is there.

    Parameters
    ----------
    url : str
        Address, http or https.
    target : Path
        Where the file goes; nothing of the answer has a say in that.
    sha256 : str, optional
        What it must be; by default what was recorded at its first download, if it was.
    md5 : str, optional
        What its publisher says its MD5 is.

    Raises
    ------
    DataError
        If it cannot be had or written, is not complete, or has another checksum.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url} is not an http or https address.")
    by_hand = f"put the file there by hand: {target}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.exists():  # else another process fetched it in the meantime
                remove_parts(target.parent, target.name)
                _fetch(url, target, sha256, md5)
    except urllib.error.HTTPError as error:
        raise DataError(
            f"{url} answered {error.code} ({error.reason}); find it elsewhere and {by_hand}."
        ) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"{url} cannot be reached ({reason}); without a network {by_hand}."
        ) from error
    except ConnectionError as error:
        raise DataError(f"{url} broke off ({error}); try again, or {by_hand}.") from error
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error.strerror or error}).") from error


def verify(path: Path, *, sha256: str | None = None) -> str:
    """Check a file against the checksum that is asked for, or that was recorded.

    Parameters
    ----------
    path : Path
        The file.
    sha256 : str, optional
        What it must be; by default the record of its first download, if there is one.

    Returns
    -------
    str
        The file's SHA-256.

    Raises
    ------
    DataError
        If it is another.
    """
    found = sha256_file(path)
    _compare(path, found, sha256)
    return found


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _compare(path: Path, found: str, asked: str | None) -> None:
    record = _record(path)
    if asked is not None:
        expected, whence = asked.lower(), "was asked for"
    elif record.exists():
        expected = record.read_text(errors="replace").split(" ")[0]
        whence = f"was recorded in {record} (delete the record to trust the new file)"
    else:
        return
    if found != expected:
        raise DataError(f"{path} has the SHA-256 {found}, but {expected} {whence}.")


def _fetch(url: str, target: Path, sha256: str | None, md5: str | None) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "newton-krylov"})  # noqa: S310
    _log.info("Downloading %s to %s", url, target)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310 - http(s) only
        size = _size(answer, url, target)
        digest, published = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with atomic_write(target) as stream:
            with _progress(target.name, size) as advance:
                for chunk in _chunks(answer, url, size):
                    digest.update(chunk)
                    published.update(chunk)
                    stream.write(chunk)
                    advance(len(chunk))
            _compare(target, digest.hexdigest(), sha256)
            if md5 not in (None, published.hexdigest()):
                raise DataError(
                    f"{url} has the MD5 {published.hexdigest()}, but {md5} is published for it."
                )
    with atomic_write(_record(target)) as record:
        record.write(f"{digest.hexdigest()}  {target.name}\n".encode())


def _size(answer: http.client.HTTPResponse, url: str, target: Path) -> int | None:
    """Return the size that was announced; refuse what is no data file or cannot be held."""
    if answer.headers.get_content_type() == "text/html":
        raise DataError(
            f"{url} answered with a web page, not a data file (a login page of the network?); "
            f"put the file there by hand: {target}."
        )
    announced = answer.headers.get("Content-Length", "")
    if not announced.isdigit():
        return None
    free = shutil.disk_usage(target.parent).free
    if int(announced) > min(free, MAX_BYTES):
        raise DataError(
            f"{url} has {int(announced):,} bytes, but {target.parent} has room for {free:,} "
            f"and at most {MAX_BYTES:,} are taken."
        )
    return int(announced)


def _chunks(answer: http.client.HTTPResponse, url: str, size: int | None) -> Iterator[bytes]:
    received = 0
    while chunk := answer.read(_CHUNK):
        received += len(chunk)
        if received > MAX_BYTES:
            raise DataError(f"{url} does not end after {MAX_BYTES:,} bytes.")
        yield chunk
    if size is not None and received != size:
        raise ConnectionError(f"{received:,} of {size:,} bytes came")


@contextmanager
def _progress(name: str, size: int | None) -> Iterator[Callable[[int], Any]]:
    """Draw a bar on a terminal; elsewhere nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as Speed

    columns = ("{task.description}", BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=size)
        yield lambda n: progress.advance(task, n)
