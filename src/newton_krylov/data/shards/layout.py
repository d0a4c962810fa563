"""What a folder of shards holds: `dataset.json` and, for each split, shards and labels."""

from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic.dataclasses import dataclass

from newton_krylov.data.catalogue import Task
from newton_krylov.errors import DataError
from newton_krylov.files import require_inside

SplitName = Literal["train", "test"]

DATASET = "dataset.json"
FORMAT = 1

_MAX_BYTES = 64 * 2**20  # of dataset.json: half a million shards
_Int32 = Annotated[int, pydantic.Field(ge=0, lt=2**31)]
_Sha256 = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class ShardSize:
    """One shard: its rows, its entries and the SHA-256 of its files' contents."""

    rows: _Int32
    nnz: _Int32
    sha256: _Sha256


@dataclass(frozen=True)
class SplitSize:
    """One split: its shards, and the SHA-256 of its labels."""

    shards: list[ShardSize]
    labels_sha256: _Sha256

    @property
    def rows(self) -> int:
        """Samples in all."""
        return sum(shard.rows for shard in self.shards)


@dataclass(frozen=True)
class Description:
    """A whole data set; `dataset.json` holds it."""

    format: int
    task: Task
    n_classes: Annotated[int, pydantic.Field(ge=0)]
    n_features: Annotated[int, pydantic.Field(ge=1, lt=2**31)]
    dtype: Literal["float64", "float32"]
    source: str
    splits: dict[SplitName, SplitSize]


def read_description(folder: Path) -> Description:
    """Read `dataset.json`, as untrusted data.

    Parameters
    ----------
    folder : Path
        Folder of the data set.

    Returns
    -------
    Description
        Only the description is checked; the files that it names are not read yet.

    Raises
    ------
    DataError
        If there is none, or it is not one of ours.
    """
    path = folder / DATASET
    if path.exists():
        require_inside(path, folder)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is too long to be a description of shards.")
        found = pydantic.TypeAdapter(Description).validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); dataset.path must be a folder written by "
            "`python -m newton_krylov.data.shards`."
        ) from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is damaged: {where or 'it'}: {first['msg']}.") from None
    if found.format != FORMAT:
        raise DataError(f"{path} has the format {found.format}, but {FORMAT} is read.")
    if "train" not in found.splits or not all(split.rows for split in found.splits.values()):
        raise DataError(f"{path} speaks of no samples to train with, or of an empty split.")
    return found
