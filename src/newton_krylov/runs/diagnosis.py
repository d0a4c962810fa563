"""What is measured of a problem to say why a method suits it: sizes, spectrum, costs, noise."""

import math
import time
from collections.abc import Callable
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


class _TimeOver(Exception):
    """The time for measuring is over."""


class _Timed(LinearOperator):
    """An operator that refuses products once a time is over."""

    def __init__(self, A: LinearOperator, end: float) -> None:
        super().__init__(A.shape[0], A.dtype, A.device)
        self._A, self._end = A, end

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (dim,)."""
        if time.monotonic() > self._end:
            raise _TimeOver
        return self._A @ v


def diagnose(
    objective: Objective,
    dataset: Dataset,
    start: Tensor,
    end: Tensor,
    seconds: float = math.inf,
) -> dict[str, Any]:
    """Measure a problem.

    Parameters
    ----------
    objective : Objective
        The problem.
    dataset : Dataset
        Data set of the problem.
    start, end : Tensor, shape (dim,)
        The weights that a race starts from, and the best that it found.
    seconds : float
        No product with a matrix and no gradient begins later than this; what was not ready then
        is left out.

    Returns
    -------
    dict
        `parameters`, `samples`, `dtype`; of the Hessian at the end `largest_eigenvalue`,
        `smallest_eigenvalue` and `condition_number` (where it is definite and Lanczos converges;
        of a small one but for its `flat_directions`, in which rounding errors are all there is),
        `negative_curvature`, `effective_dimension` (trace over largest eigenvalue);
        `product_in_gradients`, a Hessian product's time over that of a value with its gradient;
        `gradient_noise_scale` at the start, tr(Cov g_i) / |g|^2 (McCandlish et al., "An empirical
        model of large-batch training", 2018). What an objective does not have is left out;
        `left_out` names what the time did not suffice for.
    """
    began = time.monotonic()
    generator = torch.Generator().manual_seed(0)
    point = objective.at(end)
    facts: dict[str, Any] = {
        "parameters": objective.dim,
        "samples": dataset.facts().get("n_samples"),
        "dtype": str(objective.dtype).removeprefix("torch."),
    }
    left_out: list[str] = []

    def add(what: str, measured: Callable[[float], dict[str, Any]], share: float = 1.0) -> None:
        """Measure something in what is left of that share of the time."""
        end = began + share * seconds
        try:
            if time.monotonic() > end:
                raise _TimeOver
            facts.update(measured(end))
        except UnsupportedError:
            pass
        except _TimeOver:
            left_out.append(what)

    add("spectrum", lambda end: _largest(point, generator, end), 0.5)
    top = facts.get("largest_eigenvalue")
    if top is not None and objective.dim > _DENSE:
        add("smallest eigenvalue", lambda end: _smallest(point, top, generator, end), 0.5)
        add("effective dimension", lambda end: _trace(point, top, generator, end))
    add("cost of a product", lambda end: _product_cost(objective, point, generator, end))
    add("gradient noise scale", lambda end: _noise(objective.at(start), generator, end))
    if left_out:
        facts |= {"left_out": left_out, "measuring_seconds": seconds}
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


def _largest(point: Point, generator: torch.Generator, end: float) -> dict[str, Any]:
    """Return the largest eigenvalue, of a small matrix the whole spectrum's figures."""
    H = point.hessian()
    if H.shape[0] > _DENSE:
        found = lanczos(_Timed(H, end), 1, generator=generator, rtol=_TOLERANCE, maxiter=_PRODUCTS)
        return {"largest_eigenvalue": float(found.values[0])}
    values = torch.linalg.eigvalsh(H.dense().double())
    top = float(values[-1])
    rounding = len(values) * torch.finfo(H.dtype).eps * float(values.abs().max())
    curved = values[values.abs() > rounding]
    smallest = float(curved[0]) if len(curved) else None
    facts = {"largest_eigenvalue": top, **_dimension(float(values.sum()), top)}
    return facts | _conditioning(smallest, top, len(values) - len(curved))


def _smallest(point: Point, top: float, generator: torch.Generator, end: float) -> dict[str, Any]:
    """Return the smallest eigenvalue, where Lanczos finds it to a tenth of itself or below zero."""
    H = _Timed(point.hessian(), end)
    found = lanczos(
        H, 1, which="smallest", generator=generator, rtol=1e-6, maxiter=min(H.shape[0], 300)
    )
    value, error = float(found.values[0]), float(found.residual_norms[0])
    exact = found.matvecs >= H.shape[0]
    known = exact or error <= 0.1 * abs(value) or value < -_TOLERANCE * abs(top)
    return _conditioning(value if known else None, top, 0)


def _conditioning(smallest: float | None, top: float, flat: int) -> dict[str, Any]:
    """Return what the smallest eigenvalue says, where it is known."""
    if smallest is None:
        return {}
    facts: dict[str, Any] = {
        "smallest_eigenvalue": smallest,
        "negative_curvature": smallest < -_TOLERANCE * abs(top),
    }
    if smallest > 0:
        facts |= {"condition_number": top / smallest, "flat_directions": flat}
    return facts


def _trace(point: Point, top: float, generator: torch.Generator, end: float) -> dict[str, Any]:
    H = _Timed(point.hessian(), end)
    return _dimension(trace(H, _PRODUCTS, generator=generator).value, top)


def _dimension(total: float, top: float) -> dict[str, Any]:
    return {"effective_dimension": total / top} if top > 0 else {}


def _product_cost(
    objective: Objective, point: Point, generator: torch.Generator, end: float
) -> dict[str, Any]:
    v = torch.randn(objective.dim, generator=generator, dtype=torch.float64)
    v = v.to(objective.device, objective.dtype)
    H = point.hessian()

    def evaluate() -> None:
        fresh = objective.at(point.w)
        _ = fresh.value, fresh.grad

    middle = (time.monotonic() + end) / 2
    product = _seconds(lambda: H @ v, objective.device, middle)
    return {"product_in_gradients": product / _seconds(evaluate, objective.device, end)}


def _noise(point: Point, generator: torch.Generator, end: float) -> dict[str, Any]:
    F = _Timed(point.empirical_fisher(), end)
    squares = trace(F, _PRODUCTS, generator=generator).value
    signal = point.grad_norm**2
    return {"gradient_noise_scale": max(0.0, squares - signal) / signal} if signal > 0 else {}


def _seconds(action: Callable[[], object], device: torch.device, end: float) -> float:
    """Return the median time of an action, the first call (which may build graphs) left out.

    None begins after the end; at least one has to.
    """
    clock = Clock(device)
    action()
    times: list[float] = []
    while len(times) < _REPETITIONS and time.monotonic() <= end:
        started = clock()
        action()
        times.append(clock() - started)
    if not times:
        raise _TimeOver
    return median(times)
