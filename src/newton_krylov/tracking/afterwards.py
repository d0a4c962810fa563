"""Sends records afterwards: the server was down, or the run was killed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from newton_krylov.errors import UserError
from newton_krylov.records.record import TRACE, Record, SweepRecord
from newton_krylov.records.spectrum import SPECTRUM, Snapshot, read_snapshots
from newton_krylov.records.trace import Measured, Row, read_trace
from newton_krylov.tracking import mlflow_sender
from newton_krylov.tracking.mlflow_sender import EVERY_STEP_UP_TO, Sender, wanted
from newton_krylov.tracking.unfinished import forget, load

_TIMEOUT = 30  # seconds to wait for a server's answer: nobody's run waits


@dataclass(frozen=True)
class Sent:
    """What became of a record.

    Attributes
    ----------
    folder : Path
        The record's.
    what : str
        "sent", "completed", "was there" or "still running".
    run_id : str or None
        MLflow's identifier.
    """

    folder: Path
    what: str
    run_id: str | None = None


def upload(folders: Iterable[Path], uri: str | None = None) -> Iterator[Sent]:
    """Send the records in some folders, a sweep's before those of its members.

    Parameters
    ----------
    folders : iterable of Path
        Of runs or sweeps, or anything above them.
    uri : str, optional
        Where to; by default where each record's own configuration says.

    Yields
    ------
    Sent
        What became of each record.

    Raises
    ------
    UserError
        For a path that is not a folder, and where there are no records.
    """
    senders: dict[str | None, Sender] = {}
    for record in _records(folders):
        place = uri or record.summary.get("tracking_uri") or _uri_of(record)
        sender = senders.setdefault(place, Sender(place, _TIMEOUT))
        yield send(sender, record)


def send(sender: Sender, record: Record) -> Sent:
    """Send what a server lacks of a record.

    Parameters
    ----------
    sender : Sender
        Where to.
    record : Record
        Of a run or a sweep.

    Returns
    -------
    Sent
        What became of it.
    """
    if record.alive:
        return Sent(record.folder, "still running")
    record.bury()
    name, rows = str(record.config["name"]), _rows(record.folder)
    run_id = sender.find(name, record.summary["id"])
    what = "sent" if run_id is None else "was there"
    if run_id is None:
        run_id = mlflow_sender.start(sender, record, _parent(sender, record, name))
    known = sender.last_step(run_id)
    seen: list[Measured] = [*_thinned(record, rows), *_snapshots(record.folder)]
    missing = [row for row in seen if row.iteration > known]
    if what == "was there" and (missing or not sender.ended(run_id)):
        what = "completed"
    record.update(mlflow_run_id=run_id, tracking_uri=sender.uri, tracking_problem=None)
    last = rows[-1].iteration if rows else -1
    mlflow_sender.finish(sender, run_id, record, missing, last, with_config=True)
    forget(record)
    return Sent(record.folder, what, run_id)


def _records(folders: Iterable[Path]) -> Iterator[Record]:
    found = False
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give run or sweep folders, as in outputs/.")
        sweeps = {path.parent for path in folder.rglob(SweepRecord.summary_file)}
        runs = {path.parent for path in folder.rglob(Record.summary_file)}
        for place in [*sorted(sweeps), *sorted(runs - sweeps)]:
            record = load(place)
            if record is not None:
                found = True
                yield record
    if not found:
        places = ", ".join(str(folder) for folder in folders)
        raise UserError(f"No records in {places}: a run's folder holds {Record.summary_file}.")


def _thinned(record: Record, rows: list[Row]) -> list[Row]:
    """Take those rows of a trace that the run itself would have sent."""
    options = record.config.get("tracking") or {}
    limit = int(options.get("every_step_up_to", EVERY_STEP_UP_TO))
    numbers = [n for n in range(len(rows)) if wanted(n, limit) or n == len(rows) - 1]
    return [rows[number] for number in numbers]


def _rows(folder: Path) -> list[Row]:
    try:
        return read_trace(folder / TRACE)
    except FileNotFoundError:  # a sweep, or a run that never made a step
        return []
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / TRACE} cannot be read: {error}.") from error


def _snapshots(folder: Path) -> list[Snapshot]:
    try:
        return read_snapshots(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / SPECTRUM} cannot be read: {error}.") from error


def _uri_of(record: Record) -> str | None:
    uri = (record.config.get("tracking") or {}).get("uri")
    return None if uri is None else str(uri)


def _parent(sender: Sender, record: Record, name: str) -> str | None:
    """Find the run of the sweep that a run belongs to: the nearest folder above with its record."""
    if isinstance(record, SweepRecord):
        return None
    for folder in record.folder.absolute().parents:
        if (folder / SweepRecord.summary_file).exists():
            sweep = load(folder)
            return None if sweep is None else sender.find(name, sweep.summary["id"])
    return None
