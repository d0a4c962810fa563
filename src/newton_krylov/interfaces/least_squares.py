"""Nonlinear least squares with the interface of SciPy's `least_squares`."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from newton_krylov.errors import suggest
from newton_krylov.interfaces.arguments import (
    Stop,
    arguments,
    check_function,
    check_least,
    refuse,
    start,
    watching,
)
from newton_krylov.interfaces.parts import named
from newton_krylov.norms import euclidean
from newton_krylov.objectives.residual.objective import (
    GIB,
    Derivative,
    Function,
    ResidualObjective,
    ResidualPoint,
)
from newton_krylov.objectives.residual.robust import LOSSES, Rho, RobustObjective
from newton_krylov.optimizers.levenberg_marquardt import LevenbergMarquardtStep, TrialStep

Loss = Literal["linear", "soft_l1", "huber", "cauchy", "arctan"]

_INNER = 1e-12
_EVALUATIONS_PER_PARAMETER = 100

_DENSE = ("qr", "exact")
"""Solvers that form the Jacobian."""

_ELSEWHERE = {
    "diff_step": "derivatives are exact, by autograd or by jac",
    "tr_solver": "solver= chooses who solves the damped systems",
    "tr_options": "solver= chooses who solves the damped systems",
    "jac_sparsity": "solver='lsmr' or 'cg' needs no dense Jacobian",
    "workers": "derivatives are exact, so that no differences are taken side by side",
}
"""What SciPy's function takes besides, to what does in its place."""

_MESSAGES = {
    -3: "The derivatives are not finite where the last step led.",
    -2: "`callback` raised `StopIteration`.",
    0: "The limit of function evaluations came first: raise max_nfev.",
    1: "`gtol` is met: the residuals are orthogonal to the Jacobian's columns.",
    2: "`ftol` is met: the cost does not fall any more.",
    3: "`xtol` is met: the parameters do not move any more.",
    4: "`ftol` and `xtol` are met.",
}


