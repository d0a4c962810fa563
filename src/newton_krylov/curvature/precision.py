"""Curvature in single precision inside an optimization in double."""

from collections.abc import Callable
from typing import Literal

import torch

from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator

Precision = Literal["float32"] | None
"""The precision of a curvature; None is the objective's own."""


def in_precision(
    point: Point, dtype: Precision, make: Callable[[Point], LinearOperator]
) -> LinearOperator:
    """Make a point's curvature in a precision of its own.

    Parameters
    ----------
    point : Point
        Point at which to evaluate.
    dtype : {"float32"} or None
        The precision; None the objective's.
    make : callable
        Point to curvature.

    Returns
    -------
    LinearOperator
        On vectors of the objective's type.
    """
    if dtype is None or point.objective.dtype == getattr(torch, dtype):
        return make(point)
    return make(point.cast(getattr(torch, dtype))).cast(point.objective.dtype)
