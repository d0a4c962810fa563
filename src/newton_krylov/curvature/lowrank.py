"""The Hessian's dominant eigenpairs, by Lanczos."""

from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.curvature.low_rank_operator import Negative, describe, low_rank
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register
from newton_krylov.spectral.lanczos import Eigenpairs, lanczos

Matrix = Literal["hessian", "gauss_newton"]
"""Whose eigenpairs."""

_SPARE = 8
"""Vectors that Lanczos may keep beside the wanted ones."""


@register("hessian_approx", "lowrank")
class LowRank(Curvature):
    """The k dominant eigenpairs of the Hessian, V diag(lambda) V', by Lanczos.

    Lanczos starts from the last step's vectors, which costs far fewer products than a random
    start as long as the Hessian changes slowly. O(k dim) memory; with damping tau, or `rest`, the
    system is solved by the formula of Sherman, Morrison and Woodbury.

    Negative eigenvalues:

    - `absolute`: the k eigenvalues that are largest in absolute value, their signs dropped, so that
      directions of negative curvature are followed as far as Newton's method would go with the
      curvature reversed (saddle-free Newton; Dauphin et al., "Identifying and attacking the saddle
      point problem in high-dimensional non-convex optimization", 2014).
    - `truncate`: the k algebraically largest, negative ones made zero: the nearest positive
      semidefinite matrix of rank k. A direction of negative curvature gets the damping alone.
    - `keep`: the k largest in absolute value as they are. With damping below |lambda| the matrix is
      indefinite, and the optimizer's rule for negative curvature applies.

    Parameters
    ----------
    rank : int
        Number of eigenpairs k.
    negative : {"absolute", "truncate", "keep"}
        What to do with negative eigenvalues.
    rest : float
        The curvature assumed in all other directions, in units of the smallest |lambda| of the k:
        0 none, which takes damping; 1 as much as is possible there.
    rtol : float
        Ritz residuals |H v - lambda v| asked for, relative to the largest |lambda|; the
        eigenvalues are more accurate than that.
    maxiter : int
        Limit of Hessian products a step; what was reached by then is used.
    matrix : {"hessian", "gauss_newton"}
        Whose eigenpairs. By one linear or convolutional layer's weights, in a network that is
        otherwise piecewise linear (ReLU, max-pooling, dropout) the two are the same matrix, and
        products with the second are cheaper.
    """

    def __init__(
        self,
        rank: PositiveInt = 5,
        negative: Negative = "absolute",
        rest: NonNegativeFloat = 0.0,
        rtol: PositiveFloat = 0.05,
        maxiter: PositiveInt = 30,
        matrix: Matrix = "hessian",
    ) -> None:
        self.matrix = matrix
        self.rank = rank
        self.negative = negative
        self.rest = rest
        self.rtol = rtol
        self.maxiter = maxiter
        self._vectors: Tensor | None = None

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the matrix of rank k at a point."""
        H = point.gauss_newton() if self.matrix == "gauss_newton" else point.hessian()
        pairs = self._pairs(H, self._start(H), generator)
        self._vectors = pairs.vectors
        self.note = describe(pairs)
        return low_rank(pairs, self.negative, self.rest)

    def _start(self, H: LinearOperator) -> Tensor | None:
        """Return a vector that has a part in each of the last step's eigenvectors."""
        last = self._vectors
        return None if last is None or last.shape[0] != H.shape[0] else last.sum(1)

    def _pairs(
        self, H: LinearOperator, v0: Tensor | None, generator: torch.Generator
    ) -> Eigenpairs:
        """Run Lanczos, on a smaller operator with the same eigenpairs where one is known."""
        small = H.compression()
        if small is not None:
            start = None if v0 is None else small.reduce(v0)
            pairs = self._pairs(small.operator, start, generator)
            return replace(pairs, vectors=small.expand(pairs.vectors))
        return lanczos(
            H,
            min(self.rank, H.shape[0]),
            which="largest" if self.negative == "truncate" else "magnitude",
            generator=generator,
            rtol=self.rtol,
            maxiter=self.maxiter,
            basis_size=self.rank + _SPARE,
            v0=v0,
            copies=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the vectors that the next step starts from."""
        return {} if self._vectors is None else {"vectors": self._vectors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next step from a state's vectors."""
        self._vectors = state.get("vectors")


@register("hessian_approx", "rank1")
class Rank1(LowRank):
    """The Hessian's dominant eigenpair, lambda v v', by Lanczos from the last step's vector.

    Of the parameters' meaning and of negative eigenvalues see `lowrank`, whose case k = 1 this is:
    (lambda v v' + tau I)^-1 g = (g - lambda v'g / (lambda + tau) v) / tau by Sherman and Morrison.

    Parameters
    ----------
    negative : {"absolute", "truncate", "keep"}
        What to do with a negative eigenvalue.
    rest : float
        The curvature assumed in all other directions, in units of |lambda|.
    rtol : float
        Ritz residual |H v - lambda v| / |lambda| asked for.
    maxiter : int
        Limit of Hessian products a step.
    matrix : {"hessian", "gauss_newton"}
        Matrix whose eigenpair is taken.
    """

    def __init__(
        self,
        negative: Negative = "absolute",
        rest: NonNegativeFloat = 0.0,
        rtol: PositiveFloat = 0.05,
        maxiter: PositiveInt = 20,
        matrix: Matrix = "hessian",
    ) -> None:
        super().__init__(1, negative, rest, rtol, maxiter, matrix)
