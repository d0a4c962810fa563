"""Equations: residuals vanish on the exact solution, points lie where they should."""

import math

import pytest
import torch
from torch import Tensor

from newton_krylov.data import load_dataset
from newton_krylov.data.allen_cahn import solve
from newton_krylov.data.burgers import cole_hopf
from newton_krylov.data.equation import Equation, derivatives
from newton_krylov.data.poisson import around_square
from newton_krylov.errors import ConfigError


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
    "heat_1d_inverse": lambda z: (
        torch.exp(-(math.pi**2) * z[:, 1] / 4) * torch.sin(math.pi * z[:, 0])
    ),
    "burgers": lambda z: cole_hopf(z, 0.01 / math.pi),
    "helmholtz_2d": lambda z: torch.sin(math.pi * z[:, 0]) * torch.sin(4 * math.pi * z[:, 1]),
}
HARD = [name for name in SOLUTIONS if name not in ("poisson_5d", "heat_1d_inverse")]


def true(equation: Equation) -> Tensor:
    return torch.tensor([value for _, value in equation.coefficients.values()]).double()


@pytest.mark.parametrize("name", SOLUTIONS)
def test_residuals_vanish_on_the_exact_solution(name: str):
    equation = load_dataset(name, {}).equation
    for block in equation.blocks:
        residual = block.residual(derivatives(SOLUTIONS[name], block, true(equation)))
        assert residual.shape == (len(block.points),)
        assert float(residual.abs().max()) <= (1e-6 if name == "burgers" else 1e-9)
        wrong = block.residual(
            derivatives(lambda x: SOLUTIONS[name](x) + x.exp().sum(-1), block, true(equation))
        )
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


@pytest.mark.parametrize("name", HARD)
def test_hard_conditions_hold_whatever_the_network_is(name: str):
    """u = lift + factor N is the solution for the right N, and meets the conditions for any."""
    soft, hard = (load_dataset(name, {"hard": flag}).equation for flag in (False, True))
    trial, solution = hard.trial, SOLUTIONS[name]
    assert trial is not None and len(hard.blocks) < len(soft.blocks)

    def network(x: Tensor) -> Tensor:
        return (solution(x) - trial.lift(x)) / trial.factor(x)

    inside, kept = hard.blocks[0], {block.name for block in hard.blocks}
    residual = inside.residual(derivatives(network, inside))
    size = float(solution(inside.points[:, 0]).abs().max())
    assert float(residual.abs().median()) <= 1e-5 * size
    for block in soft.blocks:
        if block.name not in kept:
            jet = derivatives(lambda x: trial(x, x.exp().sum(-1)), block)
            assert float(block.residual(jet).abs().max()) <= 1e-12


def test_the_reference_of_allen_and_cahn_solves_the_equation():
    """By Fourier's derivatives in x and central differences in t; twice the terms change little."""
    u = torch.from_numpy(solve(512, 2000))
    waves = torch.fft.rfftfreq(512, 1 / 512).double() * math.pi
    u_xx = torch.fft.irfft(-(waves**2) * torch.fft.rfft(u), 512)
    u_t = (u[:-4] - 8 * u[1:-3] + 8 * u[3:-1] - u[4:]) / 0.12
    left = (u_t - 1e-4 * u_xx[2:-2] - 5 * (u - u**3)[2:-2])[20:]
    assert float(left.abs().max()) < 1e-3 * float(u_t.abs().max())
    finer = torch.from_numpy(solve(1024, 1000))[:, ::2]
    assert float((finer - u)[-1].norm() / u[-1].norm()) < 1e-5
    equation = load_dataset("allen_cahn", {}).equation
    assert torch.equal(equation.solution.reshape(257, 101)[:-1].T, u[:, ::2])


def test_burgers_begins_as_it_should():
    x = torch.linspace(-1, 1, 11).double()
    for t, close in ((1e-12, 1e-5), (0.0, 1e-12)):
        u = cole_hopf(torch.stack((x, torch.full_like(x, t)), dim=1), 0.01 / math.pi)
        assert torch.allclose(u, -torch.sin(math.pi * x), atol=close)


def test_draws_are_of_the_seed_and_their_number():
    options = {"points": 50, "start": 5, "boundary": 4, "resample": 2, "window": 0.25}
    one, two = (load_dataset("wave", options).equation for _ in range(2))
    for number, window in ((1, 0.25), (7, 0.5)):
        a, b = (e.drawn(number, window)[0].points for e in (one, two))
        assert torch.equal(a, b)
        assert float(a[..., 1].max()) <= window
    draws = [one.drawn(number, 1.0)[0].points for number in (0, 1, 2)]
    fresh = one.fresh[0].points
    assert float(fresh[..., 1].max()) > 0.9
    everything = torch.cat([*draws, fresh])[:, 0]
    assert len(everything.unique(dim=0)) == len(everything)
    assert torch.equal(one.blocks[0].points, one.drawn(0, 0.25)[0].points)
    grid = load_dataset("wave", {"points": 50, "layout": "grid", "resample": 0}).equation
    assert grid.blocks[0].points.shape == (49, 1, 2)
    assert len(grid.fresh[0].points) == 49


_ENDS = {"convection": (0.0, 2 * math.pi), "wave": (0.0, 1.0), "allen_cahn": (-1.0, 1.0)}


@pytest.mark.parametrize("name", _ENDS)
def test_points_of_conditions_are_drawn_one_in_each_part_or_stay(name: str):
    """Points that stay can be met by a function that misses the condition between them."""
    options = {"points": 20, "start": 8, "boundary": 6, "window": 1.0}
    left, right = _ENDS[name]

    def conditions(resample: int, number: int) -> list[Tensor]:
        equation = load_dataset(name, options | {"resample": resample}).equation
        return [block.points for block in equation.drawn(number, 1.0)[1:]]

    for a, b in zip(conditions(2, 0), conditions(2, 1), strict=True):
        assert a.shape == b.shape and not torch.equal(a, b)
        for points in (a[:, 0], b[:, 0]):
            if bool((points[:, 1] == 0).all()):
                along, n = (points[:, 0] - left) / (right - left), 8
            else:  # at the left end first, then at the right one
                along, n = points[:6, 1], 6
            assert torch.equal((along * n).floor(), torch.arange(n, dtype=along.dtype))
    for a, b in zip(conditions(0, 0), conditions(0, 1), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("layout", ["random", "grid"])
@pytest.mark.parametrize("name", [*_ENDS, "heat_1d_inverse"])
def test_fresh_points_of_conditions_are_drawn_where_the_others_stay(name: str, layout: str):
    """Else the loss at fresh points would not see a condition that is missed between points."""
    options = {"points": 20, "start": 8, "boundary": 6, "window": 1.0, "resample": 0}
    equation = load_dataset(name, options | {"layout": layout}).equation
    for kept, fresh in zip(equation.blocks[1:], equation.fresh[1:], strict=True):
        if kept.name == "measurements":  # data, of which there are no others
            assert torch.equal(kept.points, fresh.points)
            continue
        one, other = (set(map(tuple, block.points[:, 0].tolist())) for block in (kept, fresh))
        assert len(one) == len(other) and not one & other


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("wave", {"layout": "grid", "resample": 3}, "the same at each draw"),
        ("poisson_2d", {"resample": 3}, "take random points"),
        ("wave", {"window": 0.5, "resample": 0}, "set dataset.resample"),
        ("heat_1d_inverse", {"hard": True}, "no conditions that can hold by construction"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(name, options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_dataset(name, options)
