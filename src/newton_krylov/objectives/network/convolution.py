"""Convolution whose second derivatives cost what they should.

A convolution y = C(x, w) is bilinear. Its backward pass computes I(g, w) = C(., w)' g, the gradient
by x, and W(x, g) = C(x, .)' g, that by w; both are bilinear again, and their own derivatives are
made of the same three:

    d I(g, w)' h = C(h, w) by g, W(h, g) by w;    d W(x, g)' k = I(g, k) by x, C(x, k) by g.

torch's own double backward computes W(h, g) by a convolution with a kernel as large as the image,
whether it is wanted or not: most of the time of a Hessian product of a small network.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function


class Geometry(NamedTuple):
    """How the kernel moves: one number a dimension, and whether channels are in groups."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


Gradients = tuple[Tensor | None, ...]


def convolution(
    x: Tensor, w: Tensor, b: Tensor | None, geometry: Geometry, *, linearized: bool = False
) -> Tensor:
    """Convolve, as `torch.nn.functional.conv1d`, `conv2d` and `conv3d` do.

    Parameters
    ----------
    x : Tensor, shape (n, channels, ...)
        Input.
    w : Tensor, shape (out_channels, channels / groups, ...)
        Kernel.
    b : Tensor, shape (out_channels,), optional
        Bias.
    geometry : Geometry
        How the kernel moves.
    linearized : bool
        Whether the backward pass, where it is differentiated itself, depends on the gradient
        coming in alone, and not on x and w: all that products with a Jacobian need.

    Returns
    -------
    Tensor, shape (n, out_channels, ...)
        Differentiable any number of times.
    """
    return cast(Tensor, _Output.apply(x, w, b, geometry, linearized))


def _output(x: Tensor, w: Tensor, b: Tensor | None, at: Geometry) -> Tensor:
    still = [0] * len(at.stride)
    return torch.convolution(x, w, b, at.stride, at.padding, at.dilation, False, still, at.groups)


def _backward(g: Tensor, x: Tensor, w: Tensor, at: Geometry, which: int) -> Tensor:
    mask = [which == 0, which == 1, False]
    still = [0] * len(at.stride)
    found = torch.ops.aten.convolution_backward(
        g, x, w, None, at.stride, at.padding, at.dilation, False, still, at.groups, mask
    )
    return cast(Tensor, found[which])


class _Output(Function):
    """C(x, w) + b."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, at: Geometry, linearized: bool
    ) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.at, ctx.linearized = at, linearized
        return _output(x, w, b, at)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        x, w = ctx.saved_tensors
        by_x, by_w, by_b, _, _ = ctx.needs_input_grad
        if ctx.linearized:
            x, w = x.detach(), w.detach()
        return (
            _ByInput.apply(g, w, x.detach(), ctx.at) if by_x else None,
            _ByKernel.apply(x, g, w.detach(), ctx.at) if by_w else None,
            g.flatten(2).sum((0, 2)) if by_b else None,
            None,
            None,
        )


class _ByInput(Function):
    """I(g, w); of `like`, an input, only the shape counts."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, w: Tensor, like: Tensor, at: Geometry) -> Tensor:
        ctx.save_for_backward(g, w)
        ctx.at = at
        return _backward(g, like, w, at, 0)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> Gradients:
        g, w = ctx.saved_tensors
        by_g, by_w, _, _ = ctx.needs_input_grad
        return (
            _Output.apply(h, w, None, ctx.at, False) if by_g else None,
            _ByKernel.apply(h, g, w.detach(), ctx.at) if by_w else None,
            None,
            None,
        )


class _ByKernel(Function):
    """W(x, g); of `like`, a kernel, only the shape counts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, g: Tensor, like: Tensor, at: Geometry) -> Tensor:
        ctx.save_for_backward(x, g)
        ctx.at = at
        return _backward(g, x, like, at, 1)

    @staticmethod
    def backward(ctx: Any, k: Tensor) -> Gradients:
        x, g = ctx.saved_tensors
        by_x, by_g, _, _ = ctx.needs_input_grad
        return (
            _ByInput.apply(g, k, x.detach(), ctx.at) if by_x else None,
            _Output.apply(x, k, None, ctx.at, False) if by_g else None,
            None,
            None,
        )
