"""Secants by compiled loops, where the loss has them."""

import torch
from torch import Tensor

from newton_krylov.kernels.secants import Pairs
from newton_krylov.linear_solvers.result import Preconditioner
from newton_krylov.objectives.base import Objective, Point, Ray
from newton_krylov.objectives.linear_model import LinearModel, LinearModelPoint, LinearModelRay
from newton_krylov.optimizers.base import State
from newton_krylov.optimizers.lbfgs import Secants
from newton_krylov.preconditioners.base import Factored


def secants_for(objective: Objective, most: int) -> Secants:
    """Return a memory without pairs, with compiled loops where the loss has them.

    Parameters
    ----------
    objective : Objective
        Whose secants are to be kept.
    most : int
        Pairs kept.

    Returns
    -------
    Secants
        Of either kind, with the same mathematics and the same states.
    """
    if isinstance(objective, LinearModel) and objective.reads_once and objective.l1 == 0:
        return CompiledSecants(objective.dim, objective.dtype, most)
    return Secants(most)


class CompiledSecants(Secants):
    """The same by compiled loops: a dozen of torch's small operations take longer than the work.

    Parameters
    ----------
    size : int
        Length of the vectors.
    dtype : torch.dtype
        Their precision.
    most : int
        Pairs kept.
    """

    def __init__(self, size: int, dtype: torch.dtype, most: int) -> None:
        self._pairs = Pairs(most, size, torch.empty(0, dtype=dtype).numpy().dtype)
        self.stride: float | None = None

    @property
    def pairs(self) -> list[tuple[Tensor, Tensor, float]]:  # type: ignore[override]
        """The pairs as tensors, the newest last."""
        return [(torch.from_numpy(s), torch.from_numpy(y), sy) for s, y, sy in self._pairs]

    def add(self, new: Point, old: Point) -> None:
        """Learn from a step from one point to another."""
        vectors = (v.numpy() for v in (new.w, new.grad, old.w, old.grad))
        self.stride = self._pairs.add(*vectors)

    def ray(self, point: Point, M: Preconditioner | None = None) -> Ray:
        """Restrict the objective to the line from a point along -B g; all in one loop."""
        if not isinstance(M, Factored):
            return super().ray(point, M)
        assert isinstance(point, LinearModelPoint)
        p, slope, end = self._pairs.descent(point.grad.numpy(), point.w.numpy(), M.factor().numpy())
        return LinearModelRay(point, torch.from_numpy(p), slope, torch.from_numpy(end))

    def load_state_dict(self, state: State) -> None:
        """Take the pairs from a checkpoint."""
        self._pairs.take((s.numpy(), y.numpy(), sy) for s, y, sy in state["pairs"])
        self.stride = state["stride"]
