"""The Hessian of a linear model with its data replaced by a random sketch."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import ALL_SAMPLES, SQUARE_ROOT
from newton_krylov.curvature.base import Curvature
from newton_krylov.curvature.sampling import sample_size
from newton_krylov.curvature.square_root import single_output
from newton_krylov.objectives.base import Point
from newton_krylov.objectives.features import Features
from newton_krylov.operators import LinearOperator, add_diagonal
from newton_krylov.registry import register

# Columns of a Gaussian sketch drawn at a time, which bounds its memory.
_BLOCK = 64


@register("hessian_approx", "sketched", needs=(SQUARE_ROOT, ALL_SAMPLES))
class SketchedHessian(Curvature):
    """(S B)'(S B) + (l2 + alpha) I: the Hessian B'B + l2 I, B = D^(1/2) X, sketched by S.

    The Newton sketch of Pilanci and Wainwright ("Newton sketch: a near linear-time optimization
    algorithm with linear-quadratic convergence", 2017). S has `size` rows and E S'S = I, so the
    sketched matrix is unbiased, with a relative error of about sqrt(d / size); the l2 term is
    never sketched.

    `gaussian` entries are independent, N(0, 1 / size): the best understood sketch, as expensive as
    `size` products with the transposed data. `count_sketch` (Clarkson and Woodruff, "Low rank
    approximation and regression in input sparsity time", 2013) adds every row of B to one random
    row of the sketch with a random sign, in one reading of the data, and needs more rows for the
    same error. A loss that is not convex enters by its Gauss-Newton matrix.

    Parameters
    ----------
    kind : {"gaussian", "count_sketch"}
        How S is drawn.
    size : int or None
        Rows of the sketch; None takes `fraction` of the samples.
    fraction : float
        Rows of the sketch / n, in (0, 1].
    alpha : float
        Added to the diagonal, in the unit of the Hessian; >= 0.
    """

    def __init__(
        self,
        kind: Literal["gaussian", "count_sketch"] = "count_sketch",
        size: PositiveInt | None = None,
        fraction: Annotated[float, Field(gt=0, le=1)] = 0.05,
        alpha: NonNegativeFloat = 0.01,
    ) -> None:
        self.kind = kind
        self.size = size
        self.fraction = fraction
        self.alpha = alpha

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the sketched Hessian at a point, with a fresh sketch."""
        objective, weights = single_output(point, "sketched")
        size = sample_size(self.size, self.fraction, objective.n_samples)
        gaussian = self.kind == "gaussian"
        objective.counts.add(passes=0.5 * objective.share * (size if gaussian else 1))
        sketch = _gaussian if gaussian else _count_sketch
        SB = sketch(objective.features, weights.sqrt(), size, generator)
        return GramOperator(SB, objective.ridge + self.alpha)


class GramOperator(LinearOperator):
    """B'B + diag(shift) with a dense B.

    Parameters
    ----------
    B : Tensor, shape (m, n)
        Any matrix.
    shift : float or Tensor, shape (n,)
        Added to the diagonal.
    """

    def __init__(self, B: Tensor, shift: float | Tensor) -> None:
        super().__init__(B.shape[1], B.dtype, B.device)
        self._B = B
        self.shift = shift

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return add_diagonal(self._B.T @ (self._B @ v), v, self.shift)

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (n, k)."""
        return self.matvec(V)

    def dense(self) -> Tensor:
        """Form the matrix, shape (n, n)."""
        matrix = self._B.T @ self._B
        matrix.diagonal().add_(self.shift)
        return matrix

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (n,)."""
        return self._B.square().sum(0).add_(self.shift)


def _gaussian(X: Features, root: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return S diag(root) X, shape (size, d), with S Gaussian."""
    parts = []
    for start in range(0, size, _BLOCK):
        S = torch.randn(
            len(X), min(_BLOCK, size - start), dtype=root.dtype, generator=generator
        ).to(root.device)
        parts.append(X.adjoint(S.mul_(root[:, None])).T)
    return torch.cat(parts).mul_(1 / math.sqrt(size))


def _count_sketch(X: Features, root: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return S diag(root) X, shape (size, d), with one signed 1 in every column of S."""
    n, d = X.X.shape
    bucket = torch.randint(size, (n,), generator=generator).to(root.device)
    sign = torch.randint(2, (n,), generator=generator).to(root.device) * 2 - 1
    factor = root * sign
    sketch = torch.zeros(size, d, dtype=root.dtype, device=root.device)
    if not X.sparse:
        return sketch.index_add_(0, bucket, X.X * factor[:, None])
    row = torch.repeat_interleave(torch.diff(X.X.crow_indices()).long())
    place = bucket[row] * d + X.X.col_indices()
    sketch.view(-1).index_add_(0, place, X.X.values() * factor[row])
    return sketch