@torch.inference_mode(mode=False)
def least_squares(
    fun: Callable[..., Tensor | Mapping[str, Tensor]],
    x0: Tensor | Sequence[float],
    jac: Callable[..., Any] | None = None,
    *,
    bounds: Any = None,
    method: Literal["lm"] = "lm",
    ftol: float | None = 1e-8,
    xtol: float | None = 1e-8,
    gtol: float | None = 1e-8,
    x_scale: float | Sequence[float] | Tensor | Literal["jac"] | None = None,
    loss: Loss | Callable[[Any], Any] = "linear",
    f_scale: float = 1.0,
    max_nfev: int | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callback: Callable[..., Any] | None = None,
    verbose: Literal[0, 1, 2] = 0,
    solver: str = "qr",
    acceleration: bool = True,
    memory: float = 2.0,
    **others: Any,
) -> Any:
    """Minimize half a sum of squares by Levenberg-Marquardt with exact Jacobians.

    The interface is that of `scipy.optimize.least_squares(method="lm")`, without bounds and
    without finite differences: `fun` is made of torch operations, or `jac` is given. The damping
    follows Nielsen's rule and has no parameter; the systems are solved by QR factors of the
    Jacobian, so that its condition number is not squared.

    Parameters
    ----------
    fun : callable
        (x, *args, **kwargs) -> residuals, a tensor of any shape, a list of numbers, or several
        tensors by name; x, a copy, has shape (n,).
    x0 : Tensor or sequence of float, shape (n,)
        Start, or a single number; float64 unless it is a tensor of float32.
    jac : callable, optional
        (x, *args, **kwargs) -> the Jacobian, shape (m, n), a tensor, an array, or a sparse matrix
        or an operator of SciPy's; then `fun` may return an array, too (NumPy's functions take x by
        `numpy.asarray(x)`), and there is no geodesic acceleration. None differentiates `fun` by
        autograd.
    bounds : None or (-inf, inf)
        There are none: any others are refused.
    method : {"lm"}
        The one there is.
    ftol, xtol, gtol : float or None
        Stop where a step lowers the cost by less than ftol of it (and the model foretold that),
        where a step is shorter than xtol (xtol + |x|), or where the largest cosine of the angle
        between the residuals and a column of J is below gtol. None leaves one out; with all three
        left out it goes on to the rounding of the cost.
    x_scale : float, sequence of float, "jac" or None, shape (n,)
        The parameters' sizes; "jac" takes the norms of J's columns. None stands for "jac", or for
        ones where J does not fit into `memory`.
    loss : {"linear", "soft_l1", "huber", "cauchy", "arctan"} or callable
        rho in the cost, half the sum of f_scale^2 rho((r / f_scale)^2); or a function of z, shape
        (m,), that returns rho(z) and its two derivatives, shape (3, m), as tensors or arrays.
    f_scale : float
        See `loss`; no part of "linear".
    max_nfev : int, optional
        Limit of evaluations of `fun`; 100 n by default.
    args, kwargs : sequence and mapping, optional
        Given to `fun` beside x.
    callback : callable, optional
        Called after every step: (x, cost), or as SciPy's, (x) or (intermediate_result), an
        `OptimizeResult` of x and fun, the cost. StopIteration ends the fit (status -2).
    verbose : {0, 1, 2}
        Print nothing, how it ended, or every step besides.
    solver : str
        Solver of the damped systems: "qr", "exact" (in the smaller of the spaces of parameters and
        of residuals, by Cholesky factors), "lsmr", "lsqr" or "cg".
    acceleration : bool
        Whether to follow the geodesic to second order (Transtrum and Sethna 2012).
    memory : float
        GiB that a dense Jacobian may take; "lsmr", "lsqr" and "cg" do without one beyond it.
    **others
        What else SciPy's function takes is refused, with what would do in its place.

    Returns
    -------
    scipy.optimize.OptimizeResult
        With SciPy's fields, as tensors: x, cost, fun, jac, grad, optimality, active_mask, nfev,
        njev, status (-2, 0 .. 4), message, success. `jac` is None where it does not fit.

    Raises
    ------
    ValueError
        For a start or an option that is not valid; for residuals that are not finite at the start,
        or do not depend on x by torch operations (they are evaluated once to see that).

    Examples
    --------
    >>> import torch
    >>> def rosenbrock(x):
    ...     return torch.stack((10 * (x[1] - x[0] ** 2), 1 - x[0]))
    >>> result = least_squares(rosenbrock, [-1.2, 1.0])
    >>> result.x.round(decimals=6).tolist(), result.success
    ([1.0, 1.0], True)
    """
    refuse("least_squares", others, _ELSEWHERE)
    _check_kind(bounds, method, verbose)
    x = start(x0)
    check_least(0, ftol=ftol, xtol=xtol, gtol=gtol, memory=memory)
    check_least(1, max_nfev=max_nfev)
    rho = _loss(loss)
    soft = _above_zero(f_scale)

    further = arguments(args)

    def function(w: Tensor) -> Any:
        return _joined(fun(w.clone(), *further, **(kwargs or {})), w)

    residuals: Function = function
    derivative: Derivative | None = None
    if jac is None:
        check_function(function, x, scalar=False)
    else:
        residuals, derivative = _given(function, jac, x, further, kwargs or {})
    objective: ResidualObjective
    if rho is None:
        objective = ResidualObjective(residuals, x, None, memory * GIB, derivative)
    else:
        objective = RobustObjective(residuals, x, rho, soft, memory * GIB, derivative)
    fits = objective.n_residuals * len(x) * x.element_size() <= objective.memory
    if not fits and solver in _DENSE:
        raise ValueError(
            f"the Jacobian, {objective.n_residuals:,} by {len(x):,}, does not fit into "
            f"memory={memory:g} GiB: solver='lsmr' needs its products alone"
        )
    point = objective.at(x)
    size, value = euclidean(point.r), point.value
    if not math.isfinite(size):
        raise ValueError("the residuals are not finite at x0: start where they are")
    if math.isnan(value):
        raise ValueError("loss is not a number at x0: it must be one for any z from 0")
    again = objective.residuals(x).detach()
    if not euclidean(again - point.r) <= torch.finfo(x.dtype).eps ** 0.5 * size:
        raise ValueError(
            "fun returns other residuals when it is called again at x0: what is random in it must "
            "be fixed, such as dropout by eval() of the network"
        )
    whole = 0.0 < euclidean(point.grad) < math.inf  # of squares that are within the range
    kind = torch.finfo(x.dtype)
    level = abs(value)  # a loss of the user's may begin below 0
    if size > 0.0 and not (0.0 < level < math.inf and (whole or kind.tiny < level < kind.max)):
        raise ValueError(
            f"the residuals are of size {size:.3g} at x0, and their squares are beyond the range "
            f"of the numbers: return them in other units"
        )
    if size > 0.0 and not _has_gradient(point):
        whose = "the derivatives of fun" if jac is None else "the numbers of jac"
        raise ValueError(f"{whose} are not finite at x0: start where they are")
    step = LevenbergMarquardtStep(
        named("solver", solver).build({}),
        _scaling(x_scale, x, fits=fits),
        acceleration and jac is None,
    )
    limit = _EVALUATIONS_PER_PARAMETER * len(x) if max_nfev is None else max_nfev
    stop = watching(callback)
    if verbose == 2:
        stop = _printing(objective, stop)
    point, status = _iterate(point, step, _Tolerances(ftol, xtol, gtol), limit, stop)
    if verbose:
        way = f"cost {value:.4e} -> {point.value:.4e}, optimality {_optimality(point):.2e}"
        _say(f"{_MESSAGES[status]} Evaluations {objective.counts.function:.0f}, {way}.")
    return _result(point, status)


