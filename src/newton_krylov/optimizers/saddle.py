"""The way down from a stationary point that is no minimum."""

import torch
from torch import Tensor

from newton_krylov.errors import NotFiniteError
from newton_krylov.norms import euclidean
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.spectral.lanczos import Eigenpairs, lanczos

_PRODUCTS, _HALVINGS = 50, 60
_WHOLE = 300
"""Up to so many parameters the whole space is searched: weak negative curvature is found, too."""


def lowest(A: LinearOperator, generator: torch.Generator) -> Eigenpairs:
    """Look for the lowest eigenvalue: to the end in a small space, else by a few products."""
    n = A.shape[0]
    rtol, limit = (0.0, n) if n <= _WHOLE else (1e-3, _PRODUCTS)
    return lanczos(A, 1, which="smallest", generator=generator, rtol=rtol, maxiter=limit)


def negative_curvature(A: LinearOperator, generator: torch.Generator) -> Tensor | None:
    """Look for a direction of negative curvature by Lanczos's process.

    By n products where n is at most 300, else by 50 at most.

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
    return _direction(lowest(A, generator))


def _direction(pair: Eigenpairs) -> Tensor | None:
    found = float(pair.values[0]) < -float(pair.residual_norms[0])
    return pair.vectors[:, 0] if found else None


def below_saddle(point: Point) -> tuple[Tensor | None, bool]:
    """Look for negative curvature at a stationary point, and for a lower place along it.

    Parameters
    ----------
    point : Point
        Where the gradient is zero, or nearly.

    Returns
    -------
    lower : Tensor or None, shape (dim,)
        Parameters of a lower loss, by at least a quarter of what the curvature promises; None
        where no negative curvature shows itself, where what shows itself is rounding, or where the
        loss has no second derivatives.
    finished : bool
        Whether the search came to its end: False where negative curvature may have been missed.
    """
    try:
        A = point.hessian()
        pair = lowest(A, torch.Generator().manual_seed(0))
    except (NotFiniteError, NotImplementedError, RuntimeError):
        return None, False
    d, low = _direction(pair), float(pair.values[0])
    if d is None:
        whole = len(point.w) <= _WHOLE
        return None, whole or (pair.converged and low > float(pair.residual_norms[0]))
    curvature, rounding = float(torch.dot(d, A @ d)), point.objective.rounding(point.value)
    length = euclidean(point.w) or 1.0
    for _ in range(_HALVINGS):
        promised = -curvature * length**2 / 2
        if promised <= rounding:
            return None, True
        for step in (length, -length):
            w = point.w.add(d, alpha=step)
            if point.value - point.objective.at(w).value >= promised / 4 + rounding:
                return w, True
        length /= 2
    return None, True
