"""The way down from a stationary point that is no minimum."""

import torch
from torch import Tensor

from newton_krylov.errors import NotFiniteError
from newton_krylov.norms import euclidean
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.spectral.lanczos import lanczos

_PRODUCTS, _HALVINGS = 50, 60


def negative_curvature(A: LinearOperator, generator: torch.Generator) -> Tensor | None:
    """Look for a direction of negative curvature by a few products of Lanczos's process.

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n.
    generator : torch.Generator
        Draws the first vector, on the CPU.

    Returns
    -------
    Tensor or None, shape (n,)
        A unit vector d with d'A d < 0 beyond its error; None where none shows itself.
    """
    pair = lanczos(A, 1, which="smallest", generator=generator, rtol=1e-3, maxiter=_PRODUCTS)
    found = float(pair.values[0]) < -float(pair.residual_norms[0])
    return pair.vectors[:, 0] if found else None


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
        where no negative curvature shows itself, where what shows itself is rounding, or where the
        loss has no second derivatives.
    """
    try:
        A = point.hessian()
        d = negative_curvature(A, torch.Generator().manual_seed(0))
    except (NotFiniteError, NotImplementedError, RuntimeError):
        return None
    if d is None:
        return None
    curvature, rounding = float(torch.dot(d, A @ d)), point.objective.rounding(point.value)
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
