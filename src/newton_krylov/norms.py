"""Euclidean norms to the last digits."""

import torch
from torch import Tensor

_BLOCK = 1024
_SAFE = (1e-12, 1e18)
"""Norms in single precision of which no square that counts was too small or too large."""


def norm(v: Tensor) -> Tensor:
    """Compute |v| to the precision of v.

    Parameters
    ----------
    v : Tensor, shape (n,)
        Any vector whose squares are in range.

    Returns
    -------
    Tensor, shape ()
        Of v's dtype and device.

    Notes
    -----
    torch adds up the squares in a few sums: of eight million equal numbers in single precision it
    loses 0.7 % of the norm. Here they are added up by blocks, and the blocks in double precision.
    """
    if v.numel() <= _BLOCK:
        return _norm(v)
    whole = v.numel() // _BLOCK * _BLOCK
    blocks = torch.linalg.vector_norm(v[:whole].reshape(-1, _BLOCK), dim=1)
    parts = torch.cat((blocks, _norm(v[whole:]).reshape(1)))
    return _norm(parts.double()).to(v.dtype)


def _norm(v: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(v)
    return found


def euclidean(v: Tensor) -> float:
    """Compute |v|, safe from under- and overflow of the squares in single precision.

    Parameters
    ----------
    v : Tensor, shape (n,)
        Any vector.

    Returns
    -------
    float
        The Euclidean norm.
    """
    size = float(norm(v))
    if v.dtype == torch.float64 or _SAFE[0] < size < _SAFE[1]:
        return size
    return float(torch.linalg.vector_norm(v, dtype=torch.float64))
