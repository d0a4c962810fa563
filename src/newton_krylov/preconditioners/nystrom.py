"""The randomized Nystrom preconditioner."""

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.result import Preconditioner
from newton_krylov.norms import exponent, scaled_by_power
from newton_krylov.operators import LinearOperator
from newton_krylov.preconditioners.base import PreconditionerBuilder
from newton_krylov.registry import register


@register("preconditioner", "nystrom")
class Nystrom(PreconditionerBuilder):
    """Deflates the largest eigenvalues, found by one block product with a random matrix.

    Frangella, Tropp and Udell, "Randomized Nystrom preconditioning" (2023), algorithms 2.1 and
    5.1. With U diag(l) U' the Nystrom approximation of A of rank r and mu a shift,
    M v = (l_r + mu) U (diag(l) + mu)^-1 U'v + (v - U U'v). For A = B + mu I with B positive
    semidefinite of fast decaying spectrum, mu is the regularizer; 0 takes the smallest of l.

    Parameters
    ----------
    rank : int
        r, the products with A it takes; at most n.
    shift : float
        mu >= 0.
    """

    def __init__(self, rank: PositiveInt = 20, shift: NonNegativeFloat = 0.0) -> None:
        self.rank = rank
        self.shift = shift

    def build(self, A: LinearOperator, generator: torch.Generator) -> Preconditioner | None:
        """Return v -> M v of the operator A, which should be positive semidefinite."""
        U, values = nystrom_approximation(A, min(self.rank, A.shape[0]), generator)
        # A sketch that is not positive definite says that A is not: leave it alone.
        return deflation(U, values, self.shift)


def deflation(U: Tensor, values: Tensor, shift: float) -> Preconditioner | None:
    """Return v -> (l + shift) U (diag(values) + shift)^-1 U'v + (v - U U'v), l the last value.

    Parameters
    ----------
    U : Tensor, shape (n, r)
        Orthonormal columns.
    values : Tensor, shape (r,)
        Falling.
    shift : float
        At least 0.

    Returns
    -------
    callable or None
        None where l + shift is not positive.
    """
    low = values[-1] + shift
    if not float(low) > 0.0:
        return None
    gains = low / (values + shift) - 1

    def apply(v: Tensor) -> Tensor:
        return v + U @ (gains * (U.T @ v))

    return apply


def nystrom_approximation(
    A: LinearOperator, rank: int, generator: torch.Generator, *, indefinite: bool = False
) -> tuple[Tensor, Tensor]:
    """Approximate a positive semidefinite operator by U diag(values) U'.

    Parameters
    ----------
    A : LinearOperator
        Positive semidefinite, n by n.
    rank : int
        r <= n, the products with A.
    generator : torch.Generator
        Draws the test matrix, on the CPU.
    indefinite : bool
        Whether A may have negative eigenvalues: its sketch is then shifted by its own lowest
        eigenvalue, and what is left of negative ones is 0 (as Rathore et al. 2024 do). If not, a
        sketch that is not positive definite has the values 0.

    Returns
    -------
    U : Tensor, shape (n, r)
        Orthonormal columns.
    values : Tensor, shape (r,)
        Nonnegative, falling.
    """
    n = A.shape[0]
    sketch = torch.randn(n, rank, dtype=A.dtype, generator=generator).to(A.device)
    Q = torch.linalg.qr(sketch).Q
    Y = A.matmat(Q)
    k = exponent(Y)  # in units in which squares are in range
    Y = scaled_by_power(Y, -k)
    # A small shift makes the core positive definite in spite of rounding, and is taken off again.
    nu = torch.finfo(A.dtype).eps * n**0.5 * torch.linalg.matrix_norm(Y)
    Y = Y + nu * Q
    core = Q.T @ Y
    core = (core + core.T) / 2
    factor, info = torch.linalg.cholesky_ex(core)
    if int(info) != 0 and indefinite:
        more = nu - 2 * torch.linalg.eigvalsh(core)[0]
        Y, nu = Y + more * Q, nu + more
        factor, info = torch.linalg.cholesky_ex(core + more * torch.eye(len(core)).to(core))
    if int(info) != 0:
        return Q, torch.zeros(rank, dtype=A.dtype, device=A.device)
    B = torch.linalg.solve_triangular(factor, Y.T, upper=False).T
    U, singular, _ = torch.linalg.svd(B, full_matrices=False)
    return U, scaled_by_power((singular.square() - nu).clamp_min(0), k)
