"""A few eigenpairs and a multiple of the identity, solved in closed form."""

from typing import Literal

from torch import Tensor

from newton_krylov.errors import ConfigError
from newton_krylov.operators import LinearOperator
from newton_krylov.spectral.lanczos import Eigenpairs

Negative = Literal["absolute", "truncate", "keep"]
"""What becomes of a negative eigenvalue: its absolute value, zero, or itself."""


class LowRankOperator(LinearOperator):
    """V diag(values) V' + rest (I - V V'), with orthonormal columns V; O(k n) memory.

    Solved by the formula of Sherman, Morrison and Woodbury, which orthonormal columns make
    x = b / s + V ((1 / (values + shift) - 1 / s) V'b), s = rest + shift: no matrix of the size of
    the operator is ever formed.

    Parameters
    ----------
    vectors : Tensor, shape (n, k)
        Eigenvectors V.
    values : Tensor, shape (k,)
        The operator's eigenvalues along V.
    rest : float
        Eigenvalue in all other directions.
    """

    def __init__(self, vectors: Tensor, values: Tensor, rest: float = 0.0) -> None:
        super().__init__(vectors.shape[0], vectors.dtype, vectors.device)
        self.vectors = vectors
        self.values = values
        self.rest = rest

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        coordinates = (self.values - self.rest) * (self.vectors.T @ v)
        return (self.vectors @ coordinates).add_(v, alpha=self.rest)

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (n, m)."""
        coordinates = (self.values - self.rest)[:, None] * (self.vectors.T @ V)
        return (self.vectors @ coordinates).add_(V, alpha=self.rest)

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (n,)."""
        return (self.vectors.square() @ (self.values - self.rest)).add_(self.rest)

    def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
        """Solve (A + shift I) x = b, shape (n,).

        Raises
        ------
        ConfigError
            If the matrix is singular in the directions that V leaves out.
        """
        coordinates, gains = self.vectors.T @ b, 1 / (self.values + shift)
        n, k = self.vectors.shape
        if k == n:
            return self.vectors @ (gains * coordinates)
        rest = self.rest + shift
        if rest == 0.0:
            raise ConfigError(
                f"A matrix of rank {k} cannot be inverted in {n} dimensions: set damping.tau "
                f"(the tau of H + tau I) or hessian_approx.rest to more than 0."
            )
        return (self.vectors @ ((gains - 1 / rest) * coordinates)).add_(b, alpha=1 / rest)


def low_rank(pairs: Eigenpairs, negative: Negative, rest: float) -> LowRankOperator:
    """Make an operator of eigenpairs.

    Parameters
    ----------
    pairs : Eigenpairs
        k of them.
    negative : {"absolute", "truncate", "keep"}
        What to do with negative values.
    rest : float
        The curvature of all other directions, in units of the smallest |value|.

    Returns
    -------
    LowRankOperator
        Shape (n, n).
    """
    others = rest * float(pairs.values.abs().min())
    return LowRankOperator(pairs.vectors, without_negative(pairs.values, negative), others)


def without_negative(values: Tensor, negative: Negative) -> Tensor:
    """Apply the rule for negative curvature.

    Parameters
    ----------
    values : Tensor
        Eigenvalues, or what stands for them.
    negative : {"absolute", "truncate", "keep"}
        Rule for negative eigenvalues.

    Returns
    -------
    Tensor
        Same shape.
    """
    if negative == "absolute":
        return values.abs()
    return values.clamp(min=0.0) if negative == "truncate" else values


def describe(pairs: Eigenpairs) -> str:
    """Say what was found: each value with its Ritz residual |H v - lambda v|.

    Parameters
    ----------
    pairs : Eigenpairs
        Any number.

    Returns
    -------
    str
        Such as `lambda 3.21 (residual 0.02)`.
    """
    values, residuals = pairs.values.tolist(), pairs.residual_norms.tolist()
    return "lambda " + ", ".join(
        f"{value:.3g} (residual {residual:.1g})"
        for value, residual in zip(values, residuals, strict=True)
    )
