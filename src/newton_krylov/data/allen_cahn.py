"""The equation of Allen and Cahn, with a reference solution by Fourier's series."""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from newton_krylov.data.equation import Jet, Trial
from newton_krylov.data.evolution import Evolution, evolution
from newton_krylov.errors import ConfigError

_DIFFUSION, _RATE = 1e-4, 5.0
_NODES, _STEPS = 512, 2000
_CONTOUR = 32
"""Points of the circle over which the integrator's coefficients are averaged."""


@evolution("allen_cahn", resample=10, window=0.1)
def allen_cahn() -> Evolution:
    """u_t = u_xx / 10,000 + 5 (u - u^3) on -1 <= x <= 1, periodic, u = x^2 cos(pi x) at first.

    The reference solution is a Fourier series of 512 terms, whose error is below 1e-6.

    Returns
    -------
    EquationProblem
        With blocks `equation`, `start`, `periodic` and `periodic_slope`.
    """

    def residual(jet: Jet) -> Tensor:
        u = jet.value[:, 0]
        return jet.first[1, :, 0] - _DIFFUSION * jet.second[0, :, 0] - _RATE * (u - u**3)

    return Evolution(
        _at_grid,
        residual,
        [[1.0, 0.0], [0.0, 1.0]],
        ("start", "periodic", "periodic_slope"),
        [[1.0, 0.0]],
        left=-1.0,
        start=_start,
        trial=Trial(_start, lambda z: z[..., 1]),
        held=("start",),
    )


def _start(z: Tensor) -> Tensor:
    x = z[..., 0]
    return x.square() * torch.cos(math.pi * x)


def _at_grid(z: Tensor) -> Tensor:
    """Return the reference at points whose x and t are those of its table."""
    table, times = _reference(), 100
    column = (z[..., 0] + 1) * (_NODES / 2)
    row = z[..., 1] * times
    near_column, near_row = column.round(), row.round()
    if max(float((column - near_column).abs().max()), float((row - near_row).abs().max())) > 1e-6:
        raise ConfigError("dataset=allen_cahn knows its solution at the nodes of a grid alone.")
    return table[near_row.long(), near_column.long() % _NODES].to(z)


@cache
def _reference() -> Tensor:
    """Return u at 101 times and 512 nodes of -1 <= x < 1."""
    return torch.from_numpy(solve(_NODES, _STEPS))


def solve(nodes: int, steps: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    """Integrate the equation by exponential Runge-Kutta steps of fourth order.

    Cox and Matthews's ETDRK4 on Fourier coefficients, its own coefficients by contour integrals as
    in Kassam and Trefethen, "Fourth-order time-stepping for stiff PDEs" (2005).

    Parameters
    ----------
    nodes : int
        Nodes of -1 <= x < 1.
    steps : int
        Steps from t = 0 to 1, a multiple of 100.

    Returns
    -------
    ndarray, shape (101, nodes)
        u at t = 0, 0.01, ..., 1.
    """
    x = -1 + 2 * np.arange(nodes) / nodes
    wave = np.pi * np.fft.rfftfreq(nodes, 1 / nodes)
    h, L = 1 / steps, -_DIFFUSION * wave**2
    roots = np.exp(2j * np.pi * (np.arange(_CONTOUR) + 0.5) / _CONTOUR)
    z = h * L[:, None] + roots
    E, E2 = np.exp(h * L), np.exp(h * L / 2)
    Q = h * ((np.exp(z / 2) - 1) / z).mean(1).real
    f1 = h * ((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3).mean(1).real
    f2 = h * ((2 + z + np.exp(z) * (z - 2)) / z**3).mean(1).real
    f3 = h * ((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3).mean(1).real

    def reaction(v: "np.ndarray") -> "np.ndarray":
        u = np.fft.irfft(v, nodes)
        return np.asarray(np.fft.rfft(_RATE * (u - u**3)))

    v = np.fft.rfft(x**2 * np.cos(np.pi * x))
    table = [np.fft.irfft(v, nodes)]
    for step in range(1, steps + 1):
        at = reaction(v)
        a = E2 * v + Q * at
        at_a = reaction(a)
        b = E2 * v + Q * at_a
        at_b = reaction(b)
        c = E2 * a + Q * (2 * at_b - at)
        v = E * v + f1 * at + 2 * f2 * (at_a + at_b) + f3 * reaction(c)
        if step % (steps // 100) == 0:
            table.append(np.fft.irfft(v, nodes))
    return np.stack(table)
