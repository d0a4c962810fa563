"""Tracking by MLflow."""

import logging
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from pydantic import PositiveFloat, PositiveInt

from newton_krylov.record import Record
from newton_krylov.registry import register
from newton_krylov.trace import Row
from newton_krylov.tracking import mlflow_sender
from newton_krylov.tracking.base import Place, Tracker
from newton_krylov.tracking.mlflow_sender import Sender

_log = logging.getLogger(__name__)


@register("tracking", "mlflow")
class MLflowTracker(Tracker):
    """Sends a run to MLflow while it goes, rows in batches now and then.

    The first failure (no server, no disk) ends the sending; the run goes on, and its record can
    be sent later by `python -m newton_krylov.tracking.upload`.

    Parameters
    ----------
    uri : str or None
        Of the tracking server or database; None is MLflow's own default.
    flush_seconds : float
        How often a running run sends its rows.
    timeout : int
        Seconds to wait for a server's answer.
    """

    def __init__(
        self,
        uri: str | None = None,
        flush_seconds: PositiveFloat = 5.0,
        timeout: PositiveInt = 10,
    ) -> None:
        self.uri = uri
        self.flush_seconds = flush_seconds
        self.timeout = timeout
        self._record: Record | None = None
        self._run_id: str | None = None
        self._problem: str | None = None
        self._rows: list[Row] = []
        self._last_step = -1
        self._last_flush = time.monotonic()

    @property
    def _sender(self) -> Sender:
        return _sender(self.uri, self.timeout)

    def start(self, record: Record, parent: str | None) -> None:
        """Make the run, with its parameters and tags."""
        self._record = record

        def send() -> None:
            self._run_id = mlflow_sender.start(self._sender, record, parent)

        self._attempt(send)
        self._last_flush = time.monotonic()

    def log(self, row: Row) -> None:
        """Keep the row; send all that is kept every `flush_seconds`."""
        self._rows.append(row)
        if time.monotonic() - self._last_flush >= self.flush_seconds:
            self._attempt(self._flush)
            self._last_flush = time.monotonic()

    def finish(self) -> None:
        """Send the rest, and say how the run ended."""

        def send() -> None:
            self._flush()
            if self._run_id is not None and self._record is not None:
                mlflow_sender.finish(self._sender, self._run_id, self._record, self._last_step)

        self._attempt(send)

    @property
    def place(self) -> Place:
        """Where the run shows."""
        url = None if self._run_id is None else self._sender.url(self._run_id)
        return Place(self._run_id, url, self._problem)

    def _flush(self) -> None:
        if self._rows and self._run_id is not None and self._record is not None:
            self._sender.rows(self._run_id, self._rows, self._record.summary["started"])
            self._last_step = self._rows[-1].iteration
            self._rows.clear()

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do something unless something failed before; a failure is told, never raised."""
        if self._problem is not None:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever a server or database does
            self._problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            _log.info("tracking failed", exc_info=error)


@cache
def _sender(uri: str | None, timeout: int) -> Sender:
    """One connection for all runs of a process."""
    return Sender(uri, timeout)
