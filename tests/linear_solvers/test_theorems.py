"""What theory says of Krylov methods, as properties of random systems."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from cases import CASE, ITERATIVE, SOLVERS, Solver, spread, symmetric, true_residual
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import randn
from torch import Tensor

from newton_krylov import cg, cr, gcr, gmres, minres, minres_qlp
from newton_krylov.linear_solvers.result import Status

SEEDS = st.integers(0, 10_000)
POSITIVE = st.lists(st.floats(0.1, 10.0), min_size=2, max_size=12)
NONZERO = st.lists(st.one_of(st.floats(0.1, 10.0), st.floats(-10.0, -0.1)), min_size=2, max_size=12)
MONOTONE = [solver for solver in ITERATIVE if solver.monotone]
MINIMAL = [(cr, "spd"), (minres, "indefinite"), (minres_qlp, "indefinite"), (gmres, "general")]
examples = settings(deadline=None, max_examples=40)


def iterates(method: Callable[..., Any], A: Any, b: Tensor, **options: Any) -> list[Tensor]:
    """Return x_0, x_1, ..."""
    xs = [torch.zeros_like(b)]
    method(A, b, callback=lambda x, _: xs.append(x.clone()), **options)
    return xs


def krylov_basis(A: Tensor, b: Tensor, size: int) -> Tensor:
    """Return an orthonormal basis of span(b, A b, ...), as columns, by Arnoldi's process."""
    V = [b / torch.linalg.vector_norm(b)]
    while len(V) < size:
        w = A @ V[-1]
        for _ in range(2):
            w = w - torch.stack(V).T @ (torch.stack(V) @ w)
        V.append(w / torch.linalg.vector_norm(w))
    return torch.stack(V, dim=1)


@pytest.mark.parametrize("solver", MONOTONE, ids=str)
@given(eigenvalues=POSITIVE, seed=SEEDS)
@examples
def test_residuals_fall(solver: Solver, eigenvalues: list[float], seed: int) -> None:
    A, b = symmetric(eigenvalues, seed), randn(len(eigenvalues), seed=seed)
    norms = solver(A, b, rtol=1e-9).residual_norms
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(norms))


@pytest.mark.parametrize("solver", [s for s in MONOTONE if "indefinite" in s.solves], ids=str)
@given(eigenvalues=NONZERO, seed=SEEDS)
@examples
def test_residuals_fall_on_indefinite_systems(
    solver: Solver, eigenvalues: list[float], seed: int
) -> None:
    A, b = symmetric(eigenvalues, seed), randn(len(eigenvalues), seed=seed)
    norms = solver(A, b, rtol=1e-9).residual_norms
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(norms))


@given(eigenvalues=POSITIVE, seed=SEEDS)
@examples
def test_cg_energy_error_falls_while_residuals_need_not(
    eigenvalues: list[float], seed: int
) -> None:
    A, b = symmetric(eigenvalues, seed), randn(len(eigenvalues), seed=seed)
    exact = torch.linalg.solve(A, b)
    errors = [float((x - exact) @ A @ (x - exact)) for x in iterates(cg, A, b, rtol=1e-9)]
    slack = 1e-12 * errors[0]
    assert all(after <= before + slack for before, after in pairwise(errors))


@pytest.mark.parametrize("condition", [4.0, 100.0, 1e4])
def test_cg_error_bound_by_the_condition_number(condition: float) -> None:
    """|e_k|_A <= 2 ((sqrt(kappa) - 1) / (sqrt(kappa) + 1))^k |e_0|_A."""
    A, b = symmetric(spread(60, condition)), randn(60, seed=1)
    exact = torch.linalg.solve(A, b)
    errors = [float((x - exact) @ A @ (x - exact)) ** 0.5 for x in iterates(cg, A, b, rtol=1e-10)]
    rate = (math.sqrt(condition) - 1) / (math.sqrt(condition) + 1)
    for k, error in enumerate(errors):
        assert error <= 2 * rate**k * errors[0] * (1 + 1e-6) + 1e-12 * errors[0]


@pytest.mark.parametrize("condition", [4.0, 100.0])
def test_minimal_residual_bound_by_the_condition_number(condition: float) -> None:
    """The same rate holds for |r_k| of MINRES and CR on a definite system."""
    A, b = symmetric(spread(60, condition)), randn(60, seed=1)
    rate = (math.sqrt(condition) - 1) / (math.sqrt(condition) + 1)
    for method in (cr, minres, minres_qlp, gmres):
        norms = method(A, b, rtol=1e-9).residual_norms
        for k, norm in enumerate(norms):
            assert norm <= 2 * rate**k * norms[0] * (1 + 1e-6)