def _check_kind(bounds: Any, method: Any, verbose: Any) -> None:
    """Refuse the kinds of problem and of method that there are not."""
    if bounds is not None and not _unbounded(bounds):
        raise ValueError(
            "least_squares has no bounds: take scipy.optimize.least_squares, or let x be a "
            "function of free parameters, such as exp of one for x > 0"
        )
    if method != "lm":
        raise ValueError(
            f"method must be 'lm', Levenberg-Marquardt's, not {method!r}: leave it out"
        )
    if verbose not in (0, 1, 2):
        raise ValueError(f"verbose must be 0, 1 or 2, not {verbose!r}")


def _unbounded(bounds: Any) -> bool:
    """Say whether bounds, in whatever form, are (-inf, inf)."""
    try:
        low, high = (bounds.lb, bounds.ub) if hasattr(bounds, "lb") else bounds
        return bool(
            (torch.as_tensor(low) == -math.inf).all() and (torch.as_tensor(high) == math.inf).all()
        )
    except (TypeError, ValueError, RuntimeError):
        return False


def _loss(loss: Any) -> Rho | None:
    """Return the rho of a name, or of a function like SciPy's; None for "linear"."""
    if callable(loss):

        def rho(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            found = loss(z)
            if not isinstance(found, Tensor):
                found = torch.stack([torch.as_tensor(part).to(z) for part in found])
            if found.shape != (3, *z.shape):
                raise ValueError(
                    f"loss must return shape {(3, *z.shape)}, rho and its two derivatives, not "
                    f"{tuple(found.shape)}"
                )
            return tuple(found.to(z))

        return rho
    if loss not in ("linear", *LOSSES):
        raise ValueError(f"loss={loss!r} is unknown{suggest(str(loss), ['linear', *LOSSES])}")
    return None if loss == "linear" else LOSSES[loss]


def _above_zero(f_scale: Any) -> float:
    """Return the scale of a loss as a number."""
    try:
        found = float(f_scale)
    except (TypeError, ValueError, RuntimeError):
        found = math.nan
    if not 0 < found < math.inf:
        raise ValueError(f"f_scale must be a number above zero and finite, not {f_scale!r:.80}")
    return found


def _joined(found: Any, w: Tensor) -> Any:
    """Return a list of numbers, each a residual, as one tensor; anything else as it is."""
    if not isinstance(found, list | tuple) or not found:
        return found
    if not all(isinstance(r, int | float) or getattr(r, "shape", None) == () for r in found):
        return found
    return torch.stack([_real(torch.as_tensor(r), "fun").to(w) for r in found])


def _real(found: Tensor, name: str) -> Tensor:
    """Refuse complex numbers, whose imaginary part would be lost without a word."""
    if found.is_complex():
        raise ValueError(f"{name} must return real numbers, not {found.dtype}")
    return found


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _printing(objective: ResidualObjective, stop: Stop) -> Stop:
    """Return what prints a line a step before it asks."""
    number = 0

    def shown(x: Tensor, cost: float) -> bool:
        nonlocal number
        number += 1
        _say(f"step {number}: evaluations {objective.counts.function:.0f}, cost {cost:.4e}")
        return stop(x, cost)

    return shown


def _given(
    function: Callable[[Tensor], Any],
    jac: Any,
    x: Tensor,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> tuple[Callable[[Tensor], Tensor], Derivative]:
    """Return functions of tensors to tensors, which may come of arrays; checked once at x."""
    if not callable(jac):
        raise ValueError(
            f"jac must be a function that returns the Jacobian, or None for autograd's, not "
            f"{jac!r}: there are no finite differences here, but scipy.optimize.least_squares has "
            f"them for a function that is not made of torch operations"
        )

    def residuals(w: Tensor) -> Tensor:
        return _real(torch.as_tensor(function(w)), "fun").detach().to(w).reshape(-1)

    def derivative(w: Tensor) -> Any:
        return _matrix(jac(w.clone(), *args, **kwargs), w)

    shape, expected = tuple(derivative(x).shape), (len(residuals(x)), len(x))
    if shape != expected:
        raise ValueError(f"jac must return shape {expected}, residuals by parameters, not {shape}")
    return residuals, derivative


def _matrix(found: Any, w: Tensor) -> Any:
    """Return a Jacobian that is an array, a sparse matrix or an operator of SciPy's."""
    if hasattr(found, "tocoo"):
        entries = found.tocoo()
        indices = torch.as_tensor(np.stack([entries.row, entries.col]), dtype=torch.int64)
        values = torch.as_tensor(entries.data)
        values = _real(values, "jac").to(w)
        sparse = torch.sparse_coo_tensor(indices, values, found.shape, check_invariants=True)
        return sparse.coalesce()
    if hasattr(found, "matvec"):
        if np.issubdtype(getattr(found, "dtype", None) or np.float64, np.complexfloating):
            raise ValueError(f"jac must return real numbers, not {found.dtype}")
        return found
    try:
        entries = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"jac must return the Jacobian as a tensor, an array, a sparse matrix or an operator "
            f"of SciPy's, not {type(found).__name__}: {found!r:.80}"
        ) from None
    matrix = _real(entries, "jac").detach().to(w)
    return matrix.reshape(1, -1) if matrix.ndim < 2 else matrix  # of one residual, as in SciPy


def _scaling(x_scale: Any, x: Tensor, *, fits: bool) -> Any:
    """Return the damping's D: 1 / x_scale, or the norms of the Jacobian's columns."""
    if x_scale is None or (isinstance(x_scale, str) and x_scale == "jac"):
        if not fits and x_scale is not None:
            raise ValueError(
                "x_scale='jac' takes the norms of the columns of a Jacobian that does not fit into "
                "memory: give the parameters' sizes as numbers, or leave it out for ones"
            )
        return "jacobian" if fits else "none"
    if isinstance(x_scale, str):
        raise ValueError(f"x_scale must be numbers or 'jac', not {x_scale!r}")
    try:
        scale = torch.as_tensor(x_scale, dtype=x.dtype, device=x.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"x_scale must be numbers or 'jac', not {x_scale!r:.80}") from None
    if scale.shape not in ((), x.shape):
        raise ValueError(f"x_scale has shape {tuple(scale.shape)}, but x0 has {tuple(x.shape)}")
    if not bool(((scale > 0) & scale.isfinite()).all()):
        raise ValueError("x_scale must be above zero and finite")
    return scale.expand_as(x).reciprocal()


@dataclass(frozen=True)
class _Tolerances:
    """When to stop; see `least_squares`."""

    ftol: float | None
    xtol: float | None
    gtol: float | None

    def met(self, before: ResidualPoint, trial: TrialStep) -> int | None:
        """Return the status after a step that was made, or None to go on."""
        gain = trial.actual / trial.predicted if trial.predicted > 0 else 0.0
        flat = self.ftol is not None and trial.actual < self.ftol * before.value and gain > 0.25
        size = euclidean(trial.p)
        still = self.xtol is not None and size < self.xtol * (self.xtol + euclidean(before.w))
        if flat or still:
            return 4 if flat and still else 2 if flat else 3
        return 1 if self.optimal(trial.point) else None

    def optimal(self, point: ResidualPoint) -> bool:
        """Return whether the residuals are orthogonal to the columns of J."""
        A = point.normal
        if self.gtol is None:
            return not bool(A.b.any())
        columns = A.diagonal().sqrt() if A.has_diagonal else torch.full_like(A.b, euclidean(A.b))
        lengths = columns * euclidean(A.u)
        cosines = torch.where(lengths == 0, torch.zeros_like(lengths), A.b.abs() / lengths)
        return bool((cosines <= self.gtol).all())  # not where J has a nan


def _iterate(
    point: ResidualPoint,
    step: LevenbergMarquardtStep,
    tolerances: _Tolerances,
    limit: int,
    stop: Stop,
) -> tuple[ResidualPoint, int]:
    """Make steps until a tolerance is met; return the last point and the status."""
    if tolerances.optimal(point):
        return point, 1
    if point.objective.counts.function >= limit:
        return point, 0
    rounding = torch.finfo(point.w.dtype).eps
    counts = point.objective.counts
    while True:
        for trial in step.trials(point, _INNER):
            if not trial.accepted and trial.predicted <= rounding * point.value:
                return point, 2
            if counts.function >= limit:
                return (trial.point if trial.accepted else point), 0
        status = tolerances.met(point, trial)
        point = trial.point
        if stop(point.w, point.value):
            return point, -2
        if status is not None or point.value == 0.0 or not _has_gradient(point):
            return point, status or (1 if point.value == 0.0 else -3)


def _has_gradient(point: ResidualPoint) -> bool:
    return bool(point.grad.isfinite().all())


def _optimality(point: ResidualPoint) -> float:
    return float(point.grad.abs().max())


def _result(point: ResidualPoint, status: int) -> Any:
    from scipy.optimize import OptimizeResult

    counts = point.objective.counts
    grad, normal = point.grad, point.normal
    fields = {
        "x": point.w,
        "cost": point.value,
        "fun": point.r,
        "jac": point.jacobian.dense() if normal.has_diagonal else None,
        "grad": grad,
        "optimality": _optimality(point),
        "active_mask": torch.zeros(len(grad), dtype=torch.int64),
        "nfev": int(counts.function),
        "njev": int(counts.gradient),
        "status": status,
        "message": _MESSAGES[status],
        "success": status > 0,
    }
    result = OptimizeResult()
    result.update(fields)
    return result
