"""Kernels that can be differentiated twice, in place of torch's own that cannot or are wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attend by the one kernel that has a second derivative."""
    with sdpa_kernel([SDPBackend.MATH]):
        yield


@contextmanager
def plain_recurrence() -> Iterator[None]:
    """Keep from cuDNN's recurrent kernels, which have no second derivative."""
    with torch.backends.cudnn.flags(enabled=False):
        yield


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return g v / |v| by its formula: torch's own kernel has a wrong second derivative."""
    over = [d for d in range(v.ndim) if d != dim % v.ndim] if dim != -1 else list(range(v.ndim))
    length: Tensor = torch.linalg.vector_norm(v, dim=over, keepdim=True)
    return v * (g / length)
