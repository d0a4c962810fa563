"""Minimization of a torch function of one vector, with the result of SciPy's `minimize`."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

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
from newton_krylov.interfaces.parts import built_optimizer
from newton_krylov.norms import is_bottomless
from newton_krylov.objectives.base import Point
from newton_krylov.objectives.function import FunctionObjective
from newton_krylov.optimizers.base import Optimizer
from newton_krylov.optimizers.saddle import below_saddle

Method = Literal[
    "newton",
    "trust_region",
    "arc",
    "regularized_newton",
    "nncg",
    "bfgs",
    "ssbfgs",
    "ssbroyden",
    "lbfgs",
]

_LINE_SEARCHES = {
    "newton": "armijo",
    "trust_region": "none",
    "arc": "none",
    "regularized_newton": "none",
    "nncg": "armijo",
    "bfgs": "hager_zhang",
    "ssbfgs": "strong_wolfe",
    "ssbroyden": "hager_zhang",
    "lbfgs": "strong_wolfe",
}
"""Method, which is the name of a registered optimizer, to its line search."""

_STEPS_PER_PARAMETER = 200

_MESSAGES = {
    0: "Optimization terminated successfully.",
    1: "The limit of iterations came first: raise maxiter.",
    3: "The function or its gradient is not finite where the method arrived.",
    4: "The function seems to be unbounded below.",
    99: "`callback` raised `StopIteration`.",
}

_ELSEWHERE = {
    **dict.fromkeys(("jac", "hess", "hessp"), "derivatives are exact, by autograd: leave it out"),
    **dict.fromkeys(("bounds", "constraints"), "take scipy.optimize.minimize"),
    "tol": "gtol is the tolerance",
}
"""What SciPy's function takes besides, to what does in its place."""

_NO_OPTIONS = {"maxiter": "limit of iterations", "gtol": "tolerance", "solver": "linear solver"}
"""What SciPy has among its options, or one might, and is an argument here."""

_PATIENCE = 20
"""At least so many iterations in a row lower neither function nor gradient before it ends."""

_IDLE = "no step lowers the function or its gradient beyond their rounding"
_UNCONFIRMED = " Second-order conditions were not confirmed: it may be a saddle point."


