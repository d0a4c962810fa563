"""The zoo of linear systems that every solver meets.

A new solver joins every test by one line in `SOLVERS`, a new family of systems by one in `CASES`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from problems import randn
from torch import Tensor

from newton_krylov.linear_solvers.result import LinearResult
from newton_krylov.registry import entry

Kind = Literal["definite", "semidefinite", "indefinite", "singular", "positive_real", "general"]
"""Symmetric: `definite`, `semidefinite`, `indefinite` (nonsingular), `singular` (of both signs).
Nonsymmetric: `positive_real` (with a positive definite symmetric part), `general`."""

SYMMETRIC: frozenset[Kind] = frozenset({"definite", "semidefinite", "indefinite", "singular"})
REGULAR: frozenset[Kind] = frozenset({"definite", "indefinite", "positive_real", "general"})
LIMIT = 4000
"""Iterations that every system of the zoo can be solved in."""


@dataclass(frozen=True)
class Solver:
    """A registered solver and what its theory promises.

    Attributes
    ----------
    name : str
        As registered.
    solves : set of str
        Kinds of systems, if they have a solution, that it solves.
    monotone : bool
        Whether it minimizes the residual over spaces that grow.
    options : dict
        With which it is tested.
    """

    name: str
    solves: frozenset[Kind]
    monotone: bool = True
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def __call__(self, A: Any, b: Tensor, **options: Any) -> LinearResult:
        return entry("solver", self.name).target(A, b, **self.options | options)

    @property
    def needs_symmetry(self) -> bool:
        """Whether it refuses nonsymmetric operators."""
        return self.solves <= SYMMETRIC

    @property
    def iterative(self) -> bool:
        """Whether it builds a Krylov space."""
        return self.name != "exact"


_DEFINITE: frozenset[Kind] = frozenset({"definite", "semidefinite"})

SOLVERS = [
    Solver("cg", _DEFINITE, monotone=False),
    Solver("cr", _DEFINITE),
    Solver("gcr", _DEFINITE | {"positive_real"}, options={"restart": None}),
    Solver("gmres", REGULAR | {"semidefinite"}, options={"restart": LIMIT}),
    Solver("minres", SYMMETRIC),
    Solver("minres_qlp", SYMMETRIC),
    Solver("exact", SYMMETRIC | REGULAR),
]
ITERATIVE = [solver for solver in SOLVERS if solver.iterative]
SYMMETRIC_ONLY = [solver for solver in SOLVERS if solver.needs_symmetry]
BY_NAME = {solver.name: solver for solver in SOLVERS}


@dataclass(frozen=True)
class Case:
    """A system A x = b.

    Attributes
    ----------
    name : str
        Of its family.
    kind : str
        See `Kind`.
    make : callable
        Returns A and b, float64.
    consistent : bool
        Whether it has a solution.
    condition : float
        An upper bound of the condition number, zero eigenvalues apart.
    """

    name: str
    kind: Kind
    make: Callable[[], tuple[Tensor, Tensor]]
    consistent: bool = True
    condition: float = 1e4

    def __str__(self) -> str:
        return self.name

    @cached_property
    def system(self) -> tuple[Tensor, Tensor]:
        """A, shape (n, n), and b, shape (n,), in float64."""
        return self.make()

    def at(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return A and b in that dtype, there."""
        A, b = self.system
        return A.to(device, dtype), b.to(device, dtype)

    @cached_property
    def shortest(self) -> Tensor:
        """The shortest least-squares solution, by the pseudo-inverse; float64."""
        A, b = self.system
        return torch.linalg.pinv(A, rtol=1e-14, hermitian=self.kind in SYMMETRIC) @ b

    @cached_property
    def smallest(self) -> float:
        """The smallest singular value that is not zero."""
        values = torch.linalg.svdvals(self.system[0])
        return float(values[values > 1e-14 * values[0]].min())

    @cached_property
    def norm(self) -> float:
        """|A|."""
        return float(torch.linalg.matrix_norm(self.system[0], 2))


def symmetric(eigenvalues: Tensor | list[float], seed: int = 0) -> Tensor:
    """Return a symmetric matrix with those eigenvalues and random eigenvectors."""
    values = torch.as_tensor(eigenvalues, dtype=torch.float64)
    Q = torch.linalg.qr(randn(len(values), len(values), seed=seed)).Q
    A = (Q * values) @ Q.T
    return (A + A.T) / 2


def spread(n: int, condition: float) -> Tensor:
    """Return n eigenvalues from 1/condition to 1, evenly spaced in their logarithms."""
    return torch.logspace(0, -torch.tensor(condition, dtype=torch.float64).log10(), n).double()


def _spd() -> tuple[Tensor, Tensor]:
    return 3 * symmetric(spread(40, 100)), randn(40, seed=1)


