"""The terminal: where text goes, how a path is written there, and what Ctrl-C does at first."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console(*, stderr: bool = False) -> "Console":
    """Return the terminal, or a wide plain one where output goes elsewhere."""
    from rich.console import Console

    stream: Any = sys.stderr if stderr else _Patient(sys.stdout)
    found = Console(file=stream)
    return found if found.is_terminal else Console(file=stream, width=120)


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
        except BrokenPipeError:
            raise
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            sys.stderr.write(f"The standard output cannot be written: {error.strerror}.\n")
            return None


def end_on_interrupt() -> None:
    """Let Ctrl-C end the program in one line where nothing is there yet to be finished."""

    def end(number: int, _frame: object) -> None:
        os.write(2, b"Interrupted.\n")
        os._exit(128 + number)

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


def short(path: Path) -> str:
    """Return a path as a user in the working directory would write it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
