"""Resuming an interrupted run: which folder, and from which step."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from newton_krylov.errors import DataError, TakenError, UserError
from newton_krylov.records.checkpoint import CHECKPOINT, Checkpoint
from newton_krylov.records.record import (
    CONFIG,
    OVERRIDES,
    WEIGHTS,
    Record,
    SweepRecord,
    flatten,
    read_overrides,
)
from newton_krylov.runs.config import OF_THE_COMMAND

_R = TypeVar("_R", bound=Record)

_INCIDENTAL = ("tracking", "data_dir", "checkpoint_seconds", "spectrum")
"""Keys that do not change what a run computes: a run may be continued with others."""


_PATIENCE = 5.0  # seconds


@dataclass(frozen=True)
class EarlierRun:
    """What a folder holds of a run that is to be continued.

    Attributes
    ----------
    record : Record
        Record written by the earlier process.
    checkpoint : Checkpoint or None
        From where it can go on; None: from the start.
    problem : str or None
        Why not from its checkpoint.
    """

    record: Record
    checkpoint: Checkpoint | None = None
    problem: str | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.record.summary.get("status") == "finished"


def earlier(folder: Path, plain: Mapping[str, Any], *, resume: bool) -> EarlierRun | None:
    """Look at what a run's folder holds already.

    Parameters
    ----------
    folder : Path
        Folder of the run that is about to start.
    plain : mapping
        Checked configuration of the run.
    resume : bool
        Whether to continue what is there.

    Returns
    -------
    EarlierRun or None
        None where nothing is.

    Raises
    ------
    UserError
        If there is a run and it is not to be continued, or is another one.
    """
    if not (folder / CONFIG).exists():
        return None
    if not resume:
        raise TakenError(
            f"{folder} holds a run already: continue it by resume=true, or choose another folder."
        )
    _wait_for(Record(folder))
    record = loaded(Record, folder)
    if record is None:
        return None
    if record.alive:
        raise TakenError(f"Another process is writing to {folder}.")
    _require_equal(record.config, plain, folder)
    found = EarlierRun(record)
    if found.finished and record.weights_damaged:
        raise UserError(
            f"{folder / WEIGHTS} is damaged or gone: restore it, or choose another folder."
        )
    if found.finished or not (folder / CHECKPOINT).exists():
        return found
    try:
        return EarlierRun(record, Checkpoint.load(folder / CHECKPOINT))
    except DataError as error:
        return EarlierRun(record, problem=f"{error} The run starts over.")


def _wait_for(record: Record) -> None:
    """Let a worker that a killed sweep left finish its record; it ends by itself."""
    end = time.monotonic() + _PATIENCE
    while record.alive and time.monotonic() < end:
        time.sleep(0.1)


def loaded(kind: type[_R], folder: Path) -> _R | None:
    """Read the record that is to be continued.

    Parameters
    ----------
    kind : type
        `Record` or `SweepRecord`.
    folder : Path
        Holds its configuration at least.

    Returns
    -------
    Record or None
        None where its process was killed while it wrote the first files.

    Raises
    ------
    UserError
        If a file is damaged: it is not ours to write over.
    """
    if not (folder / kind.summary_file).exists():
        return None
    try:
        return kind.load(folder)
    except UserError as error:
        raise UserError(
            f"{str(error).rstrip('.')}: the record in {folder} is damaged; restore the file, or "
            f"choose another folder."
        ) from error


def _require_equal(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    before, now = _comparable(old), _comparable(new)
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise TakenError(
                f"{folder} holds a run with {key}={before.get(key)}, not {now.get(key)}: "
                f"resume=true continues the same configuration; choose another folder for this."
            )


def _comparable(plain: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in plain.items() if key not in _INCIDENTAL}
    return flatten(json.loads(json.dumps(kept)))


def latest(root: Path, overrides: Sequence[str], *, sweep: bool) -> Path:
    """Find the newest folder of the same command.

    Parameters
    ----------
    root : Path
        Holds folders of a day, which hold those of runs and sweeps.
    overrides : sequence of str
        Overrides of the command; those of Hydra's own keys and `resume` do not count.
    sweep : bool
        Whether to look for a sweep or a run.

    Returns
    -------
    Path
        Folder of the run.

    Raises
    ------
    UserError
        If there is none.
    """
    kind, what = (SweepRecord, "sweep") if sweep else (Record, "run")
    wanted = sorted(task_overrides(overrides))
    for path in sorted(root.glob(f"*/*/{kind.config_file}"), reverse=True):
        if not (path.parent / OVERRIDES).exists():  # it was killed while it wrote its first files
            continue
        try:
            given = read_overrides(path.parent)
        except UserError as error:
            raise UserError(
                f"resume=true: the newest {what} may be the one in {path.parent}, but it is "
                f"damaged ({str(error).rstrip('.')}); remove it, or give another folder by "
                f"hydra.{what}.dir=FOLDER."
            ) from error
        if sorted(task_overrides(given)) == wanted:
            return path.parent
    raise UserError(
        f"resume=true: there is no earlier {what} of this command in {root}; repeat its overrides "
        f"exactly, or give its folder by hydra.{what}.dir=FOLDER."
    )


def task_overrides(overrides: Sequence[str]) -> list[str]:
    """Leave out what does not change what is run.

    Parameters
    ----------
    overrides : sequence of str
        As given to the command.

    Returns
    -------
    list of str
        Without Hydra's own keys and those of the command.
    """
    skipped = ("hydra", *(f"{key}=" for key in OF_THE_COMMAND))
    return [line for line in overrides if not line.lstrip("+~").startswith(skipped)]
