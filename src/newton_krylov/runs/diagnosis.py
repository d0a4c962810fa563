"""What is measured of a problem to say why a method suits it: sizes, spectrum, costs, noise."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from newton_krylov.data.dataset import Dataset
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.operators import LinearOperator
from newton_krylov.runs.runner import Clock
from newton_krylov.spectral.estimators import trace
from newton_krylov.spectral.lanczos import lanczos

_REPETITIONS = 7
_PRODUCTS = 60
_TOLERANCE = 1e-2
_DENSE = 500
"""Up to so many parameters the Hessian is formed, and its eigenvalues are exact."""


def diagnose(objective: Objective, dataset: Dataset, start: Tensor, end: Tensor) -> dict[str, Any]:
    """Measure a problem.

    Parameters
    ----------
    objective : Objective
        The problem.
    dataset : Dataset
        Data set of the problem.
    start, end : Tensor, shape (dim,)
        The weights that a race starts from, and the best that it found.

    Returns
    -------
    dict
        `parameters`, `samples`, `dtype`; of the Hessian at the end `largest_eigenvalue`,
        `smallest_eigenvalue` and `condition_number` (where it is definite and Lanczos converges;
        of a small one but for its `flat_directions`, in which rounding errors are all there is),
        `negative_curvature`, `effective_dimension` (trace over largest eigenvalue);
        `product_in_gradients`, a Hessian product's time over that of a value with its gradient;
        `gradient_noise_scale` at the start, tr(Cov g_i) / |g|^2 (McCandlish et al., "An empirical
        model of large-batch training", 2018). What an objective does not have is left out.
    """
    generator = torch.Generator().manual_seed(0)
    point = objective.at(end)
    facts: dict[str, Any] = {
        "parameters": objective.dim,
        "samples": dataset.facts().get("n_samples"),
        "dtype": str(objective.dtype).removeprefix("torch."),
    }
    with suppress(UnsupportedError):
        facts |= _spectrum(point, generator)
    with suppress(UnsupportedError):
        facts |= _product_cost(objective, point, generator)
    with suppress(UnsupportedError):
        facts |= _noise(objective.at(start), generator)
    return facts


def read_weights(file: Path, like: Tensor) -> Tensor:
    """Read the weights that a run left.

    Parameters
    ----------
    file : Path
        `weights.npy` of its folder.
    like : Tensor
        Gives dtype and device.

    Returns
    -------
    Tensor
        Tensor of the file's shape.
    """
    return torch.from_numpy(np.load(file, allow_pickle=False)).to(like.device, like.dtype)


def _spectrum(point: Point, generator: torch.Generator) -> dict[str, Any]:
    H = point.hessian()
    flat = 0
    if H.shape[0] <= _DENSE:
        values = torch.linalg.eigvalsh(H.dense().double())
        top = float(values[-1])
        rounding = len(values) * torch.finfo(H.dtype).eps * float(values.abs().max())
        curved = values[values.abs() > rounding]
        flat = len(values) - len(curved)
        smallest: float | None = float(curved[0]) if len(curved) else None
        total = float(values.sum())
    else:
        top = float(
            lanczos(H, 1, generator=generator, rtol=_TOLERANCE, maxiter=_PRODUCTS).values[0]
        )
        smallest = _smallest(H, top, generator)
        total = trace(H, _PRODUCTS, generator=generator).value
    facts: dict[str, Any] = {"largest_eigenvalue": top}
    if smallest is not None:
        facts["smallest_eigenvalue"] = smallest
        facts["negative_curvature"] = smallest < -_TOLERANCE * abs(top)
        if smallest > 0:
            facts["condition_number"] = top / smallest
            facts["flat_directions"] = flat
    if top > 0:
        facts["effective_dimension"] = total / top
    return facts


def _smallest(H: LinearOperator, top: float, generator: torch.Generator) -> float | None:
    """Return the smallest eigenvalue, where Lanczos finds it to a tenth of itself or below zero."""
    found = lanczos(
        H, 1, which="smallest", generator=generator, rtol=1e-6, maxiter=min(H.shape[0], 300)
    )
    value, error = float(found.values[0]), float(found.residual_norms[0])
    exact = found.matvecs >= H.shape[0]
    known = exact or error <= 0.1 * abs(value) or value < -_TOLERANCE * abs(top)
    return value if known else None


def _product_cost(objective: Objective, point: Point, generator: torch.Generator) -> dict[str, Any]:
    v = torch.randn(objective.dim, generator=generator, dtype=torch.float64)
    v = v.to(objective.device, objective.dtype)
    H = point.hessian()

    def evaluate() -> None:
        fresh = objective.at(point.w)
        _ = fresh.value, fresh.grad

    product = _seconds(lambda: H @ v, objective.device)
    return {"product_in_gradients": product / _seconds(evaluate, objective.device)}


def _noise(point: Point, generator: torch.Generator) -> dict[str, Any]:
    squares = trace(point.empirical_fisher(), _PRODUCTS, generator=generator).value
    signal = point.grad_norm**2
    return {"gradient_noise_scale": max(0.0, squares - signal) / signal} if signal > 0 else {}


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    """Return the median time of an action, the first call (which may build graphs) left out."""
    clock = Clock(device)
    action()
    times = []
    for _ in range(_REPETITIONS):
        started = clock()
        action()
        times.append(clock() - started)
    return median(times)
