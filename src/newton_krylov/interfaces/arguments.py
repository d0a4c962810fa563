"""What `minimize` and `least_squares` ask of a start, a function and their numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def start(x0: Tensor | Sequence[float]) -> Tensor:
    """Return a copy of the start, shape (n,): float64 unless it is a tensor of float32.

    Raises
    ------
    ValueError
        If it is no such vector.
    """
    with torch.inference_mode(False):
        kind = None if isinstance(x0, Tensor) else torch.float64
        x = torch.as_tensor(x0, dtype=kind).detach().clone()
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
    with torch.inference_mode(False), torch.enable_grad():
        found = function(x.clone().requires_grad_())
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
    if not any(value.requires_grad for value in tensors):
        raise ValueError(
            "what fun returns does not depend on x in autograd's eyes: compute it of x by torch "
            "operations, without detach, item, numpy or torch.no_grad"
        )


def check_least(lowest: float, **values: float | None) -> None:
    """Refuse values, None apart, that are not at least the lowest."""
    for name, value in values.items():
        if value is not None and not value >= lowest:
            raise ValueError(f"{name} must be at least {lowest:g}, not {value}")
