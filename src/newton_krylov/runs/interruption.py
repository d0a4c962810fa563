"""Ctrl-C and SIGTERM: both end a run cleanly, with what it had."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType

_NUMBERS = (signal.SIGTERM, signal.SIGINT)
_BETWEEN_LOOKS = 1.0  # seconds


class Interruption:
    """What has arrived while signals are caught.

    Attributes
    ----------
    signal : int or None
        The first signal that arrived.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._held = False

    @property
    def status(self) -> str:
        """What the record says: "killed" for SIGTERM, "interrupted" for Ctrl-C."""
        return "killed" if self.signal == signal.SIGTERM else "interrupted"

    def hold(self) -> None:
        """Let the next signal wait: the record is being finished. One more is obeyed."""
        self._held = True

    def release(self) -> None:
        """Obey the next signal at once again."""
        self._held = False

    def obey(self) -> None:
        """Obey the signal that has waited, if one has, and the next one at once again."""
        self.release()
        if self.signal is not None:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal wait until something is written whole."""
        self.hold()
        try:
            yield
        finally:
            self.release()
        self.obey()

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        again, self._held = self._held, False
        self.signal = self.signal or number
        if not again:
            raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Turn SIGTERM into a `KeyboardInterrupt`, as Ctrl-C is one, and remember which it was.

    A run inside a sweep shares the sweep's: a signal that waited for the run's record ends the
    sweep.

    Yields
    ------
    Interruption
        What has arrived. Outside the main thread, where Python handles no signals, nothing does,
        and no Ctrl-C where it is ignored, as in a script's background.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Interruption()
        return
    outer = signal.getsignal(signal.SIGTERM)
    if isinstance(outer, Interruption):
        outer.release()
        try:
            yield outer
        finally:
            outer.release()
        return
    state = Interruption()
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    numbers = _NUMBERS[:1] if ignored else _NUMBERS
    before = {number: signal.signal(number, state) for number in numbers}
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@cache
def end_with(parent: int) -> None:
    """Let this process end when the one that started it is killed and cannot tell it to.

    Parameters
    ----------
    parent : int
        Its identifier, which this process may come too late to ask for.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_BETWEEN_LOOKS)
        while True:  # the first ends the run, the next an idle process
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_BETWEEN_LOOKS)
            while isinstance(signal.getsignal(signal.SIGTERM), Interruption):
                time.sleep(_BETWEEN_LOOKS)

    threading.Thread(target=watch, daemon=True, name="parent").start()
