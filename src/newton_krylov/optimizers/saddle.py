"""The way down from a stationary point that is no minimum."""

import torch
from torch import Tensor

from newton_krylov.errors import NotFiniteError
from newton_krylov.norms import euclidean
from newton_krylov.objectives.base import Point
from newton_krylov.spectral.lanczos import lanczos

_PRODUCTS, _HALVINGS = 50, 60


def below_saddle(point: Point) -> Tensor | None:
    """Look for negative curvature at a stationary point, and for a lower place along it.

    Parameters
    ----------
    point : Point
        Where the gradient is zero, or nearly.

    Returns
    -------
    Tensor or None, shape (dim,)
        Parameters of a lower loss, by at least a quarter of what the curvature promises; None
        where a few products of Lanczos's process show no negative curvature, where what they show
        is rounding, or where the loss has no second derivatives.
    """
    generator = torch.Generator().manual_seed(0)
    try:
        pair = lanczos(
            point.hessian(), 1, which="smallest", generator=generator, rtol=1e-3, maxiter=_PRODUCTS
        )
    except (NotFiniteError, NotImplementedError, RuntimeError):
        return None
    curvature = float(pair.values[0])
    if not curvature < -float(pair.residual_norms[0]):
        return None
    d, rounding = pair.vectors[:, 0], point.objective.rounding(point.value)
    length = euclidean(point.w) or 1.0
    for _ in range(_HALVINGS):
        promised = -curvature * length**2 / 2
        if promised <= rounding:
            return None
        for step in (length, -length):
            w = point.w.add(d, alpha=step)
            if point.value - point.objective.at(w).value >= promised / 4 + rounding:
                return w
        length /= 2
    return None
