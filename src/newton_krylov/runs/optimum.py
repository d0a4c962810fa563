"""The certified optimum: what suboptimality is measured against."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from newton_krylov.capabilities import TRANSPORT_DUAL
from newton_krylov.curvature.hvp import HessianProduct
from newton_krylov.curvature.thresholded_sparse import ThresholdedSparse
from newton_krylov.data.cache import Arrays, cached
from newton_krylov.data.dataset import Dataset
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.objectives.linear_model import LinearModel
from newton_krylov.optimizers.base import Optimizer
from newton_krylov.optimizers.damping import Fixed
from newton_krylov.optimizers.forcing import fixed, superlinear
from newton_krylov.optimizers.line_search import armijo
from newton_krylov.optimizers.newton import Newton
from newton_krylov.optimizers.newton_step import NewtonStep
from newton_krylov.optimizers.proximal_newton import ProximalNewton
from newton_krylov.optimizers.sinkhorn_newton_sparse import SinkhornNewtonSparse
from newton_krylov.optimizers.stochastic_step import StochasticStep
from newton_krylov.registry import Entry, entry

GRADIENT_NORM = 1e-12
"""What the solve aims at."""

_EXACT_UP_TO = 2000  # parameters: forming and factoring a larger Hessian costs more than CG
_MAX_STEPS = 1000
_PATIENCE = 5  # steps with neither a smaller gradient nor a lower value: rounding forbids more
_VERSION = 3  # part of the fingerprint: raise it when the solve changes


@dataclass(frozen=True)
class Optimum:
    """A certified optimal value.

    Attributes
    ----------
    value : float
        f at the best point found, evaluated on the data once more.
    gap_bound : float
        How far `value` can be above the true minimum, apart from the rounding of f itself (see
        `Objective.suboptimality_bound`).
    grad_norm : float
        |g| at that point.
    """

    value: float
    gap_bound: float
    grad_norm: float

    @property
    def met(self) -> bool:
        """Whether the gradient norm is at most `GRADIENT_NORM`."""
        return self.grad_norm <= GRADIENT_NORM


def _nothing() -> None:
    """Do nothing."""


def certified_optimum(
    dataset: Dataset,
    loss: Entry,
    options: Mapping[str, Any],
    dtype: torch.dtype,
    on_solve: Callable[[], None] = _nothing,
    objective: Objective | None = None,
    near: Tensor | None = None,
) -> Optimum | None:
    """Solve the problem to high accuracy in float64, or take the answer from the cache.

    The certificate is the objective's own: strong convexity, or for the dual of a transport
    problem weak duality. The solve aims at a gradient norm of 1e-12; where rounding keeps the
    gradient above, the bound says what is known.

    Parameters
    ----------
    dataset : Dataset
        What the run minimizes over.
    loss : Entry
        The registered loss.
    options : mapping
        Checked keyword values of the loss.
    dtype : torch.dtype
        Precision of the run, to which the data is rounded; the solve is in float64 all the same.
    on_solve : callable
        Called before a solve, which an answer out of the cache does not need.
    objective : Objective, optional
        The loss bound to the data in float64, where it is there already.
    near : Tensor, optional, shape (dim,)
        Where the solve begins; at zero by default.

    Returns
    -------
    Optimum or None
        None where the objective has no certificate, or the solve none that is finite.
    """
    bound: Objective = objective or loss.build(options, dataset=dataset.double())
    if not bound.certified:
        return None

    def solve() -> Arrays:
        on_solve()
        return _solve(bound, near)

    solved = cached("optimum", fingerprint(dataset, loss.name, options, dtype), solve)
    optimum = Optimum(*(float(solved[key]) for key in ("value", "gap_bound", "grad_norm")))
    return optimum if math.isfinite(optimum.value + optimum.gap_bound) else None


def fingerprint(dataset: Dataset, loss: str, options: Mapping[str, Any], dtype: torch.dtype) -> str:
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
        Precision of the run.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    facts = [_VERSION, dataset.checksum, loss, sorted(options.items()), str(dtype)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _solve(objective: Objective, near: Tensor | None) -> Arrays:
    # What was carried along from step to step takes no part in what is certified.
    best = objective.at(_best_point(objective, near).w)
    figures = {
        "value": best.value,
        "gap_bound": objective.suboptimality_bound(best),
        "grad_norm": best.grad_norm,
    }
    return {name: np.array(figure) for name, figure in figures.items()}


def _best_point(objective: Objective, near: Tensor | None) -> Point:
    """Iterate until the gradient norm is met or nothing falls any more."""
    w0 = torch.zeros(objective.dim, dtype=objective.dtype, device=objective.device)
    w0 = w0 if near is None else near.to(w0)
    optimizer = _optimizer(objective)
    best = lowest = objective.at(w0)
    since = 0
    for number, step in enumerate(optimizer.steps(objective, w0, torch.Generator())):
        since += 1
        if step.point.value < lowest.value - objective.rounding(lowest.value):
            lowest, since = step.point, 0
        if step.point.grad_norm < best.grad_norm:
            best, since = step.point, 0
        done = _met(objective, best) or since >= _PATIENCE
        if done or number >= _MAX_STEPS or not math.isfinite(step.point.value):
            break
    return best


def _met(objective: Objective, point: Point) -> bool:
    """Whether the gradient is small enough, and with it the bound where it is not its square."""
    small = point.grad_norm <= GRADIENT_NORM
    return small and (
        bool(objective.convexity) or objective.suboptimality_bound(point) <= GRADIENT_NORM
    )


def _optimizer(objective: Objective) -> Optimizer:
    if TRANSPORT_DUAL in objective.offers:
        return _transport()
    corners = isinstance(objective, LinearModel) and objective.l1 > 0
    return _proximal_newton() if corners else _newton(objective)


def _proximal_newton() -> ProximalNewton:
    return ProximalNewton(
        solver=entry("solver", "cg").build({}),
        curvature=HessianProduct(),
        line_search=armijo,
        forcing=partial(fixed, eta=1e-6),
        preconditioner=entry("preconditioner", "jacobi").build({}),
    )


def _newton(objective: Objective) -> Newton:
    small = objective.dim <= _EXACT_UP_TO
    step = NewtonStep(
        solver=entry("solver", "exact" if small else "cg").build({}),
        curvature=HessianProduct(),
        line_search=armijo,
        forcing=partial(fixed, eta=1e-10 if small else 1e-4),
        preconditioner=entry("preconditioner", "none" if small else "jacobi").build({}),
        damping=Fixed(),
    )
    return Newton(StochasticStep(step))


def _transport() -> SinkhornNewtonSparse:
    step = NewtonStep(
        solver=entry("solver", "cg").build({}),
        curvature=ThresholdedSparse(),
        line_search=armijo,
        forcing=superlinear,
        preconditioner=entry("preconditioner", "jacobi").build({}),
        damping=Fixed(),
    )
    return SinkhornNewtonSparse(step)
