"""The linear operator: all that a solver, a preconditioner or Lanczos knows of a matrix."""

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.norms import euclidean, exponent, is_moderate, scaled, scaled_by_power

if TYPE_CHECKING:
    import scipy.sparse.linalg

REAL_FORM = (
    "solve the real system of twice the size, [[Re A, -Im A], [Im A, Re A]] [Re x; Im x] = "
    "[Re b; Im b], which is symmetric where A is Hermitian"
)
"""What messages say of complex numbers."""


Capability = Literal["diagonal", "solve", "sampled", "compression", "kronecker"]
"""What an operator may offer beyond its products: `diagonal` without forming the matrix, `solve` in
closed form, `sampled`: an estimate from a part of the terms it sums, `compression`: a smaller
operator with the same nonzero eigenvalues, `kronecker`: an approximation by Kronecker products."""

_OPTIONAL: tuple[Capability, ...] = ("diagonal", "solve", "sampled", "compression", "kronecker")


@dataclass(frozen=True)
class Forming:
    """What it takes to form the matrix of an operator that is a sum over samples.

    Attributes
    ----------
    samples : int
        How many there are.
    entries : int
        Numbers that a product reads.
    cost : float
        Time of `dense`, in products.
    part : callable
        (every, first) to the estimate from the samples first, first + every, ..., shape (n, n).
        What is below its diagonal is not to be read.
    ridge : float or Tensor, shape (n,)
        What is on the diagonal of each part whatever the samples are.
    """

    samples: int
    entries: int
    cost: float
    part: Callable[[int, int], Tensor]
    ridge: float | Tensor = 0.0


@dataclass(frozen=True)
class FewSamples:
    """An operator X' diag(weights) X + diag(ridge), X of fewer rows than columns.

    Attributes
    ----------
    times, adjoint : callable
        Products by X and by its transpose.
    weights : Tensor, shape (m,)
        Any sign.
    ridge : Tensor, shape (n,)
        At least 0, and not 0 everywhere.
    entries : int
        Numbers that a product reads.
    cost : float
        Time of `gram`, in products.
    gram : callable
        From c, shape (n,), to X diag(c) X', shape (m, m).
    """

    times: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    weights: Tensor
    ridge: Tensor
    entries: int
    cost: float
    gram: Callable[[Tensor], Tensor]


