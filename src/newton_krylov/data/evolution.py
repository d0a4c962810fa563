"""Equations in one space dimension and time, with known solutions: u(x, t)."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import GENERATED, RESIDUALS
from newton_krylov.data.equation import Block, Equation, EquationProblem, Jet
from newton_krylov.data.prepare import checksum
from newton_krylov.registry import register

Weight = Annotated[float, Field(gt=0)]
Solution = Callable[[Tensor], Tensor]

_TEST = (257, 101)  # the grid in x and t
_VERSION = 1  # part of the checksum: raise it when the same arguments give other points


class _Strip:
    """Points of 0 <= x <= length, 0 <= t <= 1, and the blocks on its edges."""

    def __init__(
        self, name: str, solution: Solution, length: float, options: dict[str, Any]
    ) -> None:
        self.name, self.solution, self.length, self._options = name, solution, length, options
        self._dtype: torch.dtype = options.pop("dtype")
        self._generator = torch.Generator().manual_seed(options["seed"])
        self.inside = self._random(options["points"])
        self._weight = options["condition_weight"]

    def _random(self, n: int) -> Tensor:
        size = torch.tensor([self.length, 1.0], dtype=torch.float64)
        drawn = torch.rand(n, 2, generator=self._generator, dtype=torch.float64)
        return (drawn * size).to(self._dtype)

    def tensor(self, rows: list[list[float]]) -> Tensor:
        """Return directions or weights of second derivatives in the dtype."""
        return torch.tensor(rows, dtype=self._dtype)

    def equation(
        self, residual: Callable[[Jet], Tensor], directions: Tensor, second: Tensor | None = None
    ) -> Block:
        """Return the equation's block; its weight makes a mean square of it."""
        n = len(self.inside)
        zeros = self.inside.new_zeros(n)
        points = self.inside[:, None]
        return Block("equation", points, residual, zeros, 1 / n, directions, second)

    def start(self) -> Block:
        """Return the block of u at t = 0."""
        x = torch.linspace(0, self.length, self._options["start"], dtype=torch.float64)
        points = torch.stack((x, torch.zeros_like(x)), dim=1).to(self._dtype)
        return Block(
            "start", points[:, None], lambda jet: jet.value[:, 0] - jet.target,
            self.solution(points), self._weight / len(points),
        )  # fmt: skip

    def rest(self) -> Block:
        """Return the block of u_t = 0 at t = 0."""
        at = self.start()
        zeros = torch.zeros_like(at.target)
        along = self.tensor([[0.0, 1.0]])
        return Block(
            "rest", at.points, lambda jet: jet.first[0, :, 0] - jet.target, zeros, at.weight, along
        )

    def _edges(self) -> tuple[Tensor, Tensor]:
        t = torch.linspace(0, 1, self._options["boundary"], dtype=torch.float64).to(self._dtype)
        left = torch.stack((torch.zeros_like(t), t), dim=1)
        return left, torch.stack((torch.full_like(t, self.length), t), dim=1)

    def ends(self) -> Block:
        """Return the block of u at both ends, which is given."""
        points = torch.cat(self._edges())
        return Block(
            "ends", points[:, None], lambda jet: jet.value[:, 0] - jet.target,
            self.solution(points), 2 * self._weight / len(points),
        )  # fmt: skip

    def periodic(self) -> Block:
        """Return the block of u(0, t) = u(length, t)."""
        points = torch.stack(self._edges(), dim=1)
        return Block(
            "periodic", points, lambda jet: jet.value[:, 0] - jet.value[:, 1] - jet.target,
            points.new_zeros(len(points)), self._weight / len(points),
        )  # fmt: skip

    def problem(self, *blocks: Block) -> EquationProblem:
        """Return the data set of these blocks."""
        x, t = (torch.linspace(0, end, n) for end, n in zip((self.length, 1), _TEST, strict=True))
        test = torch.cartesian_prod(x.double(), t.double()).to(self._dtype)
        return EquationProblem(
            name=self.name,
            equation=Equation(blocks, test, self.solution(test)),
            source="computed",
            checksum=checksum({"name": self.name, **self._options, "version": _VERSION}),
        )


@register("dataset", "heat_1d", offers=(GENERATED, RESIDUALS))
def heat_1d(
    *,
    points: PositiveInt = 900,
    start: PositiveInt = 60,
    boundary: PositiveInt = 30,
    condition_weight: Weight = 1.0,
    seed: NonNegativeInt = 0,
    dtype: torch.dtype = torch.float64,
) -> EquationProblem:
    """u_t = u_xx / 4 on the unit interval, u = sin(pi x) at first and 0 at the ends.

    u = exp(-pi^2 t / 4) sin(pi x) solves it.

    Parameters
    ----------
    points : int
        Random points of the equation.
    start, boundary : int
        Points at t = 0, and at each end.
    condition_weight : float
        Weight of the mean squares of the conditions; the equation's weight is 1.
    seed : int
        Seed of the random points.
    dtype : torch.dtype
        Precision of all tensors.

    Returns
    -------
    EquationProblem
        With blocks `equation`, `start` and `ends`.
    """

    def solution(z: Tensor) -> Tensor:
        return torch.exp(-(math.pi**2) / 4 * z[..., 1]) * torch.sin(math.pi * z[..., 0])

    strip = _Strip("heat_1d", solution, 1.0, _options(locals()))
    equation = strip.equation(
        lambda jet: jet.first[1, :, 0] - jet.second[0, :, 0] / 4,
        strip.tensor([[1.0, 0.0], [0.0, 1.0]]),
        strip.tensor([[1.0, 0.0]]),
    )
    return strip.problem(equation, strip.start(), strip.ends())


