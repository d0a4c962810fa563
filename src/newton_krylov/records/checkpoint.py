"""A checkpoint: what a run needs to go on from its last step as if nothing had happened."""

import hashlib
import io
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from newton_krylov.errors import DataError
from newton_krylov.files import atomic_write, require_file
from newton_krylov.records.trace import Row

CHECKPOINT = "checkpoint.pt"
"""The checkpoint's file name in a run's folder."""

_FORMAT = 3
_DIGEST = 32  # bytes of SHA-256 at the file's end: torch reads a flipped bit without a word


@dataclass(frozen=True)
class Checkpoint:
    """A run after one of its steps.

    Attributes
    ----------
    w : Tensor, shape (dim,)
        The iterate.
    optimizer : dict
        What `Optimizer.state_dict` returned.
    generator : Tensor, uint8
        The state of the run's generator.
    counts : dict
        What has been evaluated so far (see `Counts`).
    rows : list of Row
        The trace up to here: a killed run's file may have gone further than its checkpoint.
    origin : dict
        Checksums of what the run stands on, by name.
    """

    w: Tensor
    optimizer: dict[str, Any]
    generator: Tensor
    counts: dict[str, float]
    rows: list[Row]
    origin: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all; what was there before is replaced.

        Parameters
        ----------
        path : Path
            The file.
        """
        content: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        content["rows"] = [asdict(row) for row in self.rows]
        content["format"] = _FORMAT
        archive = io.BytesIO()
        torch.save(content, archive)
        with atomic_write(path) as stream:
            stream.write(archive.getbuffer())
            stream.write(hashlib.sha256(archive.getbuffer()).digest())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read it back, tensors on the CPU; nothing in the file is executed.

        Parameters
        ----------
        path : Path
            Written by `save`.

        Returns
        -------
        Checkpoint
            The file's content.

        Raises
        ------
        DataError
            If there is none, or the file is damaged or something else.
        """
        try:
            require_file(path)
            data = path.read_bytes()
            archive, digest = data[:-_DIGEST], data[-_DIGEST:]
            if hashlib.sha256(archive).digest() != digest:
                raise DataError(f"{path} is not a whole checkpoint of a run.")
            content = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
            if content.pop("format") != _FORMAT:
                raise DataError(f"{path} is a checkpoint of another version of this program.")
            content["rows"] = [Row(**row) for row in content["rows"]]
            return cls(**content)
        except DataError:
            raise
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        except Exception as error:  # whatever a damaged archive makes torch or us raise
            raise DataError(f"{path} is not a whole checkpoint of a run.") from error


class OnCheckpoint(Protocol):
    """Takes checkpoints, outside the timed region."""

    @property
    def due(self) -> bool:
        """Whether one is wanted after this step."""

    def __call__(self, checkpoint: Checkpoint, /) -> None:
        """Take one."""


class Saver:
    """Keeps a run's last checkpoint in its folder.

    Parameters
    ----------
    path : Path
        The file; replaced by each checkpoint.
    seconds : float
        Between two of them: what a kill costs at most, beside the step in hand.
    origin : mapping, optional
        Goes into each; see `Checkpoint`.
    """

    def __init__(self, path: Path, seconds: float, origin: Mapping[str, str] | None = None) -> None:
        self._path, self._seconds, self._origin = path, seconds, dict(origin or {})
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._last >= self._seconds

    def __call__(self, checkpoint: Checkpoint, /) -> None:
        """Save one."""
        replace(checkpoint, origin=self._origin).save(self._path)
        self._last = time.monotonic()
