"""The spectral density of an operator by stochastic Lanczos quadrature."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from newton_krylov.operators import to_operator
from newton_krylov.spectral.estimators import signs
from newton_krylov.spectral.lanczos import gauss_quadrature


@dataclass(frozen=True)
class Density:
    """The distribution of an operator's eigenvalues, as point masses.

    Attributes
    ----------
    nodes : Tensor, shape (m,)
        Where, rising; float64 on the CPU.
    weights : Tensor, shape (m,)
        Shares of the n eigenvalues; their sum is 1.
    matvecs : int
        Products it took.
    """

    nodes: Tensor
    weights: Tensor
    matvecs: int

    def moment(self, k: int) -> float:
        """Return the mean of the eigenvalues' k-th powers: tr(A^k) / n."""
        return float(self.weights @ self.nodes**k)

    def share_below(self, values: Tensor) -> Tensor:
        """Return the share of eigenvalues at or below each value.

        Parameters
        ----------
        values : Tensor, shape (m,)
            Rising or not.

        Returns
        -------
        Tensor, shape (m,)
            Between 0 and 1: the cumulative spectral distribution.
        """
        steps = torch.cat([torch.zeros(1, dtype=torch.float64), self.weights.cumsum(0)])
        return steps[torch.searchsorted(self.nodes, values.double(), right=True)]

    def smoothed(self, grid: Tensor, width: float) -> Tensor:
        """Return the density with each point mass spread to a Gaussian.

        Parameters
        ----------
        grid : Tensor, shape (m,)
            Values at which to evaluate.
        width : float
            Standard deviation of the Gaussians, > 0.

        Returns
        -------
        Tensor, shape (m,)
            Its integral is 1.
        """
        z = (grid.double()[:, None] - self.nodes) / width
        return torch.exp(-0.5 * z.square()) @ self.weights / (width * math.sqrt(2 * math.pi))


def spectral_density(
    A: Any, *, probes: int = 5, steps: int = 40, generator: torch.Generator
) -> Density:
    """Estimate the spectral density by stochastic Lanczos quadrature.

    For a random vector of signs z, Lanczos gives the Gauss quadrature of the measure
    f -> z'f(A) z / n, whose mean over z is tr f(A) / n (Bai, Fahey and Golub, "Some large-scale
    matrix computation problems", 1996; Ghorbani, Krishnan and Xiao, "An investigation into neural
    net optimization via Hessian eigenvalue density", 2019). The average over the probes has error
    O(1 / sqrt(n probes)) in a smooth f; Lanczos keeps its vectors orthogonal, so no eigenvalue
    appears twice.

    Parameters
    ----------
    A : operator or matrix, n by n
        Symmetric; see `operators.to_operator`.
    probes : int
        Random vectors.
    steps : int
        Lanczos steps for each: products, and vectors kept.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Density
        At most probes times steps point masses.
    """
    A = to_operator(A)
    found = [gauss_quadrature(A, signs(A, generator), steps) for _ in range(probes)]
    nodes = torch.cat([theta for theta, _ in found]).double().cpu()
    weights = torch.cat([weight for _, weight in found]).double().cpu() / probes
    order = nodes.argsort()
    return Density(nodes[order], weights[order], len(nodes))


def jensen_shannon(a: Density, b: Density, *, points: int = 2000, width: float = 0.01) -> float:
    """Return the Jensen-Shannon distance between two spectral densities, between 0 and 1.

    The root of the mean of the two Kullback-Leibler divergences, in bits, from the densities' mean;
    with both smoothed on one grid. By its mean over pairs of a network's blocks Zhang, Chen, Ding,
    Li, Sun and Luo, "Why transformers need Adam: a Hessian perspective", 2024, tell networks on
    which SGD is behind Adam (transformers: large) from those where it is not.

    Parameters
    ----------
    a, b : Density
        What to compare.
    points : int
        Of the grid, which goes four widths beyond all eigenvalues.
    width : float
        Standard deviation of the Gaussians that take the place of point masses, as a share of the
        range of both densities' eigenvalues. The distance depends on it.

    Returns
    -------
    float
        0 for equal densities, 1 for those that are nowhere positive together.
    """
    nodes = torch.cat([a.nodes, b.nodes])
    low, high = float(nodes.min()), float(nodes.max())
    if low == high:
        return 0.0
    spread = width * (high - low)
    grid = torch.linspace(low - 4 * spread, high + 4 * spread, points, dtype=torch.float64)
    p, q = (density.smoothed(grid, spread) for density in (a, b))
    p, q = p / p.sum(), q / q.sum()
    middle = ((p + q) / 2).clamp_min(torch.finfo(torch.float64).tiny)
    divergence = sum(torch.special.xlogy(each, each / middle).sum() for each in (p, q))
    return math.sqrt(max(0.0, float(divergence) / (2 * math.log(2))))
