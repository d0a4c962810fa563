"""The member of a sweep from whose weights another one starts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newton_krylov.errors import UserError
from newton_krylov.records.record import WEIGHTS, Record

PENALTY = ("l2", "l1")
"""Keys of the loss in which the two may differ."""


@dataclass(frozen=True)
class Predecessor:
    """A run of the same problem and method, but for the penalty.

    Attributes
    ----------
    record : Record
        Its record, of a run that finished.
    """

    record: Record

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return self.record.folder / WEIGHTS

    @property
    def facts(self) -> dict[str, Any]:
        """Which it is, for the record of the run that starts from it."""
        loss = self.record.config["loss"]
        return {"member": self.record.folder.name, **{k: loss[k] for k in PENALTY if k in loss}}

    @property
    def text(self) -> str:
        """The same in words."""
        facts = self.facts
        values = ", ".join(f"loss.{key}={facts[key]:g}" for key in PENALTY if key in facts)
        return f"run {facts['member']} ({values})"


def predecessor(sweep: Path, folder: Path, plain: Mapping[str, Any]) -> Predecessor | None:
    """Return the last finished member before one that differs from it in the penalty alone.

    Parameters
    ----------
    sweep, folder : Path
        Folders of the sweep and of the member.
    plain : mapping
        The member's checked configuration.

    Returns
    -------
    Predecessor or None
        None for the first.
    """
    own, mine = _place(folder), _without_penalty(plain)
    for other in sorted(sweep.iterdir(), key=_place, reverse=True):
        if _place(other) >= own or not (other / WEIGHTS).exists():
            continue
        try:
            record = Record.load(other)
        except UserError:
            continue
        found = Predecessor(record)
        finished = record.summary.get("status") == "finished" and not record.weights_damaged
        if finished and _without_penalty(record.config) == mine:
            return found
    return None


def _place(folder: Path) -> tuple[int, str]:
    """Return what orders members by their numbers."""
    return len(folder.name), folder.name


def _without_penalty(plain: Mapping[str, Any]) -> dict[str, Any]:
    loss = {key: value for key, value in plain["loss"].items() if key not in PENALTY}
    rest = {key: value for key, value in plain.items() if key not in ("label", "tracking")}
    return {**rest, "loss": loss}
