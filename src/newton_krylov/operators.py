"""The linear operator: all that a solver, a preconditioner or Lanczos knows of a matrix."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError


class LinearOperator:
    """A square linear map given by its products.

    Subclasses override `matvec`, and where they can do better than columns one by one, `matmat`,
    `dense`, `diagonal` and `solve`.

    Parameters
    ----------
    n : int
        The operator is n by n.
    dtype : torch.dtype
        Floating-point type of the vectors it takes and returns.
    device : torch.device
        Where those vectors live.
    symmetric : bool
        Declared by whoever builds it; methods for symmetric operators refuse one that is not.
    """

    def __init__(
        self, n: int, dtype: torch.dtype, device: torch.device, *, symmetric: bool = True
    ) -> None:
        self.shape = (n, n)
        self.dtype = dtype
        self.device = device
        self.symmetric = symmetric

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector.

        Parameters
        ----------
        v : Tensor, shape (n,)
            Same dtype and device as the operator.

        Returns
        -------
        Tensor, shape (n,)
            The product; never an alias of `v`.
        """
        raise NotImplementedError

    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector.

        Parameters
        ----------
        u : Tensor, shape (n,)
            Same dtype and device as the operator.

        Returns
        -------
        Tensor, shape (n,)
            A'u.

        Raises
        ------
        UnsupportedError
            If the operator is nonsymmetric and knows no transpose.
        """
        if not self.symmetric:
            raise UnsupportedError(f"{type(self).__name__} has no product with its transpose")
        return self.matvec(u)

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by several vectors.

        Parameters
        ----------
        V : Tensor, shape (n, k)
            The vectors, as columns.

        Returns
        -------
        Tensor, shape (n, k)
            The products, as columns.
        """
        return torch.stack([self.matvec(v) for v in V.T], dim=1)

    def dense(self) -> Tensor:
        """Form the matrix; n products unless a subclass knows a better way.

        Returns
        -------
        Tensor, shape (n, n)
            The matrix.
        """
        return self.matmat(torch.eye(self.shape[0], dtype=self.dtype, device=self.device))

    def diagonal(self) -> Tensor:
        """Return the diagonal; forms the matrix unless a subclass knows a better way.

        Returns
        -------
        Tensor, shape (n,)
            The diagonal.
        """
        return self.dense().diagonal().clone()

    @property
    def has_solve(self) -> bool:
        """Whether `solve` is there: a closed form that needs no matrix."""
        return type(self).solve is not LinearOperator.solve

    @property
    def has_diagonal(self) -> bool:
        """Whether `diagonal` is cheap: it needs no matrix."""
        return type(self).diagonal is not LinearOperator.diagonal

    def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
        """Solve (A + shift I) x = b in closed form, where the operator has one (see `has_solve`).

        Parameters
        ----------
        b : Tensor, shape (n,)
            Right side.
        shift : float
            Added to the diagonal, so that damping keeps the closed form.

        Returns
        -------
        Tensor, shape (n,)
            The solution.

        Raises
        ------
        UnsupportedError
            If this operator has no closed form.
        """
        raise UnsupportedError(f"{type(self).__name__} has no closed-form solve")

    def sampled(self, size: int, generator: torch.Generator) -> "LinearOperator | None":
        """Return an estimate of the operator from a random part of the terms it sums.

        Parameters
        ----------
        size : int
            How many terms, at most; all of them where there are fewer.
        generator : torch.Generator
            On the CPU.

        Returns
        -------
        LinearOperator or None
            Same shape; its expectation is the operator. None unless a subclass knows its terms.
        """
        return None

    def least_squares(self, b: Tensor) -> "LeastSquares | None":
        """Return the least-squares problem whose normal equations are A x = b, where one is known.

        Parameters
        ----------
        b : Tensor, shape (n,)
            Right side.

        Returns
        -------
        LeastSquares or None
            None unless A = J'J + shift I and b = J'u with a known u.
        """
        return None

    def compression(self) -> "Compression | None":
        """Return a smaller operator with the same nonzero eigenvalues, where one is known.

        Returns
        -------
        Compression or None
            None unless a subclass knows one.
        """
        return None

    def __matmul__(self, v: Tensor) -> Tensor:
        return self.matvec(v) if v.ndim == 1 else self.matmat(v)


@dataclass(frozen=True)
class Compression:
    """An operator's action on a subspace that contains its range, in coordinates.

    With an isometry E of m columns, A = E S E' + shift (I - E E'), S = E'A E.

    Attributes
    ----------
    operator : LinearOperator
        S, m by m.
    expand : callable
        Coordinates U, shape (m, k), to vectors E U, shape (n, k).
    reduce : callable
        A vector v, shape (n,), to the coordinates E'v, shape (m,).
    """

    operator: LinearOperator
    expand: Callable[[Tensor], Tensor]
    reduce: Callable[[Tensor], Tensor]


