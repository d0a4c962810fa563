"""The faces of `minimize`'s methods in a training loop: as LBFGS is used, saved and restored."""

import io

import pytest
import torch
from torch import Tensor, nn

import newton_krylov
from newton_krylov import ARC, BFGS, NNCG, SSBFGS, RegularizedNewton, SSBroyden, TrustRegion
from newton_krylov.errors import ConfigError

METHODS = [BFGS, SSBFGS, SSBroyden, TrustRegion, ARC, RegularizedNewton, NNCG]
every = pytest.mark.parametrize("method", METHODS)


def rosenbrock(unit: float = 1.0):
    """Return two parameters and a closure."""
    x = torch.tensor(-1.2, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        return (unit * (100 * (y - x**2) ** 2 + (1 - x) ** 2)).sum()

    return [x, y], loss


def regression():
    """Return a network and its loss on one batch."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    y = torch.sin(X.sum(1, keepdim=True))
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / 2)
    return model, lambda: nn.functional.mse_loss(model(X), y)


@every
@pytest.mark.parametrize("unit", [1.0, 1e-20])
def test_a_valley_in_two_parameters(method, unit):
    parameters, closure = rosenbrock(unit)
    optimizer = method(parameters, max_iter=60)
    first = optimizer.step(closure)
    assert float(first) == pytest.approx(unit * 24.2)
    optimizer.step(closure)
    assert torch.cat([p.detach().reshape(-1) for p in parameters]).tolist() == pytest.approx([1, 1])
    assert float(parameters[0].grad.abs()) <= 1e-5 * unit


@every
def test_a_network_by_a_closure_that_calls_backward(method):
    model, loss = regression()
    optimizer = method(model.parameters(), max_iter=10)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    before = loss().item()
    for _ in range(4):
        optimizer.step(closure)
    assert loss().item() < 0.2 * before
    g = torch.autograd.grad(loss(), list(model.parameters()))
    for p, mine in zip(model.parameters(), g, strict=True):
        assert torch.allclose(p.grad, mine)


@every
def test_continued_from_a_file_equals_uninterrupted(method):
    model, loss = regression()
    optimizer = method(model.parameters(), max_iter=3)
    optimizer.step(loss)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    for _ in range(2):
        optimizer.step(loss)

    again, same = regression()
    file.seek(0)
    weights, state = torch.load(file)
    again.load_state_dict(weights)
    other = method(again.parameters(), max_iter=3)
    other.load_state_dict(state)
    for _ in range(2):
        other.step(same)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_several_steps_are_one_with_their_iterations():
    """What is learned goes on from step to step."""
    found = []
    for iterations, steps in ((12, 1), (4, 3)):
        parameters, closure = rosenbrock()
        optimizer = BFGS(parameters, max_iter=iterations)
        for _ in range(steps):
            optimizer.step(closure)
        found.append(float(parameters[0].detach()))
    assert found[0] == found[1]


def test_mistakes_are_one_sentence():
    parameters, closure = rosenbrock()
    with pytest.raises(ConfigError, match="scalings is not a parameter"):
        BFGS(parameters, scalings="always")
    with pytest.raises(ValueError, match="max_iter must be at least 1"):
        BFGS(parameters, max_iter=0)
    with pytest.raises(ValueError, match="needs a closure"):
        BFGS(parameters).step()
    with pytest.raises(ValueError, match="no lr of their own"):
        BFGS([{"params": parameters, "lr": 0.1}])
    optimizer = BFGS(parameters)
    optimizer.step(lambda: closure() * float("nan"))
    assert "no step" in optimizer.note


def test_they_are_there_by_name():
    assert {method.__name__ for method in METHODS} <= set(newton_krylov.__all__)


@every
def test_a_step_without_gradients_lets_the_closure_have_them(method):
    parameters, loss = rosenbrock()
    with torch.no_grad():
        method(parameters, max_iter=3).step(loss)
    twin, loss = rosenbrock()
    method(twin, max_iter=3).step(loss)
    assert torch.equal(parameters[0], twin[0])
