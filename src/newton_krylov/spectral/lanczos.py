"""Extreme eigenpairs of a symmetric operator, by Lanczos with full reorthogonalization."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from newton_krylov.errors import NotFiniteError, UnsupportedError
from newton_krylov.norms import euclidean, exponent, norm, scaled_by_power
from newton_krylov.operators import LinearOperator, Products, to_operator

Which = Literal["largest", "smallest", "magnitude"]

_UNLIKELY = 1e-8
"""A random start has a part in a given eigenvector smaller than the root of this times 1 / n with
probability 1e-4."""


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
        Whether every residual met the tolerance and, where that was to be looked at, `complete`.
    complete : bool
        Whether it is known that no pair was passed over, such as a copy of a multiple eigenvalue;
        with a random start, known but for a probability of about 1e-4. False means unknown.
    """

    values: Tensor
    vectors: Tensor
    residual_norms: Tensor
    matvecs: int
    converged: bool
    complete: bool = False


def lanczos(
    A: Any,
    k: int,
    *,
    which: Which = "largest",
    generator: torch.Generator,
    rtol: float = 1e-6,
    maxiter: int | None = None,
    basis_size: int | None = None,
    v0: Tensor | None = None,
    copies: bool = True,
) -> Eigenpairs:
    """Compute k extreme eigenpairs.

    Lanczos (1950) with every new vector orthogonalized twice against the whole basis, so no
    spurious copies of eigenvalues appear (Parlett, "The Symmetric Eigenvalue Problem", 1998,
    chapter 13). Where the Krylov space of the start is exhausted before there are k pairs, a fresh
    random vector carries on. Where the basis is full, the best Ritz vectors make a new one (thick
    restarts; Wu and Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems",
    2000).

    A Krylov space has one vector of each eigenspace, so true copies of a multiple eigenvalue are
    passed over. Therefore the k pairs, once found, are set aside, and a random start orthogonal to
    them looks for a value that belongs among them, until it is found or Lanczos's error bound (as
    of Saad, "Numerical Methods for Large Eigenvalue Problems", 2011, theorem 6.4) excludes it. For
    k = 1 there is nothing to look for.

    Parameters
    ----------
    A : operator or matrix, n by n
        Symmetric; a `LinearOperator`, a tensor, or a NumPy or SciPy matrix.
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
        Limit of products; min(n, max(20 k, 300)) by default, twice that with `copies`.
    basis_size : int, optional
        Vectors kept at most, at least k + 2; min(n, max(20 k, 300)) or `maxiter` by default.
    v0 : Tensor, shape (n,), optional
        A start instead of a random one, such as the last step's eigenvector; zero counts as none.
    copies : bool
        Whether to look for pairs that were passed over; costs about as many products again. If
        not, `complete` is False unless the whole space was searched.

    Returns
    -------
    Eigenpairs
        Values, vectors, residuals, and whether the tolerance was met.

    Raises
    ------
    ValueError
        If k is not between 1 and n, or v0 is not a finite vector of shape (n,).
    UnsupportedError
        If A is declared nonsymmetric, or is a matrix that is not symmetric.
    NotFiniteError
        If a product is not finite.
    """
    operator = to_operator(A, v0)
    n = operator.shape[0]
    if not 1 <= k <= n:
        raise ValueError(f"k={k} eigenpairs of a {n} by {n} operator: k must be from 1 to {n}")
    if not operator.symmetric:
        raise UnsupportedError("lanczos is for symmetric operators and this one is not")
    copies = copies and k > 1
    usual = min(n, max(20 * k, 300))
    limit = usual if maxiter is None else max(maxiter, k)
    final = min(n, 2 * usual) if maxiter is None else limit
    room = min(n, limit if basis_size is None else max(basis_size, k + 2))
    basis = LanczosBasis(operator, room, generator)
    basis.start(v0)
    search = _Search(basis, k, which, rtol, copies)
    search.run(limit, final)
    return search.pairs()


