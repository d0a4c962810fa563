"""How far an intercept without a penalty can lie from its value at a minimum."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from newton_krylov.objectives.features import Features


def reach(
    b: Tensor, value: float, ridge: float, classes: Iterable[tuple[float, float]],
    margin_bound: Callable[[float], float],
) -> float:  # fmt: skip
    """Bound the distance between a free intercept and its value at a minimum, by entry.

    At a minimum f is at most its value h here, so |w*|^2 <= 2 h / ridge for the penalized weights.
    A convex loss at the mean margin of a class is at most the class's mean loss (Jensen), which is
    at most h over the class's share: so the mean margin x'w* + b* of no class lies further on the
    wrong side than the loss allows, which bounds b* from both sides.

    Parameters
    ----------
    b : Tensor, shape (n_outputs,)
        The intercept. Of several outputs, whose intercepts are determined but for a common
        constant, those of mean 0 are meant.
    value : float
        h = f(w) >= 0.
    ridge : float
        The smallest second derivative of the penalty by a weight that it is on.
    classes : iterable of tuple of float
        As `class_means` returns them.
    margin_bound : callable
        As `LinearModel.margin_bound`.

    Returns
    -------
    float
        A bound on max_k |b*_k - b_k|; inf where a class has no samples, so that no minimum exists.
    """
    several = len(b) > 1
    b = b - b.mean() if several else b
    # |w_j - w_k| <= sqrt(2) |W| for two columns of W.
    radius = math.sqrt(2 * value / ridge) * math.sqrt(2 if several else 1)
    bounds = [
        margin_bound(value / share) + length * radius if share > 0 else math.inf
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
        Class indices, or the targets of a regression.
    weights : Tensor or None, shape (n,)
        The samples' weights, of mean 1.
    classes : int
        How many; 1 takes all samples together.

    Returns
    -------
    list of tuple of float
        One pair for each class.
    """
    found = []
    for number in range(classes):
        member = torch.ones_like(y) if classes == 1 else y == number
        mass = member.to(features.X.dtype)
        mass = mass if weights is None else mass * weights
        total = float(mass.sum())
        mean = features.adjoint(mass)[:-1] / total if total else mass[:0]
        found.append((total / len(y), float(torch.linalg.vector_norm(mean))))
    return found
