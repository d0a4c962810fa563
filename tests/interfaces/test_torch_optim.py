"""The optimizer for PyTorch loops: against linear algebra, against the core method, in training."""

import functools
import io
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from cases import spread, symmetric
from problems import randn, rosenbrock
from torch import Tensor, nn
from torch.autograd import backward as bare_backward

from newton_krylov import NewtonKrylov, gmres, registry
from newton_krylov.errors import ConfigError, UnsupportedError
from newton_krylov.interfaces.torch_optim import DampingRule
from newton_krylov.runs.parts import register_parts

FOLLOWING = ["cg", "cr", "minres", "minres_qlp"]
SOLVERS = [*FOLLOWING, "gcr", "gmres", "exact"]


def product_problem(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    """A small network that is to learn y = x1 x2."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
    X = torch.randn(64, 2, dtype=dtype)
    return model, X, X.prod(dim=1, keepdim=True)


def train(optimizer: NewtonKrylov, closure: Callable[[], Any], steps: int) -> list[float]:
    return [float(optimizer.step(closure)) for _ in range(steps)]


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_quadratic_takes_one_step(solver: str) -> None:
    A, b = symmetric(spread(6, 20)), randn(6, seed=1)
    w = nn.Parameter(torch.zeros(6).double())
    optimizer = NewtonKrylov(
        [w], solver=solver, damping=0.0, damping_rule="fixed",
        forcing=functools.partial(lambda outer: 1e-12),
    )  # fmt: skip
    optimizer.step(lambda: w @ A @ w / 2 - b @ w)
    assert torch.allclose(w.detach(), torch.linalg.solve(A, b), atol=1e-9)


@pytest.mark.parametrize("solver", FOLLOWING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_trains_a_network(solver: str, dtype: torch.dtype) -> None:
    model, X, y = product_problem(dtype)
    losses = train(
        NewtonKrylov(model.parameters(), solver=solver), lambda: F.mse_loss(model(X), y), 60
    )
    assert losses[-1] < 1e-3
    assert all(after <= before for before, after in pairwise(losses))


def test_solves_rosenbrock_from_the_usual_start() -> None:
    w = nn.Parameter(torch.tensor([-1.2, 1.0]).double())
    optimizer = NewtonKrylov([w], damping=0.0, damping_rule="fixed")
    train(optimizer, lambda: rosenbrock(w), 40)
    assert torch.allclose(w.detach(), torch.ones(2).double(), atol=1e-8)


def test_converges_superlinearly_near_a_minimum() -> None:
    A = symmetric(spread(5, 10))
    w = nn.Parameter(randn(5, seed=3) * 0.3)

    def closure() -> Tensor:
        return torch.log(torch.cosh(A @ w)).sum()

    optimizer = NewtonKrylov([w], damping=0.0, damping_rule="fixed")
    norms = []
    for _ in range(8):
        optimizer.step(closure)
        assert w.grad is not None
        norms.append(float(torch.linalg.vector_norm(w.grad)))
    assert norms[-1] < 1e-13
    assert min(after / before for before, after in pairwise(norms)) < 1e-4


class TestClosure:
    def test_may_call_backward_and_zero_grad(self) -> None:
        """As those of `torch.optim.LBFGS` do."""
        runs = []
        for calls_backward in (False, True):
            model, X, y = product_problem()
            optimizer = NewtonKrylov(model.parameters())

            def closure(
                model: nn.Module = model,
                X: Tensor = X,
                y: Tensor = y,
                optimizer: NewtonKrylov = optimizer,
                calls_backward: bool = calls_backward,
            ) -> Tensor:
                optimizer.zero_grad()
                loss = F.mse_loss(model(X), y)
                if calls_backward:
                    loss.backward()
                return loss

            runs.append(train(optimizer, closure, 5))
        assert runs[0] == runs[1]

    def test_dropout_is_fixed_within_a_step_and_moves_on_after_it(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, 1))
        X, y = torch.randn(50, 4), torch.randn(50, 1)
        seen: list[tuple[int, float]] = []
        step = 0

        def closure() -> Tensor:
            seen.append((step, float(torch.rand(()))))
            return F.mse_loss(model(X), y)

        optimizer = NewtonKrylov(model.parameters())
        for step in range(3):  # noqa: B007
            optimizer.step(closure)
        draws = [{draw for k, draw in seen if k == number} for number in range(3)]
        assert [len(of_step) for of_step in draws] == [1, 1, 1]
        assert len(set.union(*draws)) == 3

    def test_the_random_state_is_that_after_one_evaluation(self) -> None:
        model, X, y = product_problem()

        def closure() -> Tensor:
            torch.rand(5)
            return F.mse_loss(model(X), y)

        torch.manual_seed(7)
        closure()
        expected = torch.rand(1)
        torch.manual_seed(7)
        NewtonKrylov(model.parameters()).step(closure)
        assert torch.equal(torch.rand(1), expected)

    def test_one_that_draws_its_own_batch_is_refused(self) -> None:
        model, X, y = product_problem()
        before = [p.clone() for p in model.parameters()]
        batches = iter(zip(X.split(8), y.split(8), strict=True))

        def closure() -> Tensor:
            inputs, targets = next(batches)
            return F.mse_loss(model(inputs), targets)

        with pytest.raises(UnsupportedError, match=r"at the same weights.*outside of"):
            NewtonKrylov(model.parameters()).step(closure)
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))

    def test_an_exception_in_it_leaves_the_weights_alone(self) -> None:
        model, X, y = product_problem()
        before = [p.clone() for p in model.parameters()]
        addresses = [p.data_ptr() for p in model.parameters()]
        calls = 0

        def closure() -> Tensor:
            nonlocal calls
            calls += 1
            if calls == 3:  # the line search's first trial
                raise KeyboardInterrupt
            return F.mse_loss(model(X), y)

        with pytest.raises(KeyboardInterrupt):
            NewtonKrylov(model.parameters()).step(closure)
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
        assert [p.data_ptr() for p in model.parameters()] == addresses

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_loss_that_is_not_finite_changes_nothing(self, bad: float) -> None:
        w = nn.Parameter(torch.ones(2).double())
        optimizer = NewtonKrylov([w])
        optimizer.step(lambda: w.square().sum())
        before, tau = w.detach().clone(), optimizer.state[w]["newton"]["damping"]
        optimizer.step(lambda: bad * w.square().sum())
        assert torch.equal(w.detach(), before)
        assert optimizer.note == f"the loss is {bad} where the step begins: no step"
        assert optimizer.state[w]["newton"]["damping"] == tau


def classifier(*layers: nn.Module) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    X = torch.randn(60, 4)
    model = nn.Sequential(nn.Linear(4, 6), *layers, nn.Tanh(), nn.Linear(6, 2))
    return model, X, (X[:, 0] * X[:, 1] > 0).long()


class TestWaysToCallBackward:
    """The closures people write for other optimizers train as the plain one does."""

    @pytest.mark.parametrize("end", ["loss", "detached", "item"])
    @pytest.mark.parametrize(
        "backward",
        [
            lambda loss: loss.backward(),
            torch.autograd.backward,
            lambda loss: bare_backward([loss]),
            lambda loss: loss.backward(torch.tensor(1.0)),
            lambda loss: loss.backward(retain_graph=True),
        ],
    )
    @pytest.mark.parametrize("parts", [1, 3])
    def test_train_alike(self, parts: int, backward: Callable[[Tensor], Any], end: str) -> None:
        runs = []
        for plain in (True, False):
            model, X, y = classifier()
            optimizer = NewtonKrylov(model.parameters())

            def closure(
                model: nn.Module = model, X: Tensor = X, y: Tensor = y, plain: bool = plain,
                optimizer: NewtonKrylov = optimizer,
            ) -> Any:  # fmt: skip
                optimizer.zero_grad()
                chunks = zip(X.chunk(parts), y.chunk(parts), strict=True)
                losses = [F.cross_entropy(model(a), b) / parts for a, b in chunks]
                total = torch.stack(losses).sum()
                if plain:
                    return total
                for loss in losses:
                    backward(loss)
                return {"loss": total, "detached": total.detach(), "item": float(total)}[end]

            runs.append(train(optimizer, closure, 5))
        assert runs[1] == pytest.approx(runs[0], rel=1e-5)
        assert runs[0][-1] < 0.9 * runs[0][0]

    def test_the_users_backward_works_again_after_a_step(self) -> None:
        model, X, y = classifier()
        NewtonKrylov(model.parameters()).step(lambda: F.cross_entropy(model(X), y))
        model.zero_grad()
        F.cross_entropy(model(X), y).backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_another_sum_than_what_is_returned_is_refused(self) -> None:
        model, X, y = classifier()

        def closure() -> Tensor:
            loss = F.cross_entropy(model(X), y)
            (1024 * loss).backward()
            return loss

        with pytest.raises(ValueError, match=r"returned 0\.7\d*, but .* adds up to 8\d\d\.\d*: .*"):
            NewtonKrylov(model.parameters()).step(closure)

    def test_derivatives_in_the_loss(self) -> None:
        """A differential equation's residual: the closure calls autograd.grad itself."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 12), nn.Tanh(), nn.Linear(12, 1)).double()
        t = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None].requires_grad_()
        one = torch.ones(1, 1, dtype=torch.float64)

        def closure() -> Tensor:
            u = model(t)
            slope = torch.autograd.grad(u.sum(), t, create_graph=True)[0]
            return (slope + u).square().mean() + (model(0 * one) - 1).square().mean()

        optimizer = NewtonKrylov(model.parameters())
        train(optimizer, closure, 60)
        assert torch.allclose(model(one), torch.exp(-one), atol=1e-3)


