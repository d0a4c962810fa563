"""NIST's certified problems of nonlinear regression (StRD), embedded; public domain."""

import hashlib
import json
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from newton_krylov.capabilities import LABELLED, RESIDUALS
from newton_krylov.data.catalogue import nist_summary, nist_tables
from newton_krylov.data.dataset import CurveFit, Split
from newton_krylov.registry import register

Formula = Callable[[Tensor, Tensor], Tensor]


def _gauss(x: Tensor, b: Tensor) -> Tensor:
    return (
        b[0] * torch.exp(-b[1] * x)
        + b[2] * torch.exp(-((x - b[3]) ** 2) / b[4] ** 2)
        + b[5] * torch.exp(-((x - b[6]) ** 2) / b[7] ** 2)
    )


def _lanczos(x: Tensor, b: Tensor) -> Tensor:
    return b[0] * torch.exp(-b[1] * x) + b[2] * torch.exp(-b[3] * x) + b[4] * torch.exp(-b[5] * x)


def _cubic_ratio(x: Tensor, b: Tensor) -> Tensor:
    over = b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3
    return over / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


def _saturation(x: Tensor, b: Tensor) -> Tensor:
    return b[0] * (1 - torch.exp(-b[1] * x))


def _chwirut(x: Tensor, b: Tensor) -> Tensor:
    return torch.exp(-b[0] * x) / (b[1] + b[2] * x)


def _enso(x: Tensor, b: Tensor) -> Tensor:
    t = 2 * math.pi * x
    return (
        b[0]
        + b[1] * torch.cos(t / 12) + b[2] * torch.sin(t / 12)
        + b[4] * torch.cos(t / b[3]) + b[5] * torch.sin(t / b[3])
        + b[7] * torch.cos(t / b[6]) + b[8] * torch.sin(t / b[6])
    )  # fmt: skip


FORMULAS: dict[str, Formula] = {
    "bennett5": lambda x, b: b[0] * (b[1] + x) ** (-1 / b[2]),
    "boxbod": _saturation,
    "chwirut1": _chwirut,
    "chwirut2": _chwirut,
    "danwood": lambda x, b: b[0] * x ** b[1],
    "eckerle4": lambda x, b: b[0] / b[1] * torch.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
    "enso": _enso,
    "gauss1": _gauss,
    "gauss2": _gauss,
    "gauss3": _gauss,
    "hahn1": _cubic_ratio,
    "kirby2": lambda x, b: (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2),
    "lanczos1": _lanczos,
    "lanczos2": _lanczos,
    "lanczos3": _lanczos,
    "mgh09": lambda x, b: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "mgh10": lambda x, b: b[0] * torch.exp(b[1] / (x + b[2])),
    "mgh17": lambda x, b: b[0] + b[1] * torch.exp(-x * b[3]) + b[2] * torch.exp(-x * b[4]),
    "misra1a": _saturation,
    "misra1b": lambda x, b: b[0] * (1 - (1 + b[1] * x / 2) ** (-2)),
    "misra1c": lambda x, b: b[0] * (1 - (1 + 2 * b[1] * x) ** (-0.5)),
    "misra1d": lambda x, b: b[0] * b[1] * x / (1 + b[1] * x),
    "nelson": lambda x, b: b[0] - b[1] * x[:, 0] * torch.exp(-b[2] * x[:, 1]),  # of log y
    "rat42": lambda x, b: b[0] / (1 + torch.exp(b[1] - b[2] * x)),
    "rat43": lambda x, b: b[0] / (1 + torch.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "roszman1": lambda x, b: b[0] - b[1] * x - torch.atan(b[2] / (x - b[3])) / math.pi,
    "thurber": _cubic_ratio,
}
"""Problem to (x, parameters) -> the curve's values."""


def _load(problem: str, start: Literal[1, 2], dtype: torch.dtype) -> CurveFit:
    table = nist_tables()[problem]
    x = torch.tensor(table["x"], dtype=torch.float64)
    y = torch.tensor(table["y"], dtype=torch.float64)
    y = y.log() if problem == "nelson" else y
    return CurveFit(
        name=f"nist_{problem}",
        train=Split(x.to(dtype).reshape(len(y), -1), y.to(dtype)),
        test=None,
        task="regression",
        n_classes=0,
        source="NIST Statistical Reference Datasets, nonlinear regression",
        checksum=hashlib.sha256(json.dumps([table, start]).encode()).hexdigest(),
        formula=FORMULAS[problem],
        start=torch.tensor(table[f"start_{start}"], dtype=torch.float64).to(dtype),
        certified=torch.tensor(table["certified"], dtype=torch.float64).to(dtype),
    )


_KEYS = """
Parameters
----------
start : {1, 2}
    Which of NIST's two starting points: 1 (far) or 2 (near).
"""


def _source(problem: str) -> Callable[..., CurveFit]:
    """Make the function that loads a problem, with a signature that the registry can read."""

    def load(*, start: Literal[1, 2] = 1, dtype: torch.dtype = torch.float64) -> CurveFit:
        return _load(problem, start, dtype)

    load.__doc__ = f"{nist_summary(problem)}\n{_KEYS}"
    load.__qualname__ = f"nist_{problem}"
    return load


for _problem in FORMULAS:
    register("dataset", f"nist_{_problem}", offers=(LABELLED, RESIDUALS))(_source(_problem))
