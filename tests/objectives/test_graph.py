"""Functions that torch.func cannot transform, or whose kernels' derivatives are wrong."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call, jvp, vjp
from torch.nn import functional

from newton_krylov import least_squares, minimize
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.function import FunctionObjective
from newton_krylov.objectives.network.kernels import Formulas
from newton_krylov.objectives.residual.objective import ResidualObjective

C = torch.tensor([1.0, 8.0, 27.0], dtype=torch.float64)


class Fourth(torch.autograd.Function):
    """x^4 with rules for forward mode, and without a second backward pass."""

    @staticmethod
    def forward(x):
        return x**4

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return 4 * ctx.saved_tensors[0] ** 3 * g

    @staticmethod
    def jvp(ctx, tangent):
        return 4 * ctx.saved_tensors[0] ** 3 * tangent


class Cube(torch.autograd.Function):
    """x^3 in the old form, which has no rules for transformations."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


def by_points(w: Tensor) -> Tensor:
    """Residuals of an equation whose derivatives are taken by torch.autograd.grad."""
    t = torch.linspace(0.1, 1, 7, dtype=torch.float64).requires_grad_()
    u = w[0] * torch.exp(-w[1] * t) + w[2]
    (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
    return torch.cat((slope + 2 * (u - 0.5), (w[0] + w[2] - 3).reshape(1)))


UNTRANSFORMED: dict[str, Callable[[Tensor], Tensor]] = {
    "autograd.grad by points": by_points,
    "autograd.grad by x": lambda x: torch.autograd.grad((x**4).sum(), x, create_graph=True)[0] - C,
    "a function of one's own": lambda x: Cube.apply(x) - C,
    "no forward mode": lambda x: torch.cdist(x[:, None], C[:, None]).square().diagonal() - C,
}


@pytest.mark.parametrize("name", UNTRANSFORMED)
def test_derivatives_are_those_of_differences(name: str) -> None:
    f, x = UNTRANSFORMED[name], torch.tensor([0.9, 1.3, 0.4], dtype=torch.float64)
    objective, eye, h = ResidualObjective(f, x), torch.eye(3, dtype=torch.float64), 1e-5
    point = objective.at(x)

    def along(g: Callable[[Tensor], Tensor], d: Tensor) -> Tensor:
        return (g(x + h * d) - g(x - h * d)) / (2 * h)

    def gradient(w: Tensor) -> Tensor:
        return objective.at(w).grad

    J = torch.stack([along(lambda w: objective.at(w).r, e) for e in eye], 1)
    torch.testing.assert_close(point.jacobian.dense(), J, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(point.jacobian.matvec(x), J @ x, rtol=1e-6, atol=1e-7)
    u = torch.arange(len(J), dtype=torch.float64)
    torch.testing.assert_close(point.jacobian.rmatvec(u), J.T @ u, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(point.hessian() @ x, along(gradient, x), rtol=1e-5, atol=1e-6)
    assert not point.r.requires_grad

    half = FunctionObjective(lambda w: f(w).square().sum() / 2, x)
    torch.testing.assert_close(half.at(x).grad, J.T @ point.r, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(half.at(x).hessian() @ x, point.hessian() @ x)
    assert half.at(x).value == pytest.approx(point.value, rel=1e-12)


@pytest.mark.parametrize("kind", [ResidualObjective, FunctionObjective])
def test_products_with_the_hessian_share_one_graph(kind: type) -> None:
    """The function is not called again; the graph is of the point where it was built."""
    calls = []

    def f(w: Tensor) -> Tensor:
        calls.append(len(w))
        return (w[0] * torch.exp(w[1] * C) - w[2]).square().sum()

    x = torch.tensor([0.3, 0.1, 0.2], dtype=torch.float64)
    H, elsewhere = (kind(f, x).at(w).hessian() for w in (x, x + 1))
    matrices = [
        torch.autograd.functional.hessian(
            lambda w: f(w) if kind is FunctionObjective else f(w) ** 2 / 2, w
        )
        for w in (x, x + 1)
    ]
    H @ x
    calls.clear()
    torch.testing.assert_close(H.dense(), matrices[0])
    assert not calls
    torch.testing.assert_close(elsewhere.dense(), matrices[1])
    torch.testing.assert_close(H @ x, matrices[0] @ x)
    assert not (H @ x).requires_grad


def test_operations_without_a_second_backward_pass_are_not_left_out() -> None:
    """Torch makes no error of them, but a derivative of the rest."""
    x = torch.tensor([0.9, -1.3, 0.4], dtype=torch.float64)
    f = FunctionObjective(lambda w: (w**3).sum() + Fourth.apply(w).sum(), x)
    torch.testing.assert_close(f.at(0 * x).hessian().dense(), torch.zeros(3, 3, dtype=x.dtype))
    torch.testing.assert_close(f.at(x).hessian().dense(), torch.diag(6 * x + 12 * x**2))


def test_a_second_backward_pass_that_divides_by_zero_is_not_taken() -> None:
    """Of |w|^3 it is nan at 0, the usual start; forward mode knows that its Hessian is 0 there."""
    x = torch.zeros(3, dtype=torch.float64)
    f = FunctionObjective(lambda w: w.norm() ** 3, x)
    assert torch.equal(f.at(x).hessian().dense(), torch.zeros(3, 3, dtype=x.dtype))
    # |w|^3 has the Hessian 3 (|w| I + w w' / |w|)
    w = torch.tensor([1.0, 2.0, 2.0], dtype=x.dtype)
    exact = 9 * torch.eye(3, dtype=x.dtype) + torch.outer(w, w)
    torch.testing.assert_close(f.at(w).hessian().dense(), exact)


@pytest.mark.parametrize("name", UNTRANSFORMED)
def test_they_are_minimized(name: str) -> None:
    f = UNTRANSFORMED[name]
    x = torch.tensor([0.9, 1.3, 0.4], dtype=torch.float64)
    fit = least_squares(f, x)
    assert fit.success and fit.optimality < 1e-5
    lowest = minimize(lambda w: f(w).square().sum() / 2, x, gtol=1e-7)
    assert lowest.success and lowest.fun == pytest.approx(fit.cost, abs=1e-10)


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "layer norm": lambda x: functional.layer_norm(x, (6,), X[0], X[1]),
    "batch norm": lambda x: functional.batch_norm(x, None, None, X[0], X[1], training=True),
    "instance norm": lambda x: functional.instance_norm(x[None], weight=X[:, 0], bias=X[:, 1]),
    "weight norm": lambda x: torch._weight_norm(x, X[:, :1], 0),
    "glu": functional.glu,
    "hardsigmoid": functional.hardsigmoid,
}


@pytest.mark.parametrize("name", KERNELS)
def test_second_and_third_derivatives_of_a_kernel_are_right(name: str) -> None:
    """Forward over forward mode, as of an equation, and the way back from it."""
    kernel, v, h = KERNELS[name], torch.cos(X), 1e-5

    def f(x: Tensor) -> Tensor:
        with Formulas():
            return kernel(x)

    def first(x: Tensor) -> Tensor:
        return jvp(f, (x,), (v,))[1]

    def second(x: Tensor) -> Tensor:
        return jvp(first, (x,), (v,))[1]

    torch.testing.assert_close(f(X), kernel(X))
    differences = (first(X + h * v) - first(X - h * v)) / (2 * h)
    torch.testing.assert_close(second(X), differences, rtol=1e-5, atol=1e-6)
    u = torch.sin(second(X) + torch.arange(second(X).numel()).view_as(second(X)))
    third = (second(X + h * X) - second(X - h * X)) / (2 * h)
    back = vjp(second, X)[1](u)[0]
    torch.testing.assert_close((back * X).sum(), (u * third).sum(), rtol=1e-4, atol=1e-4)


def test_dropout_in_a_residual_with_derivatives_of_its_own_is_refused() -> None:
    network = nn.Sequential(nn.Linear(1, 5), nn.Dropout(0.5), nn.Linear(5, 1)).double()
    names, values = zip(*network.named_parameters(), strict=True)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]

    def residuals(w: Tensor) -> Tensor:
        at, parts = t.clone().requires_grad_(), w.split([p.numel() for p in values])
        weights = {n: v.view_as(p) for n, v, p in zip(names, parts, values, strict=True)}
        u = functional_call(network, weights, (at,))
        return torch.autograd.grad(u.sum(), at, create_graph=True)[0] + u - 1

    w = nn.utils.parameters_to_vector(values).detach()
    objective = ResidualObjective(residuals, w)
    with pytest.raises(UnsupportedError, match="dropout by eval"):
        _ = objective.at(w).jacobian
    network.eval()
    assert least_squares(residuals, w, solver="exact", max_nfev=30).cost < 1e-4
