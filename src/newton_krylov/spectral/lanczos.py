"""Extreme eigenpairs of a symmetric operator, by Lanczos with full reorthogonalization."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.norms import norm
from newton_krylov.operators import LinearOperator


@dataclass(frozen=True)
class Eigenpairs:
    """Ritz pairs with what their quality can be judged by.

    Attributes
    ----------
    values : Tensor, shape (k,)
        Ritz values, the wanted end of the spectrum first.
    vectors : Tensor, shape (n, k)
        Ritz vectors of unit length, as columns.
    residual_norms : Tensor, shape (k,)
        |A v - lambda v| for each; an eigenvalue of A lies within it of the Ritz value.
    matvecs : int
        Products with A.
    converged : bool
        Whether every residual met the tolerance.
    """

    values: Tensor
    vectors: Tensor
    residual_norms: Tensor
    matvecs: int
    converged: bool


def lanczos(
    A: LinearOperator,
    k: int,
    *,
    which: Literal["largest", "smallest", "magnitude"] = "largest",
    generator: torch.Generator,
    rtol: float = 1e-6,
    maxiter: int | None = None,
    basis_size: int | None = None,
    v0: Tensor | None = None,
) -> Eigenpairs:
    """Compute k extreme eigenpairs.

    Lanczos (1950) with every new vector orthogonalized twice against the whole basis, so no
    spurious copies of eigenvalues appear (Parlett, "The Symmetric Eigenvalue Problem", 1998,
    chapter 13). Where the Krylov space of the start is exhausted before there are k pairs, a fresh
    random vector carries on; still, copies of a multiple eigenvalue may be missing. Where the basis
    is full, the best Ritz vectors make a new one (thick restarts; Wu and Simon, "Thick-restart
    Lanczos method for large symmetric eigenvalue problems", 2000).

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n.
    k : int
        Pairs wanted, 1 <= k <= n.
    which : {"largest", "smallest", "magnitude"}
        Which end of the spectrum, or the largest in absolute value.
    generator : torch.Generator
        Draws the start vector, on the CPU.
    rtol : float
        Stop when every wanted residual is at most rtol times the largest Ritz value in absolute
        value.
    maxiter : int, optional
        Limit of products; min(n, max(20 k, 300)) by default.
    basis_size : int, optional
        Vectors kept at most, at least k + 2; as many as products by default.
    v0 : Tensor, shape (n,), optional
        A start instead of a random one, such as the last step's eigenvector.

    Returns
    -------
    Eigenpairs
        Values, vectors, residuals, and whether the tolerance was met.

    Raises
    ------
    ValueError
        If k is not between 1 and n.
    UnsupportedError
        If A is declared nonsymmetric.
    """
    n = A.shape[0]
    if not 1 <= k <= n:
        raise ValueError(f"k={k} eigenpairs of a {n} by {n} operator: k must be from 1 to {n}")
    if not A.symmetric:
        raise UnsupportedError("lanczos is for symmetric operators and this one is not")
    limit = min(n, max(20 * k, 300)) if maxiter is None else max(maxiter, k)
    room = min(n, limit if basis_size is None else max(basis_size, k + 2))
    basis = _Basis(A, room, generator)
    basis.start(basis.random() if v0 is None else v0)
    while True:
        exhausted = basis.expand()
        size = basis.size
        last = basis.matvecs == limit or size == n
        if size < k or not (last or exhausted or size == room or size <= 10 or size % 5 == 0):
            continue  # the small eigenproblem costs a synchronization: look now and then
        theta, S = torch.linalg.eigh(basis.T[:size, :size])
        order = _order(theta, which)
        wanted = order[:k]
        residuals = basis.beta * S[-1, wanted].abs()
        scale = float(theta.abs().max())
        converged = bool((residuals <= rtol * scale).all())
        if converged or last:
            break
        if size == room:
            kept = order[: k + (room - k) // 2]
            basis.restart(theta[kept], S[:, kept])
    V = (S[:, wanted].T @ basis.V[:size]).T  # each vector contiguous: products with them read less
    return Eigenpairs(theta[wanted], V, residuals, basis.matvecs, converged)


def largest_eigenvalue(
    A: Any, *, generator: torch.Generator, rtol: float = 1e-10, maxiter: int | None = None
) -> float:
    """Compute the algebraically largest eigenvalue of a symmetric operator, with no matrix.

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n.
    generator : torch.Generator
        Draws the start vector, on the CPU.
    rtol : float
        Relative residual of the Ritz pair; the value's own error is of second order in it.
    maxiter : int, optional
        Limit of products.

    Returns
    -------
    float
        The eigenvalue; from below, within rounding.
    """
    pairs = lanczos(A, 1, which="largest", generator=generator, rtol=rtol, maxiter=maxiter)
    return float(pairs.values[0])


def gauss_quadrature(A: LinearOperator, v: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Compute nodes and weights with v'f(A) v / v'v = sum_j weights_j f(nodes_j), about.

    Exact for polynomials f of degree up to 2 steps - 1 (Golub and Meurant, "Matrices, moments and
    quadrature", 1994), and for every f once the Krylov space of v is exhausted.

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n.
    v : Tensor, shape (n,)
        Not zero.
    steps : int
        Products at most, and vectors kept.

    Returns
    -------
    nodes : Tensor, shape (k,)
        Ritz values, rising; k <= steps.
    weights : Tensor, shape (k,)
        Not negative; their sum is 1.
    """
    generator = torch.Generator()  # for the vector after an exhausted space, which is not used
    basis = _Basis(A, min(steps, A.shape[0]), generator)
    basis.start(v)
    while not basis.expand() and basis.size < len(basis.T):
        pass
    theta, S = torch.linalg.eigh(basis.T[: basis.size, : basis.size])
    return theta, S[0].square()


def _order(theta: Tensor, which: str) -> Tensor:
    key = {"largest": -theta, "smallest": theta, "magnitude": -theta.abs()}[which]
    return torch.argsort(key)


class _Basis:
    """The orthonormal basis V (rows) and the projected operator T = V A V'."""

    def __init__(self, A: LinearOperator, limit: int, generator: torch.Generator) -> None:
        self.A, self.generator = A, generator
        n = A.shape[0]
        self.V = torch.empty(limit + 1, n, dtype=A.dtype, device=A.device)
        self.T = torch.zeros(limit, limit, dtype=A.dtype, device=A.device)
        self.size = 0
        self.matvecs = 0
        self.beta = 0.0
        self._coupling = 0.0
        self._restarted = -1  # the vector at which T is an arrow, not tridiagonal
        self.norm_A = 0.0
        # The rounding of a product and its orthogonalization, relative to |A|. A bound that grows
        # like n would leave no digit to a float32 network with millions of weights.
        self._rounding = 10 * min(n**0.5, 100.0) * torch.finfo(A.dtype).eps

    def random(self) -> Tensor:
        n = self.A.shape[0]
        return torch.randn(n, dtype=self.A.dtype, generator=self.generator).to(self.A.device)

    def start(self, v: Tensor) -> None:
        torch.div(v, norm(v), out=self.V[0])

    def expand(self) -> bool:
        """Add one vector; tell whether the Krylov space of the start is exhausted."""
        j = self.size
        r = self.A.matvec(self.V[j])
        self.matvecs += 1
        # What is left after the vectors that A V[j] has a part in is small, so orthogonalizing it
        # once more, against all, is the second of the two times that are enough.
        near = 0 if j == self._restarted else j - 1
        self.T[j, j] = self._orthogonalize(r, max(near, 0), j + 1)[-1]
        self._orthogonalize(r, 0, j + 1)
        self.beta, applied = torch.stack(
            [norm(r), torch.linalg.vector_norm(self.T[j, : j + 1])]
        ).tolist()
        self.norm_A = max(self.norm_A, abs(applied))
        self.size = j + 1
        exhausted = bool(self.beta <= self._rounding * self.norm_A)
        self._coupling = 0.0 if exhausted else self.beta
        if exhausted and self.size < len(r):
            self._continue_at_random()
        elif not exhausted:
            torch.div(r, self.beta, out=self.V[self.size])
        if self.size < len(self.T):
            self.T[j, self.size] = self.T[self.size, j] = self._coupling
        return exhausted

    def _continue_at_random(self) -> None:
        r = self.random()
        for _ in range(2):
            self._orthogonalize(r, 0, self.size)
        torch.div(r, norm(r), out=self.V[self.size])

    def restart(self, theta: Tensor, S: Tensor) -> None:
        """Go on from Ritz pairs (values theta, vectors V'S) and the newest basis vector."""
        size = len(theta)
        border = self._coupling * S[-1]
        newest = self.V[self.size].clone()
        self.V[:size] = S.T @ self.V[: self.size]
        self.V[size] = newest
        self.T.zero_()
        self.T[:size, :size] = torch.diag(theta)
        self.T[size, :size] = self.T[:size, size] = border
        self.size = self._restarted = size

    def _orthogonalize(self, r: Tensor, start: int, stop: int) -> Tensor:
        """Subtract r's part along some of the basis vectors, in place, and return it."""
        V = self.V[start:stop]
        part = V @ r
        r.addmv_(V.T, part, alpha=-1)
        return part
