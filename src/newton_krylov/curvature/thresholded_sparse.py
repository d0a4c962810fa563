"""The Hessian with only its largest off-diagonal entries."""

import warnings

import torch
from pydantic import PositiveFloat
from torch import Tensor

from newton_krylov.capabilities import ALL_SAMPLES
from newton_krylov.curvature.base import Curvature
from newton_krylov.objectives.base import Point
from newton_krylov.objectives.entropic_transport import TransportHessian
from newton_krylov.operators import LinearOperator, MatrixOperator
from newton_krylov.registry import register


class SparseOperator(MatrixOperator):
    """A symmetric sparse matrix from its diagonal and the entries above it.

    Parameters
    ----------
    diagonal : Tensor, shape (n,)
        All of it is stored.
    rows, columns : Tensor, shape (k,), int64
        Positions above the diagonal, each at most once.
    values : Tensor, shape (k,)
        Entries there, and at the mirrored positions.
    """

    def __init__(self, diagonal: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        n = len(diagonal)
        own = torch.arange(n, device=diagonal.device)
        i, j = torch.cat([own, rows, columns]), torch.cat([own, columns, rows])
        order = torch.argsort(i * n + j)
        starts = torch.zeros(n + 1, dtype=torch.int64, device=diagonal.device)
        torch.cumsum(torch.bincount(i, minlength=n), 0, out=starts[1:])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            matrix = torch.sparse_csr_tensor(
                starts.int(),
                j[order].int(),
                torch.cat([diagonal, values, values])[order],
                size=(n, n),
                check_invariants=False,  # they hold by construction
            )
        super().__init__(matrix)
        self._diagonal = diagonal

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (n,), which is known."""
        return self._diagonal.clone()


@register("hessian_approx", "thresholded_sparse", needs=(ALL_SAMPLES,))
class ThresholdedSparse(Curvature):
    """The Hessian's diagonal and its largest off-diagonal entries, as a sparse matrix.

    The curvature of Sinkhorn-Newton-Sparse (Tang et al., ICLR 2024). For the dual of entropic
    transport it is positive semidefinite whatever is left out, since the diagonal stays whole, and
    at least half the Hessian, so that its steps are steps of descent; forming it costs one
    selection among the n m entries of the plan, and entries that rounding swallows are never kept.
    Of any other objective the dense Hessian is formed first, and the entries that are largest in
    absolute value are kept; what is left need not be positive definite.

    Parameters
    ----------
    kept : float
        Off-diagonal entries kept (at most), as an average per row of the whole matrix. For an n x n
        transport problem this is also the number per row of the plan: kept n of its n^2 entries.
    """

    def __init__(self, kept: PositiveFloat = 100.0) -> None:
        self.kept = kept

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the sparse matrix at a point."""
        H = point.hessian()
        count = max(1, round(self.kept * H.shape[0] / 2))  # above the diagonal: half of them
        if isinstance(H, TransportHessian):
            return SparseOperator(H.diagonal(), *H.largest_off_diagonal(count))
        return _thresholded(H.dense(), count)


def _thresholded(matrix: Tensor, count: int) -> SparseOperator:
    n = matrix.shape[0]
    above = torch.triu_indices(n, n, 1, device=matrix.device)
    values = matrix[above[0], above[1]]
    index = values.abs().topk(min(count, len(values)), sorted=False).indices
    return SparseOperator(
        matrix.diagonal().clone(), above[0, index], above[1, index], values[index]
    )
