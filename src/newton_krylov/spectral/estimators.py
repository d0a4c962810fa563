"""Randomized estimates of a trace and a diagonal, from products with random vectors."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from newton_krylov.operators import LinearOperator


@dataclass(frozen=True)
class Estimate:
    """An unbiased estimate.

    Attributes
    ----------
    value : float
        The estimate.
    error : float
        Its standard error, estimated from the samples' spread; 0 where it is exact, and nan where
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


def trace(
    A: LinearOperator,
    products: int,
    *,
    generator: torch.Generator,
    method: Literal["hutch++", "hutchinson"] = "hutch++",
) -> Estimate:
    """Estimate the trace of a symmetric operator.

    `hutchinson` takes the mean of z'A z over random signs z (Hutchinson, 1990), whose variance is
    2 |A - diag A|_F^2 a sample. `hutch++` spends a third of the products on a sketch of the
    range, a third on the exact trace there, and Hutchinson's estimate is needed of the rest alone
    (Meyer, Musco, Musco and Woodruff, "Hutch++: optimal stochastic trace estimation", 2021):
    exact for a matrix of low rank, and far more accurate where eigenvalues decay.

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n.
    products : int
        With A, at most; at least 1, and 3 for `hutch++`, which keeps a third of so many vectors.
    generator : torch.Generator
        On the CPU.
    method : {"hutch++", "hutchinson"}
        Which estimator.

    Returns
    -------
    Estimate
        The trace.

    Raises
    ------
    ValueError
        If there are too few products for the method.
    """
    if products < (3 if method == "hutch++" else 1):
        raise ValueError(f"{products} products are too few for {method}")
    n = A.shape[0]
    if method == "hutchinson":
        return _hutchinson(A, None, products, generator)
    rank = min(products // 3, n)
    sketch = torch.stack([A.matvec(signs(A, generator)) for _ in range(rank)], 1)
    Q = torch.linalg.qr(sketch).Q
    captured = math.fsum(float(torch.dot(q, A.matvec(q.contiguous()))) for q in Q.T)
    if rank == n:
        return Estimate(captured, 0.0, 2 * rank)
    rest = _hutchinson(A, Q, products - 2 * rank, generator)
    return Estimate(captured + rest.value, rest.error, 2 * rank + rest.matvecs)


def _hutchinson(
    A: LinearOperator, Q: Tensor | None, count: int, generator: torch.Generator
) -> Estimate:
    """Estimate the trace of A in the complement of the columns of Q."""
    samples = []
    for _ in range(count):
        z = signs(A, generator)
        if Q is not None:
            z = z - Q @ (Q.T @ z)
        samples.append(float(torch.dot(z, A.matvec(z))))
    mean = math.fsum(samples) / count
    spread = math.fsum((sample - mean) ** 2 for sample in samples)
    error = math.sqrt(spread / (count * (count - 1))) if count > 1 else math.nan
    return Estimate(mean, error, count)


def diagonal(A: LinearOperator, probes: int, *, generator: torch.Generator) -> Tensor:
    """Estimate the diagonal of a symmetric operator.

    The mean of z * (A z) over random signs z (Bekas, Kokiopoulou and Saad, "An estimator for the
    diagonal of a matrix", 2007): unbiased, and entry i has variance sum over j != i of A_ij^2
    divided by the number of probes; exact for a diagonal matrix.

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n.
    probes : int
        Products, at least 1.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, shape (n,)
        The estimate.
    """
    total = torch.zeros(A.shape[0], dtype=A.dtype, device=A.device)
    for _ in range(probes):
        z = signs(A, generator)
        total.addcmul_(z, A.matvec(z))
    return total.div_(probes)
