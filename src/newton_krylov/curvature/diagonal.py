"""The Hessian's diagonal."""

import torch
from pydantic import PositiveInt
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.curvature.low_rank_operator import Negative, without_negative
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register
from newton_krylov.spectrum.estimators import diagonal


class DiagonalOperator(LinearOperator):
    """A diagonal matrix, solved in closed form.

    Parameters
    ----------
    entries : Tensor, shape (n,)
        The diagonal.
    """

    def __init__(self, entries: Tensor) -> None:
        super().__init__(entries.shape[0], entries.dtype, entries.device)
        self._entries = entries

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return self._entries * v

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (n, k)."""
        return self._entries[:, None] * V

    def dense(self) -> Tensor:
        """Form the matrix, shape (n, n)."""
        return torch.diag(self._entries)

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (n,)."""
        return self._entries.clone()

    def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
        """Divide by the shifted diagonal, b of shape (n,)."""
        return b / (self._entries + shift)


@register("hessian_approx", "diagonal")
class Diagonal(Curvature):
    """The Hessian's diagonal, solved by one division.

    A linear model knows it: half a pass over the data. Of a network it is estimated by Hutchinson's
    method, one Hessian product for each probe, and the estimate's noise is of the size of the
    off-diagonal entries (see `spectrum.estimators.diagonal`).

    Parameters
    ----------
    probes : int
        Products for the estimate, where one is needed.
    negative : {"absolute", "truncate", "keep"}
        What becomes of negative entries, which a Hessian that is not positive semidefinite has,
        and an estimate may have: the absolute value (as in AdaHessian; Yao et al., 2021), zero
        (which takes damping), or themselves.
    """

    def __init__(self, probes: PositiveInt = 10, negative: Negative = "absolute") -> None:
        self.probes = probes
        self.negative = negative

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the diagonal at a point."""
        H = point.hessian()
        entries = H.diagonal() if H.has_diagonal else diagonal(H, self.probes, generator=generator)
        return DiagonalOperator(without_negative(entries, self.negative))
