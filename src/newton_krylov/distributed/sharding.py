"""Each process's part of the samples: consecutive ones, as many as the others have or one more."""

from dataclasses import replace

import torch
from torch import Tensor

from newton_krylov.data.dataset import Dataset, Split
from newton_krylov.distributed.team import Team
from newton_krylov.errors import CombinationError, UnsupportedError


def bounds(n: int, rank: int, size: int) -> tuple[int, int]:
    """Return which of n samples a process has.

    Parameters
    ----------
    n : int
        Samples in all.
    rank, size : int
        The process, of how many.

    Returns
    -------
    tuple of int
        The first, and the first that is the next one's.
    """
    return n * rank // size, n * (rank + 1) // size


def shard(dataset: Dataset, team: Team) -> Dataset:
    """Return this process's part of both splits.

    Parameters
    ----------
    dataset : Dataset
        The whole, the same in every process.
    team : Team
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
    if dataset.task == "transport":
        raise UnsupportedError(
            "device=distributed divides the samples among the processes, and a transport problem "
            "has none; choose device=cpu."
        )
    test = None if dataset.test is None else _part(dataset.test, team, "test")
    return replace(dataset, train=_part(dataset.train, team, "training"), test=test)


def _part(split: Split, team: Team, kind: str) -> Split:
    n = len(split)
    if n < team.size:
        raise UnsupportedError(f"{n} {kind} samples are too few for {team.size} processes.")
    start, stop = bounds(n, team.rank, team.size)
    return Split(_rows(split.X, start, stop), split.y[start:stop].clone())


def _rows(X: Tensor, start: int, stop: int) -> Tensor:
    if X.layout is not torch.sparse_csr:
        return X[start:stop].clone()
    crow = X.crow_indices()[start : stop + 1]
    entries = slice(int(crow[0]), int(crow[-1]))
    return torch.sparse_csr_tensor(
        crow - crow[0],
        X.col_indices()[entries].clone(),
        X.values()[entries].clone(),
        size=(stop - start, X.shape[1]),
        check_invariants=False,
    )


_OPTIMIZERS = ("dynanewton", "saga", "svrg", "sinkhorn", "sinkhorn_newton_sparse")
_CURVATURES = ("leverage_subsampled", "sketched", "thresholded_sparse")


def refuse(optimizer: str, curvature: str) -> None:
    """Refuse what needs all samples in one process.

    Parameters
    ----------
    optimizer, curvature : str
        Names of the configuration.

    Raises
    ------
    CombinationError
        If one of them looks at the samples themselves, and not at the objective's products alone.
    """
    chosen = {"optimizer": optimizer, "hessian_approx": curvature}
    for group, name in chosen.items():
        if name in (*_OPTIMIZERS, *_CURVATURES) or name.startswith("sklearn_"):
            raise CombinationError(
                f"{group}={name} needs all samples in one process, and device=distributed divides "
                f"them; choose device=cpu."
            )
