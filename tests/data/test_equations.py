"""Equations: residuals vanish on the exact solution, points lie where they should."""

import math

import pytest
import torch
from torch import Tensor

from newton_krylov.data import load_dataset
from newton_krylov.data.equation import derivatives
from newton_krylov.data.poisson import around_square


def reaction(z: Tensor) -> Tensor:
    h = torch.exp(-((z[:, 0] - math.pi) ** 2) / (2 * (math.pi / 4) ** 2))
    return h * torch.exp(5 * z[:, 1]) / (h * torch.exp(5 * z[:, 1]) + 1 - h)


def wave(z: Tensor) -> Tensor:
    x, t = math.pi * z[:, 0], 2 * math.pi * z[:, 1]
    return x.sin() * t.cos() + (5 * x).sin() * (5 * t).cos() / 2


SOLUTIONS = {
    "poisson_2d": lambda x: torch.sin(math.pi * x).prod(-1),
    "poisson_5d": lambda x: torch.cos(math.pi * x).sum(-1),
    "heat_1d": lambda z: torch.exp(-(math.pi**2) * z[:, 1] / 4) * torch.sin(math.pi * z[:, 0]),
    "convection": lambda z: torch.sin(z[:, 0] - 40 * z[:, 1]),
    "reaction": reaction,
    "wave": wave,
}


@pytest.mark.parametrize("name", SOLUTIONS)
def test_residuals_vanish_on_the_exact_solution(name: str):
    equation = load_dataset(name, {}).equation
    for block in equation.blocks:
        residual = block.residual(derivatives(SOLUTIONS[name], block))
        assert residual.shape == (len(block.points),)
        assert float(residual.abs().max()) <= 1e-9
        wrong = block.residual(derivatives(lambda x: SOLUTIONS[name](x) + x.exp().sum(-1), block))
        assert float(wrong.abs().max()) > 1e-2
    assert torch.allclose(equation.solution, SOLUTIONS[name](equation.test))
    assert 0.1 < sum(block.weight * len(block.points) for block in equation.blocks) < 1e4


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_same_in_float32_and_from_the_same_seed(name: str):
    one, two = (load_dataset(name, {}, dtype=torch.float32).equation for _ in range(2))
    for a, b in zip(one.blocks, two.blocks, strict=True):
        assert a.points.dtype == a.target.dtype == torch.float32
        assert torch.equal(a.points, b.points)


@pytest.mark.parametrize("points", ["grid", "random"])
def test_points_lie_inside_and_around(points: str):
    data = load_dataset("poisson_2d", {"points": points, "side": 7, "boundary": 20})
    interior, boundary = data.equation.blocks
    assert interior.points.shape == (49, 1, 2)
    assert ((interior.points > 0) & (interior.points < 1)).all()
    edge = boundary.points[:, 0]
    assert (((edge == 0) | (edge == 1)).any(dim=1) & (edge >= 0).all(1) & (edge <= 1).all(1)).all()
    test = {tuple(x) for x in data.equation.test.tolist()}
    assert not test & {tuple(x) for x in interior.points[:, 0].tolist()}


def test_the_way_around_the_square():
    corners = around_square(torch.tensor([0.0, 1.0, 2.0, 3.0, 3.5]))
    assert corners.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0.5]]


def test_equal_options_give_equal_points_and_checksums():
    one, two = (load_dataset("poisson_2d", {"points": "random", "seed": 3}) for _ in range(2))
    other = load_dataset("poisson_2d", {"points": "random", "seed": 4})
    assert one.checksum == two.checksum != other.checksum
    assert torch.equal(one.equation.blocks[0].points, two.equation.blocks[0].points)
    assert not torch.equal(one.equation.blocks[0].points, other.equation.blocks[0].points)
