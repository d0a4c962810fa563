"""What builds a preconditioner from an operator."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from newton_krylov.linear_solvers.result import Preconditioner
from newton_krylov.operators import LinearOperator


class Factored(ABC):
    """A preconditioner v -> (L L')^-1 v that shows its factor, on the CPU."""

    @abstractmethod
    def __call__(self, v: Tensor) -> Tensor:
        """Multiply a vector of shape (n,)."""

    @abstractmethod
    def factor(self) -> Tensor:
        """Return L' to solve with once by the caller, which counts as a product.

        Returns
        -------
        Tensor, shape (n, n)
            Upper triangular, row by row; what is below the diagonal is not to be read.
        """


class Unit:
    """The unit matrix, v -> v: no preconditioner yet, from a builder that counts the products.

    Parameters
    ----------
    count : callable
        Called at every product.
    """

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count

    def __call__(self, v: Tensor) -> Tensor:
        """Return a copy of a vector of shape (n,)."""
        self._count()
        return v.clone()


class PreconditionerBuilder(ABC):
    """Builds M, an approximation of A^-1, for each system an optimizer solves."""

    @abstractmethod
    def build(self, A: LinearOperator, generator: torch.Generator) -> Preconditioner | None:
        """Build the preconditioner of an operator.

        Products with A that this takes are counted like any others.

        Parameters
        ----------
        A : LinearOperator
            Symmetric, n by n.
        generator : torch.Generator
            For randomized preconditioners; on the CPU.

        Returns
        -------
        callable or None
            v -> M v on tensors of shape (n,), symmetric positive definite; None for none.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what one system's preconditioner passes on to the next one's, for checkpoints.

        Returns
        -------
        dict
            Tensors and numbers; empty where no system depends on an earlier one.
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
