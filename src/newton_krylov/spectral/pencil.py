"""Extreme eigenvalues of a symmetric pencil A v = lambda H v, by Lanczos."""

from collections.abc import Callable

import torch
from torch import Tensor

from newton_krylov.errors import NotFiniteError
from newton_krylov.norms import scaled_by_power
from newton_krylov.operators import FunctionOperator, LinearOperator, Products


def pencil_extremes(
    A: LinearOperator,
    solve: Callable[[Tensor], Tensor],
    products: int,
    generator: torch.Generator,
) -> tuple[float, float]:
    """Estimate the smallest and the largest eigenvalue of H^-1 A.

    Lanczos in the inner product u'H v, in which H^-1 A is symmetric (Parlett, "The Symmetric
    Eigenvalue Problem", 1998, chapter 15), with full reorthogonalization. H itself is not needed:
    with v = H^-1 u every product H v is a vector that is known. The estimates lie within the
    spectrum, so the smallest is never too small and the largest never too large.

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n.
    solve : callable
        r -> H^-1 r, with H symmetric positive definite; shapes (n,).
    products : int
        Products with A, and solves with H; at most n are made.
    generator : torch.Generator
        Draws the start vector, on the CPU.

    Returns
    -------
    tuple of float
        Smallest and largest Ritz value.
    """
    n, eps = A.shape[0], torch.finfo(A.dtype).eps
    # Both in units in which no square under- or overflows: A / a and H^-1 / h.
    product = Products(A)
    inverse = Products(FunctionOperator(solve, n, A.dtype, A.device), "H^-1")
    r = torch.randn(n, dtype=A.dtype, generator=generator).to(A.device)
    T = torch.zeros(min(products, n), min(products, n), dtype=A.dtype, device=A.device)
    V: list[Tensor] = []  # orthonormal in H
    U: list[Tensor] = []  # u_j = H v_j
    for j in range(len(T)):
        z = inverse(r)
        norm = torch.dot(z, r).sqrt()
        if j > 0:
            # The Krylov space is exhausted, and what is left of r is rounding error.
            if not norm > n * eps * T.abs().max():
                T = T[:j, :j]
                break
            T[j, j - 1] = T[j - 1, j] = norm
        V.append(z / norm)
        U.append(r / norm)
        r = product(V[j])
        T[j, j] = torch.dot(V[j], r)
        for _ in range(2):
            r = r - torch.stack(U, 1) @ (torch.stack(V) @ r)
    if not torch.isfinite(T).all():
        raise NotFiniteError("products with A or solutions with H have entries that are not finite")
    values = torch.linalg.eigvalsh(T)
    unit = product.exponent + inverse.exponent
    return float(scaled_by_power(values[:1], unit)), float(scaled_by_power(values[-1:], unit))
