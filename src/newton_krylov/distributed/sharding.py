"""Each process's part of the samples: as many as the others have, or one more."""

from dataclasses import replace

import torch
from torch import Tensor

from newton_krylov.data.dataset import Dataset, LabelledData, Split
from newton_krylov.data.on_disk import OnDisk
from newton_krylov.distributed.group import ProcessGroup
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.features import Features


def numbers_of(X: Tensor, group: ProcessGroup) -> range:
    """Return the numbers of the samples that this process has.

    Every size-th one, so that the work is divided evenly where the samples are ordered by their
    number of entries; of data on disk consecutive ones, which are read in sequence.

    Parameters
    ----------
    X : Tensor, shape (n, ...)
        All samples.
    group : ProcessGroup
        The processes.

    Returns
    -------
    range
        Ascending; the processes' are a partition.
    """
    n = len(X)
    if isinstance(X, OnDisk):
        return range(n * group.rank // group.size, n * (group.rank + 1) // group.size)
    return range(group.rank, n, group.size)


def shard(dataset: Dataset, group: ProcessGroup) -> LabelledData:
    """Return this process's part of both splits.

    Parameters
    ----------
    dataset : Dataset
        The whole, the same in every process.
    group : ProcessGroup
        The processes.

    Returns
    -------
    Dataset
        Copies, so that the whole can be let go.

    Raises
    ------
    UnsupportedError
        If the data set is a transport problem, or has fewer samples than there are processes.
    """
    if not isinstance(dataset, LabelledData):
        raise UnsupportedError(
            f"device=distributed divides the samples among the processes, and {dataset.kind} "
            f"has none; choose device=cpu."
        )
    test = None if dataset.test is None else _part(dataset.test, group, "test")
    return replace(dataset, train=_part(dataset.train, group, "training"), test=test)


def _part(split: Split, group: ProcessGroup, kind: str) -> Split:
    n = len(split)
    if n < group.size:
        raise UnsupportedError(f"{n} {kind} samples are too few for {group.size} processes.")
    rows = numbers_of(split.X, group)
    # By their numbers, not by a slice: a view would keep the whole.
    return split.rows(_rows(split.X, rows), torch.tensor(rows, device=split.y.device))


def _rows(X: Tensor, rows: range) -> Tensor:
    if X.layout is torch.sparse_csr:
        return Features(X).rows(torch.tensor(rows, device=X.device)).X
    return X[rows.start : rows.stop : rows.step].clone()
