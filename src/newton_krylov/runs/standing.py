"""How far a sweep has come, read from its folder: its members may run in several processes."""

import time
from dataclasses import dataclass
from pathlib import Path

from newton_krylov.errors import UserError
from newton_krylov.records.record import SUMMARY, SWEEP, read_json

_ended: set[Path] = set()
"""Members that are known to have ended, so that each summary is read few times."""


@dataclass(frozen=True)
class Standing:
    """How many members of a sweep have ended.

    Attributes
    ----------
    planned : int
        How many there will be.
    done : int
        How many have ended.
    before : int
        How many of these had finished before this command, which resumes the sweep.
    seconds : float
        Since the command began the sweep.
    """

    planned: int
    done: int
    before: int
    seconds: float

    @property
    def text(self) -> str:
        """Such as `3 of 9 done, about 40 s left`: what is left takes as long as what was run."""
        text = f"{self.done} of {self.planned} done"
        left, ran = self.planned - self.done, self.done - self.before
        if left <= 0 or ran <= 0:
            return text
        return f"{text}, about {duration_text(left * self.seconds / ran)} left"


def planned(members: int | None, folder: Path) -> dict[str, object]:
    """Return what the record of a sweep says of its plan.

    Parameters
    ----------
    members : int or None
        How many there will be; None where that is not known.
    folder : Path
        Folder of the sweep.

    Returns
    -------
    dict
        Keys of its summary.
    """
    before = sum(_status(path) == "finished" for path in folder.glob(f"*/{SUMMARY}"))
    return {"planned": members, "finished_before": before, "resumed": time.time()}


def standing(folder: Path) -> Standing | None:
    """Return how far a sweep has come.

    Parameters
    ----------
    folder : Path
        Folder of the sweep.

    Returns
    -------
    Standing or None
        None where its record has no plan.
    """
    try:
        summary = read_json(folder / SWEEP)
    except UserError:
        return None
    members, began = summary.get("planned"), summary.get("resumed")
    if not isinstance(members, int) or not isinstance(began, float):
        return None
    before = int(summary.get("finished_before") or 0)
    done = sum(_has_ended(path, began) for path in folder.glob(f"*/{SUMMARY}"))
    return Standing(members, min(done, members), before, time.time() - began)


def _has_ended(path: Path, began: float) -> bool:
    """Whether a member has ended; one that failed before the sweep was resumed is run again."""
    if path not in _ended:
        status = _status(path)
        if status in (None, "running") or (
            status != "finished" and path.stat().st_mtime < began - 1
        ):
            return False
        _ended.add(path)
    return True


def _status(path: Path) -> str | None:
    try:
        return str(read_json(path).get("status"))
    except UserError:
        return None


def duration_text(seconds: float) -> str:
    """Write an estimate of a duration, without digits that nobody knows."""
    if seconds < 1:
        return "1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
