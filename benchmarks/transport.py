"""Entropic transport at eta = 1200: this package's methods against POT's Sinkhorn.

Times to a marginal error (Euclidean) of 1e-9. POT's log-domain method takes 200 times as long an
iteration as its stabilized one, and is left out.

    python benchmarks/transport.py
"""

import time
from collections.abc import Callable

import numpy as np
import ot
import torch

from newton_krylov.curvature.thresholded_sparse import ThresholdedSparse
from newton_krylov.data.transport import transport
from newton_krylov.objectives.entropic_transport import EntropicTransport
from newton_krylov.optimizers.base import Optimizer
from newton_krylov.optimizers.damping import Fixed
from newton_krylov.optimizers.forcing import superlinear
from newton_krylov.optimizers.line_search import armijo
from newton_krylov.optimizers.newton_step import NewtonStep
from newton_krylov.optimizers.sinkhorn import Sinkhorn
from newton_krylov.optimizers.sinkhorn_newton_sparse import SinkhornNewtonSparse
from newton_krylov.preconditioners.jacobi import Jacobi
from newton_krylov.registry import entry
from newton_krylov.runs.runner import Stopping, run

ETA, TOLERANCE = 1200.0, 1e-9
PROBLEMS = {
    "random assignment, n = 500": {},
    "digits, n = 784": {"source": "digits"},
    "digits, L1, n = 784": {"source": "digits", "metric": "cityblock"},
    "mixtures, n = 500": {"source": "gaussian_mixtures"},
}


def ours(optimizer: Optimizer, options: dict[str, str]) -> tuple[int, float, float]:
    """Return iterations, optimizer seconds and the marginals' error."""
    f = EntropicTransport(transport(**options), eta=ETA)
    stopping = Stopping(epochs=None, grad_norm=TOLERANCE, seconds=60)
    w0 = torch.zeros(f.dim, dtype=f.dtype)
    last = run(optimizer, f, w0, stopping, torch.Generator()).rows[-1]
    return last.iteration, last.seconds, last.grad_norm


def pot(method: str, options: dict[str, str]) -> tuple[int, float, float]:
    """Return the same of POT."""
    data = transport(**options)
    C, n = data.train.X.numpy(), len(data.train)
    r, c = data.train.y.numpy()[:n], data.train.y.numpy()[n:]
    start = time.perf_counter()
    P, log = ot.sinkhorn(
        r, c, C, reg=1 / ETA, method=method, numItermax=100_000, stopThr=TOLERANCE, log=True,
        warn=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    error = np.sqrt(((P.sum(1) - r) ** 2).sum() + ((P.sum(0) - c) ** 2).sum())
    return log["n_iter"], seconds, float(error)


def methods() -> dict[str, Callable[[dict[str, str]], tuple[int, float, float]]]:
    """Return the entries of the table."""
    solver = entry("solver", "cg").build({})
    step = NewtonStep(solver, ThresholdedSparse(), armijo, superlinear, Jacobi(), Fixed())
    sns = SinkhornNewtonSparse(step)
    return {
        "Sinkhorn-Newton-Sparse": lambda options: ours(sns, options),
        "Sinkhorn": lambda options: ours(Sinkhorn(), options),
        "POT sinkhorn_stabilized": lambda options: pot("sinkhorn_stabilized", options),
    }


def main() -> None:
    """Print the table."""
    columns = f"{'iterations':>11}{'seconds':>9}{'ms/iter.':>10}{'error':>9}{'ratio':>8}"
    print(f"{'problem':28}{'method':24}{columns}")
    for problem, options in PROBLEMS.items():
        reference = None
        for name, solve in methods().items():
            results = [solve(options) for _ in range(3)]
            iterations, seconds, error = min(results, key=lambda result: result[1])
            reference = reference or seconds
            figures = f"{iterations:>11,}{seconds:>9.3f}{1e3 * seconds / iterations:>10.3f}"
            print(
                f"{problem:28}{name:24}{figures}{error:>9.0e}{seconds / reference:>7.1f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
