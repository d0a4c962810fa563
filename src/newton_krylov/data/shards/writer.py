"""Write a data set as shards on disk, from parts that fit into memory."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from newton_krylov.data.catalogue import Task
from newton_krylov.data.labels import encode_labels
from newton_krylov.data.on_disk import PARTS, Shard
from newton_krylov.data.shards.layout import (
    DATASET,
    FORMAT,
    Description,
    ShardSize,
    SplitName,
    SplitSize,
)
from newton_krylov.errors import DataError

Part = tuple[sp.csr_array, NDArray[Any]]
"""Samples and their labels."""

SHARD_BYTES = 2**26
"""Size of a shard's entries: 64 MiB are read in a few hundredths of a second."""


def write_shards(
    folder: Path,
    splits: Mapping[SplitName, Iterable[Part]],
    *,
    task: Task | Literal["auto"],
    source: str,
    n_features: int | None = None,
    dtype: Literal["float64", "float32"] = "float64",
    shard_bytes: int = SHARD_BYTES,
) -> Description:
    """Write splits, given part by part, to a folder that appears whole or not at all.

    Parameters
    ----------
    folder : Path
        Must not exist yet.
    splits : mapping of str to iterable
        "train" and perhaps "test", each of parts: CSR arrays with sorted columns, and labels.
    task : {"auto", "binary", "multiclass", "regression"}
        What the labels are, see `encode_labels`.
    source : str
        Where the data came from.
    n_features : int, optional
        Number of columns; by default as many as the widest part has.
    dtype : {"float64", "float32"}
        Precision of the values on disk.
    shard_bytes : int
        Size at which a shard is full.

    Returns
    -------
    Description
        What was written.

    Raises
    ------
    DataError
        If the folder exists or cannot be written.
    LabelError
        If labels are not of the task.
    """
    with _new_folder(folder) as new:
        written = {
            name: _write_split(new / name, parts, np.dtype(dtype), shard_bytes)
            for name, parts in splits.items()
        }
        width = n_features or max(one.width for one in written.values())
        labels, decided, n_classes = encode_labels([one.y for one in written.values()], task)
        sizes = {
            name: _sign(new / name, one.counts, y, width, dtype)
            for (name, one), y in zip(written.items(), labels, strict=True)
        }
        description = Description(FORMAT, decided, n_classes, width, dtype, source, sizes)
        (new / DATASET).write_text(json.dumps(asdict(description), indent=1))
    return description


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Let a folder be filled under another name, and give it its own at the end."""
    if folder.exists():
        raise DataError(f"{folder} exists; give a folder that does not, or remove it.")
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir(parents=True)
        yield part
        part.rename(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@dataclass(frozen=True)
class _Written:
    """A split whose shards are on disk: their rows and entries, the labels, and the width."""

    counts: list[tuple[int, int]]
    y: NDArray[np.float64]
    width: int


def _write_split(
    folder: Path, parts: Iterable[Part], dtype: np.dtype[Any], shard_bytes: int
) -> _Written:
    folder.mkdir()
    waiting: list[sp.csr_array] = []
    counts: list[tuple[int, int]] = []
    labels: list[NDArray[np.float64]] = [np.empty(0)]
    width = 0
    for X, y in parts:
        labels.append(np.asarray(y, dtype=np.float64))
        width = max(width, X.shape[1])
        for rows in _cuts(X, dtype.itemsize, shard_bytes):
            waiting.append(X[rows])
            if sum(part.nnz for part in waiting) * (dtype.itemsize + 4) >= shard_bytes:
                counts.append(_write_shard(folder, len(counts), waiting, dtype))
                waiting = []
    if waiting:
        counts.append(_write_shard(folder, len(counts), waiting, dtype))
    return _Written(counts, np.concatenate(labels), width)


def _cuts(X: sp.csr_array, itemsize: int, shard_bytes: int) -> Iterator[slice]:
    """Cut a part's rows where a shard would be full."""
    entries = max(1, shard_bytes // (itemsize + 4))
    count = max(1, -(-X.nnz // entries))
    bounds = np.linspace(0, X.shape[0], count + 1).round().astype(int).tolist()
    return (slice(a, b) for a, b in pairwise(bounds) if a < b)


def _write_shard(
    folder: Path, number: int, parts: list[sp.csr_array], dtype: np.dtype[Any]
) -> tuple[int, int]:
    """Write a shard's three files; return its rows and entries."""
    lengths = [np.zeros(1, np.int64), *(np.diff(part.indptr) for part in parts)]
    arrays = {
        "values": np.concatenate([part.data for part in parts]).astype(dtype, copy=False),
        "columns": np.concatenate([part.indices for part in parts]).astype(np.int32, copy=False),
        "starts": np.cumsum(np.concatenate(lengths)).astype(np.int32),
    }
    for part in PARTS:
        np.save(folder / f"{number:05}.{part}.npy", arrays[part], allow_pickle=False)
    return len(arrays["starts"]) - 1, len(arrays["values"])


def _sign(
    folder: Path, counts: list[tuple[int, int]], y: NDArray[Any], width: int, dtype: str
) -> SplitSize:
    """Write a split's labels; return its description, checksums included."""
    np.save(folder / "labels.npy", y, allow_pickle=False)
    shards = [
        ShardSize(rows, nnz, Shard(folder, number, rows, nnz, width, dtype).check())
        for number, (rows, nnz) in enumerate(counts)
    ]
    return SplitSize(shards, hashlib.sha256(y.tobytes()).hexdigest())
