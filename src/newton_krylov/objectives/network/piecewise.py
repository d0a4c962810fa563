"""Max-pooling and ReLU, whose second derivatives are zero and are not computed.

Both multiply by a matrix that depends on the input and is constant around it: y = S x, backward
S' g. torch differentiates S' g by g and, with zeros as large as the input, by x; a Hessian product
then carries these zeros on through the network. Pooling of images with channels last is, besides,
differentiated in that layout.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function

Gradients = tuple[Tensor | None, ...]


class Window(NamedTuple):
    """What `torch.max_pool2d` takes beside its input."""

    kernel_size: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    ceil_mode: bool


def max_pool2d(x: Tensor, window: Window) -> Tensor:
    """Take the largest number in each window.

    Parameters
    ----------
    x : Tensor, shape (n, channels, height, width)
        Images.
    window : Window
        Window of the pooling.

    Returns
    -------
    Tensor, shape (n, channels, ..., ...)
        Differentiable any number of times.
    """
    return cast(Tensor, _Pool.apply(x, window))


def relu(x: Tensor) -> Tensor:
    """Take the positive part.

    Parameters
    ----------
    x : Tensor
        Tensor of any shape.

    Returns
    -------
    Tensor
        Differentiable any number of times; the derivative at 0 is 0.
    """
    return cast(Tensor, _Relu.apply(x))


class _Pool(Function):
    """S x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: Window) -> Tensor:
        y, where = torch.ops.aten.max_pool2d_with_indices(x, *window)
        ctx.save_for_backward(x, where)
        ctx.window = window
        return cast(Tensor, y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        x, where = ctx.saved_tensors
        return _Spread.apply(g, x.detach(), where, ctx.window), None


class _Spread(Function):
    """S' g; of `like`, an input, only the shape counts."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, like: Tensor, where: Tensor, window: Window) -> Tensor:
        ctx.save_for_backward(like, where)
        ctx.window = window
        spread = torch.ops.aten.max_pool2d_with_indices_backward(g, like, *window, where)
        return cast(Tensor, spread)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> Gradients:
        like, where = ctx.saved_tensors
        return _Pick.apply(h, like, where, ctx.window), None, None, None


class _Pick(Function):
    """S h, S being that of another input."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, like: Tensor, where: Tensor, window: Window) -> Tensor:
        ctx.save_for_backward(like, where)
        ctx.window = window
        if not where.is_contiguous(memory_format=torch.channels_last):
            return h.flatten(2).gather(2, where.flatten(2)).view(where.shape)
        pixels, places = (t.permute(0, 2, 3, 1).flatten(1, 2) for t in (h, where))
        n, channels, height, width = where.shape
        picked = pixels.gather(1, places).view(n, height, width, channels)
        return picked.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        like, where = ctx.saved_tensors
        return _Spread.apply(g, like, where, ctx.window), None, None, None


class _Relu(Function):
    """S x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp_min(0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        (y,) = ctx.saved_tensors
        return (_Gate.apply(g, y.detach()),)


class _Gate(Function):
    """S' g = S g: what comes where y is positive."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return cast(Tensor, torch.ops.aten.threshold_backward(g, y, 0))

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> Gradients:
        (y,) = ctx.saved_tensors
        return _Gate.apply(h, y), None
