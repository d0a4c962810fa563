"""The preconditioner of a few samples."""

from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import ALL_SAMPLES, SAMPLED_HESSIAN, SQUARE_ROOT
from newton_krylov.errors import UnsupportedError
from newton_krylov.linear_solvers.result import Preconditioner
from newton_krylov.operators import LinearOperator
from newton_krylov.preconditioners.base import PreconditionerBuilder
from newton_krylov.registry import register


@register("preconditioner", "subsampled", needs=(SQUARE_ROOT, SAMPLED_HESSIAN, ALL_SAMPLES))
class Subsampled(PreconditionerBuilder):
    """The inverse of the Hessian of a few samples, formed and factorized.

    For linear models with up to some thousand features and many more samples: the sample's
    spectrum is close to that of all, so a solve takes a few products whatever the condition
    number (Erdogdu and Montanari, "Convergence rates of sub-sampled Newton methods", 2015, use
    such matrices in place of the Hessian; as a preconditioner they cost no accuracy). It takes
    d^2 numbers; forming it costs samples * d^2, factorizing d^3 operations.

    Parameters
    ----------
    samples : int
        How many, a few times the number of features; all of them where there are fewer.
    first : int
        Systems to solve without, before the first is built: far from the solution, inaccurate
        solves are enough, and what is built there is soon outdated.
    every : int or None
        Systems for which one serves; None builds only one.
    """

    def __init__(
        self,
        samples: PositiveInt = 1000,
        first: NonNegativeInt = 1,
        every: PositiveInt | None = None,
    ) -> None:
        self.samples = samples
        self.first = first
        self.every = every
        self._systems = 0
        self._inverse: Tensor | None = None

    def build(self, A: LinearOperator, generator: torch.Generator) -> Preconditioner | None:
        """Return v -> M v; None where it is not to be built yet, or would not be definite.

        Raises
        ------
        UnsupportedError
            If the operator is not a sum over samples that can be formed.
        """
        since = self._systems - self.first
        self._systems += 1
        if since < 0:
            return None
        if since == 0 or (self.every is not None and since % self.every == 0):
            self._inverse = self._invert(A, generator)
        inverse = self._inverse
        return None if inverse is None else lambda v: inverse @ v

    def _invert(self, A: LinearOperator, generator: torch.Generator) -> Tensor | None:
        part = A.sampled(self.samples, generator)
        if part is None:
            raise UnsupportedError(
                "preconditioner=subsampled needs the Hessian of a linear model with one output, "
                "hessian_approx=hvp or subsampled, on one process; take jacobi or nystrom."
            )
        factor, info = torch.linalg.cholesky_ex(part.dense())
        return None if int(info) != 0 else torch.cholesky_inverse(factor)

    def state_dict(self) -> dict[str, Any]:
        """Return the preconditioner that is in use."""
        return {"systems": self._systems, "inverse": self._inverse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self._systems, self._inverse = state["systems"], state["inverse"]
