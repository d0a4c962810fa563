"""Burgers' equation, with its solution by the formula of Cole and Hopf."""

import math
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from newton_krylov.data.equation import Jet, Trial
from newton_krylov.data.evolution import Evolution, evolution

Viscosity = Annotated[float, Field(ge=0.002, le=1)]

_NODES = 160
"""Of Gauss and Hermite's quadrature: the error is below 1e-9 at the viscosities allowed."""


@evolution("burgers", resample=10)
def burgers(*, viscosity: Viscosity = 0.01 / math.pi) -> Evolution:
    """u_t + u u_x = viscosity u_xx on -1 <= x <= 1, u = -sin(pi x) at first, 0 at the ends.

    The solution is that of Cole and Hopf, by quadrature (Basdevant and others, 1986); a steep front
    stands at x = 0 from t = 1 / pi on.

    Parameters
    ----------
    viscosity : float
        Also called nu.

    Returns
    -------
    EquationProblem
        With blocks `equation`, `start` and `ends`.
    """

    def residual(jet: Jet) -> Tensor:
        u, (along_x, along_t) = jet.value[:, 0], jet.first[:, :, 0]
        found: Tensor = along_t + u * along_x - viscosity * jet.second[0, :, 0]
        return found

    return Evolution(
        lambda z: cole_hopf(z, viscosity),
        residual,
        [[1.0, 0.0], [0.0, 1.0]],
        ("start", "ends"),
        [[1.0, 0.0]],
        left=-1.0,
        start=_sine,
        trial=Trial(_sine, lambda z: z[..., 1] * (1 - z[..., 0].square())),
        held=("start", "ends"),
        arguments={"viscosity": viscosity},
    )


def cole_hopf(z: Tensor, viscosity: float) -> Tensor:
    """Solve Burgers' equation for u = -sin(pi x) at first.

    Parameters
    ----------
    z : Tensor, shape (..., 2)
        Points (x, t), t >= 0.
    viscosity : float
        Above 0.

    Returns
    -------
    Tensor, shape (...)
        With y = x - sqrt(4 viscosity t) s, the quotient of the integrals over s of
        -sin(pi y) w and w = exp(-s^2 - cos(pi y) / (2 pi viscosity)).
    """
    nodes, weights = (torch.from_numpy(a).to(z) for a in np.polynomial.hermite.hermgauss(_NODES))
    y = z[..., :1] - (4 * viscosity * z[..., 1:]).sqrt() * nodes
    exponents = -torch.cos(math.pi * y) / (2 * math.pi * viscosity) + weights.log()
    shares = torch.softmax(exponents, dim=-1)
    return -(torch.sin(math.pi * y) * shares).sum(-1)


def _sine(z: Tensor) -> Tensor:
    return -torch.sin(math.pi * z[..., 0])
