"""What a network is to satisfy: residuals of its values and derivatives at points."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from newton_krylov.data.dataset import Dataset


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
    """

    x: Tensor
    value: Tensor
    first: Tensor
    second: Tensor
    target: Tensor


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

    def to(self, device: torch.device) -> "Block":
        """Return the block with its tensors there."""
        return replace(
            self,
            points=self.points.to(device),
            target=self.target.to(device),
            directions=None if self.directions is None else self.directions.to(device),
            second=None if self.second is None else self.second.to(device),
        )


@dataclass(frozen=True)
class Equation:
    """A differential equation with its conditions, and its solution where that is known.

    Attributes
    ----------
    blocks : tuple of Block
        The equation at collocation points, boundary and initial conditions.
    test : Tensor, shape (n, d)
        Points that no block has.
    solution : Tensor, shape (n,)
        The solution at the test points.
    """

    blocks: tuple[Block, ...]
    test: Tensor
    solution: Tensor

    def to(self, device: torch.device) -> "Equation":
        """Return the equation with its tensors there."""
        blocks = tuple(block.to(device) for block in self.blocks)
        return Equation(blocks, self.test.to(device), self.solution.to(device))


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


def derivatives(u: Callable[[Tensor], Tensor], block: Block) -> Jet:
    """Evaluate the jet of any scalar function by nested forward mode.

    Parameters
    ----------
    u : callable
        Points, shape (n, d), to values, shape (n,), each of its own point alone.
    block : Block
        Says where, and which derivatives.

    Returns
    -------
    Jet
        Differentiable by what u depends on.
    """
    n, g, d = block.points.shape
    x = block.points.reshape(n * g, d)
    k = 0 if block.directions is None else len(block.directions)
    first, second = x.new_zeros(0, n, g), x.new_zeros(0, n, g)
    if not k:
        return Jet(block.points, u(x).reshape(n, g), first, second, block.target)
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
    return Jet(block.points, value.reshape(n, g), first, second, block.target)
