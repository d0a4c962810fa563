"""Residual objectives against dense autograd: values, Jacobians, curvature, closed forms."""

from functools import partial

import pytest
import torch
from problems import randn
from registrations import forgotten
from torch import Tensor, nn
from torch.func import hessian, jacrev

from newton_krylov.data import load_dataset
from newton_krylov.data.equation import Block, Jet, derivatives
from newton_krylov.errors import CombinationError, ConfigError, UnsupportedError
from newton_krylov.models import Interface, initialized
from newton_krylov.models.mlp import mlp
from newton_krylov.objectives.residual.jacobian import Jacobian
from newton_krylov.objectives.residual.loss import ResidualLoss
from newton_krylov.objectives.residual.objective import ResidualObjective
from newton_krylov.objectives.residual.taylor import FactoredJacobian, Perceptron
from newton_krylov.registry import register

WEIGHTS = {"data": 2.0, "bound": 0.5}


def function(w: Tensor, rows: int = 20) -> dict[str, Tensor]:
    t = torch.linspace(0, 1, rows, dtype=w.dtype)
    waves = torch.cos(3 * t[:, None] * torch.arange(len(w), dtype=w.dtype))
    return {"data": torch.sin(waves @ w) - t, "bound": (w[:2] ** 3).reshape(1, 2)}


def weighted(w: Tensor, rows: int = 20) -> Tensor:
    found = function(w, rows)
    return torch.cat([found[k].reshape(-1) * WEIGHTS[k] ** 0.5 for k in found])


def objective(n: int, rows: int, **options: float) -> ResidualObjective:
    start = torch.zeros(n, dtype=torch.float64)
    return ResidualObjective(partial(function, rows=rows), start, WEIGHTS, **options)


SIZES = pytest.mark.parametrize(("n", "rows"), [(5, 20), (30, 6)], ids=["tall", "wide"])


@SIZES
def test_value_gradient_and_products_are_autograd_s(n: int, rows: int):
    w = randn(n, seed=1)
    point, r = objective(n, rows).at(w), weighted(w, rows)
    J = jacrev(partial(weighted, rows=rows))(w)
    assert point.value == pytest.approx(float(r @ r) / 2)
    assert torch.allclose(point.grad, J.T @ r)
    v, u = randn(n, seed=2), randn(len(r), seed=3)
    assert torch.allclose(point.jacobian.matvec(v), J @ v)
    assert torch.allclose(point.jacobian.rmatvec(u), J.T @ u)
    assert torch.allclose(point.jacobian.dense(), J)
    assert torch.allclose(point.gauss_newton() @ v, J.T @ (J @ v))
    assert torch.allclose(point.gauss_newton().dense(), J.T @ J)
    assert torch.allclose(point.gauss_newton().diagonal(), (J.T @ J).diagonal())
    H = hessian(lambda w: weighted(w, rows).square().sum() / 2)(w)
    assert torch.allclose(point.hessian() @ v, H @ v)
    bend = torch.einsum("mij,i,j->m", hessian(partial(weighted, rows=rows))(w), v, v)
    assert torch.allclose(point.bend(v), bend)


@pytest.mark.parametrize("memory", [1.0, 2000.0, 1e9])
@SIZES
def test_a_dense_jacobian_in_chunks_is_the_same(n: int, rows: int, memory: float):
    w = randn(n, seed=1)
    J = Jacobian(partial(weighted, rows=rows), w, memory)
    expected = jacrev(partial(weighted, rows=rows))(w)
    assert torch.allclose(J.dense(), expected)


@pytest.mark.parametrize("shift", [0.0, 1e-3, 10.0])
@pytest.mark.parametrize("right", ["gradient", "other"])
@SIZES
def test_both_closed_forms_give_the_shortest_solution(n: int, rows: int, shift: float, right: str):
    """By J'J where it is smaller, by J J' where that is: the same step."""
    w = randn(n, seed=1)
    A = objective(n, rows).at(w).gauss_newton()
    dense = A.dense() + shift * torch.eye(n, dtype=w.dtype)
    b = -A.b if right == "gradient" else A @ randn(n, seed=4)
    expected = torch.linalg.pinv(dense, rtol=1e-13, hermitian=True) @ b
    assert torch.allclose(
        A.solve(b, shift), expected, rtol=1e-4, atol=1e-6 * float(expected.norm())
    )


def test_the_routes_give_the_same_step():
    """Cholesky of J'J, of J J', QR and LSMR, with damping."""
    from newton_krylov.registry import entry

    w = randn(30, seed=1)
    A = objective(30, 6).at(w).gauss_newton()
    damped = A.affine(shift=1e-2)
    dense = torch.linalg.solve(A.dense() + 1e-2 * torch.eye(30, dtype=w.dtype), -A.b)
    for name in ("exact", "qr", "lsmr", "lsqr", "cg"):
        x = entry("solver", name).target(damped, -A.b, rtol=1e-11).x
        assert torch.allclose(x, dense, rtol=1e-6, atol=1e-9), name


