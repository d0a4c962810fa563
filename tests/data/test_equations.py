"""Equations: residuals vanish on the exact solution, points lie where they should."""

import math

import pytest
import torch

from newton_krylov.data import load_dataset
from newton_krylov.data.equation import derivatives
from newton_krylov.data.poisson import around_square

SOLUTIONS = {"poisson_2d": lambda x: torch.sin(math.pi * x).prod(-1)}


@pytest.mark.parametrize("points", ["grid", "random"])
@pytest.mark.parametrize("name", SOLUTIONS)
def test_residuals_vanish_on_the_exact_solution(name: str, points: str):
    equation = load_dataset(name, {"points": points}).equation
    for block in equation.blocks:
        residual = block.residual(derivatives(SOLUTIONS[name], block))
        assert residual.shape == (len(block.points),)
        assert float(residual.abs().max()) <= 1e-12
        wrong = block.residual(derivatives(lambda x: SOLUTIONS[name](x) + x.sin().sum(-1), block))
        assert float(wrong.abs().max()) > 1e-2
    assert torch.allclose(equation.solution, SOLUTIONS[name](equation.test))


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