class LinearOperator:
    """A square linear map given by its products.

    Subclasses override `matvec`, and where they can do better than columns one by one, `matmat` and
    `dense`; what they can beyond that is declared by overriding it (see `capabilities`).

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

    Raises
    ------
    TypeError
        If the type is complex.
    """

    def __init__(
        self, n: int, dtype: torch.dtype, device: torch.device, *, symmetric: bool = True
    ) -> None:
        if dtype.is_complex:
            raise TypeError(f"the operator is {dtype}: {REAL_FORM}")
        self.shape = (n, n)
        self.dtype = dtype
        self.device = device
        self.symmetric = symmetric

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it offers beyond products: the optional methods that its class overrides."""
        mine = type(self)
        return frozenset(
            name for name in _OPTIONAL if getattr(mine, name) is not getattr(LinearOperator, name)
        )

    @property
    def has_solve(self) -> bool:
        """Whether `solve` is there: a closed form that needs no matrix."""
        return "solve" in self.capabilities

    @property
    def has_diagonal(self) -> bool:
        """Whether `diagonal` is cheap: it needs no matrix."""
        return "diagonal" in self.capabilities

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector.

        Parameters
        ----------
        v : Tensor, shape (n,)
            Same dtype and device as the operator.

        Returns
        -------
        Tensor, shape (n,)
            The product, which the caller may overwrite: a tensor of its own, no alias in `v`.
        """
        raise NotImplementedError

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
        product = torch.empty_like(V)
        for j, v in enumerate(V.T):
            product[:, j] = self.matvec(v)  # at once: the next product may reuse its memory
        return product

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

    def forming(self) -> Forming | None:
        """Return what forming the matrix, or that of a part of the samples, takes.

        Returns
        -------
        Forming or None
            None where it takes a product for each column, or is no sum over samples.
        """
        return None

    def few_samples(self) -> FewSamples | None:
        """Return the parts of a sum over fewer samples than unknowns.

        Returns
        -------
        FewSamples or None
            None where it is none, and where nothing but the samples makes it regular.
        """
        return None

    def of_columns(self, columns: Tensor) -> "LinearOperator | None":
        """Return the rows and columns that belong to some columns of the data, as an operator.

        Parameters
        ----------
        columns : Tensor, shape (m,), int64
            Columns of the data, each of which may have several weights.

        Returns
        -------
        LinearOperator or None
            None where that would take the products of the whole.
        """
        return None

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

    def kronecker(
        self, generator: torch.Generator, *, corrected: bool, **options: Any
    ) -> "LinearOperator | None":
        """Return an approximation by Kronecker products, which has a closed form.

        Parameters
        ----------
        generator : torch.Generator
            On the CPU.
        corrected : bool
            Whether the eigenvalues are corrected.
        **options
            What the factors are of.

        Returns
        -------
        LinearOperator or None
            Same shape. None unless a subclass has layers.
        """
        return None

    def affine(
        self, *, scale: float = 1.0, shift: float = 0.0, diagonal: Tensor | None = None
    ) -> "LinearOperator":
        """Return scale A + shift I + diag(diagonal), with whatever A can.

        Parameters
        ----------
        scale : float
            Multiplies A.
        shift : float
            Added to the diagonal: damping.
        diagonal : Tensor, shape (n,), optional
            Added to the diagonal.

        Returns
        -------
        LinearOperator
            `self` where nothing changes.
        """
        if scale == 1.0 and shift == 0.0 and diagonal is None:
            return self
        return AffineOperator(self, scale, shift, diagonal)

    def cast(self, dtype: torch.dtype) -> "LinearOperator":
        """Return the operator for vectors of another floating-point type.

        Parameters
        ----------
        dtype : torch.dtype
            Precision of the vectors it takes and returns.

        Returns
        -------
        LinearOperator
            `self` where it is of that type; else its products are rounded to the lower of the two.
        """
        return self if dtype == self.dtype else CastOperator(self, dtype)

    def to_scipy(self) -> "scipy.sparse.linalg.LinearOperator":
        """Return a SciPy LinearOperator, for SciPy's own solvers.

        Returns
        -------
        scipy.sparse.linalg.LinearOperator
            On NumPy arrays; its transpose is there if A is symmetric.
        """
        from scipy.sparse.linalg import LinearOperator as Peer

        def apply(V: Any) -> Any:
            V = torch.as_tensor(V, dtype=self.dtype, device=self.device)
            product = self.matvec(V.reshape(-1)) if V.numel() == self.shape[0] else self.matmat(V)
            return product.detach().cpu().numpy()

        return Peer(
            self.shape,
            matvec=apply,
            matmat=apply,
            rmatvec=apply if self.symmetric else None,
            rmatmat=apply if self.symmetric else None,
            dtype=str(self.dtype).removeprefix("torch."),
        )

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
        Precision of the vectors it takes and returns.
    device : torch.device
        Where those vectors live.
    """

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device

    @abstractmethod
    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,); returns shape (m,), never an alias in `v`."""

    @abstractmethod
    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector of shape (m,); a fresh tensor of shape (n,)."""

    def dense(self) -> Tensor:
        """Form the matrix, shape (m, n); n products unless a subclass knows a better way."""
        eye = torch.eye(self.shape[1], dtype=self.dtype, device=self.device)
        return torch.stack([self.matvec(v) for v in eye], dim=1)

    def outer(self) -> Tensor | None:
        """Form the product with the transpose, shape (m, m), if that is quicker than by `dense`."""
        return None


_STRIP, _STRIPS = 256, 6
"""From this size on a symmetric product is made in strips: 7/12 of the whole's multiplications."""


def times_transpose(B: Tensor) -> Tensor:
    """Return B B', shape (k, k), of B, shape (k, n): the lower triangle by strips, mirrored."""
    if len(B) < _STRIP:
        return B @ B.T
    return mirrored(add_lower(B.new_zeros(len(B), len(B)), B))


def decomposed(how: Callable[[Tensor], Iterable[Tensor]], A: Tensor) -> list[Tensor]:
    """Decompose a matrix by a function of torch; into nan where it has nan or infinite entries.

    LAPACK makes an error of these, so that a run that diverged would not end as one.
    """
    try:
        return list(how(A))
    except RuntimeError:
        if A.isfinite().all():
            raise
        return [part.fill_(math.nan) for part in how(torch.zeros_like(A))]


def eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, ascending, and eigenvectors of a symmetric matrix; see `decomposed`."""
    values, Q = decomposed(torch.linalg.eigh, A)
    return values, Q


def add_lower(K: Tensor, B: Tensor) -> Tensor:
    """Add B B' to K, shape (k, k), in place, by strips: all of it up to the diagonal."""
    k = len(B)
    width = k if k < _STRIP else -(-k // _STRIPS)
    for start in range(0, k, width):
        end = min(start + width, k)
        K[start:end, :end].addmm_(B[start:end], B[:end].T)
    return K


def mirrored(K: Tensor) -> Tensor:
    """Copy what is below the diagonal to above it, in place."""
    for start in range(0, len(K), _STRIP):
        end = min(start + _STRIP, len(K))
        K[:start, start:end] = K[start:end, :start].T
        corner = K[start:end, start:end]
        corner.copy_(corner.tril() + corner.tril(-1).T)
    return K


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

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (n, k)."""
        return self.matrix @ V

    def dense(self) -> Tensor:
        """Return the matrix itself, dense, shape (n, n)."""
        return self.matrix if self.matrix.layout is torch.strided else self.matrix.to_dense()

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (n,): the matrix is there."""
        return super().diagonal()


class FunctionOperator(LinearOperator):
    """A function v -> A v.

    Parameters
    ----------
    function : callable
        Takes and returns a tensor of shape (n,).
    n : int
        Size.
    dtype : torch.dtype
        The type of its vectors.
    device : torch.device
        Where its vectors live.
    symmetric : bool
        Whether A is symmetric; not checked.
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
        """Multiply by a vector of shape (n,); the product is the caller's to overwrite."""
        Av = self._function(v)
        if not isinstance(Av, Tensor):
            raise TypeError(f"the function must return a torch tensor, not {type(Av).__name__}")
        return Av if _is_fresh(Av, v) else Av.clone()


def _is_fresh(Av: Tensor, v: Tensor) -> bool:
    """Return whether nobody but the caller holds the product's memory.

    An identity may hand back its argument, and a function its own buffer, a part of it, or a view
    of NumPy's memory: the next product would overwrite this one, or its user what is the
    function's. A copy is made only then, for a copy of each product costs a vector.
    """
    held = sys.getrefcount(Av) > 3  # the caller's, this function's and the count's own references
    foreign = not Av.untyped_storage().resizable()
    return not (held or foreign or Av._is_view() or Av.data_ptr() == v.data_ptr())


class ArrayOperator(LinearOperator):
    """A NumPy array, a SciPy sparse matrix or a SciPy LinearOperator, by way of the CPU.

    Products are computed in the array's own type and rounded to the operator's.

    Parameters
    ----------
    array : object
        Anything with `shape` and `@` on NumPy arrays; real.
    dtype : torch.dtype
        The type of its vectors.
    device : torch.device
        Where its vectors live.
    symmetric : bool
        Whether A is symmetric; not checked.
    name : str
        What messages call it.

    Raises
    ------
    ValueError
        If it is not square.
    TypeError
        If its entries are no real numbers.
    """

    def __init__(
        self,
        array: Any,
        dtype: torch.dtype,
        device: torch.device,
        *,
        symmetric: bool = True,
        name: str = "A",
    ) -> None:
        shape = tuple(array.shape)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"expected a square matrix, got shape {shape}")
        super().__init__(shape[0], dtype, device, symmetric=symmetric)
        if isinstance(array, np.matrix):  # whose product with a vector has two dimensions
            raise TypeError(
                f"{name} is a NumPy matrix (np.matrix): give np.asarray({name}) instead"
            )
        self._array = array
        self._name = name
        kind = getattr(getattr(array, "dtype", None), "kind", "f")
        if kind == "c":
            raise TypeError(f"{name} is complex ({array.dtype}): {REAL_FORM}")
        if kind not in "fiub":
            raise TypeError(f"{name} must hold real numbers, not {array.dtype}")
        if np.ma.is_masked(array):
            raise TypeError(f"{name} has masked entries: fill them first")

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return self.matmat(v)

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (n, k)."""
        if V.ndim == 2 and not _is_explicit(self._array):
            return super().matmat(V)  # SciPy would gather columns that may share one buffer
        product = np.asarray(self._array @ V.detach().cpu().numpy())
        if product.dtype.kind == "c":
            raise TypeError(f"the product {self._name} v is complex: {REAL_FORM}")
        if product.dtype == np.longdouble:  # which torch does not have
            product = product.astype(np.float64)
        # A copy: an operator of the user's may write all its products into one array.
        return torch.tensor(product, dtype=self.dtype, device=self.device)


def _is_explicit(A: Any) -> bool:
    """Tell a NumPy array or a SciPy sparse matrix from what only has products."""
    return hasattr(A, "__array__") or hasattr(A, "nnz")


def add_diagonal(out: Tensor, v: Tensor, diagonal: "float | Tensor") -> Tensor:
    """Add diag(diagonal) v to out, in place; v is a vector or has columns."""
    if not isinstance(diagonal, Tensor):
        return out.add_(v, alpha=diagonal)
    return out.addcmul_(v, diagonal if v.dim() == 1 else diagonal[:, None])


class AffineOperator(LinearOperator):
    """scale A + shift I + diag(diagonal): damping, scaling and a diagonal added.

    It can whatever A can, except that a diagonal takes A's closed form and its compression away.

    Parameters
    ----------
    operator : LinearOperator
        A.
    scale, shift : float
        See above.
    diagonal : Tensor, shape (n,), optional
        See above.
    """

    def __init__(
        self,
        operator: LinearOperator,
        scale: float = 1.0,
        shift: float = 0.0,
        diagonal: Tensor | None = None,
    ) -> None:
        super().__init__(
            operator.shape[0], operator.dtype, operator.device, symmetric=operator.symmetric
        )
        self._operator = operator
        self.scale = scale
        self.shift = shift
        self._diagonal = diagonal

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What A offers, as far as it survives."""
        lost: set[Capability] = set() if self._diagonal is None else {"solve", "compression"}
        return self._operator.capabilities - (lost | ({"solve"} if self.scale == 0.0 else set()))

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return self._add(self._operator.matvec(v), v)

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (n, k)."""
        return self._add(self._operator.matmat(V), V)

    def _add(self, product: Tensor, V: Tensor) -> Tensor:
        """Turn A V into the product, in place."""
        if self.scale != 1.0:
            product.mul_(self.scale)
        if self.shift != 0.0:
            add_diagonal(product, V, self.shift)
        if self._diagonal is not None:
            add_diagonal(product, V, self._diagonal)
        return product

    def dense(self) -> Tensor:
        """Form the matrix, shape (n, n)."""
        return self._of(self._operator.dense())

    def _of(self, dense: Tensor) -> Tensor:
        """Return A's matrix scaled and shifted."""
        matrix = dense * self.scale
        matrix.diagonal().add_(self._added())
        return matrix

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (n,)."""
        return self._operator.diagonal() * self.scale + self._added()

    def _added(self) -> Tensor | float:
        return self.shift if self._diagonal is None else self._diagonal + self.shift

    def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
        """Solve (this + shift I) x = b by A's closed form, b of shape (n,)."""
        if not self.has_solve:
            return super().solve(b, shift)
        x = self._operator.solve(b, (self.shift + shift) / self.scale)
        return x if self.scale == 1.0 else x / self.scale

    def forming(self) -> Forming | None:
        """Return what forming A takes; parts are scaled and shifted alike."""
        own = self._operator.forming()
        if own is None:
            return None
        ridge = self.scale * own.ridge + self.shift
        if self._diagonal is not None:
            ridge = ridge + self._diagonal
        return replace(own, part=lambda *which: self._of(own.part(*which)), ridge=ridge)

    def few_samples(self) -> FewSamples | None:
        """Return A's parts, scaled and shifted alike, where a ridge is left."""
        own = self._operator.few_samples()
        if own is None:
            return None
        ridge = self.scale * own.ridge + self._added()
        if float(ridge.min()) < 0 or float(ridge.max()) <= 0:
            return None
        return replace(own, weights=self.scale * own.weights, ridge=ridge)

    def of_columns(self, columns: Tensor) -> LinearOperator | None:
        """Return A's part, scaled and shifted alike; none of a diagonal, which is by weights."""
        part = self._operator.of_columns(columns) if self._diagonal is None else None
        return None if part is None else part.affine(**self._terms())

    def sampled(self, size: int, generator: torch.Generator) -> LinearOperator | None:
        """Return an estimate from `size` of A's terms, scaled and shifted alike."""
        part = self._operator.sampled(size, generator)
        return None if part is None else part.affine(**self._terms())

    def kronecker(
        self, generator: torch.Generator, *, corrected: bool, **options: Any
    ) -> LinearOperator | None:
        """Return A's approximation, scaled and shifted alike, by a diagonal's mean."""
        part = self._operator.kronecker(generator, corrected=corrected, **options)
        mean = 0.0 if self._diagonal is None else float(self._diagonal.mean())
        return None if part is None else part.affine(scale=self.scale, shift=self.shift + mean)

    def least_squares(self, b: Tensor) -> LeastSquares | None:
        """Return A's problem with the shift added to its own, where only a shift is added."""
        plain = self._diagonal is None and self.scale == 1.0
        problem = self._operator.least_squares(b) if plain else None
        if problem is None or problem.shift + self.shift < 0:
            return None
        return replace(problem, shift=problem.shift + self.shift)

    def compression(self) -> Compression | None:
        """Return A's compression, scaled and shifted alike."""
        small = None if self._diagonal is not None else self._operator.compression()
        return (
            None
            if small is None
            else replace(small, operator=small.operator.affine(**self._terms()))
        )

    def cast(self, dtype: torch.dtype) -> LinearOperator:
        """Return the same of A in the other type: what is added is not rounded."""
        terms = self._terms()
        if self._diagonal is not None:
            terms["diagonal"] = self._diagonal.to(dtype)
        return self if dtype == self.dtype else self._operator.cast(dtype).affine(**terms)

    def _terms(self) -> dict[str, Any]:
        return {"scale": self.scale, "shift": self.shift, "diagonal": self._diagonal}