@torch.inference_mode(mode=False)
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
    callback: Callable[..., Any] | None = None,
    **others: Any,
) -> Any:
    """Minimize a function of one vector, with exact derivatives.

    Parameters
    ----------
    fun : callable
        (x, *args) -> the value, one number, of torch operations; x, a copy, has shape (n,).
    x0 : Tensor or sequence of float, shape (n,)
        Start; float64 unless it is a tensor of float32.
    args : sequence
        Given to `fun` beside x.
    method : str
        The name of a registered optimizer: "newton" (a linear solver and Armijo's line search),
        "trust_region", "arc" (adaptive cubic regularization), "regularized_newton" (regularized by
        the gradient), "nncg" (conjugate gradients preconditioned by a Nystrom sketch), the
        quasi-Newton methods with a dense matrix "bfgs", "ssbfgs" and "ssbroyden" (self-scaled), or
        "lbfgs".
    gtol : float
        Stop where no component of the gradient is larger than gtol min(1, s), with s the larger of
        the function's and the gradient's size at the start: a function in smaller units is not
        taken for a flat one. A saddle point is no place to stop: where products with the Hessian
        (n, or 50 where n is above 300) show negative curvature, it is left along that.
    maxiter : int, optional
        Limit of iterations; 200 n by default.
    solver : str
        For `newton`: the name of a linear solver.
    options : mapping, optional
        Further keyword values of the optimizer, such as `{"subproblem": "exact"}`; `maxiter` is
        not among them.
    callback : callable, optional
        Called after every iteration: (x, value), or as SciPy's, (x) or (intermediate_result), an
        `OptimizeResult` of x and fun. StopIteration ends the search (status 99).
    **others
        What else SciPy's function takes is refused, with what would do in its place.

    Returns
    -------
    scipy.optimize.OptimizeResult
        With SciPy's fields, as tensors: x, fun, jac (the gradient), nit, nfev, njev, nhev
        (products with the Hessian), status, message, success. Status 0 is success, 1 the limit, 2
        that no step lowers the function beyond its rounding (the message says where the function's
        size, of 1e150 say, is the reason), 3 a number that is not finite, 4 that
        the function seems to be unbounded below.

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
    refuse("minimize", others, _ELSEWHERE)
    x = start(x0)
    check_least(0, gtol=gtol, maxiter=maxiter)
    if method not in _LINE_SEARCHES:
        raise ValueError(
            f"method={method!r} is unknown{suggest(str(method).lower(), _LINE_SEARCHES)}"
        )
    for key, what in _NO_OPTIONS.items():
        if key in (options or {}):
            raise ValueError(f"options has no {key}: the {what} is minimize({key}=)")
    further = arguments(args)
    objective = FunctionObjective(lambda w: _one_number(fun(w.clone(), *further)), x)
    check_function(objective.function, x, scalar=True)
    optimizer = built_optimizer(method, options or {}, _LINE_SEARCHES[method], solver)
    limit = _STEPS_PER_PARAMETER * len(x) if maxiter is None else maxiter
    run = _Run(objective, optimizer, gtol, limit, watching(callback))
    run.descend(x)
    while run.status == 0:
        lower, run.confirmed = below_saddle(run.point)
        if lower is None:
            break
        run.descend(lower)
    return run.result()


def _one_number(value: Any) -> Any:
    """Take a tensor of one number for that number, as SciPy does."""
    alone = isinstance(value, Tensor) and value.ndim > 0 and value.numel() == 1
    return value.reshape(()) if alone else value


def _not_finite(value: float) -> str:
    """Say what is not finite at the start: the value, or the gradient alone."""
    if not math.isfinite(value):
        return "the function is not finite at x0: start where it is"
    return (
        f"the gradient is not finite at x0, where the function is {value:.6g}: in torch.where the "
        "branch that is not taken must have finite derivatives, too"
    )


class _Run:
    """Where a minimization stands: its point, the number of its iterations, why it stopped."""

    def __init__(
        self,
        objective: FunctionObjective,
        optimizer: Optimizer,
        gtol: float,
        limit: int,
        stop: Stop,
    ) -> None:
        self.objective, self.optimizer = objective, optimizer
        self.gtol, self.limit, self.stop = gtol, limit, stop
        self.generator = torch.Generator().manual_seed(0)
        self.number, self.status, self.ended, self.scale = -1, 2, "", 0.0
        self.confirmed = True
        self.point: Point
        self.value = self.largest = math.inf
        self.idle = 0

    def descend(self, x: Tensor) -> None:
        """Iterate from x, shape (n,), until one of the reasons to stop."""
        steps, starting = self.optimizer.steps(self.objective, x, self.generator), True
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                self.status, self.ended = 2, str(end.value)
                return
            self.number += 1
            if is_bottomless(step.point.value, self.scale):
                self.point, self.status = step.point, 4
                return
            if not (math.isfinite(step.point.value) and math.isfinite(step.point.grad_norm)):
                if self.number == 0:
                    raise ValueError(_not_finite(step.point.value))
                self.status = 3
                return
            self.point = step.point
            largest = float(self.point.grad.abs().max())
            if self.number > 0 and self.stop(self.point.w, self.point.value):
                self.status = 99
                return
            if starting:
                self.scale = max(self.scale, abs(self.point.value), largest)
                starting = False
            if largest <= self.gtol * min(1.0, self.scale):
                self.status = 0
                return
            idle = self._idle(self.point.value, largest)
            if idle or self.number >= self.limit:
                self.status, self.ended = (2, _IDLE) if idle else (1, "")
                return

    def _idle(self, value: float, largest: float) -> bool:
        """Say whether the last iterations have brought nothing but rounding errors.

        Where the function cannot fall any more, steps still make the gradient smaller.
        """
        lower = self.value - value > self.objective.rounding(value)
        self.idle = 0 if lower or largest < self.largest else self.idle + 1
        self.value = value if lower else self.value
        self.largest = min(self.largest, largest)
        return self.idle >= max(_PATIENCE, 2 * self.point.w.numel())  # secants know n by then

    @property
    def _out_of_range(self) -> bool:
        """Whether the function's cube, as of g'Hg, does not fit into its numbers."""
        numbers = torch.finfo(self.point.w.dtype)
        least, most = (end ** (1 / 3) for end in (numbers.tiny, numbers.max))
        return not least / numbers.eps < self.scale < most * numbers.eps

    def result(self) -> Any:
        """Return SciPy's result."""
        from scipy.optimize import OptimizeResult

        counts, point, status = self.objective.counts, self.point, self.status
        message = _MESSAGES.get(status, f"Stopped: {self.ended}.")
        if status == 2 and self._out_of_range:
            message += (
                f" The function is of size {self.scale:.1g} at the start, powers of which are "
                f"beyond the range of {str(point.w.dtype).removeprefix('torch.')}: return it in "
                f"other units."
            )
        if status == 0 and not self.confirmed:
            message += _UNCONFIRMED
        result = OptimizeResult()
        result.update(
            x=point.w, fun=point.value, jac=point.grad, nit=self.number, nfev=int(counts.function),
            njev=int(counts.gradient), nhev=int(counts.hvp), status=status, success=status == 0,
            message=message,
        )  # fmt: skip
        return result