class TestBuffers:
    def test_running_averages_move_once_a_step(self) -> None:
        model, X, y = classifier(nn.BatchNorm1d(6))
        norm = model[1]
        assert isinstance(norm, nn.BatchNorm1d)
        own, expected = norm.running_mean, norm.running_mean
        assert expected is not None and norm.num_batches_tracked is not None
        expected = expected.clone()
        optimizer = NewtonKrylov(model.parameters())
        for number in range(1, 6):
            mean = model[0](X).mean(0).detach()
            optimizer.step(lambda: F.cross_entropy(model(X), y))
            expected = 0.9 * expected + 0.1 * mean
            assert int(norm.num_batches_tracked) == number
            assert norm.running_mean is own
            assert torch.allclose(norm.running_mean, expected, atol=1e-6)

    def test_a_module_that_iterates_in_its_buffers_is_one_function(self) -> None:
        torch.manual_seed(0)
        layer = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6))
        model = nn.Sequential(layer, nn.Tanh(), nn.Linear(6, 1))
        X = torch.randn(50, 4)
        vector = layer.parametrizations.weight[0]._u  # type: ignore[union-attr,index]
        before = vector.clone()
        losses = train(
            NewtonKrylov(model.parameters()), lambda: F.mse_loss(model(X), X[:, :1] * X[:, 1:2]), 20
        )
        assert losses[-1] < 0.7 * losses[0]
        assert not torch.equal(vector, before)

    def test_an_exception_leaves_them_alone(self) -> None:
        model, X, _ = classifier(nn.BatchNorm1d(6))
        before = {name: b.clone() for name, b in model.named_buffers()}

        def closure() -> Tensor:
            model(X)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            NewtonKrylov(model.parameters()).step(closure)
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, before[name])


