"""The Jacobi preconditioner."""

import torch

from newton_krylov.linear_solvers.result import Preconditioner
from newton_krylov.operators import LinearOperator
from newton_krylov.preconditioners.base import PreconditionerBuilder
from newton_krylov.registry import register


@register("preconditioner", "jacobi")
class Jacobi(PreconditionerBuilder):
    """Division by the operator's diagonal, in absolute value.

    The absolute value keeps M positive definite where A is not; entries that are zero within
    rounding are left unscaled (divided by the mean of the others).
    """

    def build(self, A: LinearOperator, generator: torch.Generator) -> Preconditioner | None:
        """Return v -> v / |diag(A)|."""
        d = A.diagonal().abs()
        tiny = torch.finfo(d.dtype).eps * d.max()
        scale = torch.where(d > tiny, d, d.mean().clamp_min(torch.finfo(d.dtype).tiny))
        inverse = scale.reciprocal()
        return lambda v: inverse * v