class _Search:
    """The search for k pairs, and for what it may have passed over."""

    # The basis's Ritz values and vectors when it was last looked at, and S's k best columns.
    theta: Tensor
    S: Tensor
    wanted: Tensor
    residuals: Tensor

    def __init__(
        self, basis: "LanczosBasis", k: int, which: Which, rtol: float, copies: bool
    ) -> None:
        self.basis, self.k, self.which = basis, k, which
        self.rtol, self.copies, self.limit = rtol, copies, 0
        self.converged = self.complete = False

    def run(self, limit: int, final: int) -> None:
        """Search for k pairs; then, as long as that finds any, for better ones beside them.

        With so many products at most, for the one and in all.
        """
        self.limit = limit
        self._converge()
        self.limit = final
        while self.converged and self.copies and not self.complete:
            self.basis.lock(self.theta[self.wanted], self.S[:, self.wanted], self.residuals)
            better = self._look_beside()
            if not better:
                self._keep_locked()
                self.complete = self.converged = better is not None
                return
            self._converge()
            self._measure()

    def _measure(self) -> None:
        """Take the residuals by products: what lies between old pairs and new is not in T."""
        basis = self.basis
        if not self.converged or basis.matvecs + self.k > self.limit:
            return
        V = self.S[:, self.wanted].T @ basis.V[: len(self.S)]
        for i, (v, value) in enumerate(zip(V, self.theta[self.wanted], strict=True)):
            self.residuals[i] = norm(basis.products(v.contiguous()) - value * v)

    def pairs(self) -> Eigenpairs:
        """Return the pairs, in the operator's units."""
        basis, k = self.basis, self.basis.products.exponent
        # Each vector contiguous: products with them read less.
        V = (self.S[:, self.wanted].T @ basis.V[: len(self.S)]).T
        return Eigenpairs(
            scaled_by_power(self.theta[self.wanted], k),
            V,
            scaled_by_power(self.residuals, k),
            basis.matvecs,
            self.converged,
            self.complete or (self.k == 1 and self.converged),
        )

    def _converge(self) -> None:
        """Expand until the wanted residuals meet the tolerance, or the limit of products."""
        basis, n = self.basis, self.basis.n
        while True:
            exhausted = basis.expand()
            size = basis.size
            last = basis.matvecs == self.limit or size == n
            if size < self.k and not last:
                continue
            if not (last or exhausted or size == basis.room or size <= 10 or size % 5 == 0):
                continue  # the small eigenproblem costs a synchronization: look now and then
            self._look()
            scale = float(self.theta.abs().max())
            self.converged = bool((self.residuals <= self.rtol * scale).all())
            self.complete = size == n
            # So near the whole space, the rest of it answers what a search beside would ask.
            whole = self.copies and basis.locked == 0 and basis.room == n
            whole = whole and self.limit >= n and 4 * basis.matvecs > n
            if last or (self.converged and not whole):
                return
            if size == basis.room:
                self._restart()

    def _look(self) -> None:
        basis = self.basis
        self.theta, self.S = basis.ritz()
        self.order = torch.argsort(-self._key(self.theta))
        self.wanted = self.order[: self.k]
        self.residuals = basis.residuals(self.S)[self.wanted]

    def _key(self, theta: Tensor) -> Tensor:
        """Return what is largest for the most wanted values."""
        return {"largest": theta, "smallest": -theta, "magnitude": theta.abs()}[self.which]

    def _restart(self) -> None:
        kept = self.order[: self.k + (self.basis.room - self.k) // 2]
        self.basis.restart(self.theta[kept], self.S[:, kept])

    def _look_beside(self) -> bool | None:
        """Search the complement of the pairs set aside for one that belongs among them.

        Whether there is one; None where the products do not suffice to decide.
        """
        basis = self.basis
        found = self._key(basis.T[: self.k, : self.k].diagonal())
        worst, scale = float(found.min()), float(basis.T[: self.k, : self.k].abs().max())
        steps = 0
        while True:
            if basis.matvecs >= self.limit:
                return None
            exhausted = basis.expand()
            steps += 1
            theta, S = torch.linalg.eigh(basis.T[self.k : basis.size, self.k : basis.size])
            residuals = basis.beta * S[-1].abs()
            best = int(self._key(theta).argmax())
            key, residual = float(self._key(theta)[best]), float(residuals[best])
            self._look()
            if key > worst + 100 * basis.eps * scale:
                return True
            settled = exhausted or basis.size == basis.n or residual <= self.rtol * scale
            if settled or self._excluded(theta, worst, residual, steps):
                return False
            if basis.size == basis.room:
                self._restart()

    def _keep_locked(self) -> None:
        """Take the pairs that were set aside for the answer, and no equal one from beside them."""
        k = self.k
        order = torch.argsort(-self._key(self.basis.T[:k, :k].diagonal()))
        self.theta = self.basis.T[:k, :k].diagonal()
        self.S = torch.eye(k, dtype=self.theta.dtype, device=self.theta.device)
        self.wanted, self.residuals = order, self.basis.locked_residuals[order]

    def _excluded(self, theta: Tensor, worst: float, residual: float, steps: int) -> bool:
        """Return whether an eigenvalue as good as the worst found would have shown by now.

        Had the start a part of squared length w in its vector, the best Ritz value would be within
        (spread / w) / T(1 + 2 gap / spread)^2 of it, T the Chebyshev polynomial.
        """
        low, high = float(theta[0]), float(theta[-1])
        if self.which == "largest":
            gap = worst - high - residual
        elif self.which == "smallest":
            gap = low + worst - residual  # the key of the smallest is its negative
        else:
            gap = worst - max(abs(low), abs(high)) - residual
        spread = high - low + residual
        if not gap > 0.0 or not spread > 0.0:
            return False
        growth = 2 * (steps - 1) * math.acosh(1 + 2 * gap / spread) - math.log(4)
        return growth > math.log((spread + gap) / gap * self.basis.n / _UNLIKELY)


def largest_eigenvalue(
    A: Any, *, generator: torch.Generator, rtol: float = 1e-10, maxiter: int | None = None
) -> float:
    """Compute the algebraically largest eigenvalue of a symmetric operator, with no matrix.

    Parameters
    ----------
    A : operator or matrix, n by n
        Symmetric; see `lanczos`.
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
        Vector, not zero.
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
    basis = LanczosBasis(A, min(steps, A.shape[0]), generator)
    basis.start(v)
    while not basis.expand() and basis.size < len(basis.T):
        pass
    theta, S = basis.ritz()
    return scaled_by_power(theta, basis.products.exponent), S[0].square()


class LanczosBasis:
    """The orthonormal basis V (rows) and the projected operator T = V A V' / unit.

    The first `locked` vectors are Ritz vectors that were set aside: their residuals, which are
    below the tolerance, are left out of T.
    """

    def __init__(self, A: LinearOperator, limit: int, generator: torch.Generator) -> None:
        self.products, self.generator = Products(A), generator
        self.n, self.room = A.shape[0], limit
        self.V = torch.empty(limit + 1, self.n, dtype=A.dtype, device=A.device)
        self.T = torch.zeros(limit, limit, dtype=A.dtype, device=A.device)
        self.size = 0
        self.locked = 0
        self.locked_residuals = self.T.new_zeros(0)
        self.beta = 0.0
        self._coupling = 0.0
        self._restarted = -1  # the vector at which T is an arrow, not tridiagonal
        self.norm_A = 0.0
        self.eps = torch.finfo(A.dtype).eps
        # The rounding of a product and its orthogonalization, relative to |A|. A bound that grows
        # like n would leave no digit to a float32 network with millions of weights.
        self._rounding = 10 * min(self.n**0.5, 100.0) * self.eps

    @property
    def matvecs(self) -> int:
        """Products so far."""
        return self.products.count

    def random(self) -> Tensor:
        """Draw a vector."""
        v = torch.randn(self.n, dtype=self.V.dtype, generator=self.generator)
        return v.to(self.V.device)

    def start(self, v: Tensor | None) -> None:
        """Begin with v, or where that is None or zero with a random vector."""
        size = 0.0 if v is None else euclidean(v)
        if not math.isfinite(size):
            raise NotFiniteError("the start v0 has entries that are not finite")
        start = self.random() if v is None or size == 0.0 else scaled_by_power(v, -exponent(v))
        torch.div(start, norm(start), out=self.V[0])

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues, rising, and eigenvectors of T."""
        theta, S = torch.linalg.eigh(self.T[: self.size, : self.size])
        return theta, S

    def residuals(self, S: Tensor) -> Tensor:
        """Norms of the residuals of the Ritz vectors V'S."""
        newest = self.beta * S[-1].abs()
        if self.locked == 0:
            return newest
        old = S[: self.locked].square().T @ self.locked_residuals.square()
        return (newest.square() + old).sqrt()

    def expand(self) -> bool:
        """Add one vector; return whether the Krylov space of the start is exhausted."""
        j = self.size
        r = self.V[j + 1].copy_(self.products(self.V[j]))
        # What is left after the vectors that A V[j] has a part in is small, so orthogonalizing it
        # once more, against all, is the second of the two times that are enough.
        near = 0 if j == self._restarted else j - 1
        self.T[j, j] = self._orthogonalize(r, max(near, 0), j + 1)[-1]
        self._orthogonalize(r, 0, j + 1)
        self.beta, applied = torch.stack(
            [norm(r), torch.linalg.vector_norm(self.T[j, : j + 1])]
        ).tolist()
        if not math.isfinite(self.beta + applied):
            raise NotFiniteError(
                f"product {self.matvecs} with the operator is not finite: its entries, or those of "
                f"the point it belongs to, are nan, infinite or too large"
            )
        self.norm_A = max(self.norm_A, abs(applied))
        self.size = j + 1
        exhausted = bool(self.beta <= self._rounding * self.norm_A)
        self._coupling = 0.0 if exhausted else self.beta
        if exhausted and self.size < self.n:
            self._continue_at_random()
        elif not exhausted:
            r.div_(self.beta)
        if self.size < len(self.T):
            self.T[j, self.size] = self.T[self.size, j] = self._coupling
        return exhausted

    def _continue_at_random(self) -> None:
        r = self.random()
        for _ in range(2):
            self._orthogonalize(r, 0, self.size)
        torch.div(r, norm(r), out=self.V[self.size])

    def restart(self, theta: Tensor, S: Tensor) -> None:
        """Restart from Ritz pairs (values theta, vectors V'S) and the newest basis vector."""
        size = len(theta)
        border = self._coupling * S[-1]
        newest = self.V[self.size].clone()
        self.V[:size] = S.T @ self.V[: self.size]
        self.V[size] = newest
        self.T.zero_()
        self.T[:size, :size] = torch.diag(theta)
        self.T[size, :size] = self.T[:size, size] = border
        self.size = self._restarted = size

    def lock(self, theta: Tensor, S: Tensor, residuals: Tensor) -> None:
        """Set Ritz pairs aside, and restart from a random vector orthogonal to them."""
        count = len(theta)
        self.V[:count] = S.T @ self.V[: len(S)]
        self.T.zero_()
        self.T[:count, :count] = torch.diag(theta)
        self.size = self.locked = self._restarted = count
        self.locked_residuals = residuals.clone()
        self._continue_at_random()

    def _orthogonalize(self, r: Tensor, start: int, stop: int) -> Tensor:
        """Subtract r's part along some of the basis vectors, in place, and return it."""
        V = self.V[start:stop]
        part = V @ r
        r.addmv_(V.T, part, alpha=-1)
        return part