class Encoder(nn.Module):
    """One number of a sequence by attention."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(1, 4), nn.Linear(4, 1)
        self.attend = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.attend(self.up(x)).mean(1))
        return out


class Recurrent(nn.Module):
    """One number of a sequence by an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.down = nn.LSTM(1, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.lstm(x)[0][:, -1])
        return out


@pytest.mark.parametrize("kind", [Encoder, Recurrent])
@pytest.mark.parametrize("mode", [True, False])
def test_trains_attention_and_recurrent_layers(
    kind: type[nn.Module], mode: bool, device: torch.device
) -> None:
    torch.manual_seed(0)
    model, X = kind().train(mode).to(device), torch.randn(32, 5, 1, device=device)
    y = X.sin().mean(1)
    losses = train(NewtonKrylov(model.parameters()), lambda: F.mse_loss(model(X), y), 15)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm], ids=["old", "new"]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_weight_norms_curvature_is_right(norm: Callable[[nn.Module], nn.Module]) -> None:
    """Near the optimum of a network with weight norm, Newton's steps converge quadratically."""
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(3, 2)), nn.Tanh()).double()
    X = torch.randn(40, 3).double()
    y = torch.tanh(X @ torch.randn(3, 2).double())
    optimizer = NewtonKrylov(
        model.parameters(), solver="exact", damping=1e-8, damping_rule="fixed",
        forcing=lambda outer: 1e-12,
    )  # fmt: skip
    assert train(optimizer, lambda: F.mse_loss(model(X), y), 40)[-1] < 1e-20