@pytest.mark.parametrize("solver", ITERATIVE, ids=str)
@given(
    distinct=st.lists(st.integers(1, 20), min_size=1, max_size=5, unique=True),
    repeats=st.integers(1, 5),
    seed=SEEDS,
)
@examples
def test_ends_after_as_many_steps_as_distinct_eigenvalues(
    solver: Solver, distinct: list[int], repeats: int, seed: int
) -> None:
    A = symmetric([float(value) for value in distinct] * repeats, seed)
    result = solver(A, randn(len(A), seed=seed), rtol=1e-8)
    assert result.converged
    assert result.iterations <= len(distinct)


def _cosines(P: Tensor, AP: Tensor) -> Tensor:
    """Off-diagonal entries of P'AP, relative to the lengths of p and A p."""
    G = (
        P
        @ AP.T
        / torch.outer(torch.linalg.vector_norm(P, dim=1), torch.linalg.vector_norm(AP, dim=1))
    )
    return (G - torch.diag(G.diagonal())).abs()


def test_cg_directions_are_conjugate() -> None:
    A, b = symmetric(spread(30, 5)), randn(30, seed=1)
    P = torch.stack(iterates(cg, A, b, rtol=1e-5)).diff(dim=0)
    assert len(P) >= 10
    assert _cosines(P, P @ A).max() <= 1e-8


