"""Data sets larger than memory: sparse shards on disk, through which products stream.

`python -m newton_krylov.data.shards` writes them, from LIBSVM's text or generated.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from newton_krylov.capabilities import LABELLED, TABLE
from newton_krylov.data.dataset import Split, Table
from newton_krylov.data.on_disk import OnDisk, Piece, Shard
from newton_krylov.data.prepare import checksum
from newton_krylov.data.shards.layout import Description, SplitSize, read_description
from newton_krylov.data.shards.writer import write_shards
from newton_krylov.errors import ConfigError, DataError
from newton_krylov.files import expand_home, require_inside
from newton_krylov.registry import register

__all__ = ["read_shards", "shards", "write_shards"]


@register("dataset", "shards", offers=(TABLE, LABELLED))
def shards(*, path: str | None = None, dtype: torch.dtype = torch.float64) -> Table:
    """Sparse data larger than memory, by its folder of shards on disk.

    Parameters
    ----------
    path : str
        The folder, written by `python -m newton_krylov.data.shards`.
    dtype : torch.dtype
        Precision of the products, and of the targets of a regression.

    Returns
    -------
    Table
        The table, whose X stay on disk.

    Raises
    ------
    ConfigError
        Without a path.
    """
    if path is None:
        raise ConfigError("dataset=shards needs a folder: dataset.path=FOLDER.")
    return read_shards(expand_home(path), dtype)


def read_shards(folder: Path, dtype: torch.dtype) -> Table:
    """Open a folder of shards; every file is read through once and checked.

    Parameters
    ----------
    folder : Path
        Folder of the data set.
    dtype : torch.dtype
        Precision of the products, and of the targets of a regression.

    Returns
    -------
    Table
        The table, whose X stay on disk.

    Raises
    ------
    DataError
        If anything is missing, damaged or not what it should be.
    """
    description = read_description(folder)
    for name in description.splits:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{folder / name} is a link out of {folder}; put the folder there.")
    splits = {
        name: _split(folder / name, size, description, dtype)
        for name, size in description.splits.items()
    }
    sums = {
        name: [*(shard.sha256 for shard in size.shards), size.labels_sha256]
        for name, size in description.splits.items()
    }
    return Table(
        name="shards",
        train=splits["train"],
        test=splits.get("test"),
        task=description.task,
        n_classes=description.n_classes,
        source=description.source,
        checksum=checksum({"shards": sums, "dtype": str(dtype), "width": description.n_features}),
    )


def _split(folder: Path, size: SplitSize, description: Description, dtype: torch.dtype) -> Split:
    pieces = []
    for number, facts in enumerate(size.shards):
        shard = Shard(
            folder, number, facts.rows, facts.nnz, description.n_features, description.dtype
        )
        if shard.check() != facts.sha256:
            raise DataError(f"{folder}, shard {number}, has changed since it was written.")
        pieces.append(Piece(shard, 0, facts.rows))
    return Split(OnDisk(pieces, dtype), _labels(folder, size, description, dtype))


def _labels(
    folder: Path, size: SplitSize, description: Description, dtype: torch.dtype
) -> torch.Tensor:
    path = folder / "labels.npy"
    require_inside(path, folder)
    classes = description.task != "regression"
    try:
        y = np.load(path, allow_pickle=False)
    except Exception as error:  # a damaged header makes NumPy raise anything
        raise DataError(f"{path} cannot be read ({error}).") from None
    expected = np.dtype(np.int64 if classes else np.float64)
    if y.dtype != expected or y.shape != (size.rows,):
        raise DataError(f"{path} does not hold {size.rows:,} labels of {expected}.")
    if hashlib.sha256(y.tobytes()).hexdigest() != size.labels_sha256:
        raise DataError(f"{path} has changed since it was written.")
    if classes and (y.min() < 0 or y.max() >= description.n_classes):
        raise DataError(f"{path} holds a class beyond the {description.n_classes} there are.")
    tensor = torch.from_numpy(y)
    return tensor if classes else tensor.to(dtype)
