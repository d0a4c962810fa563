"""Rectangular operators: explicit matrices, functions, damped ones, and their normal equations."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.operators import LeastSquares, LinearOperator, RectangularOperator


class MatrixMap(RectangularOperator):
    """An explicit matrix, dense or sparse.

    Parameters
    ----------
    matrix : Tensor, shape (m, n)
        Dense, or sparse in any torch layout.
    """

    def __init__(self, matrix: Tensor) -> None:
        m, n = matrix.shape
        super().__init__((m, n), matrix.dtype, matrix.device)
        self.matrix = matrix

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return self.matrix @ v

    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector of shape (m,)."""
        return self.matrix.t() @ u

    def dense(self) -> Tensor:
        """Return the matrix itself, dense, shape (m, n)."""
        return self.matrix if self.matrix.layout is torch.strided else self.matrix.to_dense()


class FunctionMap(RectangularOperator):
    """Two functions, v -> A v and u -> A'u.

    Parameters
    ----------
    matvec, rmatvec : callable
        Functions of tensors of shapes (n,) and (m,).
    shape : tuple of int
        (m, n).
    dtype : torch.dtype
        Precision of the vectors.
    device : torch.device
        Device of the vectors.
    """

    def __init__(
        self,
        matvec: Callable[[Tensor], Tensor],
        rmatvec: Callable[[Tensor], Tensor],
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(shape, dtype, device)
        self._matvec, self._rmatvec = matvec, rmatvec

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return self._matvec(v).detach()

    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector of shape (m,)."""
        return self._rmatvec(u).detach()


class Damped(RectangularOperator):
    """[J; sqrt(shift) I]: least squares with it and [u; 0] is damped least squares with J and u.

    Parameters
    ----------
    J : RectangularOperator
        m by n.
    shift : float
        Above 0.
    """

    def __init__(self, J: RectangularOperator, shift: float) -> None:
        m, n = J.shape
        super().__init__((m + n, n), J.dtype, J.device)
        self._J, self._root = J, math.sqrt(shift)

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return torch.cat((self._J.matvec(v), v * self._root))

    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector of shape (m + n,)."""
        m = self._J.shape[0]
        return self._J.rmatvec(u[:m]).add_(u[m:], alpha=self._root)


class Scaled(RectangularOperator):
    """diag(rows) J diag(columns).

    Parameters
    ----------
    J : RectangularOperator
        m by n.
    rows : Tensor or None, shape (m,)
        None for ones.
    columns : Tensor or None, shape (n,)
        None for ones.
    """

    def __init__(
        self, J: RectangularOperator, rows: Tensor | None = None, columns: Tensor | None = None
    ) -> None:
        super().__init__(J.shape, J.dtype, J.device)
        self._J, self._rows, self._columns = J, rows, columns

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        product = self._J.matvec(v if self._columns is None else self._columns * v)
        return product if self._rows is None else product * self._rows

    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector of shape (m,)."""
        product = self._J.rmatvec(u if self._rows is None else self._rows * u)
        return product if self._columns is None else product * self._columns

    def dense(self) -> Tensor:
        """Form the matrix, shape (m, n)."""
        matrix = self._J.dense()
        if self._rows is not None:
            matrix = self._rows[:, None] * matrix
        return matrix if self._columns is None else matrix * self._columns


class NormalOperator(LinearOperator):
    """A = J'J + shift I by products with J and J', and the right side b = J'u it is made for.

    Parameters
    ----------
    J : RectangularOperator
        m by n.
    u : Tensor, shape (m,)
        Right side.
    shift : float
        At least 0.

    Attributes
    ----------
    b : Tensor, shape (n,)
        J'u.
    """

    def __init__(self, J: RectangularOperator, u: Tensor, shift: float = 0.0) -> None:
        super().__init__(J.shape[1], J.dtype, J.device, symmetric=True)
        self.J, self.u, self.shift = J, u, shift
        self.b = J.rmatvec(u)
        self._last: tuple[Tensor, int, Tensor] | None = None

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return self.J.rmatvec(self.image(v)).add_(v, alpha=self.shift)

    def image(self, v: Tensor) -> Tensor:
        """Return J v, not to be changed; asked for the same tensor again, what it was.

        Parameters
        ----------
        v : Tensor, shape (n,)
            A vector.

        Returns
        -------
        Tensor, shape (m,)
            J v.
        """
        last = self._last
        if last is None or last[0] is not v or last[1] != v._version:
            self._last = last = v, v._version, self.J.matvec(v)
        return last[2]

    def dense(self) -> Tensor:
        """Form J'J + shift I, shape (n, n)."""
        J = self.J.dense()
        matrix = J.T @ J
        matrix.diagonal().add_(self.shift)
        return matrix

    def least_squares(self, b: Tensor) -> LeastSquares | None:
        """Return the problem of minimizing |J x - u|^2 + shift |x|^2, for b = J'u or -J'u."""
        if torch.equal(b, self.b):
            return LeastSquares(self.J, self.u, self.shift)
        return LeastSquares(self.J, -self.u, self.shift) if torch.equal(b, -self.b) else None


def as_rectangular(A: Any, b: Tensor) -> RectangularOperator:
    """Take what a user has for an m by n matrix.

    Parameters
    ----------
    A : RectangularOperator, Tensor, or a SciPy or NumPy matrix or operator
        m by n; an operator of SciPy's needs its `rmatvec`.
    b : Tensor, shape (m,)
        The right side: gives dtype and device.

    Returns
    -------
    RectangularOperator
        `A` itself if it is one already.

    Raises
    ------
    TypeError
        If `A` is none of the above.
    ValueError
        If the shape of `A` does not fit `b`.
    """
    if isinstance(A, RectangularOperator):
        operator = A
    elif isinstance(A, Tensor):
        operator = MatrixMap(A.detach())
    elif hasattr(A, "shape") and hasattr(A, "__matmul__"):
        from scipy.sparse.linalg import aslinearoperator

        mine = aslinearoperator(A)

        def numpy(product: Callable[[Any], Any]) -> Callable[[Tensor], Tensor]:
            return lambda v: torch.as_tensor(product(v.cpu().numpy()), dtype=b.dtype).to(b.device)

        operator = FunctionMap(
            numpy(mine.matvec), numpy(mine.rmatvec), tuple(A.shape), b.dtype, b.device
        )
    else:
        raise TypeError(
            f"A must be a tensor, a RectangularOperator or a SciPy operator, not {type(A).__name__}"
        )
    if operator.shape[0] != b.shape[0]:
        raise ValueError(f"A has shape {tuple(operator.shape)}, but b has shape ({b.shape[0]},)")
    return operator


def pose(A: Any, b: Tensor, damp: float) -> LeastSquares:
    """Return the least-squares problem that a matrix and a right side pose.

    Parameters
    ----------
    A : operator or matrix, m by n
        See `as_rectangular`; or an operator J'J + shift I.
    b : Tensor, shape (m,)
        For an operator J'J + shift I, the J'u or -J'u that it is made for, shape (n,).
    damp : float
        The root of a damping of its own.

    Returns
    -------
    LeastSquares
        The least-squares problem of J.

    Raises
    ------
    UnsupportedError
        For a square operator that knows no J, or another u than b's.
    """
    if not isinstance(A, LinearOperator):
        return LeastSquares(as_rectangular(A, b), b.detach(), damp**2)
    problem = A.least_squares(b.detach())
    if problem is None:
        raise UnsupportedError(
            f"{type(A).__name__} is no J'J + tau I with J'u on the right, which least squares "
            "need: give the matrix J itself, or take another solver"
        )
    return replace(problem, shift=problem.shift + damp**2)
