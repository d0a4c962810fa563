"""What a network is to satisfy: residuals of its values and derivatives at points."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from newton_krylov.data.dataset import Dataset
from newton_krylov.errors import ConfigError


@dataclass(frozen=True)
class Jet:
    """A scalar function u and the derivatives that a block declares, at its points.

    Attributes
    ----------
    x : Tensor, shape (n, g, d)
        The points: g of them enter one residual.
    value : Tensor, shape (n, g)
        u.
    first : Tensor, shape (k, n, g)
        The derivatives of u along the block's directions.
    second : Tensor, shape (q, n, g)
        Sums of second derivatives along them, as the block weighs them.
    target : Tensor, shape (n,)
        The block's target values.
    coefficients : Tensor, shape (c,)
        The equation's coefficients that are to be found; usually none.
    """

    x: Tensor
    value: Tensor
    first: Tensor
    second: Tensor
    target: Tensor
    coefficients: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class Block:
    """Residuals of one kind, one at each of n places.

    Attributes
    ----------
    name : str
        Such as "interior".
    points : Tensor, shape (n, g, d)
        Where u is evaluated; residual i depends on the g points of row i alone.
    residual : callable
        Jet to residuals, shape (n,).
    target : Tensor, shape (n,)
        What the residuals depend on beside u: a source, a boundary value; zeros where nothing.
    weight : float
        Factor of the sum of the residuals' squares.
    directions : Tensor or None, shape (k, d)
        Along which first derivatives are taken.
    second : Tensor or None, shape (q, k)
        Row i asks for the sum over j of second[i, j] d2 u / d directions[j]^2.
    """

    name: str
    points: Tensor
    residual: Callable[[Jet], Tensor]
    target: Tensor
    weight: float
    directions: Tensor | None = None
    second: Tensor | None = None

    def restricted(self, rows: Tensor, factor: float) -> "Block":
        """Return the block at some of its places, its weight times a factor."""
        return replace(
            self, points=self.points[rows], target=self.target[rows], weight=self.weight * factor
        )

    def to(self, device: torch.device) -> "Block":
        """Return the block with its tensors there."""
        return replace(
            self,
            points=self.points.to(device),
            target=self.target.to(device),
            directions=None if self.directions is None else self.directions.to(device),
            second=None if self.second is None else self.second.to(device),
        )


Function = Callable[[Tensor], Tensor]
"""A function of points, shape (..., d), each of its own point alone; shape (...)."""


@dataclass(frozen=True)
class Trial:
    """u = lift + factor N of a network N: conditions hold by construction where factor is 0.

    Attributes
    ----------
    lift, factor : callable
        Functions of the points, twice differentiable.
    """

    lift: Function
    factor: Function

    def __call__(self, x: Tensor, value: Tensor) -> Tensor:
        """Return u at points x, shape (n, d), from the network's values there, shape (n,)."""
        return self.lift(x) + self.factor(x) * value

    def posed(self, block: Block) -> Block:
        """Return the block of residuals of u as one of residuals of N, by the rules of products."""
        a, b = derivatives(self.lift, block), derivatives(self.factor, block)

        def residual(jet: Jet) -> Tensor:
            value = a.value + b.value * jet.value
            first = a.first + b.first * jet.value + b.value * jet.first
            second = jet.second
            if block.second is not None:
                mixed = torch.einsum("qk,kng->qng", block.second, b.first * jet.first)
                second = a.second + b.second * jet.value + 2 * mixed + b.value * jet.second
            return block.residual(replace(jet, value=value, first=first, second=second))

        return replace(block, residual=residual)


Place = Callable[[torch.Generator | None, float], Tensor]
"""A generator, or None for the points of a grid, and the part of the time in which points lie (1
for all) to points, shape (n, g, d), on the CPU."""


