"""The generalized Gauss-Newton matrix, matrix-free."""

from typing import Literal

import torch

from newton_krylov.capabilities import ALL_SAMPLES, LAYER_PRODUCTS, LAYERS, SAMPLED_HESSIAN
from newton_krylov.curvature.base import Curvature
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Point
from newton_krylov.objectives.network.kronecker import Kronecker
from newton_krylov.objectives.network.point import NetworkPoint
from newton_krylov.objectives.network.sample_space import SampleSpaceOperator
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register


@register(
    "hessian_approx",
    "ggn",
    offers=(SAMPLED_HESSIAN, LAYER_PRODUCTS),
    needs_with={"space": (LAYERS, ALL_SAMPLES)},
)
class GaussNewton(Curvature):
    """The generalized Gauss-Newton matrix by its products; positive semidefinite.

    J' L J with J the Jacobian of the model's outputs and L the loss's Hessian by the outputs
    (Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent",
    2002). Equal to the Hessian for a convex loss of a linear model.

    Parameters
    ----------
    space : {"weights", "samples"}
        Where systems are solved: `samples` gives a network's damped systems a closed form
        (solver=exact) of as many unknowns as there are samples times outputs, for curvature of a
        part of a batch (Ren and Goldfarb, "Efficient subsampled Gauss-Newton and natural gradient
        methods for training neural networks", 2019).
    """

    def __init__(self, space: Literal["weights", "samples"] = "weights") -> None:
        self.space = space

    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the Gauss-Newton operator at a point.

        Raises
        ------
        UnsupportedError
            In the samples' space, of what is no network of linear layers and convolutions in one
            process, or has batch norm.
        """
        if self.space == "weights":
            return point.gauss_newton()
        if not isinstance(point, NetworkPoint):
            raise UnsupportedError(
                f"hessian_approx.space=samples needs a network's layers in one process, which "
                f"{type(point.objective).__name__} does not have; take space=weights."
            )
        how = Kronecker("ggn", unknown="refuse")
        return SampleSpaceOperator(point.kronecker_passes(how, generator))