def test_another_right_side_shares_what_is_formed():
    w = randn(5, seed=1)
    A = objective(5, 20).at(w).normal
    A.solve(A.b)
    other = A.aimed(randn(22, seed=3))
    assert other.matrix is A.matrix
    assert torch.allclose(other.b, A.J.dense().T @ randn(22, seed=3))
    assert not torch.equal(other.b, A.b)


def test_a_subset_s_sum_of_squares_is_expected_to_be_the_whole_s():
    f, w = objective(5, 20), randn(5, seed=1)
    halves = [f.subset(torch.arange(start, 22, 2)) for start in (0, 1)]
    assert sum(half.at(w).value for half in halves) / 2 == pytest.approx(f.at(w).value)
    assert halves[0].at(w).jacobian.shape == (11, 5)


def test_blocks_have_places():
    f = objective(5, 20)
    assert f.blocks == {"data": slice(0, 20), "bound": slice(20, 22)}
    assert f.n_residuals == 22


def test_mistakes_are_one_sentence():
    start = torch.zeros(5, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"'datum' is no block .* did you mean 'data'"):
        ResidualObjective(function, start, {"datum": 1.0})
    with pytest.raises(ConfigError, match="weight of the residuals 'data' is -1"):
        ResidualObjective(function, start, {"data": -1.0})
    with pytest.raises(UnsupportedError, match="must return a tensor, or a dictionary"):
        ResidualObjective(lambda w: 3.0, start)
    for found, what in (({}, "nothing"), ({"a": start, "b": [start]}, "Tensor, list")):
        with pytest.raises(UnsupportedError, match=f"by name, not a dictionary of {what}"):
            ResidualObjective(lambda w, found=found: found, start)


@pytest.mark.parametrize(
    "lost",
    [
        lambda u: u.detach(),
        lambda u: u.round().long(),
        lambda u: u > 0,
        torch.zeros_like,
        lambda u: nn.Parameter(u.detach()) * 2,
    ],
    ids=["detached", "rounded", "compared", "constant", "others"],
)
def test_residuals_that_do_not_depend_on_the_network_are_refused(lost):
    """Their run ended at its start, since the gradient is zero."""
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    data = load_dataset("poisson_2d", {"side": 4, "boundary": 8})
    with forgotten():
        register("residual", "lost")(lambda model, points: lost(model(points)))
        with pytest.raises(UnsupportedError, match="residual=lost returns does not depend"):
            ResidualLoss(data, network, residual="lost")


def equation(g: int = 1) -> list[Block]:
    """Blocks of every kind: values, first and second derivatives, several points a residual."""
    points = randn(7, g, 2, seed=5)
    directions = torch.tensor([[1.0, 0.0], [0.5, 2.0], [0.0, 1.0]], dtype=torch.float64)
    sums = torch.tensor([[1.0, 0.0, -2.0], [0.0, 0.5, 0.0]], dtype=torch.float64)
    target = randn(7, seed=6)

    def everything(jet: Jet) -> Tensor:
        first, second = jet.first.sum((0, 2)), jet.second[0] * jet.value.sin() + jet.second[1]
        return second.sum(1) + first**2 - jet.target + jet.x.sum((1, 2)) * jet.value[:, 0]

    def slopes(jet: Jet) -> Tensor:
        return jet.first[1, :, 0] * jet.value[:, -1]

    return [
        Block("all", points, everything, target, 0.7, directions, sums),
        Block("slopes", points, slopes, target, 3.0, directions),
        Block("values", points, lambda jet: jet.value[:, 0] - jet.value[:, -1] ** 2, target, 1.0),
    ]


def network(activation: type[nn.Module], bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(2, 5, bias), activation(), nn.Linear(5, 4), activation()]
    return nn.Sequential(*layers, nn.Linear(4, 1, bias)).double()


@pytest.mark.parametrize("g", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.Softplus])
def test_the_factored_jacobian_is_autograd_s_over_nested_derivatives(activation, bias, g):
    from newton_krylov.data.equation import derivatives

    module = network(activation, bias)
    perceptron = Perceptron.of(module)
    names = [name for name, _ in module.named_parameters()]
    w = torch.cat([p.detach().reshape(-1) for p in module.parameters()])

    def residuals(w: Tensor) -> Tensor:
        parts = torch.split(w, [p.numel() for p in module.parameters()])
        shaped = [part.view(p.shape) for part, p in zip(parts, module.parameters(), strict=True)]
        named = dict(zip(names, shaped, strict=True))

        def u(x: Tensor) -> Tensor:
            return torch.func.functional_call(module, named, (x,))[:, 0]

        found = [block.weight**0.5 * block.residual(derivatives(u, block)) for block in equation(g)]
        return torch.cat(found)

    J = FactoredJacobian(perceptron, equation(g), w)
    expected = jacrev(residuals)(w)
    assert torch.allclose(J.r, residuals(w))
    assert torch.allclose(J.dense(), expected)
    v, u = randn(len(w), seed=1), randn(len(J.r), seed=2)
    assert torch.allclose(J.matvec(v), expected @ v)
    assert torch.allclose(J.rmatvec(u), expected.T @ u)