@dataclass(frozen=True)
class Posed:
    """A block whose points are still to be drawn.

    Attributes
    ----------
    name : str
        Name of the block.
    place : callable
        See `Place`; always as many points.
    residual : callable
        Jet to residuals, shape (n,).
    weight : float
        Of the residuals' mean square.
    target : callable or None
        The target at a residual's first point; 0 where it is None.
    directions, second : Tensor or None
        As in `Block`.
    drawn : bool
        Whether a draw's points are random; else they are the grid's, and only fresh ones are not.
    """

    name: str
    place: Place
    residual: Callable[[Jet], Tensor]
    weight: float
    target: Function | None = None
    directions: Tensor | None = None
    second: Tensor | None = None
    drawn: bool = True

    def block(self, generator: torch.Generator | None, window: float, dtype: torch.dtype) -> Block:
        """Draw the points, in double precision whatever the dtype."""
        points = self.place(generator, window)
        first = points[:, 0]
        target = first.new_zeros(len(first)) if self.target is None else self.target(first)
        return Block(
            self.name, points.to(dtype), self.residual, target.to(dtype), self.weight / len(points),
            None if self.directions is None else self.directions.to(dtype),
            None if self.second is None else self.second.to(dtype),
        )  # fmt: skip


@dataclass(frozen=True)
class Sampling:
    """How an equation's points are drawn, of a seed and the draw's number alone.

    Attributes
    ----------
    posed : tuple of Posed
        The blocks.
    seed : int
        Of all draws.
    dtype : torch.dtype
        Precision of the points.
    grid : bool
        Whether the points lie on a grid; then each draw is the same.
    every : int
        Steps of a method from one draw to the next; 0 draws once.
    window : float
        The part of the time, from the start, in which the first draw lies.
    tolerance : float
        The window grows with a draw at whose points the loss is below it.
    """

    posed: tuple[Posed, ...]
    seed: int
    dtype: torch.dtype
    grid: bool = False
    every: int = 0
    window: float = 1.0
    tolerance: float = 0.0

    def draw(self, number: int, window: float) -> tuple[Block, ...]:
        """Return the blocks of a draw, on the CPU; they differ from number to number."""
        generator = None if self.grid else self._generator(number)
        return tuple(
            block.block(generator if block.drawn else None, window, self.dtype)
            for block in self.posed
        )

    def fresh(self) -> tuple[Block, ...]:
        """Return the blocks of a draw that no number gives, all random, over all of the time."""
        generator = self._generator(_FRESH)
        return tuple(block.block(generator, 1.0, self.dtype) for block in self.posed)

    def _generator(self, number: int) -> torch.Generator:
        (state,) = np.random.SeedSequence((self.seed, number)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state >> np.uint64(1)))


_FRESH = 2**62


def sampling_is_sound(name: str, *, grid: bool, resample: int, window: float = 1.0) -> None:
    """Refuse choices of points that cannot be meant.

    Raises
    ------
    ConfigError
        If a grid is to be drawn again, or a window to grow without draws.
    """
    if grid and resample:
        raise ConfigError(
            f"dataset={name}: a grid's points are the same at each draw; take random points, "
            f"or dataset.resample=0."
        )
    if window < 1 and not resample:
        raise ConfigError(
            f"dataset.window={window:g} grows from draw to draw: set dataset.resample, say to 10."
        )


