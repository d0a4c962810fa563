"""A curvature model: which symmetric operator stands for the Hessian at a point."""

from abc import ABC, abstractmethod
from typing import Any

import torch

from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator


class Curvature(ABC):
    """Chooses the operator of the linear system; knows nothing of who solves with it.

    Attributes
    ----------
    note : str
        What the last `at` found that a user should know, in words; often nothing.
    """

    note: str = ""
    offers: frozenset[str] = frozenset()

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

    def state_dict(self) -> dict[str, Any]:
        """Return what one point's curvature passes on to the next one's, for checkpoints.

        Returns
        -------
        dict
            Nested dicts and lists of tensors, numbers and texts; empty where each point stands
            for itself.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state.

        Parameters
        ----------
        state : dict
            What `state_dict` returned.
        """
        return