@register("dataset", "convection", offers=(GENERATED, RESIDUALS))
def convection(
    *,
    points: PositiveInt = 4000,
    start: PositiveInt = 257,
    boundary: PositiveInt = 101,
    speed: float = 40.0,
    condition_weight: Weight = 100.0,
    seed: NonNegativeInt = 0,
    dtype: torch.dtype = torch.float64,
) -> EquationProblem:
    """u_t + speed u_x = 0 on 0 <= x <= 2 pi, periodic, u = sin(x) at first.

    u = sin(x - speed t) solves it.

    Parameters
    ----------
    points : int
        Random points of the equation.
    start, boundary : int
        Points at t = 0, and pairs of points at both ends.
    speed : float
        Also called beta.
    condition_weight : float
        Weight of the mean squares of the conditions; the equation's weight is 1.
    seed : int
        Seed of the random points.
    dtype : torch.dtype
        Precision of all tensors.

    Returns
    -------
    EquationProblem
        With blocks `equation`, `start` and `periodic`.
    """

    def solution(z: Tensor) -> Tensor:
        return torch.sin(z[..., 0] - speed * z[..., 1])

    strip = _Strip("convection", solution, 2 * math.pi, _options(locals()))
    equation = strip.equation(lambda jet: jet.first[0, :, 0], strip.tensor([[speed, 1.0]]))
    return strip.problem(equation, strip.start(), strip.periodic())


@register("dataset", "reaction", offers=(GENERATED, RESIDUALS))
def reaction(
    *,
    points: PositiveInt = 4000,
    start: PositiveInt = 257,
    boundary: PositiveInt = 101,
    rate: float = 5.0,
    condition_weight: Weight = 100.0,
    seed: NonNegativeInt = 0,
    dtype: torch.dtype = torch.float64,
) -> EquationProblem:
    """u_t = rate u (1 - u) on 0 <= x <= 2 pi, periodic, a Gaussian around pi at first.

    With h the Gaussian of deviation pi / 4, u = h e^(rate t) / (h e^(rate t) + 1 - h) solves it.

    Parameters
    ----------
    points : int
        Random points of the equation.
    start, boundary : int
        Points at t = 0, and pairs of points at both ends.
    rate : float
        Also called rho.
    condition_weight : float
        Weight of the mean squares of the conditions; the equation's weight is 1.
    seed : int
        Seed of the random points.
    dtype : torch.dtype
        Precision of all tensors.

    Returns
    -------
    EquationProblem
        With blocks `equation`, `start` and `periodic`.
    """

    def solution(z: Tensor) -> Tensor:
        h = torch.exp(-((z[..., 0] - math.pi) ** 2) / (2 * (math.pi / 4) ** 2))
        grown = h * torch.exp(rate * z[..., 1])
        return grown / (grown + 1 - h)

    strip = _Strip("reaction", solution, 2 * math.pi, _options(locals()))

    def residual(jet: Jet) -> Tensor:
        u = jet.value[:, 0]
        return jet.first[0, :, 0] - rate * u * (1 - u)

    equation = strip.equation(residual, strip.tensor([[0.0, 1.0]]))
    return strip.problem(equation, strip.start(), strip.periodic())


@register("dataset", "wave", offers=(GENERATED, RESIDUALS))
def wave(
    *,
    points: PositiveInt = 4000,
    start: PositiveInt = 257,
    boundary: PositiveInt = 101,
    frequency: PositiveInt = 5,
    condition_weight: Weight = 1000.0,
    seed: NonNegativeInt = 0,
    dtype: torch.dtype = torch.float64,
) -> EquationProblem:
    """u_tt = 4 u_xx on the unit interval, 0 at the ends, at rest at first: two standing waves.

    u = sin(pi x) cos(2 pi t) + sin(f pi x) cos(2 f pi t) / 2 solves it, f the frequency.

    Parameters
    ----------
    points : int
        Random points of the equation.
    start, boundary : int
        Points at t = 0, and at each end.
    frequency : int
        Also called beta.
    condition_weight : float
        Weight of the mean squares of the conditions; the equation's weight is 1.
    seed : int
        Seed of the random points.
    dtype : torch.dtype
        Precision of all tensors.

    Returns
    -------
    EquationProblem
        With blocks `equation`, `start`, `rest` and `ends`.
    """

    def solution(z: Tensor) -> Tensor:
        x, t = math.pi * z[..., 0], 2 * math.pi * z[..., 1]
        f = frequency
        return torch.sin(x) * torch.cos(t) + torch.sin(f * x) * torch.cos(f * t) / 2

    strip = _Strip("wave", solution, 1.0, _options(locals()))
    equation = strip.equation(
        lambda jet: jet.second[0, :, 0],
        strip.tensor([[1.0, 0.0], [0.0, 1.0]]),
        strip.tensor([[-4.0, 1.0]]),
    )
    return strip.problem(equation, strip.start(), strip.rest(), strip.ends())


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """Return a function's own options among its local names."""
    return {name: value for name, value in given.items() if name != "solution"}
