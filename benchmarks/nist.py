"""NIST's certified curve fits: digits of the worst parameter, ours beside SciPy's.

    python benchmarks/nist.py                # all 27 problems from both starts, one table
    python benchmarks/nist.py mgh10 boxbod   # some of them

It is in Markdown, as docs/residuals.md has it: digits, and evaluations of the residuals.

Every method gets the same exact Jacobians, tolerances of a few roundings and 10,000 evaluations; an
exception is shown by its name. Log relative error: 11 digits are certified, 6 count as solved.
"""

import sys
import warnings
from collections.abc import Callable

import numpy as np
import scipy.optimize
import torch
from torch.func import jacrev

from newton_krylov import least_squares
from newton_krylov.data import load_dataset
from newton_krylov.data.catalogue import nist_tables
from newton_krylov.data.dataset import CurveFit
from newton_krylov.data.nist import FORMULAS

EVALUATIONS = 10_000
TIGHT = 4 * float(np.finfo(float).eps)


def ours(data: CurveFit) -> tuple[np.ndarray, int]:
    """Levenberg-Marquardt with QR, scaling and geodesic acceleration: the defaults."""
    tolerances = {"ftol": None, "xtol": None, "gtol": None}
    result = least_squares(data.residuals, data.start, max_nfev=EVALUATIONS, **tolerances)
    return result.x.numpy(), result.nfev


def scipys(method: str) -> Callable[[CurveFit], tuple[np.ndarray, int]]:
    """SciPy's least_squares with one of its methods, its parameters scaled by the Jacobian."""

    def solve(data: CurveFit) -> tuple[np.ndarray, int]:
        J = jacrev(data.residuals)
        result = scipy.optimize.least_squares(
            lambda b: data.residuals(torch.from_numpy(b)).numpy(),
            data.start.numpy(),
            jac=lambda b: J(torch.from_numpy(b)).numpy(),
            method=method, x_scale="jac", max_nfev=EVALUATIONS,
            ftol=TIGHT, xtol=TIGHT, gtol=TIGHT,
        )  # fmt: skip
        return result.x, result.nfev

    return solve


METHODS = {"ours": ours, "SciPy trf": scipys("trf"), "SciPy lm": scipys("lm")}


def digits(found: np.ndarray, certified: np.ndarray) -> float:
    """Return the log relative error of the worst parameter, 0 .. 11."""
    error = np.abs((found - certified) / certified)
    return float(np.clip(-np.log10(np.maximum(error.max(), 1e-11)), 0, 11))


def main() -> None:
    """Solve, and print one table."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    chosen = sys.argv[1:] or sorted(FORMULAS)
    print("| problem | difficulty | start | " + " | ".join(METHODS) + " |")
    print("| --- | --- | ---: |" + " ---: |" * len(METHODS))
    solved = dict.fromkeys(METHODS, 0)
    for problem in chosen:
        for start in (1, 2):
            data = load_dataset(f"nist_{problem}", {"start": start})
            cells = []
            for name, method in METHODS.items():
                try:
                    found, evaluations = method(data)
                    reached = digits(found, data.certified.numpy())
                    cells.append(f"{reached:.1f} ({evaluations:,})")
                    solved[name] += reached >= 6
                except (ValueError, np.linalg.LinAlgError) as error:
                    cells.append(type(error).__name__)
            difficulty = nist_tables()[problem]["difficulty"]
            print(f"| `{problem}` | {difficulty} | {start} | {' | '.join(cells)} |", flush=True)
    counts = (f"{n} of {2 * len(chosen)}" for n in solved.values())
    print(f"| at least 6 digits | | | {' | '.join(counts)} |")


if __name__ == "__main__":
    main()
