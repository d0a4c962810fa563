"""The zoo of curvatures: every registered one, at points of every kind of objective it is for.

A curvature joins by being registered; its declared needs choose its points. One that is no
approximation of the Hessian, or draws what it is made of, gets a word in the tables below.
"""

import pytest
import torch
from problems import assert_close, make, randn
from small_networks import network
from transport_problems import dual

from newton_krylov.capabilities import ALL_SAMPLES
from newton_krylov.linear_solvers.cg import cg
from newton_krylov.objectives.base import Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import entry, names

POINTS = {
    "logistic": lambda: make("logistic"),
    "multinomial": lambda: make("multinomial"),
    "sigmoid": lambda: make("sigmoid_least_squares"),
    "network": lambda: network(l2=0.01),
    "transport": dual,
}
SEMIDEFINITE = {"ggn", "empirical_fisher", "monte_carlo_fisher", "leverage_subsampled", "sketched",
                "kfac", "ekfac"}  # fmt: skip
"""Whatever the loss; the others where the loss is convex."""
EXACT = {"hvp", "exact"}
"""The Hessian itself; `ggn` too, where the loss is a convex one of a linear model."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def point_of(where: str) -> Point:
    f = POINTS[where]()
    w = f.initial() if where == "network" else torch.zeros(f.dim, dtype=f.dtype)
    return f.at(w + 0.2 * randn(f.dim, seed=1).to(f.dtype))


def ours() -> list[str]:
    return [
        name
        for name in names("hessian_approx")
        if entry("hessian_approx", name).target.__module__.startswith("newton_krylov.")
    ]


def is_for(name: str, where: str) -> bool:
    """Whether the objective offers what a curvature says that it needs."""
    offered = POINTS[where]().offers | {ALL_SAMPLES}
    return offered.issuperset(entry("hessian_approx", name).needs)


ZOO = [(name, where) for name in ours() for where in POINTS if is_for(name, where)]
every = pytest.mark.parametrize(("name", "where"), ZOO, ids=str)


def built(name: str, point: Point, seed: int = 0) -> LinearOperator:
    if name == "rank1_pyhessian":
        pytest.importorskip("pyhessian", reason="PyHessian is not installed")
    return entry("hessian_approx", name).build({}).at(point, generator(seed))


def test_every_curvature_is_for_some_point_and_every_point_has_some():
    assert {name for name, _ in ZOO} == set(ours())
    assert {where for _, where in ZOO} == set(POINTS)


@every
def test_shape_dtype_and_device_are_those_of_w(name, where):
    point = point_of(where)
    A = built(name, point)
    assert A.shape == (point.objective.dim,) * 2
    assert A.dtype == point.w.dtype and A.device == point.w.device
    product = A.matvec(randn(A.shape[0], seed=2).to(A.dtype))
    assert product.dtype == A.dtype and product.shape == (A.shape[0],)


@every
def test_it_is_symmetric_and_linear_and_its_forms_agree(name, where):
    A = built(name, point_of(where))
    n = A.shape[0]
    u, v = (randn(n, seed=seed).to(A.dtype) for seed in (3, 4))
    Au, Av = A.matvec(u).clone(), A.matvec(v).clone()
    dense = A.dense()
    tolerance = 1e-4 if A.dtype == torch.float32 else 1e-10
    scale = float(dense.norm()) * n
    assert_close(dense, dense.T, tolerance, "symmetry")
    assert float((dense @ v - Av).norm()) <= tolerance * scale
    assert float((A.matvec(2 * u - 3 * v) - (2 * Au - 3 * Av)).norm()) <= 10 * tolerance * scale
    assert abs(float(u @ Av - v @ Au)) <= tolerance * scale * n
    assert float((A.matmat(torch.stack([u, v], 1)) - torch.stack([Au, Av], 1)).norm()) <= (
        10 * tolerance * scale
    )
    assert float((A.diagonal() - dense.diagonal()).norm()) <= tolerance * scale


@every
def test_equal_generators_give_equal_operators(name, where):
    one, other = (built(name, point_of(where), seed=7).dense() for _ in range(2))
    assert torch.equal(one, other)


@every
def test_it_neither_moves_w_nor_touches_the_global_generator(name, where):
    point = point_of(where)
    w, state = point.w.clone(), torch.get_rng_state()
    A = built(name, point)
    A.matvec(torch.ones_like(w))
    assert torch.equal(point.w, w) and torch.equal(torch.get_rng_state(), state)


@every
def test_a_second_point_s_curvature_is_its_own(name, where):
    """What one point leaves behind (blocks of samples, vectors to start from) serves the next."""
    if name == "rank1_pyhessian":
        pytest.importorskip("pyhessian", reason="PyHessian is not installed")
    curvature = entry("hessian_approx", name).build({})
    point = point_of(where)
    first = curvature.at(point, generator()).dense().clone()
    state = curvature.state_dict()
    w = point.w + 0.3 * randn(len(point.w), seed=5).to(point.w.dtype)
    second = curvature.at(point.objective.at(w), generator(1))
    assert not torch.equal(second.dense(), first)
    again = entry("hessian_approx", name).build({})
    again.load_state_dict(state)
    continued = again.at(point.objective.at(w), generator(1))
    if state or name in EXACT | {"ggn", "empirical_fisher"}:
        assert_close(continued.dense(), second.dense(), 1e-10, "continued from its state")


def is_definite(name: str, where: str) -> bool:
    """Whether the matrix has to be positive semidefinite: what is left of one need not be."""
    whole = name != "thresholded_sparse" or where == "transport"
    return name in SEMIDEFINITE or (whole and POINTS[where]().convexity is not None)


@pytest.mark.parametrize(("name", "where"), [one for one in ZOO if is_definite(*one)], ids=str)
def test_the_definite_ones_are_definite(name, where):
    dense = built(name, point_of(where)).dense().double()
    values = torch.linalg.eigvalsh((dense + dense.T) / 2)
    assert float(values[0]) >= -1e-6 * float(values[-1])


@pytest.mark.parametrize(("name", "where"), [one for one in ZOO if one[0] in EXACT], ids=str)
def test_the_exact_ones_are_the_hessian(name, where):
    point = point_of(where)
    hessian = point.hessian().dense()
    assert_close(built(name, point).dense(), hessian, 1e-6 if where == "network" else 1e-12)


@every
def test_a_damped_system_is_solved_by_cg(name, where):
    """A x = b with A + tau I definite: what every optimizer does with a curvature."""
    A = built(name, point_of(where))
    dense = A.dense()
    n = A.shape[0]
    tau = 1 + 2 * max(0.0, -float(torch.linalg.eigvalsh(dense.double())[0]))
    b = randn(n, seed=6).to(A.dtype)
    result = cg(A.affine(shift=tau), b, rtol=1e-5)
    assert result.converged
    expected = torch.linalg.solve(dense + tau * torch.eye(n, dtype=A.dtype), b)
    assert_close(result.x, expected, 1e-3)
