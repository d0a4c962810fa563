"""The convolution that is differentiated twice, against torch's own and finite differences."""

import pytest
import torch
import torch.nn.functional as F
from problems import DTYPES, assert_close, randn, ulps
from torch import nn

from newton_krylov.objectives.network.convolution import Geometry, convolution
from newton_krylov.objectives.network.forward import FixedForward

PLAIN = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

# Dimensions, input shape, kernel shape, geometry.
CASES = [
    (1, (2, 3, 7), (4, 3, 3), Geometry([2], [1], [1], 1)),
    (2, (2, 4, 5, 6), (6, 2, 3, 2), Geometry([2, 1], [1, 2], [1, 2], 2)),
    (2, (1, 3, 4, 4), (3, 1, 3, 3), Geometry([1, 1], [1, 1], [1, 1], 3)),
    (2, (3, 2, 4, 5), (2, 2, 1, 1), Geometry([1, 1], [0, 0], [1, 1], 1)),
    (3, (1, 2, 4, 3, 4), (2, 2, 2, 3, 2), Geometry([1, 1, 2], [0, 1, 1], [2, 1, 1], 1)),
]
each_case = pytest.mark.parametrize(("dims", "shape", "kernel", "at"), CASES)


def tensors(shape, kernel, dtype=torch.float64, device="cpu"):
    x, w, b = (
        randn(*s, seed=k, dtype=dtype, device=device)
        for k, s in enumerate((shape, kernel, kernel[:1]))
    )
    return [t.requires_grad_() for t in (x, w, b)]


@each_case
def test_values_and_gradients_are_torch_s(dims, shape, kernel, at, device):
    for dtype in DTYPES:
        x, w, b = tensors(shape, kernel, dtype, device)
        ours = convolution(x, w, b, at)
        theirs = PLAIN[dims](x, w, b, at.stride, at.padding, at.dilation, at.groups)
        assert torch.equal(ours, theirs)
        g = randn(*ours.shape, seed=5, dtype=dtype, device=device)
        pairs = zip(
            torch.autograd.grad(ours, (x, w, b), g),
            torch.autograd.grad(theirs, (x, w, b), g),
            strict=True,
        )
        for one, other in pairs:
            assert_close(one, other, ulps(dtype))


@each_case
def test_first_and_second_derivatives_are_those_of_finite_differences(dims, shape, kernel, at):
    inputs = tensors(shape, kernel)
    assert torch.autograd.gradcheck(lambda x, w, b: convolution(x, w, b, at), inputs)
    assert torch.autograd.gradgradcheck(lambda x, w, b: convolution(x, w, b, at), inputs)


def third(function, x, w):
    """A number made of third derivatives."""
    (g,) = torch.autograd.grad(function(x, w).pow(3).sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.pow(2).sum(), w, create_graph=True)
    return torch.autograd.grad(h.pow(2).sum(), (x, w))


@each_case
def test_third_derivatives_are_torch_s(dims, shape, kernel, at):
    x, w, _ = tensors(shape, kernel)
    ours = third(lambda x, w: convolution(x, w, None, at), x, w)
    theirs = third(lambda x, w: PLAIN[dims](x, w, None, *at), x, w)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, ulps(torch.float64))


@each_case
def test_linearized_products_with_the_jacobian_are_the_same(dims, shape, kernel, at):
    x, w, b = tensors(shape, kernel)
    h = [randn(*t.shape, seed=9) for t in (x, w, b)]
    products = []
    for linearized in (False, True):
        y = convolution(x, w, b, at, linearized=linearized)
        u = torch.zeros_like(y, requires_grad=True)
        pulled = torch.autograd.grad(y, (x, w, b), u, create_graph=True)
        products.append(torch.autograd.grad(pulled, u, h)[0])
        if linearized:  # and the backward pass does not depend on anything else
            assert torch.autograd.grad(pulled, (x, w), h, allow_unused=True) == (None, None)
            products.append(torch.func.jvp(lambda *t: PLAIN[dims](*t, *at), (x, w, b), tuple(h))[1])
    assert_close(products[1], products[0], ulps(torch.float64))
    assert_close(products[2], products[0], ulps(torch.float64))


def test_channels_last_inputs_stay_so_and_give_the_same_derivatives():
    x, w, b = tensors((2, 4, 6, 6), (5, 4, 3, 3))
    at = Geometry([1, 1], [1, 1], [1, 1], 1)
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    y = convolution(last, w, b, at)
    assert y.is_contiguous(memory_format=torch.channels_last)
    v = randn(*w.shape, seed=3)
    for loss in (lambda z: z.tanh().sum(),):
        results = []
        for z, parameter in ((y, w), (convolution(x, w, b, at), w)):
            (g,) = torch.autograd.grad(loss(z), parameter, create_graph=True)
            results.append(torch.autograd.grad(g, parameter, v)[0])
        assert_close(results[0], results[1], ulps(torch.float64))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding="valid", stride=2),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 4, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False),
    ],
    ids=str,
)
def test_layers_of_every_padding_pass_under_the_mode(layer):
    x = randn(2, 3, 6, 6, seed=1, dtype=torch.float32)
    expected = layer(x)
    mode = FixedForward()
    with mode:
        assert torch.equal(layer(x), expected)


def test_a_single_sample_without_a_batch_dimension_passes():
    layer, x = nn.Conv2d(1, 2, 3), randn(1, 4, 4, seed=1, dtype=torch.float32)
    with FixedForward():
        found = layer(x)
    assert torch.equal(found, layer(x))
