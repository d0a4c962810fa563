"""Features of many classes, as of a frozen network, in a file that products stream through."""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pydantic
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from newton_krylov.capabilities import GENERATED, LABELLED, TABLE
from newton_krylov.data.dataset import Dataset, Split, Table
from newton_krylov.data.prepare import checksum
from newton_krylov.data.sparse import NUMPY_DTYPES
from newton_krylov.errors import DataError
from newton_krylov.files import atomic_write, cache_dir, remove_parts, require_memory
from newton_krylov.registry import register

_GENERATOR_VERSION = 1  # part of the checksum: raise it when the same arguments give other data
_BLOCK = 8192  # samples


@register("dataset", "wide", offers=(TABLE, LABELLED, GENERATED))
def wide(
    *,
    n: Annotated[int, pydantic.Field(ge=2)] = 128_117,
    n_test: pydantic.NonNegativeInt = 5_000,
    d: pydantic.PositiveInt = 205,
    n_classes: Annotated[int, pydantic.Field(ge=3)] = 100,
    seed: pydantic.NonNegativeInt = 0,
    dtype: torch.dtype = torch.float64,
) -> Dataset:
    """Generate features of many classes; by default a tenth of ImageNet's, on each side.

    They go block by block into a file: Gaussian columns whose scales fall like 1 / j^(1/2), around
    a mean for each class, and a last column of ones. X is never in memory as a whole: it is mapped
    from the file, and products read through it.

    Parameters
    ----------
    n, n_test : int
        Samples to train and to test with.
    d : int
        Features, besides the column of ones.
    n_classes : int
        Classes, of about equal size.
    seed : int
        Seed of everything random; each block has its own.
    dtype : torch.dtype
        float32 or float64: the file's.

    Returns
    -------
    Table
        On the CPU.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    facts = {"n": n, "d": d, "n_classes": n_classes, "seed": seed, "version": _GENERATOR_VERSION}
    key = checksum(facts | {"dtype": str(dtype)})
    in_memory = 8 * (n_classes * d + n + n_test * (d + 1))
    require_memory(in_memory, f"{n_classes:,} means of {d:,} features, labels and test samples")
    draw = np.random.default_rng([seed, 0])
    means = draw.normal(size=(n_classes, d)) * _scales(d) / 2
    y = draw.integers(0, n_classes, n + n_test)

    def blocks(labels: NDArray[Any], part: int) -> Iterator[NDArray[Any]]:
        for number, start in enumerate(range(0, len(labels), _BLOCK)):
            of_block = labels[start : start + _BLOCK]
            noise = np.random.default_rng([seed, part, number]).normal(size=(len(of_block), d))
            X = means[of_block] + noise * _scales(d)
            yield np.hstack([X, np.ones((len(X), 1))]).astype(NUMPY_DTYPES[dtype])

    train = Split(_mapped(key, (n, d + 1), dtype, blocks(y[:n], 1)), torch.from_numpy(y[:n]))
    test = None
    if n_test:
        held = np.concatenate(list(blocks(y[n:], 2)))
        test = Split(torch.from_numpy(held), torch.from_numpy(y[n:]))
    return Table(
        "wide", train, test, "multiclass", n_classes, "generated",
        checksum(facts | {"dtype": str(dtype), "n_test": n_test}), bias=True,
    )  # fmt: skip


def _scales(d: int) -> NDArray[np.float64]:
    return np.asarray(1 / np.sqrt(np.arange(1, d + 1)))


def _mapped(
    key: str, shape: tuple[int, int], dtype: torch.dtype, blocks: Iterator[NDArray[Any]]
) -> Tensor:
    """Return the matrix mapped from its file, which is written first where it is not there."""
    path = cache_dir() / "wide" / f"{key}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                remove_parts(path.parent, path.name)
                with atomic_write(path) as stream:
                    header = {"descr": np.dtype(NUMPY_DTYPES[dtype]).str, "fortran_order": False}
                    np.lib.format.write_array_header_1_0(stream, {**header, "shape": shape})
                    for block in blocks:
                        stream.write(block.tobytes())
    except OSError as error:
        size = np.dtype(NUMPY_DTYPES[dtype]).itemsize * shape[0] * shape[1]
        raise DataError(
            f"{path} of {size:,} bytes cannot be written: {error.strerror or error}; choose "
            f"another folder by NEWTON_KRYLOV_CACHE, or a smaller dataset.n."
        ) from error
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
