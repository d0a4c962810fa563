"""Max-pooling and ReLU differentiated twice, against torch's own and finite differences."""

import pytest
import torch
import torch.nn.functional as F
from problems import DTYPES, assert_close, randn, ulps
from torch import nn

from newton_krylov.objectives.network.forward import FixedForward
from newton_krylov.objectives.network.piecewise import Window, max_pool2d, relu

WINDOWS = [
    Window([2, 2], [2, 2], [0, 0], [1, 1], False),
    Window([3, 2], [1, 2], [1, 1], [1, 1], False),  # windows overlap
    Window([2, 2], [2, 2], [0, 0], [2, 1], True),
]
each_window = pytest.mark.parametrize("window", WINDOWS)
each_layout = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"]
)
FUNCTIONS = {
    "pool": (lambda x: max_pool2d(x, WINDOWS[1]), lambda x: F.max_pool2d(x, *WINDOWS[1])),
    "relu": (relu, F.relu),
}
each_function = pytest.mark.parametrize(("ours", "theirs"), FUNCTIONS.values(), ids=FUNCTIONS)


def images(layout=torch.contiguous_format, dtype=torch.float64, device="cpu"):
    x = randn(2, 3, 5, 6, seed=1, dtype=dtype, device=device)
    return x.to(memory_format=layout).requires_grad_()


@each_window
@each_layout
def test_pooling_and_its_gradient_are_torch_s(window, layout, device):
    for dtype in DTYPES:
        x = images(layout, dtype, device)
        ours, theirs = max_pool2d(x, window), F.max_pool2d(x, *window)
        assert torch.equal(ours, theirs)
        g = randn(*ours.shape, seed=2, dtype=dtype, device=device)
        one, other = (torch.autograd.grad(y, x, g)[0] for y in (ours, theirs))
        assert_close(one, other, ulps(dtype))


def test_relu_and_its_gradient_are_torch_s_at_zero_as_well():
    x = torch.tensor([-1.0, -0.0, 0.0, 2.0, float("inf")], requires_grad=True)
    assert torch.equal(relu(x), F.relu(x))
    assert torch.equal(torch.autograd.grad(relu(x).sum(), x)[0], torch.tensor([0.0, 0, 0, 1, 1]))


@each_function
@each_layout
def test_first_and_second_derivatives_are_those_of_finite_differences(ours, theirs, layout):
    x = images(layout)
    assert torch.autograd.gradcheck(ours, x)
    assert torch.autograd.gradgradcheck(lambda x: ours(x * x.tanh()), x)


@each_function
@each_layout
def test_third_derivatives_are_torch_s(ours, theirs, layout):
    results = []
    for function in (ours, theirs):
        x = images(layout)
        (g,) = torch.autograd.grad(function(x**3).pow(3).sum(), x, create_graph=True)
        (h,) = torch.autograd.grad(g.tanh().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(h.pow(2).sum(), x)[0])
    assert_close(results[0], results[1], ulps(torch.float64))


@each_function
def test_channels_stay_last_all_the_way(ours, theirs):
    x = images(torch.channels_last)
    y = ours(x)
    u = torch.zeros_like(y, requires_grad=True)
    (g,) = torch.autograd.grad(y, x, u, create_graph=True)
    (h,) = torch.autograd.grad(g, u, torch.ones_like(g))
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (y, g, h))


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d((2, 3), stride=1, padding=1),
        nn.MaxPool2d(2, dilation=2, ceil_mode=True),
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.MaxPool1d(2),
        nn.AdaptiveMaxPool2d(2),
        lambda x: torch.max_pool2d(x, 2),
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
        lambda x: F.max_pool2d(x, 2, 2, 0, 1, False, False),
        lambda x: x.relu(),
        torch.relu,
        lambda x: x.clone().relu_(),
        lambda x: F.relu(x, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(2, 3, 6, 7), (3, 6, 6)])
def test_every_way_of_calling_them_passes_under_the_mode(layer, shape):
    if isinstance(layer, nn.MaxPool1d) and len(shape) == 4:
        pytest.skip("images do not fit in one dimension")
    x = randn(*shape, seed=1, dtype=torch.float32)
    expected = layer(x.clone())
    with FixedForward():
        found = layer(x.clone())
    assert torch.equal(found, expected)
