"""Time to a certified suboptimality: Newton with our linear solvers against the peers.

One process, methods interleaved, medians over rounds. Each peer solves the same problem from
w = 0, with the data in memory in both orientations. SciPy's methods are run twice: on this
package's objective ("our products": they profit from everything that makes ours fast), and on
value, gradient and Hessian product as a user writes them with SciPy's sparse matrices ("SciPy
CSR", samples in the file's order; all others get the pipeline's, see `by_row_length`). A ratio is
the time of the fastest of all peers divided by the entry's own: above 1 is faster than all.

    python benchmarks/convex.py                      # a9a, w8a where at hand, large sparse
    python benchmarks/convex.py a9a --rounds 15
"""

import argparse
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import scipy.optimize
import scipy.sparse
import torch

from newton_krylov.data import Dataset, load_dataset
from newton_krylov.data.sparse import by_row_length
from newton_krylov.errors import DataError
from newton_krylov.objectives.base import Objective
from newton_krylov.registry import entry
from newton_krylov.runs.optimum import certified_optimum
from newton_krylov.runs.parts import register_parts
from newton_krylov.runs.runner import Stopping, run

L2 = 0.01

register_parts()

TARGETS = (1e-6, 1e-12)
PROBLEMS = {
    "a9a": ("a9a", {}),
    "w8a": ("w8a", {}),
    "large": ("synthetic", {"n": 500_000, "d": 5_000, "density": 0.005, "format": "sparse"}),
}
LIMIT_SECONDS = 120.0

Times = list[float]
Method = Callable[[Dataset, float], Times]


Choice = tuple[str, dict[str, object]]
ETA: Choice = ("fixed", {"eta": 0.1})


def newton(
    solver: str,
    curvature: Choice = ("hvp", {}),
    preconditioner: Choice = ("none", {}),
    forcing: Choice = ("superlinear", {}),
) -> Method:
    """Return Newton's method with one of our solvers, at its defaults or with other parts."""

    def solve(dataset: Dataset, optimum: float) -> Times:
        chosen = {
            "solver": ("solver", (solver, {})),
            "curvature": ("hessian_approx", curvature),
            "line_search": ("line_search", ("armijo", {})),
            "forcing": ("forcing", forcing),
            "preconditioner": ("preconditioner", preconditioner),
            "damping": ("damping", ("fixed", {})),
        }
        parts = {
            part: entry(group, name).build(options)
            for part, (group, (name, options)) in chosen.items()
        }
        return registered("newton", dataset, optimum, parts)

    return solve


def peer(name: str) -> Method:
    """Return another library's method as the pipeline runs it."""
    return lambda dataset, optimum: registered(name, dataset, optimum, {})


def registered(name: str, dataset: Dataset, optimum: float, parts: dict[str, object]) -> Times:
    """Run a registered optimizer; return its seconds to each target."""
    objective: Objective = entry("loss", "logistic").build({"l2": L2}, dataset=dataset)
    stopping = Stopping(epochs=2000, suboptimality=TARGETS[-1], seconds=LIMIT_SECONDS)
    w0 = torch.zeros(objective.dim, dtype=objective.dtype)
    optimizer = entry("optimizer", name).build({}, **parts)
    rows = run(optimizer, objective, w0, stopping, torch.Generator(), optimum=optimum).rows
    return reached((row.seconds, row.suboptimality) for row in rows)


def by_hand(method: str) -> Method:
    """Return a method of SciPy's on an objective written with SciPy's sparse matrices."""

    def solve(dataset: Dataset, optimum: float) -> Times:
        f = ByHand(dataset)
        trace: list[tuple[float, np.ndarray]] = []
        start = time.perf_counter()
        scipy.optimize.minimize(
            f.value, np.zeros(f.X.shape[1]), method=method, jac=f.grad,
            hessp=None if method == "L-BFGS-B" else f.hessp,
            callback=lambda x: trace.append((time.perf_counter() - start, x.copy())),
            options=OPTIONS[method],
        )  # fmt: skip
        return reached((seconds, f.value(x) - optimum) for seconds, x in trace)

    return solve


OPTIONS = {
    "Newton-CG": {"xtol": 1e-14, "maxiter": 2000},
    "trust-ncg": {"gtol": 1e-9, "maxiter": 2000},
    "L-BFGS-B": {"ftol": 0.0, "gtol": 1e-9, "maxiter": 5000, "maxfun": 10000, "maxcor": 10},
}


