"""Whether a fit of small gradient is near a minimum, or on the way to where there is none."""

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning

from newton_krylov.linear_solvers.cg import cg
from newton_krylov.objectives.linear_model import LinearModel, LinearModelPoint
from newton_krylov.objectives.log_link import LogLink

_LEAST = 0.05
"""What Newton's step changes an output by where the loss falls for ever: 1 where it falls as an
exponential does, 1/z as the normal distribution's tail, which is 0.1 where doubles end."""
_RTOL = 0.1


def warn_without_minimum(point: LinearModelPoint, *, free_intercept: bool) -> None:
    """Warn where weights without a penalty would grow for ever, however small the gradient is.

    Where classes can be separated, or all counts of a category are 0, the loss falls to its limit
    as weights grow, and its gradient falls below any tolerance; but Newton's step, which shrinks
    with the gradient near a minimum, stays as large as it was.

    Parameters
    ----------
    point : LinearModelPoint
        Where a fit ended that met its tolerance.
    free_intercept : bool
        Whether the last weight of each output is an intercept without a penalty.
    """
    f = point.objective
    if f.task == "regression" and not isinstance(f, LogLink):
        return  # least squares and Huber's loss have a minimum
    why = None
    if free_intercept and (side := _empty_side(f)):
        why = f"{side}, and nothing holds the intercept: it grows without end"
    elif _has_free_columns(f, free_intercept):
        change = _change_by_newton(point)
        if change > _LEAST:
            why = (
                f"the gradient is within tol, but a Newton step would still change an output by "
                f"{change:.2g}: without a penalty there may be no minimum (classes that can be "
                f"separated, targets that are all 0 where a column is not), or a far one (columns "
                f"that nearly depend on each other); set l2, or a smaller tol"
            )
    if why is not None:
        warnings.warn(f"{why}.", ConvergenceWarning, stacklevel=4)


def _empty_side(f: LinearModel) -> str:
    """Say what sends a free intercept to infinity: targets without any of the other kind."""
    v = torch.ones(len(f.y), dtype=torch.float64) if f.sample_weight is None else f.sample_weight
    if f.task != "regression":
        masses = torch.bincount(f.y, v, minlength=max(f.n_outputs, 2))
        return "" if bool(masses.all()) else "a class has no weight"
    return "" if bool(((f.y > 0) & (v > 0)).any()) else "all targets are 0"


def _has_free_columns(f: LinearModel, free_intercept: bool) -> bool:
    if f.l2 == 0 and f.l1 == 0:
        return True
    if f.factors is None:
        return False
    of_columns = f.factors[: f.dim - free_intercept * f.n_outputs]
    return bool((of_columns == 0).any())


def _change_by_newton(point: LinearModelPoint) -> float:
    """Return the largest change of an output, of samples that count, by Newton's step."""
    f = point.objective
    with f.counts.paused():
        step = cg(point.hessian(), -point.grad, rtol=_RTOL).x
        changes = f.outputs(step).abs().view(f.n_samples, -1)
    if f.sample_weight is not None:
        changes = changes[f.sample_weight > 0]
    return float(changes.max())
