"""No tracking."""

from newton_krylov.records.record import Record
from newton_krylov.records.trace import Measured
from newton_krylov.registry import register
from newton_krylov.tracking.base import Place, Tracker


@register("tracking", "none")
class NoTracker(Tracker):
    """Sends nothing: the record on disk is complete without it."""

    place = Place()
    address = None

    def start(self, record: Record, parent: str | None) -> None:
        """Do nothing."""

    def log(self, row: Measured) -> None:
        """Do nothing."""

    def send(self, record: Record) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""
