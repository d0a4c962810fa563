"""Equations in one space dimension and time that have solutions in closed form."""

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from newton_krylov.data.equation import Jet, Trial
from newton_krylov.data.evolution import Evolution, evolution

Positive = Annotated[float, Field(gt=0)]

_ALONG_BOTH = [[1.0, 0.0], [0.0, 1.0]]
_TWICE_ALONG_X = [[1.0, 0.0]]


@evolution("heat_1d", points=900, start=60, boundary=30, condition_weight=1.0)
def heat_1d() -> Evolution:
    """u_t = u_xx / 4 on the unit interval, u = sin(pi x) at first and 0 at the ends.

    u = exp(-pi^2 t / 4) sin(pi x) solves it.

    Returns
    -------
    EquationProblem
        With blocks `equation`, `start` and `ends`.
    """
    return Evolution(
        _heat,
        lambda jet: jet.first[1, :, 0] - jet.second[0, :, 0] / 4,
        _ALONG_BOTH,
        ("start", "ends"),
        _TWICE_ALONG_X,
        trial=Trial(lambda z: torch.sin(math.pi * z[..., 0]), lambda z: z[..., 1] * _arch(z)),
        held=("start", "ends"),
    )


@evolution("heat_1d_inverse", points=900, start=60, boundary=30, condition_weight=1.0)
def heat_1d_inverse(*, guess: Positive = 1.0, measured: PositiveInt = 50) -> Evolution:
    """u_t = c u_xx, as heat_1d, with c to be found from u at some random places; c = 1/4.

    Parameters
    ----------
    guess : float
        Where c begins; it is the last of the parameters, `conductivity` in a run's summary.
    measured : int
        Places where u is known.

    Returns
    -------
    EquationProblem
        With blocks `equation`, `start`, `ends` and `measurements`.
    """
    return Evolution(
        _heat,
        lambda jet: jet.first[1, :, 0] - jet.coefficients[0] * jet.second[0, :, 0],
        _ALONG_BOTH,
        ("start", "ends", "measurements"),
        _TWICE_ALONG_X,
        coefficients={"conductivity": (guess, 0.25)},
        measured=measured,
        arguments={"guess": guess, "measured": measured},
    )


@evolution("convection", resample=3, window=0.1)
def convection(*, speed: float = 40.0) -> Evolution:
    """u_t + speed u_x = 0 on 0 <= x <= 2 pi, periodic, u = sin(x) at first.

    u = sin(x - speed t) solves it.

    Parameters
    ----------
    speed : float
        Also called beta.

    Returns
    -------
    EquationProblem
        With blocks `equation`, `start` and `periodic`.
    """
    return Evolution(
        lambda z: torch.sin(z[..., 0] - speed * z[..., 1]),
        lambda jet: jet.first[0, :, 0],
        [[speed, 1.0]],
        ("start", "periodic"),
        right=2 * math.pi,
        trial=Trial(lambda z: torch.sin(z[..., 0]), lambda z: z[..., 1]),
        held=("start",),
        arguments={"speed": speed},
    )


@evolution("reaction", resample=10)
def reaction(*, rate: float = 5.0) -> Evolution:
    """u_t = rate u (1 - u) on 0 <= x <= 2 pi, periodic, a Gaussian around pi at first.

    With h the Gaussian of deviation pi / 4, u = h e^(rate t) / (h e^(rate t) + 1 - h) solves it.

    Parameters
    ----------
    rate : float
        Also called rho.

    Returns
    -------
    EquationProblem
        With blocks `equation`, `start` and `periodic`.
    """

    def bump(z: Tensor) -> Tensor:
        return torch.exp(-((z[..., 0] - math.pi) ** 2) / (2 * (math.pi / 4) ** 2))

    def solution(z: Tensor) -> Tensor:
        h = bump(z)
        grown = h * torch.exp(rate * z[..., 1])
        return grown / (grown + 1 - h)

    def residual(jet: Jet) -> Tensor:
        u = jet.value[:, 0]
        return jet.first[0, :, 0] - rate * u * (1 - u)

    return Evolution(
        solution,
        residual,
        [[0.0, 1.0]],
        ("start", "periodic"),
        right=2 * math.pi,
        trial=Trial(bump, lambda z: z[..., 1]),
        held=("start",),
        arguments={"rate": rate},
    )


@evolution("wave", condition_weight=1000.0, resample=10)
def wave(*, frequency: PositiveInt = 5) -> Evolution:
    """u_tt = 4 u_xx on the unit interval, 0 at the ends, at rest at first: two standing waves.

    u = sin(pi x) cos(2 pi t) + sin(f pi x) cos(2 f pi t) / 2 solves it, f the frequency.

    Parameters
    ----------
    frequency : int
        Also called beta.

    Returns
    -------
    EquationProblem
        With blocks `equation`, `start`, `rest` and `ends`.
    """
    f = frequency

    def shape(z: Tensor) -> Tensor:
        x = math.pi * z[..., 0]
        return torch.sin(x) + torch.sin(f * x) / 2

    def solution(z: Tensor) -> Tensor:
        x, t = math.pi * z[..., 0], 2 * math.pi * z[..., 1]
        return torch.sin(x) * torch.cos(t) + torch.sin(f * x) * torch.cos(f * t) / 2

    return Evolution(
        solution,
        lambda jet: jet.second[0, :, 0],
        _ALONG_BOTH,
        ("start", "rest", "ends"),
        [[-4.0, 1.0]],
        trial=Trial(shape, lambda z: z[..., 1].square() * _arch(z)),
        held=("start", "rest", "ends"),
        arguments={"frequency": frequency},
    )


def _heat(z: Tensor) -> Tensor:
    return torch.exp(-(math.pi**2) / 4 * z[..., 1]) * torch.sin(math.pi * z[..., 0])


def _arch(z: Tensor) -> Tensor:
    """0 at the ends of the unit interval, 1 in its middle."""
    return 4 * z[..., 0] * (1 - z[..., 0])
