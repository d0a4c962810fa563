"""The tracker: sends a run's record somewhere while it goes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from newton_krylov.records.record import Record
from newton_krylov.records.trace import Measured


@dataclass(frozen=True)
class Place:
    """Where a run shows in the tracker.

    Attributes
    ----------
    run_id : str or None
        The run's identifier there; None where nothing is tracked.
    url : str or None
        What a person would open.
    problem : str or None
        One sentence if something could not be sent.
    open : bool
        Whether the run is there, or may be, without its end: it would count as running for ever.
    """

    run_id: str | None = None
    url: str | None = None
    problem: str | None = None
    open: bool = False


class Tracker(ABC):
    """Follows one run. A tracker that fails says so once; the run goes on."""

    @property
    @abstractmethod
    def address(self) -> str | None:
        """Where the record goes, to be found after a kill; None for nowhere."""

    @abstractmethod
    def start(self, record: Record, parent: str | None) -> None:
        """Announce a run whose configuration and environment are recorded.

        Parameters
        ----------
        record : Record
            The run's folder.
        parent : str or None
            Identifier of the sweep's run, where the run belongs to one.
        """

    @abstractmethod
    def log(self, row: Measured) -> None:
        """Take a row of the trace, or what else was measured; may keep it for a while."""

    @abstractmethod
    def finish(self) -> None:
        """Send the rest: rows, final figures and files; and say how the run ended."""

    @abstractmethod
    def send(self, record: Record) -> None:
        """Send the record of a run that cannot do so itself, since it was killed.

        Parameters
        ----------
        record : Record
            Record of an ended run.
        """

    @property
    @abstractmethod
    def place(self) -> Place:
        """Where the run shows."""
