"""Measures of a classifier that a frequent class does not flatter."""

import torch
from torch import Tensor

_UNEQUAL = 2.0
"""How many times the rarest class the most frequent one has before accuracy alone misleads."""


def unequal(y: Tensor, classes: int) -> bool:
    """Return whether some class is much rarer than another.

    Parameters
    ----------
    y : Tensor, shape (n,)
        Class indices.
    classes : int
        How many there are.

    Returns
    -------
    bool
        False where a class has no sample at all, as its share of right answers is not known.
    """
    counts = torch.bincount(y, minlength=classes)
    return bool(counts.min() > 0) and bool(counts.max() >= _UNEQUAL * counts.min())


def balanced_accuracy(predicted: Tensor, y: Tensor, weights: Tensor | None, classes: int) -> float:
    """Return the mean over the classes of the share of each that is classified rightly.

    Parameters
    ----------
    predicted, y : Tensor, shape (n,)
        Class indices.
    weights : Tensor or None, shape (n,)
        Weights of the samples.
    classes : int
        How many there are; each has a sample.

    Returns
    -------
    float
        Between 0 and 1; 1 / classes for an answer that does not look at the sample.
    """
    v = torch.ones_like(y, dtype=torch.float64) if weights is None else weights.double()
    right = torch.bincount(y, v * (predicted == y), minlength=classes)
    return float((right / torch.bincount(y, v, minlength=classes)).mean())


def area_under_curve(scores: Tensor, y: Tensor, weights: Tensor | None) -> float:
    """Return the area under the receiver operating characteristic.

    It is the probability that a sample of class 1 has a higher score than one of class 0; equal
    scores count half.

    Parameters
    ----------
    scores : Tensor, shape (n,)
        Higher means class 1.
    y : Tensor, shape (n,)
        0 or 1, both of them there.
    weights : Tensor or None, shape (n,)
        Weights of the samples.

    Returns
    -------
    float
        Between 0 and 1.
    """
    v = torch.ones_like(y, dtype=torch.float64) if weights is None else weights.double()
    _, place = torch.unique(scores, return_inverse=True)
    positive, negative = (torch.bincount(place, v * (y == k)) for k in (1, 0))
    below = torch.cumsum(negative, 0) - negative / 2
    return float((positive * below).sum() / (positive.sum() * negative.sum()))
