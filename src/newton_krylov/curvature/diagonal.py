"""The Hessian's diagonal."""

from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.curvature.low_rank_operator import Negative, without_negative
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register
from newton_krylov.spectral.estimators import diagonal


class DiagonalOperator(LinearOperator):
    """A diagonal matrix, solved in closed form.

    Parameters
    ----------
    entries : Tensor, shape (n,)
        The diagonal.
    """

    def __init__(self, entries: Tensor) -> None:
        super().__init__(entries.shape[0], entries.dtype, entries.device)
        self._entries = entries

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        return self._entries * v

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (n, k)."""
        return self._entries[:, None] * V

    def dense(self) -> Tensor:
        """Form the matrix, shape (n, n)."""
        return torch.diag(self._entries)

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (n,)."""
        return self._entries.clone()

    def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
        """Divide by the shifted diagonal, b of shape (n,)."""
        return b / (self._entries + shift)


@register("hessian_approx", "diagonal")
class Diagonal(Curvature):
    """The Hessian's diagonal, solved by one division.

    A linear model knows it: half a pass over the data. Of a network it is estimated by Hutchinson's
    method, one Hessian product for each probe, and the estimate's noise is of the size of the
    off-diagonal entries (see `spectrum.estimators.diagonal`).

    Parameters
    ----------
    probes : int
        Products for the estimate, where one is needed.
    negative : {"absolute", "truncate", "keep"}
        What becomes of negative entries, which a Hessian that is not positive semidefinite has,
        and an estimate may have: the absolute value (as in AdaHessian; Yao et al., 2021), zero
        (which takes damping), or themselves.
    decay : float
        In [0, 1): how much of the running mean over the steps so far is kept at each, as Adam keeps
        that of gradients, its bias towards the start corrected. It makes up for few probes and
        small samples (Liu, Li, Hall, Liang and Ma, "Sophia", 2024); 0 takes each step's alone.
    """

    def __init__(
        self,
        probes: PositiveInt = 10,
        negative: Negative = "absolute",
        decay: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None:
        self.probes = probes
        self.negative = negative
        self.decay = decay
        self._mean: Tensor | None = None
        self._steps = 0

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the diagonal at a point."""
        H = point.hessian()
        entries = H.diagonal() if H.has_diagonal else diagonal(H, self.probes, generator=generator)
        if self.decay > 0:
            entries = self._averaged(entries)
        return DiagonalOperator(without_negative(entries, self.negative))

    def _averaged(self, entries: Tensor) -> Tensor:
        """Take a step's diagonal into the running mean, and return that."""
        if self._mean is None or self._mean.shape != entries.shape:
            self._mean, self._steps = torch.zeros_like(entries), 0
        self._mean = self._mean.lerp(entries, 1 - self.decay)
        self._steps += 1
        return self._mean / (1 - self.decay**self._steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the running mean, as far as there is one."""
        return {} if self._mean is None else {"mean": self._mean, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state's running mean."""
        self._mean, self._steps = state.get("mean"), state.get("steps", 0)
