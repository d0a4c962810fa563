"""Tracking by MLflow."""

import logging
import time
from collections.abc import Callable
from functools import cache

from pydantic import PositiveFloat, PositiveInt

from newton_krylov.records.record import Record
from newton_krylov.records.trace import Measured, Row
from newton_krylov.registry import register
from newton_krylov.tracking import afterwards, mlflow_sender, unfinished
from newton_krylov.tracking.base import Place, Tracker
from newton_krylov.tracking.mlflow_sender import EVERY_STEP_UP_TO, Sender

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
    every_step_up_to : int
        Steps that are all sent; of more, a selection that is denser at the beginning, since
        thousands of quick steps would cost less time than their sending. The trace has all.
    timeout : int
        Seconds to wait for a server's answer.
    """

    def __init__(
        self,
        uri: str | None = None,
        flush_seconds: PositiveFloat = 5.0,
        every_step_up_to: PositiveInt = EVERY_STEP_UP_TO,
        timeout: PositiveInt = 10,
    ) -> None:
        self.uri = uri
        self.flush_seconds = flush_seconds
        self.every_step_up_to = every_step_up_to
        self.timeout = timeout
        self._record: Record | None = None
        self._run_id: str | None = None
        self._problem: str | None = None
        self._rows: list[Measured] = []
        self._seen = 0
        self._left_out: Row | None = None
        self._last_step = -1
        self._config_sent = False
        self._last_flush = time.monotonic()

    @property
    def _sender(self) -> Sender:
        return _sender(self.uri, self.timeout)

    def start(self, record: Record, parent: str | None) -> None:
        """Make the run, or open it again if it is continued."""
        self._record = record
        unfinished.remember(record)

        def send() -> None:
            sender = self._sender
            if record.replaced is not None:
                sender.delete(record.replaced)
            if record.continued:
                self._run_id = sender.find(record.config["name"], record.summary["id"])
            if self._run_id is None:
                self._run_id = mlflow_sender.start(sender, record, parent)
            else:
                sender.mark(self._run_id, "running")
                self._last_step = sender.last_step(self._run_id)
            record.update(mlflow_run_id=self._run_id, tracking_uri=sender.uri)

        self._attempt(send)
        for dead in _the_dead():
            self.send(dead)
        self._last_flush = time.monotonic()

    def log(self, row: Measured) -> None:
        """Keep the row; send all that is kept every `flush_seconds`."""
        if isinstance(row, Row) and not self._wanted(row):
            return
        self._rows.append(row)
        if time.monotonic() - self._last_flush >= self.flush_seconds:
            self._attempt(self._flush)
            self._last_flush = time.monotonic()

    def finish(self) -> None:
        """Send the rest, and say how the run ended."""

        def send() -> None:
            if self._run_id is None or self._record is None:
                return
            if self._left_out is not None:
                self._rows.append(self._left_out)
            if self._rows:
                self._last_step = self._rows[-1].iteration
            mlflow_sender.finish(
                self._sender,
                self._run_id,
                self._record,
                self._rows,
                self._last_step,
                with_config=not self._config_sent,
            )

        self._attempt(send)
        if self._record is not None:
            unfinished.forget(self._record)

    def send(self, record: Record) -> None:
        """Send a killed run's record."""

        def send() -> None:
            afterwards.send(_sender(record.summary.get("tracking_uri"), self.timeout), record)

        self._attempt(send)

    @property
    def place(self) -> Place:
        """Where the run shows."""
        if self._run_id is None or self._record is None:
            return Place(problem=self._problem)
        url = self._sender.url(self._record.config["name"], self._run_id)
        return Place(self._run_id, url, self._problem)

    def _wanted(self, row: Row) -> bool:
        number, self._seen = self._seen, self._seen + 1
        if row.iteration <= self._last_step:  # of a run that is continued; it is there
            return False
        wanted = mlflow_sender.wanted(number, self.every_step_up_to)
        self._left_out = None if wanted else row
        return wanted

    def _flush(self) -> None:
        if not self._rows or self._run_id is None or self._record is None:
            return
        plain = None if self._config_sent else self._record.config
        started = self._record.summary["started"]
        self._sender.log(self._run_id, rows=self._rows, started=started, plain=plain)
        self._config_sent = True
        self._last_step = self._rows[-1].iteration
        self._rows.clear()

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do something unless something failed before; a failure is told, never raised."""
        if self._problem is not None:
            return
        try:
            action()
        except Exception as error:
            self._problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            _log.info("tracking failed", exc_info=error)


@cache
def _the_dead() -> list[Record]:
    """Find, once a process, the records of killed ones."""
    return unfinished.bury_the_dead()


@cache
def _sender(uri: str | None, timeout: int) -> Sender:
    """One connection for all runs of a process."""
    return Sender(uri, timeout)
