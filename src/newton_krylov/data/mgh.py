"""Moré, Garbow and Hillstrom's test problems, whose minima are published.

J. J. Moré, B. S. Garbow and K. E. Hillstrom, "Testing unconstrained optimization software", ACM
Transactions on Mathematical Software 7 (1981); numbers in parentheses are the paper's. Gulf's
formula (11) is the corrected one, without the factors that a misprint put into it.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from newton_krylov.capabilities import RESIDUALS
from newton_krylov.data.catalogue import MGH
from newton_krylov.data.dataset import CurveFit, Split
from newton_krylov.registry import register

Residuals = Callable[[Tensor], Tensor]
"""x, shape (n,), to the residuals, shape (m,)."""


@dataclass(frozen=True)
class Problem:
    """A sum of squares.

    Attributes
    ----------
    residuals : callable
        See `Residuals`.
    start : tuple of float
        The paper's.
    minima : tuple of float
        Published local minima of the sum of squares, the lowest first. Where the infimum of a
        valley that goes on for ever is below or beside them, it is among them.
    """

    residuals: Residuals
    start: tuple[float, ...]
    minima: tuple[float, ...] = (0.0,)


def _stack(*parts: Tensor | float) -> Tensor:
    known = next(part for part in parts if isinstance(part, Tensor))
    return torch.stack([torch.as_tensor(part).to(known) for part in parts])


def _like(x: Tensor, numbers: Sequence[float]) -> Tensor:
    return torch.tensor(numbers, dtype=x.dtype, device=x.device)


def _range(x: Tensor, first: int, last: int) -> Tensor:
    return torch.arange(first, last + 1, dtype=x.dtype, device=x.device)


def _rosenbrock(x: Tensor) -> Tensor:  # (1), (21)
    odd, even = x[0::2], x[1::2]
    return torch.stack((10 * (even - odd**2), 1 - odd), 1).reshape(-1)


def _freudenstein_roth(x: Tensor) -> Tensor:  # (2)
    a, b = x
    return _stack(-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b)


def _powell_badly_scaled(x: Tensor) -> Tensor:  # (3)
    return _stack(1e4 * x[0] * x[1] - 1, torch.exp(-x[0]) + torch.exp(-x[1]) - 1.0001)


def _brown_badly_scaled(x: Tensor) -> Tensor:  # (4)
    return _stack(x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2)


def _beale(x: Tensor) -> Tensor:  # (5)
    return _like(x, [1.5, 2.25, 2.625]) - x[0] * (1 - x[1] ** _range(x, 1, 3))


def _jennrich_sampson(x: Tensor) -> Tensor:  # (6)
    i = _range(x, 1, 10)
    return 2 + 2 * i - (torch.exp(i * x[0]) + torch.exp(i * x[1]))


def _helical_valley(x: Tensor) -> Tensor:  # (7)
    turn = torch.atan2(x[1], x[0]) / (2 * math.pi)
    # The paper's angle is that of the half planes x > 0 and x < 0, between -1/4 and 3/4.
    turn = torch.where(turn < -0.25, turn + 1, turn)
    return _stack(10 * (x[2] - 10 * turn), 10 * (torch.hypot(x[0], x[1]) - 1), x[2])


def _bard(x: Tensor) -> Tensor:  # (8)
    y = [0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39]
    u = _range(x, 1, 15)
    v = 16 - u
    return _like(x, y) - (x[0] + u / (v * x[1] + torch.minimum(u, v) * x[2]))


def _gaussian(x: Tensor) -> Tensor:  # (9)
    half = [0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521]
    t = (8 - _range(x, 1, 15)) / 2
    return x[0] * torch.exp(-x[1] * (t - x[2]) ** 2 / 2) - _like(x, [*half, 0.3989, *half[::-1]])


def _meyer(x: Tensor) -> Tensor:  # (10)
    y = [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820,
         3307, 2872]  # fmt: skip
    return x[0] * torch.exp(x[1] / (45 + 5 * _range(x, 1, 16) + x[2])) - _like(x, y)


def _gulf(x: Tensor) -> Tensor:  # (11)
    t = _range(x, 1, 99) / 100
    y = 25 + (-50 * torch.log(t)) ** (2 / 3)
    return torch.exp(-(torch.abs(y - x[1]) ** x[2]) / x[0]) - t


def _box(x: Tensor) -> Tensor:  # (12)
    t = _range(x, 1, 10) / 10
    return torch.exp(-t * x[0]) - torch.exp(-t * x[1]) - x[2] * (torch.exp(-t) - torch.exp(-10 * t))


def _powell_singular(x: Tensor) -> Tensor:  # (13), (22)
    a, b, c, d = x[0::4], x[1::4], x[2::4], x[3::4]
    parts = (a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2)
    return torch.stack(parts, 1).reshape(-1)


def _wood(x: Tensor) -> Tensor:  # (14)
    a, b, c, d = x
    return _stack(
        10 * (b - a**2), 1 - a, 90**0.5 * (d - c**2), 1 - c,
        10**0.5 * (b + d - 2), 10**-0.5 * (b - d),
    )  # fmt: skip


def _kowalik_osborne(x: Tensor) -> Tensor:  # (15)
    y = [0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246]
    u = _like(x, [4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625])
    return _like(x, y) - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def _brown_dennis(x: Tensor) -> Tensor:  # (16)
    t = _range(x, 1, 20) / 5
    return (x[0] + t * x[1] - torch.exp(t)) ** 2 + (x[2] + x[3] * t.sin() - t.cos()) ** 2


def _osborne_1(x: Tensor) -> Tensor:  # (17)
    y = [0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751, 0.718, 0.685,
         0.658, 0.628, 0.603, 0.580, 0.558, 0.538, 0.522, 0.506, 0.490, 0.478, 0.467, 0.457, 0.448,
         0.438, 0.431, 0.424, 0.420, 0.414, 0.411, 0.406]  # fmt: skip
    t = 10 * _range(x, 0, 32)
    return _like(x, y) - (x[0] + x[1] * torch.exp(-t * x[3]) + x[2] * torch.exp(-t * x[4]))


def _biggs(x: Tensor) -> Tensor:  # (18)
    t = _range(x, 1, 13) / 10
    y = torch.exp(-t) - 5 * torch.exp(-10 * t) + 3 * torch.exp(-4 * t)
    model = x[2] * torch.exp(-t * x[0]) - x[3] * torch.exp(-t * x[1]) + x[5] * torch.exp(-t * x[4])
    return model - y


def _osborne_2(x: Tensor) -> Tensor:  # (19)
    y = [1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746, 0.679, 0.608,
         0.655, 0.616, 0.606, 0.602, 0.626, 0.651, 0.724, 0.649, 0.649, 0.694, 0.644, 0.624, 0.661,
         0.612, 0.558, 0.533, 0.495, 0.500, 0.423, 0.395, 0.375, 0.372, 0.391, 0.396, 0.405, 0.428,
         0.429, 0.523, 0.562, 0.607, 0.653, 0.672, 0.708, 0.633, 0.668, 0.645, 0.632, 0.591, 0.559,
         0.597, 0.625, 0.739, 0.710, 0.729, 0.720, 0.636, 0.581, 0.428, 0.292, 0.162, 0.098,
         0.054]  # fmt: skip
    t = _range(x, 0, 64) / 10
    model = x[0] * torch.exp(-t * x[4])
    for k in (1, 2, 3):
        model = model + x[k] * torch.exp(-((t - x[7 + k]) ** 2) * x[4 + k])
    return _like(x, y) - model


def _watson(x: Tensor) -> Tensor:  # (20)
    n = len(x)
    powers = (_range(x, 1, 29) / 29)[:, None] ** _range(x, 0, n - 1)
    slope = powers[:, :-1] @ (_range(x, 1, n - 1) * x[1:])
    rest = torch.stack((x[0], x[1] - x[0] ** 2 - 1))
    return torch.cat((slope - (powers @ x) ** 2 - 1, rest))


def _penalty_1(x: Tensor) -> Tensor:  # (23)
    return torch.cat((1e-5**0.5 * (x - 1), (x.square().sum() - 0.25)[None]))


def _penalty_2(x: Tensor) -> Tensor:  # (24)
    n, root = len(x), 1e-5**0.5
    i = _range(x, 2, n)
    y = torch.exp(i / 10) + torch.exp((i - 1) / 10)
    e = torch.exp(x / 10)
    total = (_range(x, 1, n).flip(0) * x.square()).sum() - 1
    return torch.cat((
        (x[0] - 0.2)[None], root * (e[1:] + e[:-1] - y), root * (e[1:] - math.exp(-0.1)),
        total[None],
    ))  # fmt: skip


def _variably_dimensioned(x: Tensor) -> Tensor:  # (25)
    total = (_range(x, 1, len(x)) * (x - 1)).sum()
    return torch.cat((x - 1, total[None], total[None] ** 2))


def _trigonometric(x: Tensor) -> Tensor:  # (26)
    n = len(x)
    return n - x.cos().sum() + _range(x, 1, n) * (1 - x.cos()) - x.sin()


def _brown_almost_linear(x: Tensor) -> Tensor:  # (27)
    return torch.cat((x[:-1] + x.sum() - (len(x) + 1), (x.prod() - 1)[None]))


def _grid(x: Tensor) -> tuple[float, Tensor]:
    h = 1 / (len(x) + 1)
    return h, h * _range(x, 1, len(x))


def _discrete_boundary(x: Tensor) -> Tensor:  # (28)
    h, t = _grid(x)
    wide = torch.nn.functional.pad(x, (1, 1))
    return 2 * x - wide[:-2] - wide[2:] + h**2 * (x + t + 1) ** 3 / 2


def _discrete_integral(x: Tensor) -> Tensor:  # (29)
    h, t = _grid(x)
    cube = (x + t + 1) ** 3
    before = torch.cumsum(t * cube, 0)
    after = (1 - t) * cube
    after = after.sum() - torch.cumsum(after, 0)
    return x + h * ((1 - t) * before + t * after) / 2


def _broyden_tridiagonal(x: Tensor) -> Tensor:  # (30)
    wide = torch.nn.functional.pad(x, (1, 1))
    return (3 - 2 * x) * x - wide[:-2] - 2 * wide[2:] + 1


def _broyden_banded(x: Tensor) -> Tensor:  # (31)
    i = _range(x, 1, len(x))
    ahead = i[None, :] - i[:, None]
    band = ((ahead >= -5) & (ahead <= 1) & (ahead != 0)).to(x.dtype)
    return x * (2 + 5 * x**2) + 1 - band @ (x * (1 + x))


def _linear_full_rank(x: Tensor) -> Tensor:  # (32), m = 2 n
    shared = -2 / (2 * len(x)) * x.sum() - 1
    return torch.cat((x + shared, shared.expand(len(x))))


def _linear_rank_1(x: Tensor) -> Tensor:  # (33), m = 2 n
    n = len(x)
    return _range(x, 1, 2 * n) * (_range(x, 1, n) * x).sum() - 1


def _linear_rank_1_zeros(x: Tensor) -> Tensor:  # (34), m = 2 n
    n = len(x)
    rows = _range(x, 0, 2 * n - 1)
    rows = torch.where(rows == 2 * n - 1, 0.0, rows)
    return rows * (_range(x, 2, n - 1) * x[1:-1]).sum() - 1


def _chebyquad(x: Tensor) -> Tensor:  # (35), m = n
    z, found = 2 * x - 1, []
    last, now = torch.ones_like(x), z
    for i in range(1, len(x) + 1):
        found.append(now.mean() + (1 / (i * i - 1) if i % 2 == 0 else 0.0))
        last, now = now, 2 * z * now - last
    return torch.stack(found)


def _evenly(n: int) -> tuple[float, ...]:
    return tuple(j / (n + 1) for j in range(1, n + 1))


PROBLEMS: dict[str, Problem] = {
    "rosenbrock": Problem(_rosenbrock, (-1.2, 1.0)),
    "freudenstein_roth": Problem(_freudenstein_roth, (0.5, -2.0), (0.0, 48.9842)),
    "powell_badly_scaled": Problem(_powell_badly_scaled, (0.0, 1.0)),
    "brown_badly_scaled": Problem(_brown_badly_scaled, (1.0, 1.0)),
    "beale": Problem(_beale, (1.0, 1.0)),
    "jennrich_sampson": Problem(_jennrich_sampson, (0.3, 0.4), (124.362,)),
    "helical_valley": Problem(_helical_valley, (-1.0, 0.0, 0.0)),
    "bard": Problem(_bard, (1.0, 1.0, 1.0), (8.21487e-3, 17.4286)),
    "gaussian": Problem(_gaussian, (0.4, 1.0, 0.0), (1.12793e-8,)),
    "meyer": Problem(_meyer, (0.02, 4000.0, 250.0), (87.9458,)),
    "gulf": Problem(_gulf, (5.0, 2.5, 0.15)),
    "box": Problem(_box, (0.0, 10.0, 20.0)),
    "powell_singular": Problem(_powell_singular, (3.0, -1.0, 0.0, 1.0)),
    "wood": Problem(_wood, (-3.0, -1.0, -3.0, -1.0)),
    "kowalik_osborne": Problem(
        _kowalik_osborne, (0.25, 0.39, 0.415, 0.39), (3.07505e-4, 1.02734e-3)
    ),
    "brown_dennis": Problem(_brown_dennis, (25.0, 5.0, -5.0, -1.0), (85822.2,)),
    "osborne_1": Problem(_osborne_1, (0.5, 1.5, -1.0, 0.01, 0.02), (5.46489e-5,)),
    "biggs": Problem(_biggs, (1.0, 2.0, 1.0, 1.0, 1.0, 1.0), (0.0, 5.65565e-3)),
    "osborne_2": Problem(
        _osborne_2, (1.3, 0.65, 0.65, 0.7, 0.6, 3.0, 5.0, 7.0, 2.0, 4.5, 5.5), (4.01377e-2,)
    ),
    "watson": Problem(_watson, (0.0,) * 6, (2.28767e-3,)),
    "extended_rosenbrock": Problem(_rosenbrock, (-1.2, 1.0) * 10),
    "extended_powell": Problem(_powell_singular, (3.0, -1.0, 0.0, 1.0) * 5),
    "penalty_1": Problem(_penalty_1, tuple(map(float, range(1, 11))), (7.08765e-5,)),
    "penalty_2": Problem(_penalty_2, (0.5,) * 10, (2.93660e-4,)),
    "variably_dimensioned": Problem(_variably_dimensioned, tuple(1 - j / 10 for j in range(1, 11))),
    "trigonometric": Problem(_trigonometric, (0.1,) * 10, (0.0, 2.79506e-5)),
    "brown_almost_linear": Problem(_brown_almost_linear, (0.5,) * 10, (0.0, 1.0)),
    "discrete_boundary": Problem(_discrete_boundary, tuple(t * (t - 1) for t in _evenly(10))),
    "discrete_integral": Problem(_discrete_integral, tuple(t * (t - 1) for t in _evenly(10))),
    "broyden_tridiagonal": Problem(_broyden_tridiagonal, (-1.0,) * 10),
    "broyden_banded": Problem(_broyden_banded, (-1.0,) * 10),
    "linear_full_rank": Problem(_linear_full_rank, (1.0,) * 10, (10.0,)),
    "linear_rank_1": Problem(_linear_rank_1, (1.0,) * 10, (20 * 19 / (2 * 41),)),
    "linear_rank_1_zeros": Problem(_linear_rank_1_zeros, (1.0,) * 10, ((400 + 60 - 6) / (2 * 37),)),
    "chebyquad": Problem(_chebyquad, _evenly(8), (3.51687e-3,)),
}
"""Problem to its residuals, start and minima; where the paper leaves n open, it is 10 or so."""


def _load(problem: str, dtype: torch.dtype) -> CurveFit:
    one = PROBLEMS[problem]
    start = torch.tensor(one.start, dtype=dtype)
    m = len(one.residuals(start))
    return CurveFit(
        name=f"mgh_{problem}",
        train=Split(torch.arange(m, dtype=dtype)[:, None], torch.zeros(m, dtype=dtype)),
        test=None,
        task="regression",
        n_classes=0,
        source="Moré, Garbow and Hillstrom (1981)",
        checksum=hashlib.sha256(f"{problem} {one.start}".encode()).hexdigest(),
        formula=lambda _, x: one.residuals(x),
        start=start,
    )


def _source(problem: str) -> Callable[..., CurveFit]:
    """Make the function that loads a problem, with a signature that the registry can read."""

    def load(*, dtype: torch.dtype = torch.float64) -> CurveFit:
        return _load(problem, dtype)

    load.__doc__ = MGH[problem]
    load.__qualname__ = f"mgh_{problem}"
    return load


for _problem in PROBLEMS:
    register("dataset", f"mgh_{_problem}", offers=(RESIDUALS,))(_source(_problem))
