"""A curvature model: which symmetric operator stands for the Hessian at a point."""

from abc import ABC, abstractmethod

import torch

from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator


class Curvature(ABC):
    """Chooses the operator of the linear system; knows nothing of who solves with it."""

    @abstractmethod
    def at(self, point: Point, generator: torch.Generator) -> LinearOperator:
        """Return the operator at a point.

        Parameters
        ----------
        point : Point
            An objective evaluated at w.
        generator : torch.Generator
            For curvatures that draw samples; on the CPU.

        Returns
        -------
        LinearOperator
            Shape (dim, dim), symmetric.
        """
