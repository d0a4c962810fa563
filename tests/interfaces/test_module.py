"""Curvature of modules against autograd's dense matrices."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import assert_close, randn
from torch import Tensor, nn
from torch.func import functional_call

from newton_krylov import cg, empirical_fisher, gauss_newton, hessian, lanczos
from newton_krylov.errors import ConfigError, UnsupportedError
from newton_krylov.operators import LinearOperator


class Residual(nn.Module):
    """Not an `nn.Sequential`, with a weight used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = torch.tanh(self.inner(x))
        return self.last(h + torch.tanh(self.inner(h)))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 2, 3), nn.Softplus(), nn.Flatten(), nn.Linear(6, 3)
    )


MODULES: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp, "residual": Residual, "convolutional": convolutional,
    "linear": lambda: nn.Linear(5, 3),
}  # fmt: skip
CRITERIA: dict[str, nn.Module] = {
    "cross entropy": nn.CrossEntropyLoss(),
    "weighted cross entropy": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])),
    "squares": nn.MSELoss(),
    "binary cross entropy": nn.BCEWithLogitsLoss(),
}
WHOLE = ["cross entropy", "squares", "binary cross entropy"]
"""Weighted cross entropy divides by the sum of weights, so is no mean of samples' own losses."""


def data(criterion: str, n: int = 20, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    X = randn(n, 5, seed=1, dtype=dtype)
    if criterion.endswith("cross entropy") and criterion != "binary cross entropy":
        return X, torch.arange(n) % 3
    y = randn(n, 3, seed=2, dtype=dtype)
    return X, (y > 0).to(dtype) if criterion.startswith("binary") else y


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODULES[name]().double()


def flat_function(module: nn.Module) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """Return (w, X) -> outputs and the present w."""
    shapes = {name: p.shape for name, p in module.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]

    def outputs(w: Tensor, X: Tensor) -> Tensor:
        parts = torch.split(w, sizes)
        named = {n: p.view(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
        return functional_call(module, named, (X,))

    return outputs, nn.utils.parameters_to_vector(module.parameters()).detach()


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", MODULES)
def test_hessian(name: str, criterion: str) -> None:
    module, (X, y) = made(name), data(criterion)
    outputs, w = flat_function(module)
    loss = copy.deepcopy(CRITERIA[criterion]).double()
    expected = torch.func.hessian(lambda w: loss(outputs(w, X), y))(w)
    H = hessian(module, CRITERIA[criterion], X, y)
    assert_close(H.dense(), expected, 1e-10, name)


@pytest.mark.parametrize("criterion", WHOLE)
@pytest.mark.parametrize("name", MODULES)
def test_gauss_newton(name: str, criterion: str) -> None:
    module, (X, y) = made(name), data(criterion)
    outputs, w = flat_function(module)
    Z = outputs(w, X)
    J = torch.func.jacrev(lambda w: outputs(w, X).reshape(-1))(w)
    L = torch.func.hessian(lambda z: CRITERIA[criterion](z.view(Z.shape), y))(Z.detach().view(-1))
    G = gauss_newton(module, CRITERIA[criterion], X, y)
    assert_close(G.dense(), J.T @ L @ J, 1e-10, name)


@pytest.mark.parametrize("criterion", WHOLE)
@pytest.mark.parametrize("name", MODULES)
def test_empirical_fisher(name: str, criterion: str) -> None:
    module, (X, y) = made(name), data(criterion)
    outputs, w = flat_function(module)
    loss = CRITERIA[criterion]
    gradients = [
        torch.func.grad(lambda w, i=i: loss(outputs(w, X[i : i + 1]), y[i : i + 1]))(w)
        for i in range(len(X))
    ]
    E = torch.stack(gradients)
    E = E.T @ E / len(X)
    assert_close(empirical_fisher(module, loss, X, y).dense(), E, 1e-10, name)


EACH = pytest.mark.parametrize("make", [hessian, gauss_newton, empirical_fisher])


@EACH
def test_options(make: Callable[..., LinearOperator]) -> None:
    module, (X, y) = made("mlp"), data("cross entropy")
    loss = nn.CrossEntropyLoss()
    whole = make(module, loss, X, y).dense()
    assert_close(make(module, loss, X, y, chunk=7).dense(), whole, 1e-12, "chunks")
    eye = torch.eye(len(whole)).double()
    assert_close(make(module, loss, X, y, l2=0.5).dense(), whole + 0.5 * eye, 1e-12, "l2")
    last = make(module, loss, X, y, layers=["2"]).dense()
    assert_close(last, whole[-len(last) :, -len(last) :], 1e-12, "layers")
    module[0].requires_grad_(False)  # as PyHessian's users do it
    assert_close(make(module, loss, X, y).dense(), last, 1e-12, "frozen")


@EACH
def test_the_module_is_left_as_it_was(make: Callable[..., LinearOperator]) -> None:
    """No gradient, no graph, no mode, no running average is left behind."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3))
    module = module.double().train()
    X, y = data("cross entropy")
    before = copy.deepcopy(module.state_dict())
    A = make(module, nn.CrossEntropyLoss(), X, y)
    A.matvec(randn(A.shape[0], seed=1))
    assert module.training
    assert all(part.training for part in module)
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    first = A.matvec(randn(A.shape[0], seed=1))
    with torch.no_grad():
        module[0].weight.zero_()
    assert torch.equal(A.matvec(randn(A.shape[0], seed=1)), first)


@EACH
def test_dropout_is_one_fixed_mask(make: Callable[..., LinearOperator]) -> None:
    """Off, or drawn from a seed: the products are with one symmetric matrix either way."""
    module = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3)).double()
    X, y = data("cross entropy")
    matrices = [
        make(module, nn.CrossEntropyLoss(), X, y, noise=noise).dense() for noise in (None, 1, 1, 2)
    ]
    for A in matrices:
        assert_close(A, A.T, 1e-10)
    assert torch.equal(matrices[1], matrices[2])
    assert not torch.allclose(matrices[0], matrices[1])
    assert not torch.allclose(matrices[1], matrices[3])
    off = make(copy.deepcopy(module).eval(), nn.CrossEntropyLoss(), X, y).dense()
    assert_close(matrices[0], off, 1e-12)


def test_serves_solvers_and_lanczos(device: torch.device) -> None:
    module, (X, y) = made("mlp").to(device), data("cross entropy")
    X, y = X.to(device), y.to(device)
    G = gauss_newton(module, nn.CrossEntropyLoss(), X, y, l2=0.1)
    assert cg(G, randn(G.shape[0], seed=1, device=device), rtol=1e-8).converged
    H = hessian(module, nn.CrossEntropyLoss(), X, y)
    pair = lanczos(H, 1, which="smallest", generator=torch.Generator().manual_seed(0), rtol=1e-10)
    assert float(pair.values) == pytest.approx(float(torch.linalg.eigvalsh(H.dense())[0]), rel=1e-6)


def test_float32_modules_give_float32_operators() -> None:
    module = made("mlp").float()
    X, y = data("squares", dtype=torch.float32)
    H = hessian(module, nn.MSELoss(), X, y)
    assert H.dtype == torch.float32
    exact = hessian(made("mlp").float().double(), nn.MSELoss(), X.double(), y.double())
    assert_close(H.dense(), exact.dense(), 1e-5)


class TestMistakes:
    def test_lengths(self) -> None:
        X, y = data("squares")
        with pytest.raises(ValueError, match="20 inputs, but 19 targets"):
            hessian(made("mlp"), nn.MSELoss(), X, y[1:])

    def test_a_sum_is_not_a_mean(self) -> None:
        X, y = data("squares")
        with pytest.raises(UnsupportedError, match=r"reduction='sum', but .* mean"):
            hessian(made("mlp"), nn.MSELoss(reduction="sum"), X, y)

    def test_an_unknown_layer(self) -> None:
        X, y = data("squares")
        with pytest.raises(ConfigError, match=r"'fc' is not a layer .*Choices: 0, 2"):
            hessian(made("mlp"), nn.MSELoss(), X, y, layers=["fc"])

    def test_no_weights_and_half_frozen_layers(self) -> None:
        X, y = data("squares")
        module = made("mlp")
        module[0].bias.requires_grad_(False)
        with pytest.raises(UnsupportedError, match="some weights of the layer '0'"):
            hessian(module, nn.MSELoss(), X, y)
        with pytest.raises(UnsupportedError, match="no trainable weights"):
            hessian(made("mlp").requires_grad_(False), nn.MSELoss(), X, y)

    def test_randomness_other_than_dropout(self) -> None:
        class Noisy(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(5, 3).double()

            def forward(self, x: Tensor) -> Tensor:
                return self.layer(x + torch.randn_like(x))

        X, y = data("squares")
        with pytest.raises(UnsupportedError, match="one function"):
            hessian(Noisy(), F.mse_loss, X, y)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"l2": float("nan")}, "l2 must be a number of at least 0"),
            ({"l2": -1.0}, "l2 must be a number of at least 0"),
            ({"chunk": 0}, "chunk must be a whole number of at least 1"),
            ({"chunk": -1}, "chunk must be a whole number of at least 1"),
            ({"chunk": 2.5}, "chunk must be a whole number of at least 1"),
            ({"layers": "0"}, r"layers must be a list of names: layers=\['0'\]"),
            ({"layers": []}, "layers is empty"),
            ({"targets": [0] * 6}, "the targets must be a tensor, not list"),
        ],
    )
    def test_values_that_mean_nothing(self, changed: dict[str, Any], message: str) -> None:
        targets = torch.zeros(6, dtype=torch.int64)
        given = {"targets": targets, **changed}
        with pytest.raises(ValueError, match=message):
            hessian(mlp(), nn.CrossEntropyLoss(), randn(6, 5, seed=0).float(), **given)

    def test_inputs_that_are_no_numbers(self) -> None:
        X = torch.full((6, 5), torch.nan)
        with pytest.raises(UnsupportedError, match="not numbers"):
            hessian(mlp(), nn.CrossEntropyLoss(), X, torch.zeros(6, dtype=torch.int64))

    @pytest.mark.parametrize("v", [torch.ones(3), torch.ones(39).double(), torch.ones(39).int()])
    def test_a_vector_that_does_not_fit(self, v: Tensor) -> None:
        H = hessian(
            mlp(),
            nn.CrossEntropyLoss(),
            randn(6, 5, seed=0).float(),
            torch.zeros(6, dtype=torch.int64),
        )
        assert H.shape == (39, 39)
        with pytest.raises(ValueError, match=r"expected a vector of shape \(39,\)"):
            H.matvec(v)