@dataclass(frozen=True)
class Equation:
    """A differential equation with its conditions, and its solution where that is known.

    Attributes
    ----------
    blocks : tuple of Block
        The equation at collocation points, boundary and initial conditions, as they are at first.
    test : Tensor, shape (n, d)
        Points that no block has.
    solution : Tensor, shape (n,)
        The solution at the test points.
    sampling : Sampling or None
        Draws the blocks' points again; None where they stay.
    trial : Trial or None
        How u is made of the network; None where it is the network's output.
    coefficients : mapping of str to (float, float)
        Coefficients of the equation that are to be found: first guesses, and true values.
    """

    blocks: tuple[Block, ...]
    test: Tensor
    solution: Tensor
    sampling: Sampling | None = None
    trial: Trial | None = None
    coefficients: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def sampled(
        cls,
        sampling: Sampling,
        test: Tensor,
        solution: Function,
        trial: Trial | None = None,
        coefficients: Mapping[str, tuple[float, float]] | None = None,
    ) -> "Equation":
        """Return the equation at the points of the first draw."""
        at, values = test.to(sampling.dtype), solution(test).to(sampling.dtype)
        equation = cls((), at, values, sampling, trial, coefficients or {})
        return replace(equation, blocks=equation.drawn(0, sampling.window))

    def drawn(self, number: int, window: float) -> tuple[Block, ...]:
        """Return the blocks of a draw."""
        assert self.sampling is not None
        return self._here(self.sampling.draw(number, window))

    @cached_property
    def fresh(self) -> tuple[Block, ...] | None:
        """Blocks at points that no draw has; None where points are not drawn."""
        return None if self.sampling is None else self._here(self.sampling.fresh())

    def _here(self, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        there = tuple(block.to(self.test.device) for block in blocks)
        return there if self.trial is None else tuple(self.trial.posed(block) for block in there)

    def everywhere(self, points: Tensor) -> Block | None:
        """Return the equation itself at other points, shape (n, d), if it is sampled."""
        if self.sampling is None:
            return None
        known = points.detach().cpu().double()[:, None]
        posed = replace(self.sampling.posed[0], place=lambda generator, window: known)
        (block,) = self._here((posed.block(None, 1.0, self.sampling.dtype),))
        return block

    def value(self, x: Tensor, network: Tensor) -> Tensor:
        """Return u at points, shape (n, d), from the network's values there, shape (n,)."""
        return network if self.trial is None else self.trial(x, network)

    def to(self, device: torch.device) -> "Equation":
        """Return the equation with its tensors there."""
        if self.test.device == device:
            return self
        moved = replace(self, test=self.test.to(device), solution=self.solution.to(device))
        if self.sampling is None:
            return replace(moved, blocks=tuple(block.to(device) for block in self.blocks))
        return replace(moved, blocks=moved.drawn(0, self.sampling.window))


@dataclass(frozen=True)
class EquationProblem(Dataset):
    """A differential equation as a data set.

    Attributes
    ----------
    equation : Equation
        The equation's blocks and its solution.
    """

    name: str
    equation: Equation
    source: str
    checksum: str

    kind = "a differential equation"

    def to(self, device: torch.device) -> Self:
        """Return the same on a device."""
        return replace(self, equation=self.equation.to(device))

    def double(self) -> Self:
        """Return the same: it is made in the run's own precision."""
        return self

    def facts(self) -> dict[str, Any]:
        """Return the number of residuals and of coordinates."""
        points = [block.points for block in self.equation.blocks]
        return {
            "n_samples": sum(len(x) for x in points),
            "n_features": points[0].shape[-1],
            "nnz": sum(x.numel() for x in points),
            "task": "equation",
        }


def derivatives(u: Function, block: Block, coefficients: Tensor | None = None) -> Jet:
    """Evaluate the jet of any scalar function by nested forward mode.

    Parameters
    ----------
    u : callable
        Points, shape (n, d), to values, shape (n,), each of its own point alone.
    block : Block
        Says where, and which derivatives.
    coefficients : Tensor, shape (c,), optional
        The equation's coefficients that are to be found.

    Returns
    -------
    Jet
        Differentiable by what u depends on.
    """
    n, g, d = block.points.shape
    x = block.points.reshape(n * g, d)
    k = 0 if block.directions is None else len(block.directions)
    first, second = x.new_zeros(0, n, g), x.new_zeros(0, n, g)
    found = x.new_zeros(0) if coefficients is None else coefficients
    if not k:
        return Jet(block.points, u(x).reshape(n, g), first, second, block.target, found)
    assert block.directions is not None

    def along(v: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        def both(z: Tensor) -> tuple[Tensor, Tensor]:
            value, slope, *_ = torch.func.jvp(u, (z,), (v.expand_as(z),))
            return value, slope

        return both

    slopes, bends, value = [], [], x.new_zeros(n)
    for v in block.directions:
        if block.second is None:
            value, slope = along(v)(x)
        else:
            (value, slope), (_, bend), *_ = torch.func.jvp(along(v), (x,), (v.expand_as(x),))
            bends.append(bend)
        slopes.append(slope)
    if block.second is not None:
        second = torch.einsum("qk,kn->qn", block.second, torch.stack(bends)).reshape(-1, n, g)
    first = torch.stack(slopes).reshape(k, n, g)
    return Jet(block.points, value.reshape(n, g), first, second, block.target, found)
