"""Randomized estimates of a trace, a diagonal and a norm, from products with random vectors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from newton_krylov.norms import euclidean
from newton_krylov.operators import LinearOperator, to_operator

Probe = Literal["signs", "gaussian"]
"""What random vectors are made of; each has the identity as its covariance. Signs have the smallest
variance entry by entry; Gaussians know no direction, so their law is that of the eigenvalues."""


@dataclass(frozen=True)
class Estimate:
    """An unbiased estimate.

    Attributes
    ----------
    value : float
        The estimate.
    error : float
        Standard error, estimated from the samples' spread (roughly, for `xtrace`, whose samples
        depend on one another); 0 where it is exact, and nan where
        there was one sample only.
    matvecs : int
        Products with the operator.
    """

    value: float
    error: float
    matvecs: int


def signs(A: LinearOperator, generator: torch.Generator) -> Tensor:
    """Draw a vector of independent signs.

    Parameters
    ----------
    A : LinearOperator
        n by n; gives dtype and device.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, shape (n,)
        +1 and -1, each with probability 1/2.
    """
    bits = torch.randint(2, (A.shape[0],), generator=generator, dtype=torch.int8)
    return bits.to(A.device, A.dtype).mul_(2).sub_(1)


def gaussian(A: LinearOperator, generator: torch.Generator) -> Tensor:
    """Draw a vector of independent standard normal numbers.

    Parameters
    ----------
    A : LinearOperator
        n by n; gives dtype and device.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, shape (n,)
        The vector.
    """
    return torch.randn(A.shape[0], dtype=A.dtype, generator=generator).to(A.device)


_DRAW = {"signs": signs, "gaussian": gaussian}


def trace(
    A: Any,
    products: int,
    *,
    generator: torch.Generator,
    method: Literal["hutch++", "hutchinson", "xtrace"] = "hutch++",
    probe: Probe = "signs",
) -> Estimate:
    """Estimate the trace of a symmetric operator.

    `hutchinson` takes the mean of z'A z over random vectors z (Hutchinson, 1990), whose variance is
    2 |A - diag A|_F^2 a sample with signs and 2 |A|_F^2 with Gaussians. `hutch++` spends a third of
    the products on a sketch of the range, a third on the exact trace there, and Hutchinson's
    estimate is needed of the rest alone (Meyer, Musco, Musco and Woodruff, "Hutch++: optimal
    stochastic trace estimation", 2021): exact for a matrix of low rank, and far more accurate where
    eigenvalues decay. `xtrace` lets each vector of the sketch be, in turn, the sample of what the
    others leave (Epperly, Tropp and Webber, "XTrace: making the most of every sample in stochastic
    trace estimation", 2024): half the products make the sketch, and all serve as samples too.

    Parameters
    ----------
    A : operator or matrix, n by n
        Symmetric; see `operators.to_operator`.
    products : int
        With A, at most; at least 1, and 3 for `hutch++`, which keeps a third of so many vectors,
        and 4 for `xtrace`, which keeps two of n for each.
    generator : torch.Generator
        On the CPU.
    method : {"hutch++", "hutchinson", "xtrace"}
        Which estimator.
    probe : {"signs", "gaussian"}
        Which random vectors.

    Returns
    -------
    Estimate
        The trace.

    Raises
    ------
    ValueError
        If there are too few products for the method.
    """
    if products < {"hutchinson": 1, "hutch++": 3, "xtrace": 4}[method]:
        raise ValueError(f"{products} products are too few for {method}")
    A = to_operator(A)
    n = A.shape[0]
    if method == "hutchinson":
        return _hutchinson(A, None, products, generator, probe)
    if method == "xtrace":
        return _LeaveOneOut(A, min(products // 2, n), generator, probe).trace()
    rank = min(products // 3, n)
    Q = torch.linalg.qr(_sketch(A, rank, generator, probe)[1]).Q
    captured = math.fsum(float(torch.dot(q, A.matvec(q.contiguous()))) for q in Q.T)
    if rank == n:
        return Estimate(captured, 0.0, 2 * rank)
    rest = _hutchinson(A, Q, products - 2 * rank, generator, probe)
    return Estimate(captured + rest.value, rest.error, 2 * rank + rest.matvecs)


def _sketch(
    A: LinearOperator, count: int, generator: torch.Generator, probe: Probe
) -> tuple[Tensor, Tensor]:
    """Draw random vectors, and multiply them: two matrices of shape (n, count)."""
    probes = torch.stack([_DRAW[probe](A, generator) for _ in range(count)], 1)
    return probes, A.matmat(probes)


def _hutchinson(
    A: LinearOperator, Q: Tensor | None, count: int, generator: torch.Generator, probe: Probe
) -> Estimate:
    """Estimate the trace of A in the complement of the columns of Q."""
    samples = []
    for _ in range(count):
        z = _DRAW[probe](A, generator)
        if Q is not None:
            z = z - Q @ (Q.T @ z)
        samples.append(float(torch.dot(z, A.matvec(z))))
    return _mean(samples, count)


def _mean(samples: Sequence[float], matvecs: int) -> Estimate:
    """Return the mean of samples with its standard error."""
    count = len(samples)
    mean = math.fsum(samples) / count
    spread = math.hypot(*(sample - mean for sample in samples))
    error = spread / math.sqrt(count * (count - 1)) if count > 1 else math.nan
    return Estimate(mean, error, matvecs)


class _LeaveOneOut:
    """A sketch of the range of A, and what is left of it without one of its k vectors.

    With Omega the random vectors, Y = A Omega = Q R and s_i the normalized i-th column of R^-T, the
    range of all vectors of Y but the i-th is that of Q (I - s_i s_i').
    """

    def __init__(
        self, A: LinearOperator, count: int, generator: torch.Generator, probe: Probe
    ) -> None:
        self.n, self.count = A.shape[0], count
        self.Omega, self.Y = _sketch(A, count, generator, probe)
        self.Q, self.R = torch.linalg.qr(self.Y)
        self.Z = A.matmat(self.Q)
        pivots = self.R.diagonal().abs()
        eps = torch.finfo(A.dtype).eps
        # Without one of its vectors a sketch that has too many of them loses nothing.
        self.deficient = bool(pivots.min() <= self.n * eps * pivots.max())
        self.S = torch.zeros_like(self.R)
        if not self.deficient:
            eye = torch.eye(count, dtype=A.dtype, device=A.device)
            inverse = torch.linalg.solve_triangular(self.R, eye, upper=True).T
            self.S = inverse / torch.linalg.vector_norm(inverse, dim=0)

    def trace(self) -> Estimate:
        captured = float((self.Q * self.Z).sum())
        if self.count == self.n:
            return Estimate(captured, 0.0, 2 * self.count)
        W = self.Q.T @ self.Omega
        T = W - self.S * (self.S * W).sum(0)
        lost = ((self.Q @ self.S) * (self.Z @ self.S)).sum(0)
        rest = ((self.Omega - self.Q @ T) * (self.Y - self.Z @ T)).sum(0)
        return _mean((captured - lost + rest).tolist(), 2 * self.count)

    def diagonal(self) -> Tensor:
        captured: Tensor = (self.Q * self.Z).sum(1)
        if self.count == self.n:
            return captured
        T = self.R - self.S * (self.S * self.R).sum(0)
        rest = self.Omega * (self.Y - self.Q @ T)
        lost = (self.Q @ self.S) * (self.Z @ self.S)
        return captured.add_((rest - lost).mean(1))


def diagonal(
    A: Any,
    probes: int,
    *,
    generator: torch.Generator,
    method: Literal["hutchinson", "xdiag"] = "hutchinson",
) -> Tensor:
    """Estimate the diagonal of a symmetric operator.

    `hutchinson` is the mean of z * (A z) over random signs z (Bekas, Kokiopoulou and Saad, "An
    estimator for the diagonal of a matrix", 2007): unbiased, and entry i has variance sum over
    j != i of A_ij^2 divided by the number of probes; exact for a diagonal matrix. `xdiag` needs it
    of what a sketch of the range leaves alone, each of its vectors in turn being the sample of what
    the others leave (Epperly, Tropp and Webber, 2024): exact for a matrix of low rank.

    Parameters
    ----------
    A : operator or matrix, n by n
        Symmetric; see `operators.to_operator`.
    probes : int
        Products, at least 1, and 2 for `xdiag`, which keeps two vectors of n for each.
    generator : torch.Generator
        On the CPU.
    method : {"hutchinson", "xdiag"}
        Which estimator.

    Returns
    -------
    Tensor, shape (n,)
        The estimate.

    Raises
    ------
    ValueError
        If there are too few products for the method.
    """
    if probes < (2 if method == "xdiag" else 1):
        raise ValueError(f"{probes} products are too few for {method}")
    A = to_operator(A)
    if method == "xdiag":
        return _LeaveOneOut(A, min(probes // 2, A.shape[0]), generator, "signs").diagonal()
    total = torch.zeros(A.shape[0], dtype=A.dtype, device=A.device)
    for _ in range(probes):
        z = signs(A, generator)
        total.addcmul_(z, A.matvec(z))
    return total.div_(probes)


def frobenius(
    A: Any, products: int, *, generator: torch.Generator, probe: Probe = "signs"
) -> Estimate:
    """Estimate the Frobenius norm of an operator, which need not be symmetric.

    |A|_F^2 is the mean of |A z|^2 over random vectors z, for its trace is that of A'A (Hutchinson,
    1990). The square of the value is unbiased; the error is that of the value, to first order.

    Parameters
    ----------
    A : operator or matrix, n by n
        See `operators.to_operator`.
    products : int
        With A, at least 1.
    generator : torch.Generator
        On the CPU.
    probe : {"signs", "gaussian"}
        Which random vectors.

    Returns
    -------
    Estimate
        The norm.

    Raises
    ------
    ValueError
        If there are no products.
    """
    if products < 1:
        raise ValueError(f"{products} products are too few for the Frobenius norm")
    A = to_operator(A)
    norms = [euclidean(A.matvec(_DRAW[probe](A, generator))) for _ in range(products)]
    unit = max(norms)
    if not 0.0 < unit < math.inf:
        return Estimate(unit, 0.0 if unit == 0.0 else math.nan, products)
    square = _mean([(norm / unit) * (norm / unit) for norm in norms], products)
    value = math.sqrt(square.value)
    return Estimate(value * unit, square.error / (2 * value) * unit, products)
