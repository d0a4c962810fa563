"""Time to a certified suboptimality: Newton with our linear solvers against the peers.

One process, methods interleaved, medians over rounds. Each peer solves the same problem from
w = 0, with the data in memory in the form that it wants. SciPy's methods are run twice: on this
package's objective ("our products": they profit from everything that makes ours fast), and on
value, gradient and Hessian product as a user writes them with SciPy's sparse matrices ("SciPy
CSR", samples in the file's order; all others get the pipeline's, see `by_row_length`). A library
that shows no iterates is run to the loosest of its tolerances that reaches the target, and the
whole fit is timed. One that is not installed, or cannot run, says why. A ratio is the time of the
fastest of all peers as a user writes them, so without "our products", divided by the entry's own:
above 1 is faster than all. Passes are compared with SciPy's methods on our products, which count.

    python benchmarks/convex.py                      # a9a, w8a where at hand, large sparse
    python benchmarks/convex.py a9a --rounds 15 --l2 1e-2 1e-4 1e-6 1e-8
    python benchmarks/convex.py memory --rounds 3 --only automatic L-BFGS-B
    python benchmarks/convex.py a9a --cpu            # one thread's own time, for a busy machine
    python benchmarks/convex.py a9a --passes         # passes over the data instead, as runs count
    python benchmarks/convex.py a9a w8a --threads 2  # for those who use them, ours included
    python benchmarks/convex.py --slope --cpu        # time against the number of entries
"""

import argparse
import itertools
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
from newton_krylov.data.sparse import by_row_length, torch_to_csr
from newton_krylov.errors import DataError
from newton_krylov.objectives.base import Objective
from newton_krylov.registry import entry
from newton_krylov.runs.optimum import certified_optimum
from newton_krylov.runs.parts import register_parts
from newton_krylov.runs.runner import Stopping, run

register_parts()

TARGETS = (1e-6, 1e-12)
PROBLEMS = {
    "a9a": ("a9a", {}),
    "w8a": ("w8a", {}),
    "large": ("synthetic", {"n": 500_000, "d": 5_000, "density": 0.005, "format": "sparse"}),
    "memory": ("synthetic", {"n": 2_000_000, "d": 10_000, "density": 0.002, "format": "sparse"}),
}
DEFAULT = ["a9a", "w8a", "large"]
LIMIT_SECONDS = 120.0
SEEDS = itertools.count()
"""Every run draws a sample of its own."""
COST = "data_passes" if "--passes" in sys.argv else "seconds"
"""What is measured; other libraries do not count their passes."""

Times = list[float]
Method = Callable[[Dataset, float, float], Times]
"""Of a data set, l2 and the optimum to the seconds to each target."""
Choice = tuple[str, dict[str, object]]
ETA: Choice = ("fixed", {"eta": 0.1})


def newton(
    solver: str,
    curvature: Choice = ("hvp", {}),
    preconditioner: Choice = ("none", {}),
    forcing: Choice = ("superlinear", {}),
    start: str = "none",
    name: str = "newton",
) -> Method:
    """Return Newton's method with one of our solvers, at its defaults or with other parts."""

    def solve(dataset: Dataset, l2: float, optimum: float) -> Times:
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
        return registered(name, dataset, l2, optimum, parts, {"start": start})

    return solve


def peer(name: str) -> Method:
    """Return another library's method as the pipeline runs it."""
    return lambda dataset, l2, optimum: registered(name, dataset, l2, optimum, {}, {})


def registered(
    name: str,
    dataset: Dataset,
    l2: float,
    optimum: float,
    parts: dict[str, object],
    options: dict[str, object],
) -> Times:
    """Run a registered optimizer; return its seconds to each target."""
    objective: Objective = entry("loss", "logistic").build({"l2": l2}, dataset=dataset)
    stopping = Stopping(epochs=2000, suboptimality=TARGETS[-1], seconds=LIMIT_SECONDS)
    w0 = torch.zeros(objective.dim, dtype=objective.dtype)
    optimizer = entry("optimizer", name).build(options, **parts)
    generator = torch.Generator().manual_seed(next(SEEDS))
    rows = run(optimizer, objective, w0, stopping, generator, optimum=optimum).rows
    return reached((getattr(row, COST), row.suboptimality) for row in rows)