def _laplacian() -> tuple[Tensor, Tensor]:
    n = 50
    A = 2 * torch.eye(n) - torch.diag(torch.ones(n - 1), 1) - torch.diag(torch.ones(n - 1), -1)
    return A.double(), torch.ones(n).double()


def _badly_scaled() -> tuple[Tensor, Tensor]:
    scale = torch.diag(torch.logspace(-1, 1, 40).double())
    return scale @ symmetric(spread(40, 10)) @ scale, randn(40, seed=1)


def _tiny_numbers() -> tuple[Tensor, Tensor]:
    return 1e-12 * symmetric(spread(20, 10)), 1e-18 * randn(20, seed=1)


def _huge_numbers() -> tuple[Tensor, Tensor]:
    return 1e12 * symmetric(spread(20, 10)), 1e18 * randn(20, seed=1)


def _ill_conditioned() -> tuple[Tensor, Tensor]:
    # b is such that the large eigenvalues decide: solvable to 1e-5 in reasonable time.
    A = symmetric(spread(40, 1e12))
    return A, A @ randn(40, seed=1)


def _one(value: float) -> Callable[[], tuple[Tensor, Tensor]]:
    return lambda: (torch.tensor([[value]]).double(), torch.tensor([3.0]).double())


def _indefinite() -> tuple[Tensor, Tensor]:
    values = torch.cat((spread(25, 30), -spread(15, 30)))
    return symmetric(values), randn(40, seed=1)


def _one_negative() -> tuple[Tensor, Tensor]:
    return symmetric(torch.cat((spread(39, 30), torch.tensor([-0.1])))), randn(40, seed=1)


def _negative_definite() -> tuple[Tensor, Tensor]:
    return symmetric(-spread(20, 10)), randn(20, seed=1)


def _saddle_point() -> tuple[Tensor, Tensor]:
    A = torch.zeros(30, 30).double()
    A[:20, :20] = symmetric(spread(20, 10))
    A[20:, :20] = randn(10, 20, seed=2)
    A[:20, 20:] = A[20:, :20].T
    return A, randn(30, seed=1)


def _swap() -> tuple[Tensor, Tensor]:
    # b'A b = 0 though A is regular: where methods break down at once.
    return torch.tensor([[0.0, 1.0], [1.0, 0.0]]).double(), torch.tensor([1.0, 0.0]).double()


def _semidefinite() -> tuple[Tensor, Tensor]:
    A = symmetric(torch.cat((torch.zeros(6), spread(34, 50))))
    return A, A @ randn(40, seed=1)


def _neumann() -> tuple[Tensor, Tensor]:
    A = _laplacian()[0]
    A[0, 0] = A[-1, -1] = 1.0
    b = randn(50, seed=1)
    return A, b - b.mean()


def _semidefinite_inconsistent() -> tuple[Tensor, Tensor]:
    return _semidefinite()[0], randn(40, seed=1)


def _singular() -> tuple[Tensor, Tensor]:
    A = symmetric(torch.cat((torch.zeros(6), spread(20, 30), -spread(14, 30))))
    return A, A @ randn(40, seed=1)


def _singular_inconsistent() -> tuple[Tensor, Tensor]:
    return _singular()[0], randn(40, seed=1)


def _zero_matrix() -> tuple[Tensor, Tensor]:
    return torch.zeros(5, 5).double(), torch.ones(5).double()


def _positive_real() -> tuple[Tensor, Tensor]:
    S = randn(40, 40, seed=2)
    return symmetric(spread(40, 10)) + (S - S.T) / 20, randn(40, seed=1)


def _convection_diffusion() -> tuple[Tensor, Tensor]:
    n = 50
    A = torch.diag(torch.full((n - 1,), -0.5), 1) + torch.diag(torch.full((n - 1,), -1.5), -1)
    return (A + 2 * torch.eye(n)).double(), torch.ones(n).double()


def _general() -> tuple[Tensor, Tensor]:
    return randn(30, 30, seed=2) + torch.eye(30), randn(30, seed=1)


def _shift() -> tuple[Tensor, Tensor]:
    # GMRES makes no progress before the last step (Nachtigal, Reddy and Trefethen 1992).
    A = torch.roll(torch.eye(20), 1, 0).double()
    return A, torch.eye(20).double()[0]