class RectangularOperator(ABC):
    """An m by n linear map given by its products and those of its transpose.

    Parameters
    ----------
    shape : tuple of int
        (m, n).
    dtype : torch.dtype
        Of the vectors it takes and returns.
    device : torch.device
        Where those vectors live.
    """

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device

    @abstractmethod
    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,); returns shape (m,), never an alias of `v`."""

    @abstractmethod
    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector of shape (m,); returns shape (n,)."""

    def dense(self) -> Tensor:
        """Form the matrix, shape (m, n); n products unless a subclass knows a better way."""
        eye = torch.eye(self.shape[1], dtype=self.dtype, device=self.device)
        return torch.stack([self.matvec(v) for v in eye], dim=1)


@dataclass(frozen=True)
class LeastSquares:
    """The problem of minimizing |J x - u|^2 + shift |x|^2.

    Attributes
    ----------
    J : RectangularOperator
        m by n.
    u : Tensor, shape (m,)
        Right side.
    shift : float
        At least 0.
    """

    J: RectangularOperator
    u: Tensor
    shift: float = 0.0


class MatrixOperator(LinearOperator):
    """An explicit matrix, dense or sparse.

    Parameters
    ----------
    matrix : Tensor, shape (n, n)
        Dense, or sparse in any torch layout.
    symmetric : bool
        Whether the matrix equals its transpose; the caller's word.

    Raises
    ------
    ValueError
        If the matrix is not square.
    """

    def __init__(self, matrix: Tensor, *, symmetric: bool = True) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"expected a square matrix, got shape {tuple(matrix.shape)}")
        super().__init__(matrix.shape[0], matrix.dtype, matrix.device, symmetric=symmetric)
        self.matrix = matrix

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return self.matrix @ v

    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector of shape (n,)."""
        return self.matrix.t() @ u

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (n, k)."""
        return self.matrix @ V

    def dense(self) -> Tensor:
        """Return the matrix itself, dense, shape (n, n)."""
        return self.matrix if self.matrix.layout is torch.strided else self.matrix.to_dense()

    @property
    def has_diagonal(self) -> bool:
        """Yes: the matrix is there."""
        return True


class FunctionOperator(LinearOperator):
    """A function v -> A v.

    Parameters
    ----------
    function : callable
        Takes and returns a tensor of shape (n,).
    n : int
        Size.
    dtype : torch.dtype
        Of its vectors.
    device : torch.device
        Of its vectors.
    symmetric : bool
        The caller's word.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        n: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        symmetric: bool = True,
    ) -> None:
        super().__init__(n, dtype, device, symmetric=symmetric)
        self._function = function

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        Av = self._function(v)
        if not isinstance(Av, Tensor):
            raise TypeError(f"the function must return a torch tensor, not {type(Av).__name__}")
        # An identity may hand back its argument, which a caller could then overwrite.
        return Av.clone() if Av.data_ptr() == v.data_ptr() else Av


def add_diagonal(out: Tensor, v: Tensor, diagonal: "float | Tensor") -> Tensor:
    """Add diag(diagonal) v to out, in place; v is a vector or has columns."""
    if not isinstance(diagonal, Tensor):
        return out.add_(v, alpha=diagonal)
    return out.addcmul_(v, diagonal if v.dim() == 1 else diagonal[:, None])


class ShiftedOperator(LinearOperator):
    """A + shift I, for damping.

    Parameters
    ----------
    operator : LinearOperator
        A.
    shift : float
        Added to the diagonal.
    """

    def __init__(self, operator: LinearOperator, shift: float) -> None:
        super().__init__(
            operator.shape[0], operator.dtype, operator.device, symmetric=operator.symmetric
        )
        self._operator = operator
        self.shift = shift

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return self._operator.matvec(v).add_(v, alpha=self.shift)

    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector of shape (n,)."""
        return self._operator.rmatvec(u).add_(u, alpha=self.shift)

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (n, k)."""
        return self._operator.matmat(V).add_(V, alpha=self.shift)

    def dense(self) -> Tensor:
        """Form the matrix, shape (n, n)."""
        matrix = self._operator.dense().clone()
        matrix.diagonal().add_(self.shift)
        return matrix

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (n,)."""
        return self._operator.diagonal() + self.shift

    @property
    def has_diagonal(self) -> bool:
        """Whether A's diagonal is cheap."""
        return self._operator.has_diagonal

    def sampled(self, size: int, generator: torch.Generator) -> LinearOperator | None:
        """Return an estimate from `size` of A's terms."""
        part = self._operator.sampled(size, generator)
        return None if part is None else ShiftedOperator(part, self.shift)

    def least_squares(self, b: Tensor) -> LeastSquares | None:
        """Return A's problem with the shift added to its own; None for a shift below zero."""
        problem = self._operator.least_squares(b)
        if problem is None or problem.shift + self.shift < 0:
            return None
        return replace(problem, shift=problem.shift + self.shift)

    @property
    def has_solve(self) -> bool:
        """Whether A has a closed form."""
        return self._operator.has_solve

    def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
        """Solve (A + (this shift + shift) I) x = b by A's closed form, b of shape (n,)."""
        return self._operator.solve(b, self.shift + shift)


