"""Extreme eigenvalues of a symmetric pencil A v = lambda H v, by Lanczos."""

from collections.abc import Callable

import torch
from torch import Tensor

from newton_krylov.operators import LinearOperator


def pencil_extremes(
    A: LinearOperator,
    solve: Callable[[Tensor], Tensor],
    products: int,
    generator: torch.Generator,
) -> tuple[float, float]:
    """Estimate the smallest and the largest eigenvalue of H^-1 A.

    Lanczos in the inner product u'H v, in which H^-1 A is symmetric (Parlett, "The Symmetric
    Eigenvalue Problem", 1998, chapter 15), with full reorthogonalization. H itself is not needed:
    with v = H^-1 u every product H v is a vector that is at hand. The estimates lie within the
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
    r = torch.randn(n, dtype=A.dtype, generator=generator).to(A.device)
    T = torch.zeros(min(products, n), min(products, n), dtype=A.dtype, device=A.device)
    V: list[Tensor] = []  # orthonormal in H
    U: list[Tensor] = []  # u_j = H v_j
    for j in range(len(T)):
        z = solve(r)
        norm = torch.dot(z, r).sqrt()
        if j > 0:
            # The Krylov space is exhausted, and what is left of r is rounding error.
            if not norm > n * eps * T.abs().max():
                T = T[:j, :j]
                break
            T[j, j - 1] = T[j - 1, j] = norm
        V.append(z / norm)
        U.append(r / norm)
        r = A.matvec(V[j])
        T[j, j] = torch.dot(V[j], r)
        for _ in range(2):
            r = r - torch.stack(U, 1) @ (torch.stack(V) @ r)
    values = torch.linalg.eigvalsh(T)
    return float(values[0]), float(values[-1])