@pytest.mark.parametrize(
    ("method", "name"),
    [(cr, "tiny_numbers"), (gcr, "spd"), (gcr, "positive_real")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_conjugate_residual_products_are_orthogonal(method: Callable[..., Any], name: str) -> None:
    """(A p_i)'(A p_j) = 0: by a short recurrence where A is symmetric."""
    A, b = CASE[name].system
    AP = torch.stack(iterates(method, A, b, rtol=1e-3)).diff(dim=0) @ A.T
    assert len(AP) >= 8
    assert _cosines(AP, AP).max() <= 1e-8


@pytest.mark.parametrize(
    ("method", "name"), MINIMAL, ids=lambda value: getattr(value, "__name__", value)
)
def test_smallest_residual_over_the_krylov_space(method: Callable[..., Any], name: str) -> None:
    """Against the dense least-squares problem over an Arnoldi basis."""
    A, b = CASE[name].system
    if method is gmres:
        norms = method(A, b, rtol=1e-8, restart=len(b)).residual_norms
    else:
        norms = method(A, b, rtol=1e-8).residual_norms
    for k in range(1, 16):
        AV = A @ krylov_basis(A, b, k)
        y = torch.linalg.lstsq(AV, b.unsqueeze(1)).solution.squeeze(1)
        assert norms[k] == pytest.approx(float(torch.linalg.vector_norm(b - AV @ y)), rel=1e-7)


@pytest.mark.parametrize("restart", [1, 3, 8])
@pytest.mark.parametrize("name", ["spd", "positive_real", "convection_diffusion"])
def test_gcr_and_gmres_have_the_same_iterates(name: str, restart: int) -> None:
    A, b = CASE[name].system
    options = {"restart": restart, "rtol": 1e-6, "maxiter": 24}
    mine, theirs = iterates(gcr, A, b, **options), iterates(gmres, A, b, **options)
    assert len(mine) == len(theirs)
    for x, y in zip(mine, theirs, strict=True):
        assert torch.linalg.vector_norm(x - y) <= 1e-9 * torch.linalg.vector_norm(theirs[-1])


@given(eigenvalues=POSITIVE, seed=SEEDS)
@examples
def test_cr_is_minres_on_definite_systems(eigenvalues: list[float], seed: int) -> None:
    A, b = symmetric(eigenvalues, seed), randn(len(eigenvalues), seed=seed)
    runs = [iterates(method, A, b, rtol=1e-7) for method in (cr, minres, minres_qlp)]
    shortest = min(map(len, runs))
    for xs in zip(*(run[:shortest] for run in runs), strict=True):
        for x in xs[1:]:
            assert torch.linalg.vector_norm(x - xs[0]) <= 1e-6 * torch.linalg.vector_norm(
                runs[0][-1]
            )


@pytest.mark.parametrize("name", ["spd", "laplacian"])
def test_orthomin_1_is_cr_on_symmetric_systems(name: str) -> None:
    A, b = CASE[name].system
    mine = gcr(A, b, truncate=1, restart=None, rtol=1e-8)
    theirs = cr(A, b, rtol=1e-8)
    assert mine.residual_norms[:15] == pytest.approx(theirs.residual_norms[:15], rel=1e-6)
    assert abs(mine.iterations - theirs.iterations) <= 0.2 * theirs.iterations


@given(
    eigenvalues=st.lists(
        st.one_of(st.just(0.0), st.floats(0.2, 5.0), st.floats(-5.0, -0.2)),
        min_size=2, max_size=12,
    ).filter(any),
    seed=SEEDS,
    consistent=st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_minres_qlp_finds_the_shortest_solution(
    eigenvalues: list[float], seed: int, consistent: bool
) -> None:
    A, b = symmetric(eigenvalues, seed), randn(len(eigenvalues), seed=seed + 1)
    b = A @ b if consistent else b
    shortest = torch.linalg.pinv(A, rtol=1e-10, hermitian=True) @ b
    result = minres_qlp(A, b, rtol=1e-12)
    size = float(torch.linalg.vector_norm(shortest))
    assert torch.linalg.vector_norm(result.x - shortest) <= 1e-5 * size
    if consistent:
        assert true_residual(A, b, result.x) <= 1e-9 * torch.linalg.vector_norm(b)
    elif 0.0 in eigenvalues:
        assert result.status is Status.LEAST_SQUARES


@pytest.mark.parametrize("solver", [s for s in SOLVERS if "singular" in s.solves], ids=str)
@given(seed=SEEDS)
@examples
def test_a_least_squares_residual_is_in_the_null_space(solver: Solver, seed: int) -> None:
    """A r = 0 at a least-squares solution."""
    A, b = symmetric([0.0, 0.0, 1.0, 2.0, -1.0, 3.0, 0.5], seed), randn(7, seed=seed + 1)
    x = solver(A, b, rtol=1e-12).x
    assert torch.linalg.vector_norm(A @ (b - A @ x)) <= 1e-6 * torch.linalg.vector_norm(b)


@pytest.mark.parametrize("solver", [*ITERATIVE[:2], SOLVERS[-1]], ids=str)
@given(eigenvalues=NONZERO, seed=SEEDS)
@examples
def test_negative_curvature_is_found_or_the_system_is_solved(
    solver: Solver, eigenvalues: list[float], seed: int
) -> None:
    """With every eigenvector in b, cg and cr can only end solved, or with d'A d <= 0."""
    A, b = symmetric(eigenvalues, seed), randn(len(eigenvalues), seed=seed + 1)
    result = solver(A, b, rtol=1e-8)
    if result.status is Status.NEGATIVE_CURVATURE:
        assert min(eigenvalues) < 0
        d = result.direction
        assert d is not None
        scale = torch.linalg.vector_norm(d) ** 2 * max(map(abs, eigenvalues))
        assert d @ (A @ d) <= 1e-12 * scale
        assert (b - A @ result.x) @ d >= -1e-8 * torch.linalg.vector_norm(
            b
        ) * torch.linalg.vector_norm(d)
    else:
        assert result.converged


@pytest.mark.parametrize("method", [minres, minres_qlp], ids=["minres", "minres_qlp"])
@given(eigenvalues=NONZERO, seed=SEEDS)
@examples
def test_minres_stops_at_negative_curvature_if_asked(
    method: Callable[..., Any], eigenvalues: list[float], seed: int
) -> None:
    """Then x and the direction are both of descent for x'A x / 2 - b'x (Liu and Roosta 2022)."""
    A, b = symmetric(eigenvalues, seed), randn(len(eigenvalues), seed=seed + 1)
    result = method(A, b, rtol=1e-8, negative_curvature="stop")
    if result.direction is None:
        assert result.converged
        return
    assert min(eigenvalues) < 0
    d = result.direction
    assert d @ (A @ d) <= 1e-10 * (d @ d)
    r = b - A @ result.x
    assert d @ r == pytest.approx(float(torch.linalg.vector_norm(d) * torch.linalg.vector_norm(r)))
    assert b @ d > 0
    assert b @ result.x >= 0
    assert result.x @ A @ result.x / 2 - b @ result.x <= 1e-12


@given(eigenvalues=NONZERO, seed=SEEDS)
@examples
def test_cr_and_minres_meet_negative_curvature_at_the_same_step(
    eigenvalues: list[float], seed: int
) -> None:
    A, b = symmetric(eigenvalues, seed), randn(len(eigenvalues), seed=seed + 1)
    mine = cr(A, b, rtol=1e-6)
    theirs = minres(A, b, rtol=1e-6, negative_curvature="stop")
    if mine.status is Status.NEGATIVE_CURVATURE and theirs.status is Status.NEGATIVE_CURVATURE:
        assert mine.iterations == theirs.iterations
        assert torch.allclose(mine.x, theirs.x, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("solver", ITERATIVE, ids=str)
@given(seed=SEEDS, scale=st.floats(1e-8, 1e8))
@examples
def test_scaling_the_system_scales_the_solution(solver: Solver, seed: int, scale: float) -> None:
    """A x = b and (s A) x = s b are one system, and A x = s b has s times its solution."""
    A, b = symmetric(spread(8, 10), seed), randn(8, seed=seed)
    x = solver(A, b, rtol=1e-10).x
    both = solver(scale * A, scale * b, rtol=1e-10).x
    right = solver(A, scale * b, rtol=1e-10).x
    for y in (both, right / scale):
        assert torch.allclose(x, y, rtol=1e-6, atol=1e-8)
