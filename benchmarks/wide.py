"""Wide data and many classes: a path of ridge penalties of a multinomial model.

    python benchmarks/wide.py                       # a tenth of ImageNet's features, each side
    python benchmarks/wide.py --n 20000 --d 50 --k 20

Features stand for those of a frozen network: Gaussian columns whose scales fall like 1 / j^0.5,
around a mean for each class. They are drawn block by block. Each penalty starts where the last
ones point to; printed are Newton steps, passes over the data, processor seconds and the certified
bound of the loss above its minimum.
"""

import argparse
import time

import numpy as np

from newton_krylov.interfaces.path import Problem, grid

BLOCK = 8192


def generate(n: int, d: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw the samples, block by block."""
    draw = np.random.default_rng(seed)
    scales = 1 / np.sqrt(np.arange(1, d + 1))
    means = draw.normal(size=(k, d)) * scales / 2
    X, y = np.empty((n, d)), draw.integers(0, k, n)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        X[rows] = means[y[rows]] + draw.normal(size=(len(y[rows]), d)) * scales
    return X, y


def main() -> None:
    """Generate, solve and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=128_117)
    parser.add_argument("--d", type=int, default=205)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--lambdas", type=int, default=10)
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--preconditioner", default="none")
    arguments = parser.parse_args()
    X, y = generate(arguments.n, arguments.d, arguments.k)
    begin = time.process_time()
    problem = Problem(
        X, y, loss="multinomial", options={}, sample_weight=None, offset=None, intercept=True,
        solver="cg", preconditioner=arguments.preconditioner, tol=arguments.tol, max_iter=50,
    )  # fmt: skip
    chosen = grid(problem, arguments.lambdas, 0.0, 1e-4)
    print(
        f"{arguments.n:,} x {arguments.d} x {arguments.k}; laid out and the largest penalty found "
        f"in {time.process_time() - begin:.1f} s"
    )
    print(f"{'lambda':>10} {'steps':>6} {'passes':>7} {'CPU s':>7} {'gap bound':>10} {'loss':>8}")
    counts, last = problem.objective.counts, problem.objective.counts.passes
    start = time.process_time()
    for value, fit in zip(chosen, problem.along(chosen, 0.0), strict=True):
        seconds, passes = time.process_time() - start, counts.passes - last
        f = fit.point.objective
        bound = f.suboptimality_bound(fit.point)
        print(
            f"{value:10.2e} {fit.steps:6d} {passes:7.1f} {seconds:7.1f} {bound:10.1e} "
            f"{fit.point.value:8.4f}",
            flush=True,
        )
        last, start = counts.passes, time.process_time()
    print(f"in all {time.process_time() - begin:.1f} s of one processor")


if __name__ == "__main__":
    main()