CASES = [
    Case("spd", "definite", _spd),
    Case("identity", "definite", lambda: (torch.eye(7).double(), randn(7, seed=1))),
    Case("laplacian", "definite", _laplacian),
    Case("badly_scaled", "definite", _badly_scaled, condition=1e5),
    Case("tiny_numbers", "definite", _tiny_numbers),
    Case("huge_numbers", "definite", _huge_numbers),
    Case("ill_conditioned", "definite", _ill_conditioned, condition=2e12),
    Case("one", "definite", _one(2.0)),
    Case("one_negative_number", "indefinite", _one(-2.0)),
    Case("indefinite", "indefinite", _indefinite),
    Case("one_negative", "indefinite", _one_negative),
    Case("negative_definite", "indefinite", _negative_definite),
    Case("saddle_point", "indefinite", _saddle_point),
    Case("swap", "indefinite", _swap),
    Case("semidefinite", "semidefinite", _semidefinite),
    Case("neumann", "semidefinite", _neumann),
    Case("semidefinite_inconsistent", "semidefinite", _semidefinite_inconsistent, False),
    Case("singular", "singular", _singular),
    Case("singular_inconsistent", "singular", _singular_inconsistent, False),
    Case("zero_matrix", "semidefinite", _zero_matrix, False),
    Case("one_zero", "semidefinite", _one(0.0), False),
    Case("positive_real", "positive_real", _positive_real),
    Case("convection_diffusion", "positive_real", _convection_diffusion),
    Case("general", "general", _general),
    Case("shift", "general", _shift),
]
CASE = {case.name: case for case in CASES}
SYMMETRIC_CASES = [case for case in CASES if case.kind in SYMMETRIC]


def hilbert(n: int) -> Tensor:
    """Return the Hilbert matrix: positive definite, of condition e^(3.5 n)."""
    i = torch.arange(n, dtype=torch.float64)
    return 1 / (i[:, None] + i + 1)


def frank(n: int) -> Tensor:
    """Return Frank's matrix: upper Hessenberg, determinant 1, ill-conditioned small eigenvalues."""
    i = torch.arange(1, n + 1, dtype=torch.float64)
    A = torch.minimum(i[:, None], i).where(i >= i[:, None] - 1, torch.zeros(()).double())
    return A.flip(0, 1)


def graded(n: int, decades: float, *, indefinite: bool = False) -> Tensor:
    """Return D B D with rows and columns falling over so many decades."""
    d = torch.logspace(0, -decades / 2, n).double()
    signs = torch.sign(randn(n, seed=7)) if indefinite else torch.ones(n).double()
    return d[:, None] * (torch.diag(signs) + 0.1 * symmetric(torch.linspace(0.5, 1.5, n))) * d


def spoiled(n: int, condition: float, *, singular: bool = False) -> Tensor:
    """Return an indefinite matrix whose eigenvalues fall over many decades, a quarter to zero."""
    values = spread(n, condition) * torch.sign(randn(n, seed=11))
    if singular:
        values[-(n // 4) :] = 0.0
    return symmetric(values, seed=3)


HARD = {
    "hilbert": hilbert(12),
    "large hilbert": hilbert(40),
    "frank": frank(18),
    "large frank": frank(40),
    "graded": graded(30, 12),
    "graded indefinite": graded(30, 12, indefinite=True),
    "far graded indefinite": graded(18, 24, indefinite=True),
    "ill-conditioned indefinite": spoiled(40, 1e12),
    "ill-conditioned singular": spoiled(40, 1e8, singular=True),
    "one tiny, one tinier": torch.diag(torch.tensor([0.02649, 1.312e-07, -2.129e-09]).double()),
}
"""Matrices on which recurrences leave the true residual."""

SCALES = {
    torch.float32: [1e-37, 1e-30, 1e-22, 1e22, 1e30, 1e37],
    torch.float64: [1e-300, 1e-170, 1e-22, 1e22, 1e170, 1e300],
}
"""Units of which squares, or products of two, are beyond a type's range."""


def solvable() -> list[tuple[Solver, Case]]:
    """Return every solver with every system that it must solve."""
    return [(s, c) for s in SOLVERS for c in CASES if c.kind in s.solves and c.consistent]


def admissible() -> list[tuple[Solver, Case]]:
    """Return every solver with every system that it may be asked to solve."""
    return [(s, c) for s in SOLVERS for c in CASES if c.kind in SYMMETRIC or not s.needs_symmetry]


def true_residual(A: Tensor, b: Tensor, x: Tensor) -> float:
    """Return |b - A x|, evaluated in float64."""
    return float(torch.linalg.vector_norm(b.double() - A.double() @ x.double()))


def extended_residual(A: Tensor, b: Tensor, x: Tensor) -> float:
    """Return |b - A x|, evaluated in extended precision and range."""
    A, b, x = (v.numpy().astype(np.longdouble) for v in (A, b, x))
    return float(np.sqrt(((b - A @ x) ** 2).sum()))


def rounding(A: Tensor, b: Tensor, x: Tensor) -> float:
    """Bound the rounding error of b - A x in the dtype of its parts."""
    eps = torch.finfo(b.dtype).eps
    size = A.double().abs() @ x.double().abs() + b.double().abs()
    return 4 * eps * len(b) ** 0.5 * float(torch.linalg.vector_norm(size))