class TestGroups:
    """One system, whose groups differ by step and damping."""

    @pytest.mark.parametrize("solver", ["cg", "exact"])
    def test_dampings_are_a_diagonal(self, solver: str) -> None:
        A, b = symmetric(spread(6, 20)), randn(6, seed=1)
        u, v = (nn.Parameter(torch.zeros(k).double()) for k in (2, 4))

        def closure() -> Tensor:
            w = torch.cat([u, v])
            return w @ A @ w / 2 - b @ w

        optimizer = NewtonKrylov(
            [{"params": [u], "damping": 3.0}, {"params": [v]}], solver=solver, damping=0.5,
            damping_rule="fixed", forcing=lambda outer: 1e-12,
        )  # fmt: skip
        optimizer.step(closure)
        tau = torch.tensor([3.0] * 2 + [0.5] * 4).double()
        expected = torch.linalg.solve(A + torch.diag(tau), b)
        assert torch.allclose(torch.cat([u, v]).detach(), expected, atol=1e-9)

    def test_steps_scale_each_group(self) -> None:
        ends = []
        for factors in ((1.0, 1.0), (0.5, 1.0)):
            u, v = (nn.Parameter(torch.ones(k).double()) for k in (2, 3))
            groups = [{"params": [p], "lr": f} for p, f in zip((u, v), factors, strict=True)]
            optimizer = NewtonKrylov(groups, damping=1e-12, damping_rule="fixed")
            optimizer.step(lambda u=u, v=v: u.square().sum() + 2 * v.square().sum())
            ends.append((u.detach(), v.detach()))
        assert torch.allclose(1 - ends[1][0], 0.5 * (1 - ends[0][0]))
        assert torch.allclose(ends[1][1], ends[0][1])

    def test_a_large_damping_holds_a_group_while_the_rule_adapts(self) -> None:
        model, X, y = product_problem()
        groups = [
            {"params": list(model[0].parameters()), "damping": 1e9},
            {"params": list(model[2].parameters())},
        ]
        before = model[0].weight.clone()
        losses = train(NewtonKrylov(groups), lambda: F.mse_loss(model(X), y), 10)
        assert torch.allclose(model[0].weight, before, atol=1e-4)
        assert losses[-1] < losses[0]

    @pytest.mark.parametrize("bad", [{"lr": -1.0}, {"damping": -1.0}, {"damping": float("nan")}])
    def test_values_are_checked(self, bad: dict[str, float]) -> None:
        model, _, _ = product_problem()
        optimizer = NewtonKrylov(model[0].parameters())
        (name,) = bad
        with pytest.raises(ValueError, match=f"{name} must be"):
            optimizer.add_param_group({"params": list(model[2].parameters()), **bad})
        assert len(optimizer.param_groups) == 1


