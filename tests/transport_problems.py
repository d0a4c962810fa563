"""Small transport problems that the tests of the dual, its curvature and its optimizers share."""

import numpy as np
import torch
from torch import Tensor

from newton_krylov.data.transport import transport_problem
from newton_krylov.objectives.entropic_transport import EntropicTransport


def draw(n: int = 9, m: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a cost with a largest entry of 1, and two marginals that are far from uniform."""
    rng = np.random.default_rng(seed)
    cost = rng.random((n, m))
    r, c = rng.random(n) + 0.1, rng.random(m) + 0.1
    return cost / cost.max(), r / r.sum(), c / c.sum()


def dual(
    n: int = 9,
    m: int = 7,
    eta: float = 30.0,
    seed: int = 0,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> EntropicTransport:
    """Make the dual of a drawn problem, its cost multiplied by `scale`."""
    cost, r, c = draw(n, m, seed)
    dataset = transport_problem(scale * cost, r, c, dtype=dtype)
    return EntropicTransport(dataset.to(torch.device(device)), eta=eta)


def zeros(f: EntropicTransport) -> Tensor:
    """Return the start w = 0."""
    return torch.zeros(f.dim, dtype=f.dtype, device=f.device)


def optimum(f: EntropicTransport) -> Tensor:
    """Solve by dense Newton steps with a pseudo-inverse, independent of the package's loops.

    A thousand textbook Sinkhorn steps in the log domain come first, and steps are halved until the
    value falls.
    """
    eta, L = f.eta, f.log_kernel
    r, c = f.row_marginal, f.column_marginal
    y = torch.zeros_like(c)
    for _ in range(1000):
        x = (r.log() - torch.logsumexp(L + eta * y, 1)) / eta
        y = (c.log() - torch.logsumexp(L + eta * x[:, None], 0)) / eta
    z, n = torch.cat([x, y]), len(r)

    def value(z: Tensor) -> Tensor:
        total = torch.exp(L + eta * (z[:n, None] + z[n:])).sum()
        return total / eta - torch.cat([r, c]) @ z

    for _ in range(100):
        P = torch.exp(L + eta * (z[:n, None] + z[n:]))
        g = torch.cat([P.sum(1) - r, P.sum(0) - c])
        if g.norm() < 1e-15:
            break
        H = eta * torch.cat(
            [torch.cat([P.sum(1).diag(), P], 1), torch.cat([P.T, P.sum(0).diag()], 1)]
        )
        p = -torch.linalg.lstsq(H, g, rcond=1e-13, driver="gelsd").solution
        alpha = 1.0
        while not value(z + alpha * p) <= value(z) + 1e-15:
            alpha /= 2
        z = z + alpha * p
    return z