class RestrictedOperator(LinearOperator):
    """Some rows of an operator and the same columns: its products with vectors that are 0 beyond.

    Parameters
    ----------
    operator : LinearOperator
        n by n.
    index : Tensor, shape (m,), int64
        Which rows and columns; distinct.
    """

    def __init__(self, operator: LinearOperator, index: Tensor) -> None:
        super().__init__(len(index), operator.dtype, operator.device, symmetric=operator.symmetric)
        self._operator, self._index = operator, index

    @property
    def capabilities(self) -> frozenset[Capability]:
        """A diagonal, where the operator has one."""
        return self._operator.capabilities & {"diagonal"}

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (m,)."""
        return (self._operator @ self._embedded(v))[self._index]

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (m, k)."""
        return (self._operator @ self._embedded(V))[self._index]

    def _embedded(self, V: Tensor) -> Tensor:
        whole = V.new_zeros(self._operator.shape[0], *V.shape[1:])
        whole[self._index] = V
        return whole

    def dense(self) -> Tensor:
        """Form the matrix, shape (m, m)."""
        return self._operator.dense()[self._index][:, self._index]

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (m,)."""
        return self._operator.diagonal()[self._index]


class CastOperator(LinearOperator):
    """An operator of one floating-point type for vectors of another: `LinearOperator.cast`.

    Products are rounded to the lower of the two; everything else of a solver keeps its own.

    Parameters
    ----------
    operator : LinearOperator
        In its type.
    dtype : torch.dtype
        Precision of the vectors it takes and returns.
    """

    def __init__(self, operator: LinearOperator, dtype: torch.dtype) -> None:
        super().__init__(operator.shape[0], dtype, operator.device, symmetric=operator.symmetric)
        self._operator = operator

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the operator offers."""
        return self._operator.capabilities

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

    def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
        """Solve (A + shift I) x = b by the operator's closed form, b of shape (n,)."""
        return self._operator.solve(b.to(self._operator.dtype), shift).to(self.dtype)

    def forming(self) -> Forming | None:
        """Return what forming the operator takes; parts are of this type."""
        own = self._operator.forming()
        if own is None:
            return None
        return replace(own, part=lambda *which: own.part(*which).to(self.dtype))

    def few_samples(self) -> FewSamples | None:
        """Return None: single precision's rounding spoils what is made of the parts."""
        return None

    def of_columns(self, columns: Tensor) -> LinearOperator | None:
        """Return the operator's part, for vectors of this type."""
        part = self._operator.of_columns(columns)
        return None if part is None else part.cast(self.dtype)

    def sampled(self, size: int, generator: torch.Generator) -> LinearOperator | None:
        """Return an estimate from `size` of the operator's terms."""
        part = self._operator.sampled(size, generator)
        return None if part is None else part.cast(self.dtype)

    def kronecker(
        self, generator: torch.Generator, *, corrected: bool, **options: Any
    ) -> LinearOperator | None:
        """Return the operator's approximation, for vectors of this type."""
        part = self._operator.kronecker(generator, corrected=corrected, **options)
        return None if part is None else part.cast(self.dtype)

    def least_squares(self, b: Tensor) -> LeastSquares | None:
        """Return None: the problem's u is known in the operator's own type only."""
        return None

    def compression(self) -> Compression | None:
        """Return the operator's compression, for vectors of this type."""
        small = self._operator.compression()
        if small is None:
            return None
        inner = self._operator.dtype
        return Compression(
            small.operator.cast(self.dtype),
            lambda U: small.expand(U.to(inner)).to(self.dtype),
            lambda v: small.reduce(v.to(inner)).to(self.dtype),
        )

    def cast(self, dtype: torch.dtype) -> LinearOperator:
        """Return the operator for vectors of another type."""
        return self._operator.cast(dtype)