class TestGaussNewton:
    def test_a_step_is_that_of_the_dense_matrix(self) -> None:
        """(J'LJ + tau I) p = -g, with J and L by torch.func."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        X, y = torch.randn(20, 3).double(), torch.randint(0, 3, (20,))
        names = [name for name, _ in model.named_parameters()]
        shapes = [p.shape for p in model.parameters()]
        w = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

        def outputs(w: Tensor) -> Tensor:
            parts = torch.split(w, [shape.numel() for shape in shapes])
            parameters = {
                n: part.view(shape) for n, part, shape in zip(names, parts, shapes, strict=True)
            }
            return torch.func.functional_call(model, parameters, X).reshape(-1)

        def loss(z: Tensor) -> Tensor:
            return F.cross_entropy(z.view(20, 3), y)

        J, z = torch.func.jacrev(outputs)(w), outputs(w)
        G = J.T @ torch.func.hessian(loss)(z) @ J
        g = J.T @ torch.func.grad(loss)(z)
        expected = w - torch.linalg.solve(G + 0.1 * torch.eye(len(w)).double(), g)

        def closure() -> tuple[Tensor, Tensor]:
            z = model(X)
            return F.cross_entropy(z, y), z

        NewtonKrylov(
            model.parameters(), curvature="gauss_newton", damping=0.1, damping_rule="fixed",
            forcing=lambda outer: 1e-12,
        ).step(closure)  # fmt: skip
        found = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        assert torch.allclose(found, expected, atol=1e-9)

    def test_trains_on_batches(self) -> None:
        model, X, y = product_problem(torch.float32)
        optimizer = NewtonKrylov(model.parameters(), curvature="gauss_newton")
        before = float(F.mse_loss(model(X), y))
        for k in range(60):
            rows = torch.arange(64).roll(k * 17)[:48]

            def closure(rows: Tensor = rows) -> tuple[Tensor, Tensor]:
                outputs = model(X[rows])
                return F.mse_loss(outputs, y[rows]), outputs

            optimizer.step(closure)
        assert float(F.mse_loss(model(X), y)) < 0.05 * before

    def test_without_outputs_it_says_how(self) -> None:
        model, X, y = product_problem()
        with pytest.raises(UnsupportedError, match=r"let the closure return \(loss, outputs\)"):
            NewtonKrylov(model.parameters(), curvature="gauss_newton").step(
                lambda: F.mse_loss(model(X), y)
            )
        with pytest.raises(ValueError, match="curvature must be hessian or gauss_newton"):
            NewtonKrylov(model.parameters(), curvature="ggn")  # type: ignore[arg-type]


class TestNegativeCurvature:
    @pytest.mark.parametrize("solver", FOLLOWING)
    def test_is_followed_to_a_minimum(self, solver: str) -> None:
        """x^4/4 - x^2/2 + y^2, started where Newton's own step leads to the saddle (0, 0)."""
        w = nn.Parameter(torch.tensor([0.1, 1.0]).double())
        optimizer = NewtonKrylov([w], solver=solver, damping=1e-3)
        train(optimizer, lambda: w[0] ** 4 / 4 - w[0] ** 2 / 2 + w[1] ** 2, 40)
        assert abs(float(w.detach()[0])) == pytest.approx(1.0, abs=1e-5)
        assert float(w.detach()[1]) == pytest.approx(0.0, abs=1e-5)

    def test_a_saddle_point_is_left(self) -> None:
        w = nn.Parameter(torch.zeros(2).double())
        optimizer = NewtonKrylov([w], damping=1e-3)
        train(optimizer, lambda: w[0] ** 4 / 4 - w[0] ** 2 / 2 + w[1] ** 2, 40)
        assert abs(float(w.detach()[0])) == pytest.approx(1.0, abs=1e-5)

    def test_a_minimum_is_stayed_at(self) -> None:
        w = nn.Parameter(torch.zeros(3).double())
        optimizer = NewtonKrylov([w])
        optimizer.step(lambda: w.square().sum())
        assert not w.detach().any()
        assert "gradient is zero" in optimizer.note


