"""Poisson's and Helmholtz's equations, with known solutions."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import GENERATED, RESIDUALS
from newton_krylov.data.equation import (
    Equation,
    EquationProblem,
    Function,
    Jet,
    Posed,
    Sampling,
    Trial,
    sampling_is_sound,
)
from newton_krylov.data.prepare import checksum
from newton_krylov.registry import register

Layout = Literal["grid", "random"]
Side = Annotated[int, Field(ge=2)]
Weight = Annotated[float, Field(gt=0)]

_TEST_POINTS = 10_000
_VERSION = 2  # part of the checksum: raise it when the same arguments give other points


@register("dataset", "poisson_2d", offers=(GENERATED, RESIDUALS))
def poisson_2d(
    *,
    points: Layout = "grid",
    side: Side = 30,
    boundary: PositiveInt = 120,
    boundary_weight: Weight = 1.0,
    resample: NonNegativeInt = 0,
    hard: bool = False,
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
    resample : int
        Steps of the method from one draw of random points to the next; 0 keeps the first.
    hard : bool
        Whether u = 0 holds on the boundary by construction.
    seed : int
        Seed of random points, and of the test points.
    dtype : torch.dtype
        Precision of all tensors.

    Returns
    -------
    EquationProblem
        With blocks `interior` and `boundary`.
    """

    def residual(jet: Jet) -> Tensor:
        return jet.second[0, :, 0] + jet.target

    square = _Square(0.0, 1.0, points, side, boundary, boundary_weight, resample, hard, seed, dtype)
    return square.problem("poisson_2d", residual, lambda x: 2 * math.pi**2 * _sines(x), _sines)


@register("dataset", "helmholtz_2d", offers=(GENERATED, RESIDUALS))
def helmholtz_2d(
    *,
    points: Layout = "grid",
    side: Side = 50,
    boundary: PositiveInt = 200,
    boundary_weight: Weight = 100.0,
    resample: NonNegativeInt = 0,
    hard: bool = False,
    wavenumber: float = 1.0,
    seed: NonNegativeInt = 0,
    dtype: torch.dtype = torch.float64,
) -> EquationProblem:
    """Laplacian of u plus k^2 u = q on -1 <= x, y <= 1, u = 0 around it.

    u = sin(pi x) sin(4 pi y) solves it (Wang, Teng and Perdikaris, 2021).

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
    resample : int
        Steps of the method from one draw of random points to the next; 0 keeps the first.
    hard : bool
        Whether u = 0 holds on the boundary by construction.
    wavenumber : float
        k.
    seed : int
        Seed of random points, and of the test points.
    dtype : torch.dtype
        Precision of all tensors.

    Returns
    -------
    EquationProblem
        With blocks `interior` and `boundary`.
    """

    def solution(x: Tensor) -> Tensor:
        return torch.sin(math.pi * x[..., 0]) * torch.sin(4 * math.pi * x[..., 1])

    def residual(jet: Jet) -> Tensor:
        return jet.second[0, :, 0] + wavenumber**2 * jet.value[:, 0] - jet.target

    square = _Square(
        -1.0, 2.0, points, side, boundary, boundary_weight, resample, hard, seed, dtype
    )
    factor = wavenumber**2 - 17 * math.pi**2
    return square.problem("helmholtz_2d", residual, lambda x: factor * solution(x), solution,
                          wavenumber=wavenumber)  # fmt: skip