class Products:
    """v -> A v / unit, for vectors v of moderate size: counted, checked, and safe to square.

    `unit` is 1 unless the first product that is not zero is so small or so large that squares in
    the recurrences of a method would leave the range of the type; then it is a power of two near
    that product's size, and the method works on A / unit, which has the same digits.

    Parameters
    ----------
    A : LinearOperator
        n by n.
    name : str
        What messages call it.
    """

    def __init__(self, A: LinearOperator, name: str = "A") -> None:
        self.A = A
        self.count = 0
        self.exponent = 0
        self._name = name
        self._sized = False

    @property
    def unit(self) -> float:
        """2^exponent."""
        return scaled(1.0, self.exponent)

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply.

        Parameters
        ----------
        v : Tensor, shape (n,)
            Vector of moderate size.

        Returns
        -------
        Tensor, shape (n,)
            A v / unit.

        Raises
        ------
        TypeError, ValueError
            If the first product does not have the vector's shape, dtype and device.
        """
        self.count += 1
        before = math.nan if self._sized else v.sum().item()  # not a copy: it costs a vector
        Av = self.A.matvec(v).detach()  # a user's operator may be one that autograd records
        if not self._sized:
            if math.isfinite(before) and v.sum().item() != before:
                raise ValueError(
                    f"the product {self._name} v changes v in place: work on a copy (v.clone())"
                )
            check_vector(f"the product {self._name} v", Av, v)
            size = euclidean(Av)
            self._sized = 0.0 < size < math.inf
            if self._sized and not is_moderate(size, v.dtype):
                self.exponent = exponent(Av)
        return Av if self.exponent == 0 else scaled_by_power(Av, -self.exponent)


def check_vector(name: str, v: Tensor, like: Tensor) -> None:
    """Refuse what is not a real vector of the shape, dtype and device of another.

    Parameters
    ----------
    name : str
        What messages call it.
    v : Tensor
        To be looked at.
    like : Tensor, shape (n,)
        The other; messages call it b.

    Raises
    ------
    TypeError, ValueError
        In one sentence.
    """
    if not isinstance(v, Tensor):
        raise TypeError(f"{name} must be a torch tensor, not {type(v).__name__}")
    if like.ndim == 0:
        raise ValueError(f"{name} must be a vector of shape (n,), not a single number")
    if v.ndim != 1 or v.shape != like.shape:
        raise ValueError(f"{name} must have shape ({like.shape[0]},), not {tuple(v.shape)}")
    if v.dtype not in (torch.float32, torch.float64):
        hint = f"; {REAL_FORM}" if v.is_complex() else ""
        raise TypeError(f"{name} must be float32 or float64, not {v.dtype}{hint}")
    if v.dtype != like.dtype or v.device != like.device:
        raise TypeError(
            f"{name} is {v.dtype} on {v.device}, but b is {like.dtype} on {like.device}"
        )


def as_operator(A: Any, b: Tensor, *, symmetric: bool = True, name: str = "A") -> LinearOperator:
    """Take what a user has for a matrix and return a `LinearOperator`.

    Parameters
    ----------
    A : LinearOperator, Tensor, callable, or a SciPy or NumPy matrix or operator
        The matrix: anything with `@`, or a function v -> A v on tensors.
    b : Tensor, shape (n,)
        A vector the operator will meet: gives size, dtype and device.
    symmetric : bool
        Whether A is symmetric, where `A` does not say so itself.
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
        if A.is_complex():
            raise TypeError(f"{name} is complex ({A.dtype}): {REAL_FORM}")
        operator = MatrixOperator(A, symmetric=symmetric)
    elif hasattr(A, "shape") and hasattr(A, "__matmul__"):
        operator = ArrayOperator(A, b.dtype, b.device, symmetric=symmetric, name=name)
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


