"""Tracking by MLflow."""

import math
import time
from collections.abc import Callable
from functools import cache
from typing import Annotated, TypeVar

from pydantic import Field, PositiveFloat, PositiveInt

from newton_krylov.records.record import Record
from newton_krylov.records.trace import Measured, Row
from newton_krylov.registry import register
from newton_krylov.tracking import afterwards, mlflow_sender
from newton_krylov.tracking.base import Place, Tracker
from newton_krylov.tracking.mlflow_sender import DEADLINE, EVERY_STEP_UP_TO, Sender, log_failure

_T = TypeVar("_T")

_A_DAY = 86_400
"""Seconds; a longer wait is none that anybody wants, and a clock takes no infinite one."""

_SHARE = 20.0
"""A sending of one second is followed by this many without: a slow server slows no run down."""


@register("tracking", "mlflow")
class MLflowTracker(Tracker):
    """Sends a run to MLflow while it goes, rows in batches now and then.

    The first failure (no server, no disk) ends the sending; the run goes on, and its record can
    be sent later by `python -m newton_krylov.tracking.upload`.

    Parameters
    ----------
    uri : str or None
        URI of the tracking server or database; None is MLflow's own default.
    flush_seconds : float
        How often a running run sends its rows.
    every_step_up_to : int
        Steps that are all sent; of more, a selection that is denser at the beginning, since
        thousands of quick steps would cost less time than their sending. The trace has all.
    timeout : int
        Seconds to wait for a server's answer.
    deadline : float
        Seconds to wait for all that belongs together: opening the run, a batch of rows, the end.
    """

    def __init__(
        self,
        uri: str | None = None,
        flush_seconds: PositiveFloat = 5.0,
        every_step_up_to: PositiveInt = EVERY_STEP_UP_TO,
        timeout: Annotated[int, Field(gt=0, le=_A_DAY)] = 10,
        deadline: Annotated[float, Field(gt=0, le=_A_DAY)] = DEADLINE,
    ) -> None:
        self.uri = uri
        self.flush_seconds = flush_seconds
        self.every_step_up_to = every_step_up_to
        self.timeout = timeout
        self.deadline = deadline
        self._record: Record | None = None
        self._run_id: str | None = None
        self._problem: str | None = None
        self._open = False
        self._rows: list[Measured] = []
        self._seen = 0
        self._left_out: Row | None = None
        self._last_step = -1
        self._config_sent = False
        self._next_flush = math.inf

    @property
    def _sender(self) -> Sender:
        return _sender(self.uri, self.timeout, self.deadline)

    @property
    def address(self) -> str | None:
        """The server or database, passwords masked; None where there is no MLflow."""
        return self._attempt(lambda: self._sender.uri)

    def start(self, record: Record, parent: str | None) -> None:
        """Make the run, or open it again if it is continued."""
        self._record = record

        def send() -> tuple[str, int]:
            sender, run_id = self._sender, None
            if record.continued or record.restarted:
                run_id = sender.find(record.config["name"], record.summary["id"])
            if run_id is not None and record.restarted:
                sender.delete(run_id)
                run_id = None
            sender.experiment(record.config["name"])  # fails where there is no server
            self._open = True
            if run_id is None:
                return mlflow_sender.start(sender, record, parent), -1
            sender.mark(run_id, "running")
            sender.nest(run_id, parent)
            return run_id, sender.last_step(run_id)

        opened = self._attempt(lambda: self._sender.attempt(send))
        if opened is not None:
            self._run_id, self._last_step = opened
            record.update(mlflow_run_id=self._run_id)
        self._next_flush = time.monotonic() + self.flush_seconds

    def log(self, row: Measured) -> None:
        """Keep the row; send all that is kept every `flush_seconds`."""
        if self._problem is not None or (isinstance(row, Row) and not self._wanted(row)):
            return
        self._rows.append(row)
        began = time.monotonic()
        if began < self._next_flush:
            return
        self._attempt(self._flush)
        now = time.monotonic()
        self._next_flush = now + max(self.flush_seconds, _SHARE * (now - began))

    def finish(self) -> None:
        """Send the rest, and say how the run ended."""
        if self._run_id is None or self._record is None:
            return
        if self._left_out is not None:
            self._rows.append(self._left_out)
        if self._rows:
            self._last_step = self._rows[-1].iteration
        sender, run_id, record = self._sender, self._run_id, self._record

        def send() -> bool:
            mlflow_sender.finish(
                sender,
                run_id,
                record,
                self._rows,
                self._last_step,
                with_config=not self._config_sent,
            )
            return True

        try:
            self._open = not self._attempt(lambda: sender.attempt(send))
        except KeyboardInterrupt:  # the second one: the first waited for this
            self._problem = self._problem or "interrupted while the rest was being sent"

    def send(self, record: Record) -> None:
        """Send a killed run's record."""
        sender = _sender(record.summary.get("tracking_uri"), self.timeout, self.deadline)
        try:
            afterwards.send(sender, record)
        except Exception as error:  # its own trouble, not that of the run which is followed
            log_failure(error)

    @property
    def place(self) -> Place:
        """Where the run shows."""
        if self._run_id is None or self._record is None:
            return Place(problem=self._problem, open=self._open)
        url = self._sender.url(self._record.config["name"], self._run_id)
        return Place(self._run_id, url, self._problem, self._open)

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
        run_id, rows, started = self._run_id, list(self._rows), self._record.summary["started"]
        plain = None if self._config_sent else self._record.config
        sender = self._sender
        sender.attempt(lambda: sender.log(run_id, rows=rows, started=started, plain=plain))
        self._config_sent = True
        self._last_step = rows[-1].iteration
        self._rows.clear()

    def _attempt(self, action: Callable[[], _T]) -> _T | None:
        """Do something unless something failed before; a failure is logged, never raised."""
        if self._problem is not None:
            return None
        try:
            return action()
        except Exception as error:
            self._problem = log_failure(error)
            return None


@cache
def _sender(uri: str | None, timeout: int, deadline: float) -> Sender:
    """One connection for all runs of a process."""
    return Sender(uri, timeout, deadline)
