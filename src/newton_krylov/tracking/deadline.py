"""A bound on how long a server can keep a run waiting."""

import secrets
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from newton_krylov.tracking.database import is_locked

_T = TypeVar("_T")


def within(seconds: float, action: Callable[[], _T]) -> _T:
    """Do something that may never return, and wait for it no longer than so long.

    A server can hold a connection in ways that no timeout of a request bounds: by asking to come
    back in an hour, or by a byte a second. What is not done in time is left to a thread that ends
    with the process.

    Parameters
    ----------
    seconds : float
        To wait at most.
    action : callable
        May run on after this has raised; so it must not touch what others write.

    Returns
    -------
    object
        What the action returns.

    Raises
    ------
    TimeoutError
        If it took longer.
    """
    results: list[_T] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            results.append(action())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=work, daemon=True, name="tracking").start()
    if not done.wait(seconds):
        raise TimeoutError(f"no answer within {seconds:g} s")
    if errors:
        raise errors[0]
    return results[0]


def until_unlocked(seconds: float, action: Callable[[], _T]) -> _T:
    """Do something with a database, again and again while another process holds it.

    SQLite waits for a lock by itself, but not where two that read both want to write: it refuses
    one of them at once, who has to begin again.

    Parameters
    ----------
    seconds : float
        From the first time on, after which it is not tried again.
    action : callable
        A whole transaction, of which nothing is done where it raises.

    Returns
    -------
    object
        What the action returns.

    Raises
    ------
    Exception
        The action's own.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return action()
        except Exception as error:
            if not is_locked(error) or time.monotonic() > end:
                raise
        # Two that have met should not meet again, whatever seeds their runs have set.
        time.sleep(0.05 + secrets.randbelow(450) / 1000)
