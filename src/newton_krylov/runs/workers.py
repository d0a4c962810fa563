"""Processes of joblib's, in which a sweep's members run: they end with the command."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from joblib import register_parallel_backend
from joblib._parallel_backends import LokyBackend
from joblib.externals.loky import get_reusable_executor

from newton_krylov.runs.interruption import end_with
from newton_krylov.terminal import say

_CTRL_C = {signal.SIGINT}


class _Watched(LokyBackend):
    """The backend that starts processes, which look after their parent before they have work."""

    def configure(self, *args: Any, **options: Any) -> Any:
        """Set up, with what a process does first."""
        options |= {"initializer": _begin, "initargs": (os.getpid(),)}
        return super().configure(*args, **options)  # type: ignore[no-untyped-call]

    def submit(self, *args: Any, **options: Any) -> Any:
        """Hand work on, for which processes may be started.

        A terminal's Ctrl-C goes to all of them. It is blocked meanwhile, which they inherit: among
        its imports, a process would answer it by a traceback.
        """
        resource_tracker.ensure_running()  # it would end the blocking where it is started by this
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _CTRL_C)
        try:
            return super().submit(*args, **options)  # type: ignore[no-untyped-call]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(parent: int) -> None:
    """Do what a process does before its first work: what does not, would stay for 300 s."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        # Outside of a run the parent ends it; ignoring it would be for the runs, too.
        signal.signal(signal.SIGINT, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _CTRL_C)
    end_with(parent)


@contextmanager
def ending_workers() -> Iterator[None]:
    """Let the processes that joblib starts inside end with this one, if by SIGKILL, and at the end.

    By themselves they take seconds to end, for which the command would wait without a word.
    """
    register_parallel_backend("loky", _Watched)  # type: ignore[no-untyped-call]
    say("starting processes for the runs (each of them imports PyTorch)")
    yield
    executor = get_reusable_executor(reuse=True)  # type: ignore[no-untyped-call]
    executor.shutdown(wait=False, kill_workers=True)