def to_operator(A: Any, v: Tensor | None = None) -> LinearOperator:
    """Take a matrix, which knows its own size, and return a `LinearOperator`.

    Parameters
    ----------
    A : LinearOperator, Tensor, or a SciPy or NumPy matrix or operator
        Symmetric.
    v : Tensor, shape (n,), optional
        A vector the operator will meet. With one, a function will do for A.

    Returns
    -------
    LinearOperator
        `A` itself if it is one already; declared nonsymmetric where it is an explicit matrix that
        is not symmetric.

    Raises
    ------
    TypeError, ValueError
        If `A` has no size or none that fits v, or is not real.
    """
    if v is None and not hasattr(A, "shape"):
        raise TypeError(
            f"A must be an operator or a matrix, not {type(A).__name__}: a function does not know "
            f"its size, FunctionOperator(function, n, dtype, device) does"
        )
    if v is None:
        kind = str(getattr(A, "dtype", None) or "float64").removeprefix("torch.")
        dtype = torch.float32 if kind in ("float32", "float16") else torch.float64
        v = torch.empty(A.shape[0], dtype=dtype, device=getattr(A, "device", None))
    if not (isinstance(A, LinearOperator) and A.shape[0] != v.shape[0]):
        check_vector("v0", v, v)
    operator = as_operator(A, v)
    if operator.dtype != v.dtype or operator.device != v.device:
        raise TypeError(
            f"A is {operator.dtype} on {operator.device}, but v0 is {v.dtype} on {v.device}"
        )
    operator.symmetric = is_symmetric(A, operator)
    return operator


