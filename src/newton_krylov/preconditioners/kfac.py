"""The preconditioner by Kronecker factors of a network's layers."""

from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt

from newton_krylov.capabilities import ALL_SAMPLES, LAYER_PRODUCTS, LAYERS
from newton_krylov.linear_solvers.result import Preconditioner
from newton_krylov.operators import LinearOperator
from newton_krylov.preconditioners.base import PreconditionerBuilder
from newton_krylov.registry import register


@register("preconditioner", "kfac", needs=(LAYERS, LAYER_PRODUCTS, ALL_SAMPLES))
class KFACPreconditioner(PreconditionerBuilder):
    """The inverse of K-FAC's (or EKFAC's) approximation, damped as the system is.

    For products with a network's own Gauss-Newton matrix, which it approximates layer by layer:
    solver=cg hessian_approx=ggn preconditioner=kfac.

    Parameters
    ----------
    corrected : bool
        Whether the eigenvalues are corrected: EKFAC.
    fisher : {"mc", "ggn", "empirical"}
        Gradients that the factors are made of; see `hessian_approx=kfac`.
    draws : int
        Targets drawn for each sample, with "mc".
    sharing : {"expand", "reduce"}
        Whether a layer's positions count as samples, or make one.
    window : int
        The widest side of which the factor is a matrix; see `hessian_approx=kfac`.
    floor : float
        A shift, relative to the approximation's smallest diagonal entry: it may be singular, and
        a preconditioner must not be.
    """

    def __init__(
        self,
        corrected: bool = False,
        fisher: Literal["mc", "ggn", "empirical"] = "mc",
        draws: PositiveInt = 1,
        sharing: Literal["expand", "reduce"] = "expand",
        window: PositiveInt = 1024,
        floor: PositiveFloat = 1e-6,
    ) -> None:
        self.corrected, self.floor = corrected, floor
        self._options: dict[str, Any] = {
            "fisher": fisher, "draws": draws, "sharing": sharing, "window": window
        }  # fmt: skip

    def build(self, A: LinearOperator, generator: torch.Generator) -> Preconditioner | None:
        """Return v -> M v, at the cost of two passes or so; None of a matrix of another kind."""
        K = A.kronecker(generator, corrected=self.corrected, **self._options)
        if K is None:
            return None
        d = K.diagonal()
        low = float(d.min())
        least = self.floor * (low if low > 0 else max(0.0, float(d.mean())))
        return lambda v: K.solve(v, least)
