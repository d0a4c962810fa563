"""The certified optimum: what suboptimality is measured against."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from newton_krylov.curvature.hvp import HessianProduct
from newton_krylov.data.cache import cached
from newton_krylov.data.dataset import Dataset, Split
from newton_krylov.linear_solvers.cg import cg
from newton_krylov.linear_solvers.exact import exact
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.optimizers.forcing import fixed
from newton_krylov.optimizers.line_search import armijo
from newton_krylov.optimizers.newton import Newton
from newton_krylov.registry import Entry, entry

GRADIENT_NORM = 1e-12
"""What the solve aims at."""

_EXACT_UP_TO = 2000  # parameters: forming and factoring a larger Hessian costs more than CG
_MAX_STEPS = 200
_PATIENCE = 5  # steps without a smaller gradient: rounding forbids more
_VERSION = 1  # part of the fingerprint: raise it when the solve changes


@dataclass(frozen=True)
class Optimum:
    """A certified optimal value.

    Attributes
    ----------
    value : float
        f at the best point found.
    gap_bound : float
        f(w) - f* <= |g|^2 / (2 mu): how far `value` can be above the true minimum, apart from
        the rounding of f itself.
    grad_norm : float
        |g| at that point.
    steps : int
        Newton steps taken; 0 if it came from the cache.
    """

    value: float
    gap_bound: float
    grad_norm: float

    @property
    def met(self) -> bool:
        """Whether the gradient norm is at most `GRADIENT_NORM`."""
        return self.grad_norm <= GRADIENT_NORM


def certified_optimum(
    dataset: Dataset, loss: Entry, options: Mapping[str, Any], dtype: torch.dtype
) -> Optimum | None:
    """Solve the problem to high accuracy in float64, or take the answer from the cache.

    The certificate is strong convexity: with modulus mu, f(w) - f* <= |grad f(w)|^2 / (2 mu)
    (Boyd and Vandenberghe, "Convex Optimization", 2004, section 9.1.2). The solve aims at a
    gradient norm of 1e-12; where rounding keeps the gradient above, the bound says what is known.

    Parameters
    ----------
    dataset : Dataset
        What the run minimizes over.
    loss : Entry
        The registered loss.
    options : mapping
        Its checked keyword values.
    dtype : torch.dtype
        Of the run; the data is as rounded to it, the solve is in float64 all the same.

    Returns
    -------
    Optimum or None
        None where the objective is not known to be strongly convex.
    """
    objective: Objective = loss.build(options, dataset=_in_double(dataset))
    mu = objective.convexity
    if not mu:
        return None
    solved = cached(
        "optimum", fingerprint(dataset, loss.name, options, dtype), partial(_solve, objective)
    )
    value, grad_norm = float(solved["value"]), float(solved["grad_norm"])
    return Optimum(value, grad_norm**2 / (2 * mu), grad_norm)


def fingerprint(
    dataset: Dataset, loss: str, options: Mapping[str, Any], dtype: torch.dtype
) -> str:
    """Return a checksum of all that the optimum depends on.

    Parameters
    ----------
    dataset : Dataset
        By its checksum.
    loss : str
        Registered name.
    options : mapping
        The loss's keyword values.
    dtype : torch.dtype
        Of the run.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    facts = [_VERSION, dataset.checksum, loss, sorted(options.items()), str(dtype)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _in_double(dataset: Dataset) -> Dataset:
    return replace(dataset, train=_split_in_double(dataset.train), test=None)


def _split_in_double(split: Split) -> Split:
    y = split.y.double() if split.y.is_floating_point() else split.y
    return Split(split.X.double(), y)


def _solve(objective: Objective) -> dict[str, np.ndarray[Any, Any]]:
    best = _best_point(objective)
    return {"value": np.float64(best.value), "grad_norm": np.float64(best.grad_norm)}  # type: ignore[dict-item]


def _best_point(objective: Objective) -> Point:
    """Run Newton's method from zero until the gradient norm is met or falls no more."""
    w0 = torch.zeros(objective.dim, dtype=objective.dtype, device=objective.device)
    best, since = objective.at(w0), 0
    for number, step in enumerate(_newton(objective).steps(objective, w0, torch.Generator())):
        if step.point.grad_norm < best.grad_norm:
            best, since = step.point, 0
        else:
            since += 1
        done = best.grad_norm <= GRADIENT_NORM or since >= _PATIENCE
        if done or number >= _MAX_STEPS or not math.isfinite(step.point.value):
            break
    return best


def _newton(objective: Objective) -> Newton:
    small = objective.dim <= _EXACT_UP_TO
    return Newton(
        solver=exact if small else cg,
        curvature=HessianProduct(),
        line_search=armijo,
        forcing=partial(fixed, eta=1e-10 if small else 1e-4),
        preconditioner=entry("preconditioner", "none" if small else "jacobi").build({}),
    )
