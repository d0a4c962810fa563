"""Gradients and curvature of networks against autograd's dense matrices, by layer and whole."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from networks import CLASSES, NETWORKS, module, network, outputs, plain, samples, still
from problems import assert_close, randn, ulps
from torch import nn

from newton_krylov.errors import UnsupportedError
from newton_krylov.linear_solvers.cg import cg
from newton_krylov.objectives.network.objective import Network

RTOL = ulps(torch.float64)


@pytest.fixture(params=NETWORKS, ids=str, scope="module")
def case(request):
    return request.param


@pytest.fixture(scope="module")
def f(case):
    return network(case, l2=0.1)


@pytest.fixture(scope="module")
def net(case):
    return still(module(case))


@pytest.fixture(scope="module")
def w(f):
    return f.initial() + 0.3 * randn(f.dim, seed=1)


@pytest.fixture(scope="module")
def hessian(f, net, w):
    return torch.autograd.functional.hessian(plain(f, net), w)


@pytest.fixture(scope="module")
def jacobian(f, net, w):
    """d z_ik / d w_j, shape (n, classes, dim)."""
    return torch.autograd.functional.jacobian(lambda w: outputs(f, net, w, f.passes.spans), w)


@pytest.fixture(scope="module")
def gauss_newton(f, net, w, jacobian):
    P = torch.softmax(outputs(f, net, w, f.passes.spans), 1)
    L = torch.diag_embed(P) - P[:, :, None] * P[:, None, :]
    G = torch.einsum("nka,nkl,nlb->ab", jacobian, L, jacobian) / f.n_samples
    return G + f.l2 * torch.eye(f.dim, dtype=w.dtype)


@pytest.fixture(scope="module")
def fisher(f, net, w, jacobian):
    r = torch.softmax(outputs(f, net, w, f.passes.spans), 1) - F.one_hot(f.y, CLASSES)
    g = torch.einsum("nka,nk->na", jacobian, r)
    return g.T @ g / f.n_samples + f.l2 * torch.eye(f.dim, dtype=w.dtype)


@pytest.fixture(scope="module")
def dense(hessian, gauss_newton, fisher):
    return {"hessian": hessian, "gauss_newton": gauss_newton, "empirical_fisher": fisher}


each_kind = pytest.mark.parametrize("kind", ["hessian", "gauss_newton", "empirical_fisher"])


def test_value_and_gradient_are_autograd_s(f, net, w):
    x = w.clone().requires_grad_()
    value = plain(f, net)(x)
    (gradient,) = torch.autograd.grad(value, x)
    point = f.at(w)
    assert_close(point.value, value, ulps(torch.float64, 20))
    assert_close(point.grad, gradient, RTOL)
    assert_close(f.at(w).grad, gradient, RTOL)  # without the value before it


@each_kind
def test_products_of_the_whole_network_are_those_of_the_dense_matrix(f, w, dense, kind):
    A = getattr(f.at(w), kind)()
    V = randn(f.dim, 3, seed=2)
    assert_close(A @ V, dense[kind] @ V, RTOL)
    assert_close(A.dense(), dense[kind], RTOL)


@each_kind
def test_products_of_each_layer_are_those_of_the_matrix_s_block(case, f, w, dense, kind):
    for layer in case.layers:
        block = f.blocks[layer]
        part = f.restricted([layer], w)
        point = part.at(w[block])
        assert_close(getattr(point, kind)().dense(), dense[kind][block, block], RTOL, layer)


@each_kind
def test_products_of_several_layers_are_those_of_the_submatrix(case, f, w, dense, kind):
    layers = [case.layers[-1], case.layers[0]]
    index = torch.cat([torch.arange(f.dim)[f.blocks[layer]] for layer in reversed(layers)])
    part = f.restricted(layers, w)
    assert_close(getattr(part.at(w[index]), kind)().dense(), dense[kind][index][:, index], RTOL)


def test_gauss_newton_and_fisher_are_positive_semidefinite_beyond_l2(f, w):
    for A in (f.at(w).gauss_newton(), f.at(w).empirical_fisher()):
        assert float(torch.linalg.eigvalsh(A.dense())[0]) >= f.l2 - 1e-12


def test_operators_are_linear_symmetric_and_never_alias(f, w):
    u, v = randn(f.dim, seed=5), randn(f.dim, seed=6)
    for A in (f.at(w).hessian(), f.at(w).gauss_newton(), f.at(w).empirical_fisher()):
        assert_close(A @ (2 * u - v), 2 * (A @ u) - A @ v, RTOL)
        assert_close(torch.dot(u, A @ v), torch.dot(v, A @ u), RTOL)
        again, before = A @ v, v.clone()
        again.zero_()
        assert torch.equal(v, before)


def test_products_work_without_gradients_and_inside_a_backward_pass(f, w):
    v = randn(f.dim, seed=7)
    expected = f.at(w).hessian() @ v
    with torch.no_grad():
        assert torch.equal(f.at(w).hessian() @ v, expected)
        assert torch.equal(f.at(w).grad, f.at(w).grad)
    found = []

    class Spy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            found.append(f.at(w).hessian() @ v)
            return g

    Spy.apply(torch.ones(1, requires_grad=True)).sum().backward()
    assert torch.equal(found[0], expected)


def test_graphs_that_do_not_fit_in_the_memory_are_built_anew(case, f, w):
    small = network(case, l2=0.1, memory=1.0)
    assert small.passes.kept_graphs == 0 < len(small.passes.spans) <= f.passes.kept_graphs
    v = randn(f.dim, seed=8)
    for kind in ("hessian", "gauss_newton"):
        A = getattr(small.at(w), kind)()
        assert torch.equal(A @ v, getattr(f.at(w), kind)() @ v)
        assert torch.equal(A @ v, A @ v)


def test_a_point_s_graphs_go_with_it_without_the_garbage_collector(f, w):
    gc.collect()
    gc.disable()
    try:
        point = f.at(w)
        operators = [point.hessian(), point.gauss_newton(), point.empirical_fisher()]
        for A in operators:
            _ = A @ w
        hessians, outputs_ = point._gradient_graphs, point._output_graphs
        known = [*hessians[0][0], *hessians[0][1], *outputs_[0].parameters]
        dead = [weakref.ref(t) for t in known]
        del point, operators, A, hessians, outputs_, known
        assert not any(ref() is not None for ref in dead)
    finally:
        gc.enable()


def test_gradients_leave_no_trace_on_the_weights(f, w):
    point = f.at(w)
    _ = point.value, point.grad, point.hessian() @ w
    assert not w.requires_grad
    assert w.grad is None


def test_the_gauss_newton_matrix_of_a_linear_network_is_its_hessian():
    X, y = samples()
    f = Network(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double(), F.cross_entropy, X, y)
    point = f.at(randn(f.dim, seed=1))
    assert_close(point.gauss_newton().dense(), point.hessian().dense(), RTOL)


def test_of_a_linear_function_of_the_weights_the_hessian_is_zero():
    X, y = samples()
    f = Network(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double(),
        lambda z, y: z.gather(1, y[:, None]).mean(),
        X,
        y,
    )
    point = f.at(f.initial())
    assert not (point.hessian() @ point.grad).any()
    assert point.grad_norm > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_float32_products_are_float64_s_rounded(case, dtype, device):
    f, exact = network(case, dtype=dtype, device=device), network(case)
    w = exact.initial()
    v = randn(f.dim, seed=9)
    near = f.at(w.to(device, dtype))
    for kind in ("hessian", "gauss_newton", "empirical_fisher"):
        product = getattr(near, kind)() @ v.to(device, dtype)
        assert (product.dtype, product.device.type) == (dtype, torch.device(device).type)
        assert_close(product, getattr(exact.at(w), kind)() @ v, ulps(dtype))


def test_counts_are_those_of_passes_over_the_samples(case):
    f = network(case, n=case.chunk)  # one span
    w = f.initial()
    point = f.at(w)
    cost = costs(f)
    assert cost(lambda: f.at(w)) == (0, 0, 0, 0)
    assert cost(lambda: point.value) == (1, 0, 0, 0.5)
    assert cost(lambda: point.grad) == (0, 1, 0, 0.5)
    assert cost(lambda: (point.value, point.grad, point.grad_norm)) == (0, 0, 0, 0)
    for A in (point.hessian(), point.gauss_newton(), point.empirical_fisher()):
        assert cost(lambda A=A: A @ w) == (0, 0, 1, 1)
        assert cost(lambda A=A: A @ torch.stack([w, w], 1)) == (0, 0, 2, 2)
    fresh = f.at(w)
    assert cost(lambda: fresh.grad) == (0, 1, 0, 1)
    assert cost(lambda: fresh.value) == (1, 0, 0, 0)
    part = f.subset(torch.tensor([2, 1]))
    assert cost(lambda: part.at(w).grad) == pytest.approx((0, 2 / case.chunk, 0, 2 / case.chunk))
    assert part.counts is f.counts


def costs(f):
    def cost(operation):
        c = f.counts
        before = c.function, c.gradient, c.hvp, c.passes
        operation()
        return tuple(
            b - a for a, b in zip(before, (c.function, c.gradient, c.hvp, c.passes), strict=True)
        )

    return cost


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_in_the_null_space_are_roundings_and_no_asymmetry(dtype):
    """Three samples of three classes: the Gauss-Newton matrix has rank 6 of 43."""
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
    f = Network(net, F.cross_entropy, randn(3, 4, seed=1).to(dtype), torch.arange(3))
    A = f.at(f.initial()).gauss_newton()
    matrix = A.dense().double()
    values, Q = torch.linalg.eigh((matrix + matrix.T) / 2)
    null = Q[:, values.abs() < 1e-6 * values[-1]].to(dtype)
    assert null.shape[1] >= 3
    fresh = f.at(f.initial()).gauss_newton()
    for v in null.T[:3]:
        assert float(fresh.matvec(v.contiguous()).norm()) < 1e-3 * float(values[-1])


class _Bent(torch.autograd.Function):
    """tanh, whose backward pass is differentiated as if it were not linear in its argument."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, g):
        return _BentBackward.apply(g, *ctx.saved_tensors)


class _BentBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, g, x):
        ctx.save_for_backward(g, x)
        return g * (1 - torch.tanh(x) ** 2)

    @staticmethod
    def backward(ctx, h):
        g, x = ctx.saved_tensors
        slope = 1 - torch.tanh(x) ** 2
        return 0 * h, -2 * torch.tanh(x) * slope * g * h


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [30, 200])
def test_a_wrong_second_derivative_is_found_by_the_products_of_a_solver(width, dtype):
    class Wrong(nn.Module):
        def forward(self, x):
            return _Bent.apply(x)

    torch.manual_seed(0)
    layers = (nn.Linear(20, width), Wrong(), nn.Linear(width, width), Wrong(), nn.Linear(width, 3))
    net = nn.Sequential(*layers).to(dtype)
    f = Network(net, F.cross_entropy, randn(64, 20, seed=1).to(dtype), torch.arange(64) % 3)
    point = f.at(f.initial())
    with pytest.raises(UnsupportedError, match="not symmetric"):
        cg(point.hessian(), -point.grad, rtol=1e-3, maxiter=6)