class TestOptimizer:
    """What PyTorch expects of one of its optimizers."""

    def test_state_goes_on_where_it_was(self) -> None:
        def run(interrupt: bool) -> list[float]:
            model, X, y = product_problem()
            closure = lambda: F.mse_loss(model(X), y)  # noqa: E731
            optimizer = NewtonKrylov(model.parameters(), forcing="eisenstat_walker")
            losses = train(optimizer, closure, 5)
            if interrupt:
                file = io.BytesIO()
                torch.save(optimizer.state_dict(), file)
                file.seek(0)
                optimizer = NewtonKrylov(model.parameters(), forcing="eisenstat_walker")
                optimizer.load_state_dict(torch.load(file, weights_only=True))
            return losses + train(optimizer, closure, 5)

        assert run(True) == run(False)

    def test_schedulers_scale_the_step(self) -> None:
        lengths = []
        for lr in (1.0, 0.5):
            w = nn.Parameter(torch.ones(2).double())
            optimizer = NewtonKrylov([w], lr=lr, damping=0.0, damping_rule="fixed")
            optimizer.step(lambda w=w: w.square().sum())
            lengths.append(float(torch.linalg.vector_norm(w.detach() - 1)))
        assert lengths[1] == pytest.approx(lengths[0] / 2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
        optimizer.step(lambda: w.square().sum())
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)

    def test_leaves_the_gradient_where_the_step_began(self) -> None:
        model, X, y = product_problem()
        expected = torch.autograd.grad(F.mse_loss(model(X), y), list(model.parameters()))
        NewtonKrylov(model.parameters()).step(lambda: F.mse_loss(model(X), y))
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, gradient)
            assert parameter.is_leaf

    def test_returns_the_loss_where_the_step_began(self) -> None:
        model, X, y = product_problem()
        before = F.mse_loss(model(X), y)
        loss = NewtonKrylov(model.parameters()).step(lambda: F.mse_loss(model(X), y))
        assert torch.equal(loss, before.detach())
        assert not loss.requires_grad

    def test_frozen_parameters_stay(self) -> None:
        model, X, y = product_problem()
        model[0].weight.requires_grad_(False)
        before = model[0].weight.clone()
        train(NewtonKrylov(model.parameters()), lambda: F.mse_loss(model(X), y), 3)
        assert torch.equal(model[0].weight, before)

    def test_parameters_may_be_frozen_and_unfrozen_between_steps(self) -> None:
        model, X, y = product_problem()
        optimizer = NewtonKrylov(model.parameters())
        closure = lambda: F.mse_loss(model(X), y)  # noqa: E731
        train(optimizer, closure, 3)
        model[0].requires_grad_(False)
        held, moved = model[0].weight.clone(), model[2].weight.clone()
        losses = train(optimizer, closure, 3)
        assert torch.equal(model[0].weight, held)
        assert not torch.equal(model[2].weight, moved)
        model[0].requires_grad_(True)
        losses += train(optimizer, closure, 10)
        assert not torch.equal(model[0].weight, held)
        assert all(after <= before for before, after in pairwise(losses))

    def test_all_frozen_is_told(self) -> None:
        model, X, y = product_problem()
        optimizer = NewtonKrylov(model.parameters())
        model.requires_grad_(False)
        with pytest.raises(ValueError, match="no parameter requires a gradient"):
            optimizer.step(lambda: F.mse_loss(model(X), y))

    def test_parameters_may_be_added(self) -> None:
        model, X, y = product_problem()
        optimizer = NewtonKrylov(model[2].parameters())
        closure = lambda: F.mse_loss(model(X), y)  # noqa: E731
        first = train(optimizer, closure, 10)
        optimizer.add_param_group({"params": list(model[0].parameters())})
        assert train(optimizer, closure, 40)[-1] < 0.1 * first[-1]

    def test_keeps_the_parameters_storage(self) -> None:
        model, X, y = product_problem()
        addresses = [p.data_ptr() for p in model.parameters()]
        train(NewtonKrylov(model.parameters()), lambda: F.mse_loss(model(X), y), 3)
        assert [p.data_ptr() for p in model.parameters()] == addresses

    def test_unused_parameters_are_allowed(self) -> None:
        model, X, y = product_problem()
        spare = nn.Parameter(torch.ones(3).double())
        losses = train(
            NewtonKrylov([*model.parameters(), spare], damping=0.1),
            lambda: F.mse_loss(model(X), y), 20,
        )  # fmt: skip
        assert losses[-1] < losses[0] / 10
        assert torch.allclose(spare.detach(), torch.ones(3).double())

    def test_takes_a_users_solver(self) -> None:
        model, X, y = product_problem()
        optimizer = NewtonKrylov(
            model.parameters(), solver=functools.partial(gmres, restart=10, maxiter=10)
        )
        losses = train(optimizer, lambda: F.mse_loss(model(X), y), 10)
        assert losses[-1] < losses[0]

    def test_on_a_device(self, device: torch.device) -> None:
        model, X, y = product_problem(torch.float32)
        model, X, y = model.to(device), X.to(device), y.to(device)
        losses = train(NewtonKrylov(model.parameters()), lambda: F.mse_loss(model(X), y), 30)
        assert losses[-1] < 0.05 * losses[0]

    @pytest.mark.parametrize(
        ("params", "options", "error", "message"),
        [
            ([nn.Parameter(torch.ones(2))], {"lr": 0.0}, ValueError, "lr must be above 0"),
            ([], {}, ValueError, "empty parameter list"),
            ([torch.ones(2)], {}, ValueError, "no parameter requires a gradient"),
            ([nn.Parameter(torch.ones(2).half())], {}, ValueError, "float32 or float64"),
            (
                [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2).double())],
                {}, ValueError, "these are torch.float32 on cpu, torch.float64 on cpu",
            ),
            (
                [{"params": [nn.Parameter(torch.ones(k))], "momentum": 0.9} for k in (1, 2)],
                {}, ValueError, "groups differ by lr and damping only, not by momentum",
            ),
            (
                [nn.Parameter(torch.ones(2))], {"solver": "gc"},
                ConfigError, "solver=gc is unknown.*did you mean 'gcr'",
            ),
            ([nn.Parameter(torch.ones(2))], {"damping": 0.0}, ConfigError, "damping"),
        ],
    )  # fmt: skip
    def test_mistakes_of_construction(
        self, params: list[Any], options: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            NewtonKrylov(params, **options)

    def test_mistakes_of_closures(self) -> None:
        w = nn.Parameter(torch.ones(2))
        optimizer = NewtonKrylov([w])
        with pytest.raises(ValueError, match="step needs a closure"):
            optimizer.step()
        with pytest.raises(ValueError, match="must return the loss"):
            optimizer.step(lambda: None)
        with pytest.raises(ValueError, match="must return the loss"):
            optimizer.step(lambda: w)
        with pytest.raises(ValueError, match="does not depend on the parameters"):
            optimizer.step(lambda: torch.ones(()))


@pytest.mark.slow
def test_trains_on_mini_batches_of_digits() -> None:
    """An ordinary loop over a DataLoader: two epochs on scikit-learn's digits."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    data = load_digits()
    X = torch.from_numpy(data.data).float() / 16
    y = torch.from_numpy(data.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(X[:1500], y[:1500]), batch_size=250, shuffle=True
    )
    optimizer = NewtonKrylov(model.parameters(), solver="cr", max_iterations=20, damping_min=1e-2)
    for _ in range(3):
        for inputs, targets in loader:
            optimizer.step(lambda a=inputs, b=targets: F.cross_entropy(model(a), b))
    with torch.no_grad():
        accuracy = float((model(X[1500:]).argmax(1) == y[1500:]).double().mean())
    assert accuracy > 0.85


@pytest.mark.parametrize(
    ("rule", "was"), [("levenberg_marquardt", ", which was levenberg_marquardt"), ("marquard", "")]
)
def test_a_damping_rule_has_a_name_of_the_pipeline(rule, was):
    w = torch.nn.Parameter(torch.ones(2))
    sentence = f'damping_rule should be "fixed" or "marquardt"{was}, not {rule!r}.'
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        NewtonKrylov([w], damping_rule=rule)


def test_the_damping_rules_are_parts_of_the_pipeline():
    register_parts()
    assert set(get_args(DampingRule)) <= set(registry.names("damping"))
    w = torch.nn.Parameter(torch.ones(2))
    kept = NewtonKrylov([w])._newton.newton.damping
    assert type(kept) is registry.entry("damping", "marquardt").target