def test_what_is_no_perceptron_is_told():
    assert Perceptron.of(nn.Linear(2, 1)) is None
    assert Perceptron.of(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))) is None
    assert Perceptron.of(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))) is None
    assert Perceptron.of(nn.Sequential(nn.Linear(2, 3), nn.Tanh())) is None
    assert Perceptron.of(nn.Sequential(nn.Linear(2, 1))) is not None


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (nn.Linear(2, 3), r"one output, shape \(2, 1\) of 2 points, and this one returns \(2, 3\)"),
        (nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), r"this one returns \(2,\)"),
        (nn.Tanh(), "this one has no parameters"),
    ],
)
def test_a_network_that_is_no_function_of_a_point_is_refused(network, sentence):
    """A second output was left out without a word."""
    with pytest.raises(CombinationError, match=sentence):
        ResidualLoss(load_dataset("poisson_2d", {"side": 4, "boundary": 8}), network.double())


class Twice(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def layers(middle: nn.Module, kind: type[nn.Sequential] = nn.Sequential) -> nn.Sequential:
    return kind(nn.Linear(2, 4), middle, nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))


def same_layer_twice() -> nn.Module:
    network = layers(nn.Tanh())
    return nn.Sequential(*network[:3], nn.Tanh(), network[2], nn.Tanh(), network[4])


def tied() -> nn.Module:
    network = layers(nn.Tanh())
    other = nn.Linear(4, 4)
    other.weight = network[2].weight
    return nn.Sequential(*network[:3], nn.Tanh(), other, nn.Tanh(), network[4])


def hooked(hook: str) -> nn.Module:
    network = layers(nn.Tanh())
    change = {"pre_hook": lambda m, x: (2 * x[0],), "hook": lambda m, x, y: 2 * y}
    getattr(network[1], f"register_forward_{hook}")(change[hook])
    return network


@pytest.mark.parametrize(
    "network",
    [
        lambda: layers(nn.Softplus(beta=3)), lambda: layers(nn.Softplus(threshold=0.1)),
        lambda: layers(nn.Tanh(), Twice), same_layer_twice, tied,
        lambda: hooked("hook"), lambda: hooked("pre_hook"),
    ],
)  # fmt: skip
def test_what_only_looks_like_a_perceptron_is_evaluated_as_it_is(network):
    """The residuals were those of another network, or an error of shapes."""
    torch.manual_seed(0)
    data = load_dataset("poisson_2d", {"side": 4, "boundary": 8})
    f = ResidualLoss(data, network().double())
    w = f.initial()
    parts = [
        block.weight**0.5 * block.residual(derivatives(lambda x: f.outputs(w, x)[:, 0], block))
        for block in data.equation.blocks
    ]
    assert torch.allclose(f.at(w).r, torch.cat(parts), rtol=1e-12)
    expected = torch.autograd.functional.jacobian(f.residuals, w)
    assert torch.allclose(f.at(w).jacobian.dense(), expected)


@pytest.mark.parametrize("name", ["reaction", "wave"])
def test_the_product_with_the_transpose_is_that_of_the_rows(name: str):
    """Of several blocks and tiles, by factors where channels are few and by rows where many."""
    data = load_dataset(name, {"points": 350, "start": 170, "boundary": 3})
    build = partial(mlp, hidden=(24, 30, 30))
    module = initialized(build, Interface.of(data), torch.Generator().manual_seed(0))
    f = ResidualLoss(data, module.double())
    J = f.at(f.initial()).jacobian
    rows = J.dense()
    assert torch.allclose(J.outer(), rows @ rows.T, rtol=1e-12, atol=1e-12 * float(rows.norm()))


def test_a_refused_step_s_factors_and_what_is_formed_once_change_no_step():
    """With another damping, and back, the step is that of a matrix formed for it alone."""
    w = randn(30, seed=1)
    A = objective(30, 6).at(w).normal
    for shift in (1e-2, 4e-2, 1e-2):
        fresh = objective(30, 6).at(w).normal
        assert torch.allclose(A.solve(-A.b, shift), fresh.solve(-fresh.b, shift), rtol=1e-12)
        expected = torch.linalg.solve(fresh.dense() + shift * torch.eye(30).double(), -A.b)
        assert torch.allclose(A.solve(-A.b, shift), expected, rtol=1e-9)
    v = randn(30, seed=2)
    before = A @ v
    assert torch.allclose(A.matrix.T @ (A.matrix @ v), before)
    assert torch.allclose(A @ v, before)
