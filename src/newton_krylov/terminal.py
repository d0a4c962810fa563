"""The terminal: where text goes, how a path is written there, and what Ctrl-C does at first."""

import atexit
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console(*, stderr: bool = False) -> "Console":
    """Return the terminal, or a wide plain one where output goes elsewhere."""
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:  # rich's own ends the program where it stands
            raise BrokenPipeError(_GONE)

    stream: Any = sys.stderr if stderr else _Patient(sys.stdout)
    found = Ours(file=stream)
    return found if found.is_terminal else Ours(file=stream, width=120)


_GONE = "the reader of the output, such as head, has gone"


_lost: list[OSError] = []


def output_lost() -> bool:
    """Return whether something could not be shown since this was last asked."""
    found = bool(_lost)
    _lost.clear()
    return found


class _Patient:
    """Standard output, which may be a file on a full disk: no reason to lose a run."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or say once that it cannot be."""
        return self._patiently(lambda: self._stream.write(text)) or len(text)

    def flush(self) -> None:
        """Flush, or say once that it cannot be."""
        self._patiently(self._stream.flush)

    def _patiently(self, action: Any) -> Any:
        try:
            return action()
        except BrokenPipeError as error:
            raise BrokenPipeError(_GONE) from error
        except OSError as error:
            _lost.append(error)
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            sys.stderr.write(f"The standard output cannot be written: {error.strerror}.\n")
            return None


@contextmanager
def patiently() -> Iterator[None]:
    """Let standard output that cannot be written be a sentence, whoever writes to it."""
    open_closed_streams()
    stream: Any = _Patient(sys.stdout)
    with redirect_stdout(stream):
        try:
            yield
        finally:
            stream.flush()


def open_closed_streams() -> None:
    """Let what the process was given closed (`>&-`) lead nowhere: no file is to take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115


def say(text: str, *, stderr: bool = False) -> None:
    """Write a line as it stands, whole and at once: processes that share a terminal mix no halves.

    Parameters
    ----------
    text : str
        Without a line's end.
    stderr : bool
        Whether it goes to standard error.
    """
    stream: Any = sys.stderr if stderr else _Patient(sys.stdout)
    stream.write(f"{text}\n")
    stream.flush()


@contextmanager
def spoken(*, quiet: bool, json: bool) -> Iterator[Callable[[str], None]]:
    """Let all that is shown go where a command's `quiet` and `json` say.

    Parameters
    ----------
    quiet : bool
        Nowhere; errors have a stream of their own.
    json : bool
        To standard error, so that standard output takes the result alone.

    Yields
    ------
    callable
        Writes the result to standard output, where `json` asks for it.
    """
    stdout: Any = _Patient(sys.stdout)

    def write(text: str) -> None:
        if json:
            stdout.write(text)
            stdout.flush()

    if not quiet and not json:
        yield write
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere if quiet else sys.stderr):
        yield write


def end_quickly() -> None:
    """Let the process end without tidying up: the system takes the memory back, and at once."""
    atexit.register(gc.freeze)


def end_on_interrupt() -> None:
    """Let Ctrl-C end the program in one line where nothing is there yet to be finished.

    Where it is ignored, as in a script's background, it stays so.
    """

    def end(number: int, _frame: object) -> None:
        os.write(2, b"Interrupted.\n")
        os._exit(128 + number)

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end)


@contextmanager
def interrupts() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt`, for what has files to put in order."""
    before = signal.getsignal(signal.SIGINT)
    if before in (signal.default_int_handler, None) or not callable(before):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What moves a cursor, ends a line or turns the direction of writing; and halves of characters."""


def inert(text: str) -> str:
    """Return what somebody else wrote, fit for a terminal, a table or a page.

    Parameters
    ----------
    text : str
        A label, a file's name, what a server answered.

    Returns
    -------
    str
        With a space in place of each control character; tabs and line feeds stay.
    """
    return _CONTROLS.sub(" ", text)


def one_line(text: str) -> str:
    """Return what somebody else wrote as one line; see `inert`."""
    return " ".join(inert(text).split())


def short(path: Path) -> str:
    """Return a path as a user in the working directory would write it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
