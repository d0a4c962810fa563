"""Poisson's equation in two and five dimensions, with known solutions."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import GENERATED, RESIDUALS
from newton_krylov.data.equation import Block, Equation, EquationProblem, Jet
from newton_krylov.data.prepare import checksum
from newton_krylov.registry import register

Side = Annotated[int, Field(ge=2)]
Weight = Annotated[float, Field(gt=0)]

_TEST_POINTS = 10_000
_VERSION = 1  # part of the checksum: raise it when the same arguments give other points


@register("dataset", "poisson_2d", offers=(GENERATED, RESIDUALS))
def poisson_2d(
    *,
    points: Literal["grid", "random"] = "grid",
    side: Side = 30,
    boundary: PositiveInt = 120,
    boundary_weight: Weight = 1.0,
    seed: NonNegativeInt = 0,
    dtype: torch.dtype = torch.float64,
) -> EquationProblem:
    """Minus the Laplacian of u = 2 pi^2 sin(pi x) sin(pi y) on the unit square, u = 0 around it.

    The loss is half the mean square of the equation's residuals and half that of the boundary's;
    u = sin(pi x) sin(pi y) solves it.

    Parameters
    ----------
    points : {"grid", "random"}
        Where the residuals are taken: at the middles of side x side squares and evenly along the
        boundary, or at as many random places.
    side : int
        See `points`.
    boundary : int
        Points of the boundary.
    boundary_weight : float
        Weight of the boundary's residuals; the equation's weight is 1.
    seed : int
        Seed of random points, and of the test points.
    dtype : torch.dtype
        Precision of all tensors.

    Returns
    -------
    EquationProblem
        With blocks `interior` and `boundary`.
    """
    arguments = {
        "points": points, "side": side, "boundary": boundary, "seed": seed,
        "boundary_weight": boundary_weight, "version": _VERSION,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    count = side**2
    if points == "grid":
        middles = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        inside = torch.cartesian_prod(middles, middles)
        along = torch.arange(boundary, dtype=torch.float64) * 4 / boundary
    else:
        inside = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        along = 4 * torch.rand(boundary, generator=generator, dtype=torch.float64)
    test = torch.rand(_TEST_POINTS, 2, generator=generator, dtype=torch.float64).to(dtype)
    inside, around = inside.to(dtype), around_square(along).to(dtype)
    source = 2 * math.pi**2 * _sines(inside)

    def equation(jet: Jet) -> Tensor:
        return jet.second[0, :, 0] + jet.target

    def condition(jet: Jet) -> Tensor:
        return jet.value[:, 0] - jet.target

    zeros = torch.zeros(boundary, dtype=dtype)
    eye, ones = torch.eye(2, dtype=dtype), torch.ones(1, 2, dtype=dtype)
    blocks = (
        Block("interior", inside[:, None], equation, source, 1 / count, eye, ones),
        Block("boundary", around[:, None], condition, zeros, boundary_weight / boundary),
    )
    return EquationProblem(
        name="poisson_2d",
        equation=Equation(blocks, test, _sines(test)),
        source="computed",
        checksum=checksum({"name": "poisson_2d", **arguments}),
    )


@register("dataset", "poisson_5d", offers=(GENERATED, RESIDUALS))
def poisson_5d(
    *,
    inside: PositiveInt = 3000,
    boundary: PositiveInt = 500,
    boundary_weight: Weight = 1.0,
    seed: NonNegativeInt = 0,
    dtype: torch.dtype = torch.float64,
) -> EquationProblem:
    """Minus the Laplacian of u = pi^2 sum cos(pi x_i) in the unit cube of five dimensions.

    u = sum cos(pi x_i) solves it, and is given on the boundary.

    Parameters
    ----------
    inside, boundary : int
        Random points in the cube and on its faces.
    boundary_weight : float
        Weight of the boundary's mean square; the equation's weight is 1.
    seed : int
        Seed of all points.
    dtype : torch.dtype
        Precision of all tensors.

    Returns
    -------
    EquationProblem
        With blocks `interior` and `boundary`.
    """
    arguments = {
        "inside": inside, "boundary": boundary, "seed": seed, "boundary_weight": boundary_weight,
        "version": _VERSION,
    }  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(inside, 5, generator=generator, dtype=torch.float64)
    faces = torch.rand(boundary, 5, generator=generator, dtype=torch.float64)
    axes = torch.randint(0, 5, (boundary,), generator=generator)
    sides = torch.randint(0, 2, (boundary,), generator=generator, dtype=torch.float64)
    faces[torch.arange(boundary), axes] = sides
    test = torch.rand(_TEST_POINTS, 5, generator=generator, dtype=torch.float64).to(dtype)
    points, faces = points.to(dtype), faces.to(dtype)
    eye, ones = torch.eye(5, dtype=dtype), torch.ones(1, 5, dtype=dtype)
    blocks = (
        Block(
            "interior", points[:, None], lambda jet: jet.second[0, :, 0] + jet.target,
            math.pi**2 * _cosines(points), 1 / inside, eye, ones,
        ),
        Block(
            "boundary", faces[:, None], lambda jet: jet.value[:, 0] - jet.target,
            _cosines(faces), boundary_weight / boundary,
        ),
    )  # fmt: skip
    return EquationProblem(
        name="poisson_5d",
        equation=Equation(blocks, test, _cosines(test)),
        source="computed",
        checksum=checksum({"name": "poisson_5d", **arguments}),
    )


def around_square(t: Tensor) -> Tensor:
    """Return the points of the unit square's boundary at distances t from the origin, in 0 .. 4."""
    side, s = t.floor() % 4, t - t.floor()
    zero, one = torch.zeros_like(s), torch.ones_like(s)
    x = torch.where(side == 0, s, torch.where(side == 1, one, torch.where(side == 2, 1 - s, zero)))
    y = torch.where(side == 0, zero, torch.where(side == 1, s, torch.where(side == 2, one, 1 - s)))
    return torch.stack((x, y), dim=1)


def _sines(x: Tensor) -> Tensor:
    return torch.sin(math.pi * x).prod(-1)


def _cosines(x: Tensor) -> Tensor:
    return torch.cos(math.pi * x).sum(-1)
