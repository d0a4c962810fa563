"""What `minimize` and `least_squares` ask of a start, a function and their numbers."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from newton_krylov.objectives.graph import depend

_NO_GRADIENT = (
    "compute it of x by torch operations, without detach, item, numpy or torch.no_grad, and a "
    "network by torch.func.functional_call, not by vector_to_parameters"
)


def start(x0: Tensor | Sequence[float]) -> Tensor:
    """Return a copy of the start, shape (n,): float64 unless it is a tensor of float32.

    A single number is a vector of one, as in SciPy.

    Raises
    ------
    ValueError
        If it is no such vector.
    """
    kind = None if isinstance(x0, Tensor) else torch.float64
    try:
        if kind is not None and np.iscomplexobj(x0):
            raise TypeError
        x = torch.as_tensor(x0, dtype=kind).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"x0 must be a vector of real numbers, not {type(x0).__name__}: {x0!r:.80}"
        ) from None
    x = x.reshape(1) if x.ndim == 0 else x
    if x.ndim != 1 or len(x) == 0 or x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"x0 must be a vector of float32 or float64, not {x.dtype} of shape {tuple(x.shape)}"
        )
    return x


def check_function(function: Callable[[Tensor], Any], x: Tensor, *, scalar: bool) -> None:
    """Evaluate at x, shape (n,), and refuse what autograd cannot follow: it has no gradient.

    Raises
    ------
    ValueError
        If the function returns no real tensors, none that depend on x, or another shape than ()
        where it must be a scalar.
    """
    with torch.enable_grad():
        try:
            at = x.clone().requires_grad_()
            found = function(at)
        except RuntimeError as error:
            if "Can't call numpy()" in str(error):
                raise ValueError(f"fun has no gradient: {_NO_GRADIENT}") from None
            raise
    tensors = list(found.values()) if isinstance(found, Mapping) and not scalar else [found]
    what = "a tensor of shape ()" if scalar else "a tensor, or a dict of tensors,"
    for value in tensors:
        if not isinstance(value, Tensor):
            raise ValueError(f"fun must return {what} not {type(value).__name__}")
        if scalar and value.shape != ():
            raise ValueError(f"fun must return {what}, not {tuple(value.shape)}")
        if value.is_complex():
            raise ValueError(f"fun must return real numbers, not {value.dtype}")
    if not sum(value.numel() for value in tensors):
        raise ValueError("fun returns no residuals")
    if not depend(tensors, at):
        raise ValueError(
            f"what fun returns does not depend on x in autograd's eyes: {_NO_GRADIENT}"
        )


def refuse(name: str, given: Mapping[str, Any], elsewhere: Mapping[str, str]) -> None:
    """Refuse what SciPy's function of the name takes and ours does not; None and () ask nothing.

    Raises
    ------
    ValueError
        If one of those is given, with what would do in its place.
    TypeError
        If SciPy does not know it either.
    """
    for key, value in given.items():
        if key not in elsewhere:
            raise TypeError(f"{name}() got an unexpected keyword argument '{key}'")
        nothing = value is None or (isinstance(value, tuple | list | dict) and not value)
        if not nothing:
            raise ValueError(f"{name} has no {key}: {elsewhere[key]}")


def check_least(lowest: float, **values: float | None) -> None:
    """Refuse values, None apart, that are not at least the lowest."""
    for name, value in values.items():
        try:
            enough = value is None or float(value) >= lowest
        except (TypeError, ValueError):
            enough = False
        if not enough:
            raise ValueError(f"{name} must be at least {lowest:g}, not {value!r}")


def arguments(args: Any) -> tuple[Any, ...]:
    """Return a function's further arguments as SciPy takes them: a single one needs no tuple."""
    return tuple(args) if isinstance(args, tuple | list) else (args,)


Stop = Callable[[Tensor, float], bool]
"""(x, value) after a step, to whether to stop."""


def watching(callback: Callable[..., Any] | None) -> Stop:
    """Return what calls a user's function after each step, in any of the forms that SciPy takes.

    Those are (x), and (intermediate_result) by that name; ours is (x, value) besides. x is a copy.
    To raise StopIteration asks for an end.
    """
    if callback is None:
        return lambda x, value: False
    call = callback

    def asks_to_stop(x: Tensor, value: float) -> bool:
        from scipy.optimize import OptimizeResult

        try:
            if takes == ["intermediate_result"]:
                found = OptimizeResult()
                found.update(x=x.clone(), fun=value)
                call(intermediate_result=found)
            elif len(takes) == 1:
                call(x.clone())
            else:
                call(x.clone(), value)
        except StopIteration:
            return True
        return False

    takes = _names(callback)
    return asks_to_stop


def _names(function: Callable[..., Any]) -> list[str]:
    """Return what a function must be given; nothing where it cannot be known."""
    try:
        taken = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled
        return []
    named = (p for p in taken if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    return [p.name for p in named if p.default is p.empty]
