"""No preconditioner."""

import torch

from newton_krylov.linear_solvers.result import Preconditioner
from newton_krylov.operators import LinearOperator
from newton_krylov.preconditioners.base import PreconditionerBuilder
from newton_krylov.registry import register


@register("preconditioner", "none")
class NoPreconditioner(PreconditionerBuilder):
    """Solve the system as it is."""

    def build(self, A: LinearOperator, generator: torch.Generator) -> Preconditioner | None:
        """Return None."""
        return None
