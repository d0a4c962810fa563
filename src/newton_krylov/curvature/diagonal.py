"""The Hessian's diagonal."""

import torch
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register


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
    """The Hessian's diagonal: half a pass over the data, solved by one division.

    Entries may be negative where the objective is not convex.
    """

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the diagonal at a point."""
        return DiagonalOperator(point.hessian().diagonal())