@dataclass(frozen=True)
class _Square:
    """A square with zero values around it, and how its points are chosen."""

    corner: float
    length: float
    points: Layout
    side: int
    boundary: int
    boundary_weight: float
    resample: int
    hard: bool
    seed: int
    dtype: torch.dtype

    def problem(
        self, name: str, residual: Callable[[Jet], Tensor], source: Function, solution: Function,
        **arguments: float,
    ) -> EquationProblem:  # fmt: skip
        """Return the data set of an equation in it."""
        grid = self.points == "grid"
        sampling_is_sound(name, grid=grid, resample=self.resample)
        eye, ones = torch.eye(2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
        posed = [Posed("interior", self._inside, residual, 1.0, source, eye, ones)]
        if not self.hard:
            posed.append(Posed("boundary", self._around, _given, self.boundary_weight))
        sampling = Sampling(tuple(posed), self.seed, self.dtype, grid, self.resample)
        given = {k: v for k, v in asdict(self).items() if k != "dtype"}
        return EquationProblem(
            name=name,
            equation=Equation.sampled(
                sampling, self._placed(_uniform(_TEST_POINTS, 2, self.seed)), solution,
                Trial(_nothing, self._bubble) if self.hard else None,
            ),
            source="computed",
            checksum=checksum({"name": name, **given, **arguments, "version": _VERSION}),
        )  # fmt: skip

    def _placed(self, unit: Tensor) -> Tensor:
        return self.corner + self.length * unit

    def _inside(self, generator: torch.Generator | None, window: float) -> Tensor:
        if generator is not None:
            shape = self.side**2, 1, 2
            return self._placed(torch.rand(shape, generator=generator, dtype=torch.float64))
        middles = (torch.arange(self.side, dtype=torch.float64) + 0.5) / self.side
        return self._placed(torch.cartesian_prod(middles, middles)[:, None])

    def _around(self, generator: torch.Generator | None, window: float) -> Tensor:
        if generator is None:
            along = torch.arange(self.boundary, dtype=torch.float64) * 4 / self.boundary
        else:
            along = 4 * torch.rand(self.boundary, generator=generator, dtype=torch.float64)
        return self._placed(around_square(along)[:, None])

    def _bubble(self, x: Tensor) -> Tensor:
        """0 on the boundary, 1 in the middle."""
        s = (x - self.corner) / self.length
        return (4 * s * (1 - s)).prod(-1)


@register("dataset", "poisson_5d", offers=(GENERATED, RESIDUALS))
def poisson_5d(
    *,
    inside: PositiveInt = 3000,
    boundary: PositiveInt = 500,
    boundary_weight: Weight = 1.0,
    resample: NonNegativeInt = 0,
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
    resample : int
        Steps of the method from one draw of the points to the next; 0 keeps the first.
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
        "resample": resample, "version": _VERSION,
    }  # fmt: skip

    def cube(generator: torch.Generator | None, window: float) -> Tensor:
        return torch.rand(inside, 1, 5, generator=generator, dtype=torch.float64)

    def faces(generator: torch.Generator | None, window: float) -> Tensor:
        points = torch.rand(boundary, 1, 5, generator=generator, dtype=torch.float64)
        axes = torch.randint(0, 5, (boundary,), generator=generator)
        sides = torch.randint(0, 2, (boundary,), generator=generator, dtype=torch.float64)
        points[torch.arange(boundary), 0, axes] = sides
        return points

    eye, ones = torch.eye(5, dtype=torch.float64), torch.ones(1, 5, dtype=torch.float64)
    posed = (
        Posed("interior", cube, lambda jet: jet.second[0, :, 0] + jet.target, 1.0,
              lambda x: math.pi**2 * _cosines(x), eye, ones),
        Posed("boundary", faces, _given, boundary_weight, _cosines),
    )  # fmt: skip
    sampling = Sampling(posed, seed, dtype, every=resample)
    return EquationProblem(
        name="poisson_5d",
        equation=Equation.sampled(sampling, _uniform(_TEST_POINTS, 5, seed), _cosines),
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


def _given(jet: Jet) -> Tensor:
    return jet.value[:, 0] - jet.target


def _nothing(x: Tensor) -> Tensor:
    return torch.zeros_like(x[..., 0])


def _uniform(n: int, d: int, seed: int) -> Tensor:
    """Return test points of the unit cube, none of which a draw has."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=generator, dtype=torch.float64)
