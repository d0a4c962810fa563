"""Optimizers put together as a configuration would, run, and the optima they must reach."""

from functools import cache, partial
from typing import Any

import torch
from problems import make_dataset
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from newton_krylov.data import load_dataset
from newton_krylov.data.dataset import Dataset
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import Optimizer
from newton_krylov.registry import entry
from newton_krylov.runs.optimum import Optimum, certified_optimum
from newton_krylov.runs.runner import RunResult, Stopping, run

GROUPS = {
    "solver": "solver",
    "curvature": "hessian_approx",
    "line_search": "line_search",
    "forcing": "forcing",
    "preconditioner": "preconditioner",
    "damping": "damping",
    "schedule": "schedule",
}
DEFAULTS = {
    "solver": "exact",
    "curvature": "hvp",
    "line_search": "armijo",
    "forcing": "superlinear",
    "preconditioner": "none",
    "damping": "fixed",
    "schedule": "constant",
}


def part(name: str, chosen: object) -> object:
    """Make one part: from its registered name, from a pair (name, options), or as it is."""
    if isinstance(chosen, str):
        chosen = (chosen, {})
    if isinstance(chosen, tuple):
        return entry(GROUPS[name], chosen[0]).build(chosen[1])
    return chosen


def make_optimizer(name: str = "newton", **chosen: object) -> Optimizer:
    """Make an optimizer: keys that name a part choose it, the others are its own options."""
    made = entry("optimizer", name)
    keys = [key for key in DEFAULTS if key not in made.parameters]
    parts = {key: part(key, chosen.pop(key, DEFAULTS[key])) for key in keys}
    return made.build(chosen, **parts)


def minimize(
    objective: Objective,
    optimizer: Optimizer | str = "newton",
    w0: Tensor | None = None,
    *,
    seed: int = 0,
    optimum: float | None = None,
    epochs: int | None = 100,
    grad_norm: float | None = 1e-12,
    **stop: float | None,
) -> RunResult:
    """Run an optimizer from w0 (zero by default)."""
    optimizer = make_optimizer(optimizer) if isinstance(optimizer, str) else optimizer
    w0 = torch.zeros(objective.dim, dtype=objective.dtype) if w0 is None else w0
    stopping = Stopping(epochs=epochs, grad_norm=grad_norm, **stop)
    generator = torch.Generator().manual_seed(seed)
    return run(optimizer, objective, w0, stopping, generator, optimum=optimum)


@cache
def a9a(*, bias: bool = False) -> Dataset:
    """Load the embedded a9a once."""
    return load_dataset("a9a", {"bias": bias})


def logistic(dataset: Dataset, l2: float = 0.01) -> Objective:
    """Bind the logistic loss to a data set."""
    return entry("loss", "logistic").build({"l2": l2}, dataset=dataset)


def optimum_of(dataset: Dataset, loss: str = "logistic", l2: float = 0.01) -> Optimum:
    """Return the certified optimum of a problem."""
    found = certified_optimum(dataset, entry("loss", loss), {"l2": l2}, torch.float64)
    assert found is not None
    return found


class Largest(TorchDispatchMode):
    """Notes the most numbers in one tensor that torch makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [part.numel() for part in tree_leaves(made) if isinstance(part, Tensor)]
        self.numbers = max(self.numbers, *sizes, 0)
        return made


small = partial(make_dataset, "binary", n=200, d=12, condition=10.0)
"""A logistic regression that every method solves in milliseconds."""
