"""Moré, Garbow and Hillstrom's problems: how many `minimize` solves, ours beside SciPy's.

    python benchmarks/mgh.py                   # all 35 problems
    python benchmarks/mgh.py rosenbrock biggs  # some of them

It prints two tables in Markdown, as docs/minimize.md has them: a row a method, and a row a problem.

Every method starts where the paper does, has exact derivatives (SciPy's Hessians by products, or
formed where it asks for that), a tolerance of 1e-8 on the gradient and 400 iterations. Solved:
the sum of squares is within 1e-5 of a published minimum, or within 1e-9 where that is 0.
Evaluations are of the function, gradients of the gradient, products of the Hessian with one vector;
medians of the problems that all methods solve.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
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
    gradients: int
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
        return Found(found.fun, found.nfev, found.njev, found.nhev)

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
        if method == "L-BFGS-B":  # it stops by the change of the value, too, unless that is 0
            limits |= {"ftol": 0.0, "maxfun": 100 * ITERATIONS}
        found = scipy.optimize.minimize(
            lambda x: float(f(torch.from_numpy(x))), np.array(problem.start), method=method,
            jac=lambda x: grad(f)(torch.from_numpy(x)).numpy(), options=limits, **derivatives,
        )  # fmt: skip
        return Found(float(found.fun), int(found.nfev), int(found.njev), products)

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
        return Found(float("nan"), 0, 0, 0)


IN_DETAIL = (
    "trust_region", "arc", "newton", "bfgs", "ssbroyden", "lbfgs",
    "SciPy BFGS", "SciPy L-BFGS-B", "SciPy Newton-CG", "SciPy trust-exact",
)  # fmt: skip
"""Methods with a column in the table of problems."""

Results = dict[str, dict[str, Found]]
"""By method, then by problem."""


def by_method(found: Results, chosen: list[str]) -> Iterator[str]:
    """Yield the lines of the table of methods."""
    solved = {m: {p for p in chosen if r[p].solves(PROBLEMS[p])} for m, r in found.items()}
    common = set(chosen).intersection(*solved.values())
    yield f"| medians of {len(common)} problems | solved | f | gradient | products | not solved |"
    yield "| --- | ---: | ---: | ---: | ---: | --- |"
    for method, results in found.items():
        counts = [
            np.median([getattr(results[p], what) for p in common] or [np.nan])
            for what in ("evaluations", "gradients", "products")
        ]
        failed = ", ".join(f"`{p}`" for p in chosen if p not in solved[method])
        numbers = " | ".join(f"{count:.0f}" for count in counts)
        yield f"| {method} | {len(solved[method])} of {len(chosen)} | {numbers} | {failed} |"


def by_problem(found: Results, chosen: list[str]) -> Iterator[str]:
    """Yield the lines of the table of problems: evaluations, gradients, and what was missed."""
    methods = [method for method in IN_DETAIL if method in found]
    yield "| f, gradients | minimum | " + " | ".join(methods) + " |"
    yield "| --- |" + " ---: |" * (1 + len(methods))
    for name in chosen:
        problem = PROBLEMS[name]
        cells = [_cell(found[method][name], problem) for method in methods]
        minima = " or ".join(f"{m:.6g}" for m in problem.minima)
        yield f"| `{name}`, n = {len(problem.start)} | {minima} | {' | '.join(cells)} |"


def _cell(one: Found, problem: Problem) -> str:
    counts = f"{one.evaluations}, {one.gradients}"
    return counts if one.solves(problem) else f"{counts}: **{one.value:.3g}**"


def main() -> None:
    """Solve, and print both tables."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    chosen = sys.argv[1:] or list(PROBLEMS)
    found: Results = {
        name: {problem: attempt(solver, PROBLEMS[problem]) for problem in chosen}
        for name, solver in METHODS.items()
    }
    print(*by_method(found, chosen), "", *by_problem(found, chosen), sep="\n")


if __name__ == "__main__":
    main()
