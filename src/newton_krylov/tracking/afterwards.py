"""Sends records afterwards: the server was down, or the run was killed."""

import csv
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from newton_krylov.errors import UserError
from newton_krylov.records.notes import forget
from newton_krylov.records.record import TRACE, Record, SweepRecord
from newton_krylov.records.spectrum import SPECTRUM, Snapshot, read_snapshots
from newton_krylov.records.trace import Measured, Row, cut_short, read_trace
from newton_krylov.records.unfinished import load, mark_killed
from newton_krylov.tracking import mlflow_sender
from newton_krylov.tracking.address import masked
from newton_krylov.tracking.mlflow_sender import (
    DEADLINE,
    EVERY_STEP_UP_TO,
    Sender,
    log_failure,
    wanted,
)

_TIMEOUT = 30  # seconds to wait for a server's answer: nobody's run waits
_PATIENCE = 5  # the same where somebody's run does
_DEADLINE = 120.0  # seconds for a record


@dataclass(frozen=True)
class UploadResult:
    """The result of sending a record.

    Attributes
    ----------
    folder : Path
        Folder of the record.
    what : str
        "sent", "completed", "was there", "still running" or "left out".
    run_id : str or None
        MLflow's identifier.
    problem : str or None
        Why it was left out.
    """

    folder: Path
    what: str
    run_id: str | None = None
    problem: str | None = None


def upload(folders: Iterable[Path], uri: str | None = None) -> Iterator[UploadResult]:
    """Send the records in some folders, a sweep's before those of its members.

    Parameters
    ----------
    folders : iterable of Path
        Folders of runs or sweeps, or anything above them.
    uri : str, optional
        Where to; by default where each record's own configuration says.

    Yields
    ------
    UploadResult
        The result for each record; what is wrong with one keeps no other from being sent.

    Raises
    ------
    UserError
        For a path that is not a folder, and where there are no records.
    """
    places = list(_places(folders))
    if not places:
        names = ", ".join(str(folder) for folder in folders)
        raise UserError(f"No records in {names}: a run's folder holds {Record.summary_file}.")
    senders: dict[str | None, Sender] = {}
    for folder in places:
        try:
            kind = SweepRecord if (folder / SweepRecord.summary_file).exists() else Record
            record = kind.load(folder)
            place = uri or _address(record)
            yield send(senders.setdefault(place, Sender(place, _TIMEOUT, _DEADLINE)), record)
        except Exception as error:
            yield UploadResult(folder, "left out", problem=log_failure(error))


def send(sender: Sender, record: Record) -> UploadResult:
    """Send what a server lacks of a record.

    Parameters
    ----------
    sender : Sender
        Connection to the server.
    record : Record
        Record of a run or a sweep.

    Returns
    -------
    UploadResult
        The result.

    Raises
    ------
    UserError
        If the record is damaged.
    Exception
        An error of MLflow's.
    """
    if record.alive:
        return UploadResult(record.folder, "still running")
    record.mark_killed()
    rows = _rows(record)
    snapshots = _snapshots(record.folder)

    def transfer() -> tuple[str, str]:
        name = str(record.config["name"])
        run_id = sender.find(name, record.summary["id"])
        what = "sent" if run_id is None else "was there"
        parent = _parent(sender, record, name)
        if run_id is None:
            run_id = mlflow_sender.start(sender, record, parent)
        else:
            sender.nest(run_id, parent)
        known = sender.last_step(run_id)
        missing: list[Measured] = [row for row in _thinned(record, rows) if row.iteration > known]
        if what == "was there" and (missing or not sender.ended(run_id)):
            what = "completed"
        missing += [seen for seen in snapshots if seen.iteration >= known]  # after the step's row
        last = rows[-1].iteration if rows else -1
        mlflow_sender.finish(sender, run_id, record, missing, last, with_config=True)
        return what, run_id

    what, run_id = sender.attempt(transfer)
    record.update(mlflow_run_id=run_id, tracking_uri=sender.uri, tracking_problem=None)
    forget(record.summary["id"])
    return UploadResult(record.folder, what, run_id)


def settle() -> None:
    """Mark the records that killed processes left on this machine, and send the rest of them.

    So are those sent that ended while their tracker could not be reached. What cannot be sent
    within the deadline is tried again by a command an hour later, and keeps nothing else back.
    """
    end = time.monotonic() + DEADLINE
    dead = list(mark_killed())
    places = {record.summary.get("tracking_uri") for record in dead} - {None}
    senders = {place: Sender(place, _PATIENCE, DEADLINE / len(places)) for place in places}
    for record in dead:
        place = record.summary.get("tracking_uri")
        if place is None:  # it was not tracked, or had not begun to be
            forget(record.summary["id"])
            continue
        if time.monotonic() > end:
            return
        try:
            send(senders[place], record)
        except Exception as error:
            log_failure(error)


def _places(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the folders of records, sweeps first."""
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give run or sweep folders, as in outputs/.")
        sweeps = {path.parent for path in folder.rglob(SweepRecord.summary_file)}
        runs = {path.parent for path in folder.rglob(Record.summary_file)}
        yield from [*sorted(sweeps), *sorted(runs - sweeps)]


def _thinned(record: Record, rows: list[Row]) -> list[Row]:
    """Take those rows of a trace that the run itself would have sent."""
    options = record.config.get("tracking") or {}
    limit = int(options.get("every_step_up_to", EVERY_STEP_UP_TO))
    numbers = [n for n in range(len(rows)) if wanted(n, limit) or n == len(rows) - 1]
    return [rows[number] for number in numbers]


def _rows(record: Record) -> list[Row]:
    path = record.folder / TRACE
    try:
        rows = read_trace(path)
    except FileNotFoundError:  # a sweep, or a run that never made a step
        rows = []
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    if (fault := cut_short(record.summary, rows)) is not None:
        raise UserError(f"{path} {fault}")
    return rows


def _snapshots(folder: Path) -> list[Snapshot]:
    try:
        return read_snapshots(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / SPECTRUM} cannot be read: {error}.") from error


def _address(record: Record) -> str | None:
    """Return where a record says that it goes, unless your password would go there, too.

    MLflow shows the one that it has from its variables or its file to any server, and so do the
    clients of databases, which have more places for it than can be looked at here.
    """
    from mlflow.utils.credentials import read_mlflow_creds

    place = record.summary.get("tracking_uri") or _uri_of(record)
    own = masked(os.environ.get("MLFLOW_TRACKING_URI", ""))
    scheme, rest, _ = str(place).lower().partition("://")
    if place is None or place == own or not rest or scheme.startswith(("sqlite", "file")):
        return place
    known = any(read_mlflow_creds()) or os.environ.get("MLFLOW_TRACKING_TOKEN")
    if known or scheme not in ("http", "https"):
        raise UserError(
            f"The record names the server {place}, to which MLflow would send your password or "
            f"token: if it is yours, give the address by --uri."
        )
    return place


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