def by_hand(method: str) -> Method:
    """Return a method of SciPy's on an objective written with SciPy's sparse matrices."""

    def solve(dataset: Dataset, l2: float, optimum: float) -> Times:
        f = ByHand(dataset, l2)
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

    def __init__(self, dataset: Dataset, l2: float) -> None:
        self.l2 = l2
        self.X = scipy.sparse.csr_matrix(torch_to_csr(dataset.train.X))
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
        return float(np.logaddexp(0.0, -m).mean() + 0.5 * self.l2 * (w @ w))

    def grad(self, w: np.ndarray) -> np.ndarray:
        """Return the gradient at w."""
        self._margins(w)
        return self.XT @ (-self.y * self._p) / len(self.y) + self.l2 * w

    def hessp(self, w: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the Hessian at w times v."""
        self._margins(w)
        weights = self._p * (1.0 - self._p)
        return self.XT @ (weights * (self.X @ v)) / len(self.y) + self.l2 * v


Fit = Callable[[float], np.ndarray]
"""A tolerance to the weights."""


def library(prepare: Callable[["ByHand"], Fit]) -> Method:
    """Return the method of a library that shows no iterates.

    `prepare` puts the data into the library's form, untimed.
    """
    known: dict[tuple[int, float], list[float | None]] = {}

    def solve(dataset: Dataset, l2: float, optimum: float) -> Times:
        f = ByHand(dataset, l2)
        fit = prepare(f)
        key = id(dataset), l2
        if key not in known:
            known[key] = [_loosest(fit, f, optimum, target) for target in TARGETS]
        times = []
        for tolerance in known[key]:
            start = time.perf_counter()
            if tolerance is not None:
                fit(tolerance)
            times.append(math.inf if tolerance is None else time.perf_counter() - start)
        return times

    return solve


def _loosest(fit: Fit, f: "ByHand", optimum: float, target: float) -> float | None:
    start = time.perf_counter()
    for power in range(1, 16, 2):
        if f.value(np.ravel(fit(10.0**-power))) - optimum <= target:
            return 10.0**-power
        if time.perf_counter() - start > LIMIT_SECONDS:
            break
    return None


def snapml(f: ByHand) -> Fit:
    """Return Snap ML's dual coordinate descent."""
    from snapml import LogisticRegression

    options = {"regularizer": f.l2 * len(f.y), "fit_intercept": False, "normalize": False}
    return lambda tol: LogisticRegression(tol=tol, max_iter=100_000, **options).fit(f.X, f.y).coef_


def glum(f: ByHand) -> Fit:
    """Return glum's iteratively reweighted least squares."""
    from glum import GeneralizedLinearRegressor

    X, y = f.X.tocsc(), (f.y + 1) / 2
    options = {"family": "binomial", "alpha": f.l2, "l1_ratio": 0, "fit_intercept": False}

    def fit(tol: float) -> np.ndarray:
        model = GeneralizedLinearRegressor(
            gradient_tol=tol, max_iter=1000, solver="irls-ls", **options
        )
        return np.asarray(model.fit(X, y).coef_)

    return fit


def skglm(f: ByHand) -> Fit:
    """Return skglm's method for a penalty without corners: SciPy's L-BFGS on its own gradient."""
    from skglm.datafits import Logistic
    from skglm.penalties import L2
    from skglm.solvers import LBFGS
    from skglm.utils.jit_compilation import compiled_clone

    X, datafit, penalty = f.X.tocsc(), compiled_clone(Logistic()), compiled_clone(L2(f.l2))
    return lambda tol: LBFGS(tol=tol, max_iter=5000).solve(X, f.y, datafit, penalty)[0]


def liblinear(f: ByHand) -> Fit:
    """Return LIBLINEAR's own package, its trust-region Newton method."""
    from liblinear.liblinearutil import parameter, problem, train

    data = problem(f.y, f.X)

    def fit(tol: float) -> np.ndarray:
        model = train(data, parameter(f"-s 0 -c {1 / (len(f.y) * f.l2)} -e {tol} -B -1 -q"))
        w = np.array(model.get_decfun()[0])
        return w if model.get_labels()[0] > 0 else -w

    return fit


def reached(trace: Iterator[tuple[float, float]]) -> Times:
    """Return the first time at or below each target; inf where it was not met."""
    rows = list(trace)
    return [next((s for s, gap in rows if gap <= target), math.inf) for target in TARGETS]


OURS: dict[str, Method] = {
    # method=newton_auto
    "newton, automatic": newton(
        "cg", preconditioner=("auto", {}), forcing=ETA, start="auto", name="enriched_newton"
    ),
    # method=newton_auto optimizer=newton optimizer.start=auto
    "newton, automatic, without secants": newton(
        "cg", preconditioner=("auto", {}), forcing=ETA, start="auto"
    ),
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
OUR_PRODUCTS: dict[str, Method] = {
    "scipy Newton-CG, our products": peer("scipy_newton_cg"),
    "scipy trust-ncg, our products": peer("scipy_trust_ncg"),
    "scipy trust-krylov, our products": peer("scipy_trust_krylov"),
    "scipy L-BFGS-B, our products": peer("scipy_lbfgsb"),
}
PEERS: dict[str, Method] = {
    **BY_HAND,
    "sklearn newton-cg": peer("sklearn_newton_cg"),
    "sklearn newton-cholesky": peer("sklearn_newton_cholesky"),
    "sklearn lbfgs": peer("sklearn_lbfgs"),
    "sklearn liblinear": peer("sklearn_liblinear"),
    "snapml": library(snapml),
    "glum irls-ls": library(glum),
    "skglm LBFGS": library(skglm),
    "liblinear-official": library(liblinear),
}
METHODS = OURS | OUR_PRODUCTS | PEERS


def measure(
    dataset: Dataset, l2: float, rounds: int, methods: dict[str, Method]
) -> dict[str, list[Times]]:
    """Run every method `rounds` times, all once in each round; the first round warms up."""
    optimum = certified_optimum(dataset, entry("loss", "logistic"), {"l2": l2}, torch.float64)
    assert optimum is not None
    ordered = replace(dataset, train=by_row_length(dataset.train))
    times: dict[str, list[Times]] = {name: [] for name in methods}
    for number in range(rounds + 1):
        for name in list(times):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    data = dataset if name in BY_HAND else ordered
                    found = methods[name](data, l2, optimum.value)
            except Exception as error:  # another library's, of any kind
                if name not in PEERS:
                    raise
                del times[name]
                print(f"{name}: skipped: {type(error).__name__}: {error}")
                continue
            if number or rounds == 0:
                times[name].append(found)
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return times


def report(times: dict[str, list[Times]]) -> None:
    """Print a problem's table."""
    print(f"{'':38}" + "".join(f"{f'to {target:.0e}':>12}{'ratio':>8}" for target in TARGETS))
    peers = PEERS if COST == "seconds" else OUR_PRODUCTS
    middle = {
        key: [statistics.median(run[i] for run in runs) for i in range(len(TARGETS))]
        for key, runs in times.items()
    }
    fastest = [
        min((row[i] for key, row in middle.items() if key in peers), default=math.nan)
        for i in range(len(TARGETS))
    ]
    for key, row in middle.items():
        cells = "".join(
            f"{shown(t):>12}{best / t:>7.2f}x" if t < math.inf else f"{'not met':>12}{'':>8}"
            for t, best in zip(row, fastest, strict=True)
        )
        print(f"{key:38}{cells}")


def shown(value: float) -> str:
    """Return milliseconds, or passes."""
    return f"{1e3 * value:.2f} ms" if COST == "seconds" else f"{value:.1f}"


def layout(dataset: Dataset) -> str:
    """Say what laying out the data takes, which no method is charged with, and reading them."""
    entry("loss", "logistic").build({}, dataset=dataset)  # compiles
    start = time.perf_counter()
    ordered = replace(dataset, train=by_row_length(dataset.train))
    objective = entry("loss", "logistic").build({}, dataset=ordered)
    seconds = time.perf_counter() - start
    size = objective.features.compiled.nbytes + 3 * ordered.train.y.nbytes
    return (
        f"laid out in {1e3 * seconds:.1f} ms, {size / 1e6:.1f} MB to read: "
        f"{1e3 * size / bandwidth():.2f} ms at this machine's bandwidth"
    )


def slope(l2: float, rounds: int) -> None:
    """Print the times of a solve and of a product against the entries, and their exponents."""
    method, sizes = METHODS["newton, automatic"], [62_500 * 2**k for k in range(4)]
    table = []
    for n in sizes:
        dataset = load_dataset("synthetic", PROBLEMS["large"][1] | {"n": n})
        optimum = certified_optimum(dataset, entry("loss", "logistic"), {"l2": l2}, torch.float64)
        assert optimum is not None
        objective: Objective = entry("loss", "logistic").build({"l2": l2}, dataset=dataset)
        w = torch.zeros(objective.dim, dtype=objective.dtype)
        A = objective.at(w).hessian()
        products, solves = [], []
        for _ in range(rounds + 1):
            for _ in range(5):
                start = time.perf_counter()
                A.matvec(w)
                products.append(time.perf_counter() - start)
            solves.append(method(dataset, l2, optimum.value)[-1])
        entries = dataset.train.X.values().numel()
        row = entries, statistics.median(products[5:]), statistics.median(solves[1:])
        table.append(row)
        print(f"{entries:>12,} entries: product {1e3 * row[1]:8.2f} ms, solve {1e3 * row[2]:8.1f}")
    logs = np.log(np.array(table))
    exponents = [np.polyfit(logs[:, 0], logs[:, k], 1)[0] for k in (1, 2)]
    print("time ~ entries^{:.2f} of a product, ^{:.2f} of a solve to 1e-12".format(*exponents))


def bandwidth() -> float:
    """Return the bytes a second that one thread reads from memory: the best of some sums."""
    x = np.ones(50_000_000)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        x.sum()
        seconds.append(time.perf_counter() - start)
    return x.nbytes / min(seconds)


def main() -> None:
    """Measure the chosen problems."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problems", nargs="*", choices=[*PROBLEMS, []], default=[])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--l2", type=float, nargs="+", default=[0.01])
    parser.add_argument("--only", nargs="+", default=[""], help="methods with one of these words")
    parser.add_argument("--without", nargs="+", default=[], help="and none of these")
    parser.add_argument("--threads", type=int, help="of torch, and so of our products")
    parser.add_argument("--slope", action="store_true", help="time against entries, no peers")
    parser.add_argument("--cpu", action="store_true", help="one thread's own time")
    parser.add_argument("--passes", action="store_true", help="passes over the data, not time")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.cpu:
        torch.set_num_threads(1)
        time.perf_counter = time.process_time  # what every clock here reads
    methods = {
        name: method
        for name, method in METHODS.items()
        if any(word in name for word in options.only)
        and not any(word in name for word in options.without)
        and (COST == "seconds" or name in OURS | OUR_PRODUCTS)
    }
    if options.slope:
        slope(options.l2[0], options.rounds)
        return
    for name in options.problems or DEFAULT:
        source, keys = PROBLEMS[name]
        try:
            dataset = load_dataset(source, keys)
        except DataError as error:
            print(f"\n{name}: skipped: {error}")
            continue
        print(
            f"\n{name}: n = {len(dataset.train):,}, d = {dataset.n_features:,}, {layout(dataset)}"
        )
        for l2 in options.l2:
            print(f"\nlambda = {l2:g}")
            report(measure(dataset, l2, options.rounds, methods))


if __name__ == "__main__":
    main()
