"""Threads that do parts of a compiled product.

They are Python's, since the loops hold no lock of the interpreter, and as many as torch has for its
own operations: one pool less than OpenMP's of a third library, which would wait for torch's.
"""

import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

Work = Callable[[], Any]


class _Piece:
    """Work that whoever comes first does: a helper, or the thread that waits for the result."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._free, self._unfinished = threading.Lock(), threading.Lock()
        self._unfinished.acquire()
        self._result: Any = None
        self._error: BaseException | None = None

    def attempt(self) -> bool:
        """Do it, unless another thread is at it already; return whether it was done here."""
        if not self._free.acquire(blocking=False):
            return False
        try:
            self._result = self._work()
        except BaseException as error:  # raised where the result is waited for
            self._error = error
        self._unfinished.release()
        return True

    def result(self) -> Any:
        if not self.attempt():
            self._unfinished.acquire()
        if self._error is not None:
            raise self._error
        return self._result


class _Helpers:
    """The helping threads of this process."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin without any, as a forked process does: it has the thread that forked alone."""
        self._count = 0
        self._pieces: SimpleQueue[_Piece] = SimpleQueue()

    def offer(self, pieces: Sequence[_Piece]) -> None:
        while self._count < len(pieces):
            threading.Thread(
                target=_serve, args=(self._pieces,), name="newton_krylov-kernels", daemon=True
            ).start()
            self._count += 1
        for piece in pieces:
            self._pieces.put(piece)


def _serve(pieces: "SimpleQueue[_Piece]") -> None:
    while True:
        pieces.get().attempt()


_helpers = _Helpers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.forget)


def together(works: Sequence[Work]) -> list[Any]:
    """Do pieces of work at the same time, each in a thread of its own.

    The first is done in this thread, which then takes over the others that no helper has begun: on
    a busy machine nobody waits for a thread that does not get a processor.

    Parameters
    ----------
    works : sequence of callable
        Without arguments.

    Returns
    -------
    list
        What each returned, in their order.
    """
    if len(works) == 1:
        return [works[0]()]
    pieces = [_Piece(work) for work in works]
    _helpers.offer(pieces[1:])
    return [piece.result() for piece in pieces]