class CastOperator(LinearOperator):
    """An operator of one floating-point type for vectors of another.

    Products are rounded to the lower of the two; everything else of a solver keeps its own.

    Parameters
    ----------
    operator : LinearOperator
        In its type.
    dtype : torch.dtype
        Of the vectors that come and go.
    """

    def __init__(self, operator: LinearOperator, dtype: torch.dtype) -> None:
        super().__init__(operator.shape[0], dtype, operator.device, symmetric=operator.symmetric)
        self._operator = operator

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return self._operator.matvec(v.to(self._operator.dtype)).to(self.dtype)

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (n, k)."""
        return self._operator.matmat(V.to(self._operator.dtype)).to(self.dtype)

    def dense(self) -> Tensor:
        """Form the matrix, shape (n, n)."""
        return self._operator.dense().to(self.dtype)

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (n,)."""
        return self._operator.diagonal().to(self.dtype)

    @property
    def has_diagonal(self) -> bool:
        """Whether the operator's diagonal is cheap."""
        return self._operator.has_diagonal

    def sampled(self, size: int, generator: torch.Generator) -> LinearOperator | None:
        """Return an estimate from `size` of the operator's terms."""
        part = self._operator.sampled(size, generator)
        return None if part is None else CastOperator(part, self.dtype)


class ScaledOperator(LinearOperator):
    """scale A.

    Parameters
    ----------
    operator : LinearOperator
        A.
    scale : float
        Multiplies it.
    """

    def __init__(self, operator: LinearOperator, scale: float) -> None:
        super().__init__(
            operator.shape[0], operator.dtype, operator.device, symmetric=operator.symmetric
        )
        self._operator = operator
        self.scale = scale

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return self._operator.matvec(v).mul_(self.scale)

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (n, k)."""
        return self._operator.matmat(V).mul_(self.scale)

    def dense(self) -> Tensor:
        """Form the matrix, shape (n, n)."""
        return self._operator.dense() * self.scale

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (n,)."""
        return self._operator.diagonal() * self.scale

    @property
    def has_diagonal(self) -> bool:
        """Whether A's diagonal is cheap."""
        return self._operator.has_diagonal

    @property
    def has_solve(self) -> bool:
        """Whether A has a closed form."""
        return self._operator.has_solve

    def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
        """Solve (scale A + shift I) x = b by A's closed form, b of shape (n,)."""
        return self._operator.solve(b, shift / self.scale).div_(self.scale)


def as_operator(A: Any, b: Tensor, *, symmetric: bool = True, name: str = "A") -> LinearOperator:
    """Take what a user has for a matrix and return a `LinearOperator`.

    Parameters
    ----------
    A : LinearOperator, Tensor, callable, or a SciPy or NumPy matrix or operator
        The matrix: anything with `@`, or a function v -> A v on tensors.
    b : Tensor, shape (n,)
        A vector the operator will meet: gives size, dtype and device.
    symmetric : bool
        The caller's word, where `A` does not carry its own.
    name : str
        What messages call `A`.

    Returns
    -------
    LinearOperator
        `A` itself if it is one already.

    Raises
    ------
    ValueError
        If the shape of `A` does not fit `b`.
    TypeError
        If `A` is none of the above.
    """
    n = b.shape[0]
    if isinstance(A, LinearOperator):
        operator = A
    elif isinstance(A, Tensor):
        operator = MatrixOperator(A, symmetric=symmetric)
    elif hasattr(A, "shape") and hasattr(A, "__matmul__"):  # NumPy, SciPy: by way of the CPU
        operator = FunctionOperator(_numpy_product(A), n, b.dtype, b.device, symmetric=symmetric)
        operator.shape = tuple(A.shape)
    elif callable(A):
        operator = FunctionOperator(A, n, b.dtype, b.device, symmetric=symmetric)
    else:
        raise TypeError(
            f"{name} must be a tensor, a LinearOperator, a function or a SciPy operator, "
            f"not {type(A).__name__}"
        )
    if operator.shape != (n, n):
        raise ValueError(f"{name} has shape {operator.shape}, but b has shape ({n},)")
    return operator


def _numpy_product(A: Any) -> Callable[[Tensor], Tensor]:
    return lambda v: torch.as_tensor(A @ v.cpu().numpy(), dtype=v.dtype, device=v.device)
