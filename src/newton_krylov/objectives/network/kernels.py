"""Kernels that can be differentiated twice, in place of torch's own that cannot or are wrong."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


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
    length = v.square().sum(over, keepdim=True).sqrt()  # its derivatives can be taken backwards
    return v * (g / length)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """Normalize the last dimensions: torch's own kernel has wrong second derivatives, forward."""
    found = _standardized(input, range(-len(normalized_shape), 0), eps)
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize channels; by the formula where the samples' own means are all that is needed."""
    if not training or running_mean is not None:
        return functional.batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )
    found = _standardized(input, [d for d in range(input.ndim) if d != 1], eps)
    return _by_channel(found, weight, bias)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize every channel of every sample; see `batch_norm`."""
    if not use_input_stats or running_mean is not None:
        return functional.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )
    return _by_channel(_standardized(input, range(2, input.ndim), eps), weight, bias)


def _standardized(x: Tensor, over: Sequence[int], eps: float) -> Tensor:
    centred = x - x.mean(tuple(over), keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(tuple(over), keepdim=True) + eps)


def _by_channel(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (-1, *[1] * (x.ndim - 2))
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """Return a sigmoid(b) of the halves: torch's own kernel has no second derivative, forward."""
    a, b = input.chunk(2, dim)
    return a * torch.sigmoid(b)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """Return the ramp from 0 to 1: torch's own kernel has no second derivative, forward."""
    return (input / 6 + 0.5).clamp(0, 1)


_FORMULAS: Mapping[Callable[..., Any], Callable[..., Tensor]] = {
    functional.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    functional.batch_norm: batch_norm,
    functional.instance_norm: instance_norm,
    torch._weight_norm: weight_norm,
    functional.glu: glu,
    functional.hardsigmoid: hardsigmoid,
}


class Formulas(TorchFunctionMode):
    """Within it, what torch cannot differentiate twice, or not rightly, is made by its formula."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a torch function, or its formula."""
        call: Callable[..., Any] = _FORMULAS.get(func, func)
        return call(*args, **(kwargs or {}))
