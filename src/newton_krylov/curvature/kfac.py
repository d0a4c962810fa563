"""Kronecker-factored approximate curvature (K-FAC), and its corrected form EKFAC."""

import torch
from pydantic import PositiveInt

from newton_krylov.capabilities import ALL_SAMPLES, LAYERS
from newton_krylov.curvature.base import Curvature
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Point
from newton_krylov.objectives.network.kronecker import (
    WIDE,
    Fisher,
    Kronecker,
    KroneckerOperator,
    Sharing,
    Unknown,
    told,
)
from newton_krylov.objectives.network.point import NetworkPoint
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register


@register("hessian_approx", "kfac", needs=(LAYERS, ALL_SAMPLES))
class KFAC(Curvature):
    """The Gauss-Newton matrix with a Kronecker product in the place of each layer's block.

    Of linear layers and convolutions; the other parameters have an estimate of their diagonal.
    Damped systems are solved in closed form, in the eigenbases of the factors (Martens and Grosse,
    "Optimizing neural networks with Kronecker-factored approximate curvature", 2015; see
    `objectives.network.kronecker`).

    Parameters
    ----------
    fisher : {"mc", "ggn", "empirical"}
        Gradients that the factors are made of: at targets drawn from the model's predictions; the
        columns of a square root of the loss's Hessian by the outputs, a backward pass for each; or
        at the data's own targets.
    draws : int
        Targets drawn for each sample, with "mc".
    sharing : {"expand", "reduce"}
        Whether the positions at which a layer is used (pixels, tokens) count as samples, or make
        one (Eschenhagen et al., 2023).
    unknown : {"diagonal", "refuse"}
        What becomes of parameters without factors.
    window : int
        The widest side of which the factor is a matrix; a run notes which are wider. Of wider
        outputs its diagonal is kept, of wider inputs as many rows, evenly spread over the samples.
    """

    corrected = False

    def __init__(
        self,
        fisher: Fisher = "mc",
        draws: PositiveInt = 1,
        sharing: Sharing = "expand",
        unknown: Unknown = "diagonal",
        window: PositiveInt = 1024,
    ) -> None:
        self.how = Kronecker(fisher, draws, sharing, unknown, window)

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the operator at a network's point.

        Raises
        ------
        UnsupportedError
            If the point is of no network in one process, or some parameters are to be refused.
        """
        if not isinstance(point, NetworkPoint):
            raise UnsupportedError(
                f"Kronecker factors are of a network's layers in one process, which "
                f"{type(point.objective).__name__} does not have; take hvp, ggn or lowrank."
            )
        passes = point.kronecker_passes(self.how, generator)
        A = KroneckerOperator(passes, corrected=self.corrected)
        notes = told("diagonal alone", A.without), told(WIDE, A.wide)
        self.note = "; ".join(filter(None, notes))
        return A


@register("hessian_approx", "ekfac", needs=(LAYERS, ALL_SAMPLES))
class EKFAC(KFAC):
    """K-FAC's eigenbasis with the matrix's own diagonal in it for eigenvalues.

    The nearest such matrix to the Gauss-Newton matrix's blocks in the Frobenius norm, at the cost
    of a second pass (George, Laurent, Bouthillier, Ballas and Vincent, "Fast approximate natural
    gradient descent in a Kronecker-factored eigenbasis", 2018).

    Parameters
    ----------
    fisher, draws, sharing, unknown, window
        See `kfac`.
    """

    corrected = True
