"""How far an intercept without a penalty can lie from its value at a minimum."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from newton_krylov.objectives.features import Features

_LEAST, _FIRST, _LAST = -2, 1, 7
"""Powers of two by which outputs are shifted."""
_WORTH = 0.9
"""What a bound has to fall to for another one to be tried beyond it."""


def tangent_reach(
    shifted: Callable[[float], tuple[float, float, float]],
    value: float,
    distance: float,
    enough: float = 0.0,
) -> float:
    """Bound the distance between a free intercept and its value at a minimum, of one output.

    The mean loss L is convex: with u its gradient by the outputs where they all are shifted by t,
    and s the sum of u, the loss at a minimum is at least L(t) + s (b* - b - t) - |X'u| |w* - w|.
    It is at most the value h >= f(w*) here, so that a t > 0 with s > 0 bounds b* - b from above,
    and a t < 0 with s < 0 from below.

    Parameters
    ----------
    shifted : callable
        t -> L(t), s and |X'u|, u without its part along the intercept.
    value : float
        h = f(w) >= 0.
    distance : float
        A bound on |w* - w|, of the penalized weights.
    enough : float
        A bound that need not be improved.

    Returns
    -------
    float
        A bound on |b* - b|; inf where none is found, as where no minimum exists.
    """
    return max(_least_bound(shifted, sign, value, distance, enough) for sign in (1, -1))


def _least_bound(
    shifted: Callable[[float], tuple[float, float, float]],
    sign: int,
    value: float,
    distance: float,
    enough: float,
) -> float:
    """Return about the least bound of one side, from t = 2 on upwards or downwards as it falls."""

    def bound(exponent: int) -> float:
        t = 2.0**exponent
        loss, slope, gradient = shifted(sign * t)
        if not (sign * slope > 0 and math.isfinite(loss)):
            return math.inf
        return max(t + (value - loss + gradient * distance) / abs(slope), 0.0)

    best = first = bound(_FIRST)
    for exponents in (range(_FIRST + 1, _LAST + 1), range(_FIRST - 1, _LEAST - 1, -1)):
        for exponent in exponents:
            if best <= enough:
                return best
            before, found = best, bound(exponent)
            best = min(best, found)
            if found > _WORTH * before and before < math.inf:
                break
        if best < first:
            break
    return best


def softmax_reach(
    b: Tensor, value: float, radius: float, classes: Iterable[tuple[float, float]]
) -> float:
    """Bound the distance between free intercepts and their values at a minimum, of the softmax.

    Cross entropy at the mean outputs of a class is at most the class's mean loss (Jensen), which
    is at most h over the class's share, and logsumexp(z) - z_y >= z_k - z_y: so the mean margin
    x'(w_k - w_y) + b*_k - b*_y of no class is above that, which bounds the differences of b*.

    Parameters
    ----------
    b : Tensor, shape (n_outputs,)
        The intercepts. They are determined but for a common constant; those of mean 0 are meant.
    value : float
        h = f(w) >= 0.
    radius : float
        A bound on |W*| of the penalized weights.
    classes : iterable of tuple of float
        As `class_means` returns them.

    Returns
    -------
    float
        A bound on max_k |b*_k - b_k|; inf where a class has no samples, so that no minimum exists.
    """
    b = b - b.mean()
    # |w_j - w_k| <= sqrt(2) |W| for two columns of W.
    bounds = [
        value / share + length * radius * math.sqrt(2) if share > 0 else math.inf
        for share, length in classes
    ]
    return max(bounds) + float(b.abs().max())


def class_means(
    features: Features, y: Tensor, weights: Tensor | None, classes: int
) -> list[tuple[float, float]]:
    """Return each class's share of the weight and the length of its mean sample.

    Parameters
    ----------
    features : Features
        With the column of ones, which the length leaves out.
    y : Tensor, shape (n,)
        Class indices.
    weights : Tensor or None, shape (n,)
        The samples' weights, of mean 1.
    classes : int
        How many.

    Returns
    -------
    list of tuple of float
        One pair for each class.
    """
    mass = torch.nn.functional.one_hot(y, classes).to(features.X.dtype)
    if weights is not None:
        mass *= weights[:, None]
    totals = mass.sum(0)
    lengths = torch.linalg.vector_norm(features.adjoint(mass)[:-1] / totals, dim=0)
    return [
        (total / len(y), length if total else 0.0)
        for total, length in zip(totals.tolist(), lengths.tolist(), strict=True)
    ]