class ByHand:
    """Logistic regression in NumPy and SciPy; margins at the last w are kept."""

    def __init__(self, dataset: Dataset) -> None:
        X = dataset.train.X
        self.X = scipy.sparse.csr_matrix(
            (X.values().numpy(), X.col_indices().numpy(), X.crow_indices().numpy()), shape=X.shape
        )
        self.XT = self.X.T.tocsr()
        self.y = 2.0 * dataset.train.y.numpy() - 1.0
        self._w: np.ndarray | None = None

    def _margins(self, w: np.ndarray) -> np.ndarray:
        if self._w is None or not np.array_equal(w, self._w):
            self._w, self._m = w.copy(), self.y * (self.X @ w)
            self._p = 1.0 / (1.0 + np.exp(np.minimum(self._m, 700.0)))
        return self._m

    def value(self, w: np.ndarray) -> float:
        """Return f(w)."""
        m = self._margins(w)
        return float(np.logaddexp(0.0, -m).mean() + 0.5 * L2 * (w @ w))

    def grad(self, w: np.ndarray) -> np.ndarray:
        """Return the gradient at w."""
        self._margins(w)
        return self.XT @ (-self.y * self._p) / len(self.y) + L2 * w

    def hessp(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the Hessian at w times v."""
        self._margins(w)
        weights = self._p * (1.0 - self._p)
        return self.XT @ (weights * (self.X @ v)) / len(self.y) + L2 * v


def reached(trace: Iterator[tuple[float, float]]) -> Times:
    """Return the first time at or below each target; inf where it was not met."""
    rows = list(trace)
    return [next((s for s, gap in rows if gap <= target), math.inf) for target in TARGETS]


OURS: dict[str, Method] = {
    "newton cg": newton("cg"),
    "newton cr": newton("cr"),
    "newton gmres": newton("gmres"),
    "newton minres": newton("minres"),
    # preconditioner=subsampled forcing=fixed forcing.eta=0.1
    "newton cg, 1,000 samples precondition": newton(
        "cg", preconditioner=("subsampled", {}), forcing=ETA
    ),
    # preconditioner=jacobi hessian_approx.dtype=float32
    "newton cr, Jacobi, float32 products": newton(
        "cr", ("hvp", {"dtype": "float32"}), ("jacobi", {})
    ),
    # hessian_approx=subsampled preconditioner=jacobi forcing=fixed forcing.eta=0.1
    "newton cr, Jacobi, sampled Hessian": newton("cr", ("subsampled", {}), ("jacobi", {}), ETA),
}
BY_HAND: dict[str, Method] = {
    "scipy Newton-CG, SciPy CSR": by_hand("Newton-CG"),
    "scipy trust-ncg, SciPy CSR": by_hand("trust-ncg"),
    "scipy L-BFGS-B, SciPy CSR": by_hand("L-BFGS-B"),
}
PEERS: dict[str, Method] = {
    "scipy Newton-CG, our products": peer("scipy_newton_cg"),
    "scipy trust-ncg, our products": peer("scipy_trust_ncg"),
    "scipy trust-krylov, our products": peer("scipy_trust_krylov"),
    "scipy L-BFGS-B, our products": peer("scipy_lbfgsb"),
    **BY_HAND,
    "sklearn newton-cg": peer("sklearn_newton_cg"),
    "sklearn newton-cholesky": peer("sklearn_newton_cholesky"),
    "sklearn lbfgs": peer("sklearn_lbfgs"),
    "sklearn liblinear": peer("sklearn_liblinear"),
}


def measure(dataset: Dataset, rounds: int) -> dict[str, list[Times]]:
    """Run every method `rounds` times, all once in each round; the first round warms up."""
    optimum = certified_optimum(dataset, entry("loss", "logistic"), {"l2": L2}, torch.float64)
    assert optimum is not None
    ordered = replace(dataset, train=by_row_length(dataset.train))
    times: dict[str, list[Times]] = {name: [] for name in OURS | PEERS}
    for number in range(rounds + 1):
        for name, solve in (OURS | PEERS).items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = solve(dataset if name in BY_HAND else ordered, optimum.value)
            if number or rounds == 0:
                times[name].append(found)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return times


def report(times: dict[str, list[Times]]) -> None:
    """Print a problem's table."""
    print(f"{'':34}" + "".join(f"{f'to {target:.0e}':>12}{'ratio':>8}" for target in TARGETS))
    middle = {
        key: [statistics.median(run[i] for run in runs) for i in range(len(TARGETS))]
        for key, runs in times.items()
    }
    fastest = [min(middle[key][i] for key in PEERS) for i in range(len(TARGETS))]
    for key, row in middle.items():
        cells = "".join(
            f"{1e3 * t:>9.2f} ms{best / t:>7.2f}x" if t < math.inf else f"{'not met':>12}{'':>8}"
            for t, best in zip(row, fastest, strict=True)
        )
        print(f"{key:38}{cells}")


def main() -> None:
    """Measure the chosen problems."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problems", nargs="*", choices=[*PROBLEMS, []], default=list(PROBLEMS))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for name in options.problems:
        source, keys = PROBLEMS[name]
        try:
            dataset = load_dataset(source, keys)
        except DataError as error:
            print(f"\n{name}: skipped: {error}")
            continue
        print(f"\n{name}: n = {len(dataset.train):,}, d = {dataset.n_features:,}")
        report(measure(dataset, options.rounds))


if __name__ == "__main__":
    main()
