"""LSQR, LSMR and QR on rectangular matrices and Gauss-Newton operators, beside SciPy and dense."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg as peer
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import randn
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.linear_solvers.cg import cg
from newton_krylov.linear_solvers.lsmr import lsmr
from newton_krylov.linear_solvers.lsqr import lsqr
from newton_krylov.linear_solvers.minres import minres
from newton_krylov.linear_solvers.qr import qr
from newton_krylov.linear_solvers.result import Status
from newton_krylov.operators import FunctionOperator
from newton_krylov.rectangular import Damped, MatrixMap, NormalOperator

ALL = pytest.mark.parametrize("solver", [lsmr, lsqr, qr], ids=lambda f: f.__name__)
KRYLOV = pytest.mark.parametrize("solver", [lsmr, lsqr], ids=lambda f: f.__name__)
SHAPES = [(60, 30), (30, 60)]


def system(m: int, n: int, decades: float = 2.0) -> tuple[Tensor, Tensor]:
    scale = torch.logspace(0, -decades, n, dtype=torch.float64)
    return randn(m, n, seed=3) * scale, randn(m, seed=4)


def dense(J: Tensor, u: Tensor, damp: float) -> Tensor:
    """The shortest solution by singular values of [J; damp I]."""
    stacked = torch.cat((J, damp * torch.eye(J.shape[1], dtype=J.dtype)))
    right = torch.cat((u, torch.zeros(J.shape[1], dtype=J.dtype)))
    return torch.linalg.pinv(stacked) @ right


@ALL
@pytest.mark.parametrize("damp", [0.0, 0.1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_dense_solution(solver: Callable[..., Any], shape: tuple[int, int], damp: float):
    J, u = system(*shape, decades=1)
    result = solver(J, u, damp=damp, rtol=1e-12, maxiter=2000)
    assert result.converged
    assert torch.allclose(result.x, dense(J, u, damp), rtol=1e-7, atol=1e-8)
    gradient = J.T @ (u - J @ result.x) - damp**2 * result.x
    first = torch.linalg.vector_norm(J.T @ u)
    assert float(torch.linalg.vector_norm(gradient)) <= 1.1e-12 * float(first) + 1e-14
    assert result.residual_norms[0] == pytest.approx(float(first))


@pytest.mark.parametrize(
    ("ours", "theirs"), [(lsmr, peer.lsmr), (lsqr, peer.lsqr)], ids=["lsmr", "lsqr"]
)
@pytest.mark.parametrize("damp", [0.0, 0.3])
def test_scipy_s_iterates(ours: Callable[..., Any], theirs: Callable[..., Any], damp: float):
    J, u = system(60, 30)
    options = {"atol": 0.0, "btol": 0.0, "conlim": 0.0}
    limit = "iter_lim" if theirs is peer.lsqr else "maxiter"
    for k in (1, 2, 3, 5, 8):
        expected = theirs(J.numpy(), u.numpy(), damp=damp, **{limit: k}, **options)[0]
        mine = ours(J, u, damp=damp, rtol=0.0, maxiter=k).x
        assert mine.numpy() == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_iterates_are_those_of_cg_and_minres_on_the_normal_equations():
    J, u = system(60, 30, decades=1)
    for k in range(1, 10):
        for ours, theirs in ((lsqr, cg), (lsmr, minres)):
            expected = theirs(J.T @ J, J.T @ u, rtol=0.0, maxiter=k).x
            assert torch.allclose(ours(J, u, rtol=0.0, maxiter=k).x, expected, rtol=1e-6, atol=1e-8)


@given(seed=st.integers(0, 10_000), m=st.integers(2, 12), n=st.integers(2, 12))
@settings(deadline=None, max_examples=40)
def test_lsmr_s_gradient_and_lsqr_s_residual_fall(seed: int, m: int, n: int):
    J, u = randn(m, n, seed=seed), randn(m, seed=seed + 1)
    norms = lsmr(J, u, rtol=1e-9).residual_norms
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(norms))
    distances: list[float] = []
    lsqr(J, u, rtol=1e-9, callback=lambda x, _: distances.append(float((u - J @ x).norm())))
    assert all(b <= a * (1 + 1e-9) for a, b in itertools.pairwise(distances))


@KRYLOV
@pytest.mark.parametrize("damp", [0.0, 0.1])
def test_a_preconditioner_changes_the_way_and_not_the_end(solver: Callable[..., Any], damp: float):
    J, u = system(60, 30, decades=3)
    M = torch.linalg.inv(J.T @ J + (damp**2 + 1e-8) * torch.eye(30, dtype=J.dtype))
    plain = solver(J, u, damp=damp, rtol=1e-10, maxiter=5000)
    helped = solver(J, u, damp=damp, rtol=1e-10, M=M)
    assert helped.converged
    assert helped.iterations <= 8 < plain.iterations
    expected = dense(J, u, damp)
    assert float((helped.x - expected).norm()) <= 1e-4 * float(expected.norm())
    gradient = float((J.T @ (u - J @ helped.x) - damp**2 * helped.x).norm())
    assert helped.residual_norms[-1] == pytest.approx(gradient, rel=1e-3, abs=1e-14)


@ALL
def test_what_a_matrix_may_be(solver: Callable[..., Any]):
    J, u = system(20, 10, decades=1)
    expected = dense(J, u, 0.0)
    forms = (J, J.to_sparse_csr(), J.numpy(), scipy.sparse.csr_array(J.numpy()), MatrixMap(J))
    for form in forms:
        assert torch.allclose(solver(form, u, rtol=1e-12, maxiter=500).x, expected, rtol=1e-7)
    start = randn(10, seed=9)
    assert torch.allclose(solver(J, u, x0=start, rtol=1e-12, maxiter=500).x, expected, rtol=1e-7)


@ALL
@pytest.mark.parametrize("shift", [0.0, 1e-4])
def test_a_gauss_newton_operator_is_solved_through_its_jacobian(
    solver: Callable[..., Any], shift: float
):
    """With the gradient on the right, either sign; the residual is that of the system."""
    J, r = system(60, 30, decades=1)
    A = NormalOperator(MatrixMap(J), r)
    damped = A.affine(shift=shift) if shift else A
    matrix = J.T @ J + shift * torch.eye(30, dtype=J.dtype)
    for b in (A.b, -A.b):
        result = solver(damped, b, rtol=1e-11, maxiter=2000)
        assert result.converged
        assert torch.allclose(matrix @ result.x, b, rtol=0, atol=1e-10 * float(b.norm()))


@pytest.mark.parametrize("epsilon", [1e-7, 1e-9])
def test_the_condition_number_is_not_squared(epsilon: float):
    """Läuchli's matrix: J'J is singular in double precision, J is not."""
    n = 4
    J = torch.cat((torch.ones(1, n), epsilon * torch.eye(n))).double()
    exact = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    u = J @ exact
    for solver in (qr, lsqr, lsmr):
        x = solver(J, u, rtol=0.0, maxiter=50).x
        assert float((x - exact).norm()) <= 1e-3 * float(exact.norm()), solver
    normal = torch.linalg.lstsq(J.T @ J, (J.T @ u)[:, None]).solution[:, 0]
    assert float((normal - exact).norm()) > 1e-2


def test_qr_of_dependent_columns_is_the_shortest_solution():
    J, u = system(20, 6, decades=0.5)
    J = torch.cat((J, J[:, :2]), dim=1)
    assert torch.allclose(qr(J, u, rtol=1e-9).x, torch.linalg.pinv(J) @ u, rtol=1e-8, atol=1e-10)


def test_damped_is_the_stacked_matrix():
    J, _ = system(5, 3)
    stacked = torch.cat((J, 0.5 * torch.eye(3, dtype=J.dtype)))
    operator = Damped(MatrixMap(J), 0.25)
    assert torch.allclose(operator.dense(), stacked)
    u = randn(8, seed=1)
    assert torch.allclose(operator.rmatvec(u), stacked.T @ u)


def test_an_image_that_is_kept_is_of_the_vector_as_it_is_now():
    J, u = system(5, 3)
    A, v = NormalOperator(MatrixMap(J), u, 0.5), randn(3, seed=2)
    assert A.image(v) is A.image(v)
    for change in (lambda: v.mul_(2), v[1:].zero_):
        change()
        assert torch.allclose(A.image(v), J @ v)
        assert torch.allclose(A.matvec(v), J.T @ (J @ v) + v / 2)


@ALL
def test_an_operator_that_knows_no_jacobian_is_refused(solver: Callable[..., Any]):
    b = torch.ones(3, dtype=torch.float64)
    A = FunctionOperator(lambda v: 2 * v, 3, b.dtype, b.device)
    with pytest.raises(UnsupportedError, match=r"is no J'J .* give the matrix J itself"):
        solver(A, b)
    known = NormalOperator(MatrixMap(torch.eye(3, dtype=b.dtype)), b)
    with pytest.raises(UnsupportedError, match="is no J'J"):
        solver(known, 2 * b)  # not the gradient it is made for


@ALL
def test_numbers_that_are_not_finite_are_a_breakdown(solver: Callable[..., Any]):
    J, u = system(20, 10, decades=1)
    for matrix, right in (
        (torch.where(J[3, 3] == J, torch.nan, J), u),
        (J, torch.full_like(u, torch.inf)),
    ):
        result = solver(matrix, right)
        assert result.status is Status.BREAKDOWN
        assert torch.isfinite(result.x).all()


@ALL
def test_nothing_to_do(solver: Callable[..., Any]):
    J, u = system(20, 10, decades=1)
    assert solver(J, torch.zeros_like(u)).iterations == 0
    best = torch.linalg.pinv(J) @ u
    result = solver(J, u, x0=best, rtol=1e-8)
    assert result.status is Status.CONVERGED
    assert torch.equal(result.x, best)


@KRYLOV
def test_float32_and_the_limit_of_iterations(solver: Callable[..., Any]):
    J, u = system(60, 30, decades=1)
    result = solver(J.float(), u.float(), rtol=1e-4)
    assert result.converged
    assert result.x.dtype == torch.float32
    assert solver(J, u, rtol=1e-12, maxiter=3).status is Status.MAXITER
    assert solver(J, u, rtol=0.0, maxiter=5000).status is Status.STAGNATED


@ALL
def test_a_shape_that_does_not_fit_is_one_sentence(solver: Callable[..., Any]):
    with pytest.raises(ValueError, match=r"A has shape \(5, 3\), but b has shape \(4,\)"):
        solver(torch.ones(5, 3), torch.ones(4))


@KRYLOV
def test_an_indefinite_preconditioner_is_a_breakdown(solver: Callable[..., Any]):
    J, u = system(20, 10, decades=1)
    result = solver(J, u, M=lambda v: -v)
    assert result.status is Status.BREAKDOWN
    assert np.isfinite(result.x.numpy()).all()
