"""Minimization of a torch function of one vector, with the result of SciPy's `minimize`."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from newton_krylov.errors import suggest
from newton_krylov.interfaces.arguments import check_function, check_least, start
from newton_krylov.interfaces.parts import named
from newton_krylov.objectives.base import Point
from newton_krylov.objectives.function import FunctionObjective
from newton_krylov.optimizers.base import Optimizer

Method = Literal["newton", "trust_region", "arc", "bfgs", "ssbfgs", "ssbroyden", "lbfgs"]

_METHODS: dict[str, tuple[str, dict[str, Any], str]] = {
    "newton": ("newton", {}, "armijo"),
    "trust_region": ("trust_region", {}, "none"),
    "arc": ("arc", {}, "none"),
    "bfgs": ("bfgs", {}, "strong_wolfe"),
    "ssbfgs": ("ssbfgs", {}, "strong_wolfe"),
    "ssbroyden": ("ssbroyden", {}, "strong_wolfe"),
    "lbfgs": ("lbfgs", {}, "strong_wolfe"),
}
"""Method to optimizer, what is set of it, and line search."""

_STEPS_PER_PARAMETER = 200

_MESSAGES = {
    0: "Optimization terminated successfully.",
    1: "The limit of iterations came first: raise maxiter.",
    3: "The function or its gradient is not finite where the method arrived.",
}


def minimize(
    fun: Callable[..., Tensor],
    x0: Tensor | Sequence[float],
    args: Sequence[Any] = (),
    method: Method = "trust_region",
    *,
    gtol: float = 1e-5,
    maxiter: int | None = None,
    solver: str = "cg",
    options: Mapping[str, Any] | None = None,
    callback: Callable[[Tensor, float], None] | None = None,
) -> Any:
    """Minimize a function of one vector, with exact derivatives.

    Parameters
    ----------
    fun : callable
        (x, *args) -> the value, shape (), of torch operations; x has shape (n,).
    x0 : Tensor or sequence of float, shape (n,)
        Start; float64 unless it is a tensor of float32.
    args : sequence
        Given to `fun` beside x.
    method : {"newton", "trust_region", "bfgs", "ssbfgs", "lbfgs"}
        Newton's method with a linear solver and Armijo's line search; Newton's method in a trust
        region; BFGS with a dense matrix, plain or self-scaled; limited-memory BFGS. They are the
        registered optimizers of those names (`ssbfgs` is `bfgs` with `scaling="always"`).
    gtol : float
        Stop where no component of the gradient is larger.
    maxiter : int, optional
        Limit of iterations; 200 n by default.
    solver : str
        For `newton`: the name of a linear solver.
    options : mapping, optional
        Further keyword values of the optimizer, such as `{"subproblem": "exact"}`.
    callback : callable, optional
        Called with (x, value) after every iteration.

    Returns
    -------
    scipy.optimize.OptimizeResult
        With SciPy's fields, as tensors: x, fun, jac (the gradient), nit, nfev, njev, nhev
        (products with the Hessian), status, message, success. Status 0 is success, 1 the limit, 2
        that no step lowers the function beyond its rounding, 3 a number that is not finite.

    Raises
    ------
    ValueError
        For a start, a number or a method that is not valid; for a function that is not finite at
        the start, or does not depend on x by torch operations (it is evaluated once to see that).
    ConfigError
        For an option that the optimizer does not have.

    Examples
    --------
    >>> def rosenbrock(x):
    ...     return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    >>> result = minimize(rosenbrock, [-1.2, 1.0], method="bfgs")
    >>> result.x.round(decimals=4).tolist(), result.success
    ([1.0, 1.0], True)
    """
    x = start(x0)
    check_least(0, gtol=gtol, maxiter=maxiter)
    if method not in _METHODS:
        raise ValueError(f"method={method!r} is unknown{suggest(str(method), _METHODS)}")
    objective = FunctionObjective(lambda w: fun(w, *args), x)
    check_function(objective.function, x, scalar=True)
    optimizer = _optimizer(method, solver, options or {})
    limit = _STEPS_PER_PARAMETER * len(x) if maxiter is None else maxiter
    steps, number, status = optimizer.steps(objective, x, torch.Generator().manual_seed(0)), -1, 2
    ended, point = "", cast(Point, objective.at(x))
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            ended = str(end.value)
            break
        number += 1
        finite = math.isfinite(step.point.value) and math.isfinite(step.point.grad_norm)
        if not finite:
            if number == 0:
                raise ValueError("the function is not finite at x0: start where it is")
            status = 3
            break
        point = step.point
        if callback is not None and number > 0:
            callback(point.w.clone(), point.value)
        if float(point.grad.abs().max()) <= gtol:
            status = 0
            break
        if number >= limit:
            status = 1
            break
    return _result(objective, point, number, status, ended)


def _optimizer(method: str, solver: str, options: Mapping[str, Any]) -> Optimizer:
    name, preset, line_search = _METHODS[method]
    parts = {
        "solver": named("solver", solver).build({}),
        "curvature": named("hessian_approx", "hvp").build({}),
        "line_search": named("line_search", line_search).build({}),
        "forcing": named("forcing", "superlinear").build({}),
        "preconditioner": named("preconditioner", "none").build({}),
        "damping": named("damping", "fixed").build({}),
        "schedule": named("schedule", "constant").build({}),
    }
    optimizer: Optimizer = named("optimizer", name).build({**preset, **options}, **parts)
    return optimizer


def _result(objective: FunctionObjective, point: Any, nit: int, status: int, ended: str) -> Any:
    from scipy.optimize import OptimizeResult

    counts, grad = objective.counts, point.grad
    result = OptimizeResult()
    result.update(
        x=point.w, fun=point.value, jac=grad, nit=max(nit, 0), nfev=int(counts.function),
        njev=int(counts.gradient), nhev=int(counts.hvp), status=status, success=status == 0,
        message=_MESSAGES.get(status, f"Stopped: {ended}."),
    )  # fmt: skip
    return result