def is_function(A: Any, operator: LinearOperator) -> bool:
    """Return whether products are all that is known of A: its symmetry is the user's word.

    Parameters
    ----------
    A : object
        What the user gave.
    operator : LinearOperator
        What `as_operator` made of it.

    Returns
    -------
    bool
        False for an operator of ours, and for an explicit matrix.
    """
    return A is not operator and not (isinstance(operator, MatrixOperator) or _is_explicit(A))


def is_symmetric(A: Any, operator: LinearOperator) -> bool:
    """Believe an operator and a function; test a matrix: u'A v = v'A u for random u, v.

    Parameters
    ----------
    A : object
        What the user gave.
    operator : LinearOperator
        What `as_operator` made of it.

    Returns
    -------
    bool
        False for an explicit matrix that differs from its transpose by more than rounding.
    """
    if A is operator or is_function(A, operator):
        return operator.symmetric
    generator = torch.Generator().manual_seed(0)
    uv = torch.randn(2, operator.shape[0], generator=generator, dtype=operator.dtype)
    u, v = uv.to(operator.device)
    images = operator.matvec(u).detach(), operator.matvec(v).detach()
    k = max(map(exponent, images))
    Au, Av = (scaled_by_power(image, -k) for image in images)
    difference = abs(torch.dot(u, Av) - torch.dot(v, Au))
    size = euclidean(u) * euclidean(Av) + euclidean(v) * euclidean(Au)
    info = torch.finfo(operator.dtype)
    denormal = scaled(len(u) * info.tiny * info.eps, -k)
    return not float(difference) > info.eps**0.5 * size + denormal * euclidean(u) * euclidean(v)
