"""Moré, Garbow and Hillstrom's problems: how many `minimize` solves, ours beside SciPy's.

    python benchmarks/mgh.py                   # all 35 problems, one table of all methods
    python benchmarks/mgh.py rosenbrock biggs  # some of them, with a line on each

Every method starts where the paper does, has exact derivatives (SciPy's Hessians by products, or
formed where it asks for that), a tolerance of 1e-8 on the gradient and 400 iterations. Solved:
the sum of squares is within 1e-5 of a published minimum, or within 1e-9 where that is 0.
Evaluations are of the function, products of the Hessian with one vector; medians of the problems
that all methods solve.
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from torch.func import grad, hessian, jvp

from newton_krylov.data.mgh import PROBLEMS, Problem
from newton_krylov.interfaces.minimize import Method, minimize

TOLERANCE, ITERATIONS = 1e-8, 400


@dataclass(frozen=True)
class Found:
    """What a method came to, and what it cost."""

    value: float
    evaluations: int
    products: int

    def solves(self, problem: Problem) -> bool:
        """Whether the value is a published minimum."""
        return any(abs(self.value - m) <= 1e-5 * m + 1e-9 for m in problem.minima)


Solver = Callable[[Problem], Found]


def function(problem: Problem) -> Callable[[Tensor], Tensor]:
    """Return the sum of squares."""
    return lambda x: problem.residuals(x).square().sum()


def ours(method: Method, **options: str) -> Solver:
    """One of `minimize`'s methods."""

    def solve(problem: Problem) -> Found:
        found = minimize(
            function(problem), problem.start, method=method, gtol=TOLERANCE, maxiter=ITERATIONS,
            options=options,
        )  # fmt: skip
        return Found(found.fun, found.nfev, found.nhev)

    return solve


def scipys(method: str) -> Solver:
    """One of SciPy's."""

    def solve(problem: Problem) -> Found:
        f, n, products = function(problem), len(problem.start), 0

        def product(x: np.ndarray, v: np.ndarray) -> np.ndarray:
            nonlocal products
            products += 1
            return jvp(grad(f), (torch.from_numpy(x),), (torch.from_numpy(v),))[1].numpy()

        def formed(x: np.ndarray) -> np.ndarray:
            nonlocal products
            products += n
            return hessian(f)(torch.from_numpy(x)).numpy()

        derivatives: dict[str, object] = {}
        if method == "trust-exact":
            derivatives = {"hess": formed}
        elif method not in ("BFGS", "L-BFGS-B"):
            derivatives = {"hessp": product}
        tolerance = "xtol" if method == "Newton-CG" else "gtol"
        limits = {"maxiter": ITERATIONS, tolerance: TOLERANCE}
        found = scipy.optimize.minimize(
            lambda x: float(f(torch.from_numpy(x))), np.array(problem.start), method=method,
            jac=lambda x: grad(f)(torch.from_numpy(x)).numpy(), options=limits, **derivatives,
        )  # fmt: skip
        return Found(float(found.fun), int(found.nfev), products)

    return solve


METHODS: dict[str, Solver] = {
    **{f"{method}": ours(method) for method in get_args(Method)},
    "trust_region, gltr": ours("trust_region", subproblem="gltr"),
    "trust_region, exact": ours("trust_region", subproblem="exact"),
    **{
        f"SciPy {method}": scipys(method)
        for method in ("BFGS", "L-BFGS-B", "Newton-CG", "trust-ncg", "trust-krylov", "trust-exact")
    },
}


def attempt(solver: Solver, problem: Problem) -> Found:
    """Solve; an exception is a failure."""
    try:
        return solver(problem)
    except (ValueError, RuntimeError, np.linalg.LinAlgError):
        return Found(float("nan"), 0, 0)


def main() -> None:
    """Solve, and print one table."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    chosen = sys.argv[1:] or list(PROBLEMS)
    found = {
        name: {problem: attempt(solver, PROBLEMS[problem]) for problem in chosen}
        for name, solver in METHODS.items()
    }
    if sys.argv[1:]:
        for problem in chosen:
            for name, results in found.items():
                one = results[problem]
                solved = "solved" if one.solves(PROBLEMS[problem]) else "failed"
                print(f"{problem:22}{name:22}{solved:>8}{one.value:14.6g}", end="")
                print(f"{one.evaluations:8d}{one.products:8d}")
    common = [p for p in chosen if all(r[p].solves(PROBLEMS[p]) for r in found.values())]
    print(f"{'':22}{'solved':>9}{'evaluations':>13}{'products':>10}  not solved")
    for name, results in found.items():
        failed = [p for p in chosen if not results[p].solves(PROBLEMS[p])]
        evaluations = np.median([results[p].evaluations for p in common]) if common else np.nan
        products = np.median([results[p].products for p in common]) if common else np.nan
        print(f"{name:22}{len(chosen) - len(failed):3d} of {len(chosen)}", end="")
        print(f"{evaluations:13.0f}{products:10.0f}  {', '.join(failed)}")
    print(f"medians of {len(common)} problems")


if __name__ == "__main__":
    main()
