"""How far an intercept without a penalty can lie from its value at a minimum."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from newton_krylov.objectives.base import Point

if TYPE_CHECKING:
    from newton_krylov.objectives.linear_model import LinearModel


def reach(f: "LinearModel", point: Point) -> float:
    """Bound the distance between the free intercept at a point and at a minimum, by entry.

    At a minimum f is at most its value h here, so |w*|^2 <= 2 h / mu for the penalized weights. A
    convex loss at the mean margin of a class is at most the class's mean loss (Jensen), which is
    at most h over the class's share: so the mean margin x'w* + b* of no class lies further on the
    wrong side than the loss allows (`margin_bound`), which bounds b* from both sides. Of several
    outputs, whose intercepts are determined but for a common constant, those of mean 0 are meant.

    Parameters
    ----------
    f : LinearModel
        Convex, with a free intercept and its other weights penalized.
    point : Point
        Of f.

    Returns
    -------
    float
        A bound on max_k |b*_k - b_k|; inf where a class has no samples, so that no minimum exists.
    """
    assert isinstance(f.ridge, Tensor)
    b = point.w[-f.n_outputs :]
    b = b - b.mean() if f.n_outputs > 1 else b
    h = max(point.value, 0.0)
    # |w_j - w_k| <= sqrt(2) |W| for two columns of W.
    radius = math.sqrt(2 * h / float(f.ridge[f.ridge > 0].min())) * math.sqrt(min(f.n_outputs, 2))
    bounds = [
        f.margin_bound(h / share) + length * radius if share > 0 else math.inf
        for share, length in _classes(f)
    ]
    return max(bounds) + float(b.abs().max())


def _classes(f: "LinearModel") -> list[tuple[float, float]]:
    """Return each class's share of the weight, and the length of its mean sample."""
    regression = f.y.is_floating_point()
    found = []
    for number in range(1 if regression else max(f.n_outputs, 2)):
        member = torch.ones_like(f.y) if regression else f.y == number
        weights = member.to(f.dtype)
        if f.sample_weight is not None:
            weights *= f.sample_weight
        total = float(weights.sum())
        mean = (f.features.XT @ weights)[:-1] / total if total else weights[:0]
        found.append((total / f.n_samples, float(torch.linalg.vector_norm(mean))))
    return found
