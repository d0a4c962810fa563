"""Equations in one space dimension and time, u(x, t): what they have in common."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import GENERATED, RESIDUALS
from newton_krylov.data.dataset import Dataset
from newton_krylov.data.equation import (
    Equation,
    EquationProblem,
    Function,
    Jet,
    Place,
    Posed,
    Sampling,
    Trial,
    sampling_is_sound,
)
from newton_krylov.data.options import with_options
from newton_krylov.data.prepare import checksum
from newton_krylov.errors import ConfigError
from newton_krylov.registry import register

Weight = Annotated[float, Field(gt=0)]
Part = Annotated[float, Field(gt=0, le=1)]
Condition = Literal["start", "rest", "ends", "periodic", "periodic_slope", "measurements"]

_TEST = (257, 101)
"""The grid in x and t on which the error is measured, and which no residual is taken at."""
_VERSION = 3  # part of the checksum: raise it when the same arguments give other points
_CAUSAL = 1e-3
"""The window grows while the loss is below this part of that of u = 0."""


@dataclass(frozen=True)
class EvolutionOptions:
    """What all of these equations let a user choose.

    Attributes
    ----------
    points : int
        Points of the equation.
    layout : {"random", "grid"}
        Whether they are random, or the middles of about as many equal rectangles.
    start, boundary : int
        Points at t = 0, and at each end: evenly, or drawn again with the others, see `resample`.
    condition_weight : float
        Weight of the mean squares of the conditions; the equation's weight is 1.
    resample : int
        Steps of the method from one draw of the random points to the next; 0 keeps the first.
    window : float
        The part of the time in which the equation's points lie at first; it grows by 7 % with a
        draw at whose points the loss is below a thousandth of that of u = 0. 1 begins with all.
    hard : bool
        Whether conditions hold by construction, u = lift + factor times the network, where they
        can; a periodic one stays in the loss.
    seed : int
        Seed of the random points.
    """

    points: PositiveInt = 4000
    layout: Literal["random", "grid"] = "random"
    start: PositiveInt = 257
    boundary: PositiveInt = 101
    condition_weight: Weight = 100.0
    resample: NonNegativeInt = 0
    window: Part = 1.0
    hard: bool = False
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class Evolution:
    """An equation on left <= x <= right, 0 <= t <= 1.

    Attributes
    ----------
    solution : callable
        The solution, at the test grid at least.
    residual : callable
        Jet to residuals.
    directions, second : lists
        As in `Block`: the derivatives that the residual needs.
    conditions : tuple of str
        Their names.
    left, right : float
        The ends.
    start : callable or None
        u at t = 0; the solution where it is None.
    trial : Trial or None
        The function that `hard=true` takes; None where there is none.
    held : tuple of str
        The conditions that hold then.
    coefficients : mapping
        As in `Equation`.
    measured : int
        Points of the condition `measurements`.
    arguments : mapping
        The numbers that the equation was made of, for the checksum.
    """

    solution: Function
    residual: Callable[[Jet], Tensor]
    directions: list[list[float]]
    conditions: tuple[Condition, ...]
    second: list[list[float]] | None = None
    left: float = 0.0
    right: float = 1.0
    start: Function | None = None
    trial: Trial | None = None
    held: tuple[Condition, ...] = ()
    coefficients: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    measured: int = 0
    arguments: Mapping[str, float] = field(default_factory=dict)


def evolution(
    name: str, **defaults: Any
) -> Callable[[Callable[..., Evolution]], Callable[..., Dataset]]:
    """Register a function that describes an equation as `dataset=name`, with the common options.

    Parameters
    ----------
    name : str
        The name by which configurations choose it.
    **defaults
        Defaults of common options that differ for this equation.

    Returns
    -------
    callable
        A decorator; what it returns makes the data set.
    """

    def decorate(describe: Callable[..., Evolution]) -> Callable[..., Dataset]:
        def make(what: Evolution, options: EvolutionOptions, dtype: torch.dtype) -> Dataset:
            return _problem(name, what, options, dtype)

        load = with_options(describe, EvolutionOptions, defaults, make)
        return register("dataset", name, offers=(GENERATED, RESIDUALS))(load)

    return decorate


def _problem(
    name: str, what: Evolution, options: EvolutionOptions, dtype: torch.dtype
) -> EquationProblem:
    grid = options.layout == "grid"
    sampling_is_sound(name, grid=grid, resample=options.resample, window=options.window)
    if options.hard and what.trial is None:
        raise ConfigError(f"dataset={name} has no conditions that can hold by construction.")
    strip = _Strip(what, options)
    held = what.held if options.hard else ()
    conditions = (strip.condition(c) for c in what.conditions if c not in held)
    drawn = options.resample > 0
    posed = [strip.equation(), *(replace(condition, drawn=drawn) for condition in conditions)]
    size = strip.initial(strip.at_start()).square().mean()
    sampling = Sampling(
        tuple(posed), options.seed, dtype, grid, options.resample, options.window,
        _CAUSAL * options.condition_weight * float(size) / 2,
    )  # fmt: skip
    x, t = (torch.linspace(a, b, n, dtype=torch.float64) for a, b, n in
            ((what.left, what.right, _TEST[0]), (0.0, 1.0, _TEST[1])))  # fmt: skip
    trial = what.trial if options.hard else None
    return EquationProblem(
        name=name,
        equation=Equation.sampled(
            sampling, torch.cartesian_prod(x, t), what.solution, trial, what.coefficients
        ),
        source="computed",
        checksum=checksum(
            {"name": name, **asdict(options), "arguments": what.arguments, "version": _VERSION}
        ),
    )


class _Strip:
    """The blocks of an equation, without their points."""

    def __init__(self, what: Evolution, options: EvolutionOptions) -> None:
        self.what, self.options = what, options
        self.initial = what.start or what.solution
        self._low = torch.tensor([what.left, 0.0], dtype=torch.float64)
        self._size = torch.tensor([what.right - what.left, 1.0], dtype=torch.float64)

    def equation(self) -> Posed:
        """Pose the equation inside."""
        what = self.what
        second = None if what.second is None else _matrix(what.second)
        return Posed("equation", self._inside(self.options.points), what.residual, 1.0,
                     directions=_matrix(what.directions), second=second)  # fmt: skip

    def condition(self, name: Condition) -> Posed:
        """Pose one of the conditions."""
        weight = self.options.condition_weight
        along_x, along_t = _matrix([[1.0, 0.0]]), _matrix([[0.0, 1.0]])
        if name == "start":
            return Posed(name, self._start, _given, weight, self.initial)
        if name == "rest":
            return Posed(name, self._start, _still, weight, directions=along_t)
        if name == "ends":
            return Posed(name, self._ends, _given, 2 * weight, self.what.solution)
        if name == "measurements":
            inside = self._inside(self.what.measured)
            known = inside(torch.Generator().manual_seed(self.options.seed), 1.0)
            return Posed(name, self._fixed(known), _given, weight, self.what.solution)
        if name == "periodic":
            return Posed(name, self._pairs, _equal, weight)
        return Posed(name, self._pairs, _equal_slopes, weight, directions=along_x)

    def at_start(self) -> Tensor:
        """Return points at t = 0, evenly."""
        return self._start(None, 1.0)[:, 0]

    def _start(self, generator: torch.Generator | None, window: float) -> Tensor:
        """Return points at t = 0."""
        x = self.what.left + (self.what.right - self.what.left) * self._along(
            self.options.start, generator
        )
        return torch.stack((x, torch.zeros_like(x)), dim=1)[:, None]

    def _ends(self, generator: torch.Generator | None, window: float) -> Tensor:
        """Return points at both ends, the left one's first."""
        return self._pairs(generator, window).transpose(0, 1).reshape(-1, 1, 2)

    def _pairs(self, generator: torch.Generator | None, window: float) -> Tensor:
        """Return pairs of points at the same time, one at each end."""
        t = self._along(self.options.boundary, generator)
        edges = (torch.full_like(t, end) for end in (self.what.left, self.what.right))
        return torch.stack([torch.stack((x, t), dim=1) for x in edges], dim=1)

    @staticmethod
    def _along(n: int, generator: torch.Generator | None) -> Tensor:
        """Return n numbers from 0 to 1: evenly, or one at random in each of as many equal parts.

        Points that stay where they are can be met without the condition being met between them.
        """
        if generator is None:
            return torch.linspace(0, 1, n, dtype=torch.float64)
        drawn = torch.rand(n, generator=generator, dtype=torch.float64)
        return (torch.arange(n, dtype=torch.float64) + drawn) / n

    def _inside(self, n: int) -> Place:
        """Return points in the window; with a grid, fresh ones are random and as many."""
        middles = _middles(n)
        count = n if self.options.layout == "random" else len(middles)

        def place(generator: torch.Generator | None, window: float) -> Tensor:
            size = self._size * torch.tensor([1.0, window], dtype=torch.float64)
            if generator is None:
                return middles * size + self._low
            drawn = torch.rand(count, 1, 2, generator=generator, dtype=torch.float64)
            return drawn * size + self._low

        return place

    @staticmethod
    def _fixed(points: Tensor) -> Place:
        return lambda generator, window: points


def _middles(n: int) -> Tensor:
    """Return the middles of about n equal squares of the unit square, shape (m, 1, 2), m <= n."""
    side = max(1, int(n**0.5))
    one = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    other_side = n // side
    other = (torch.arange(other_side, dtype=torch.float64) + 0.5) / other_side
    return torch.cartesian_prod(one, other)[:, None]


def _matrix(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _given(jet: Jet) -> Tensor:
    return jet.value[:, 0] - jet.target


def _still(jet: Jet) -> Tensor:
    return jet.first[0, :, 0] - jet.target


def _equal(jet: Jet) -> Tensor:
    return jet.value[:, 0] - jet.value[:, 1] - jet.target


def _equal_slopes(jet: Jet) -> Tensor:
    return jet.first[0, :, 0] - jet.first[0, :, 1] - jet.target
