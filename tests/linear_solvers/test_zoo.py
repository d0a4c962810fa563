"""Every solver meets every system of the zoo: it solves those it must, and is honest about all."""

import pytest
import torch
from cases import (
    CASE,
    CASES,
    HARD,
    ITERATIVE,
    LIMIT,
    SCALES,
    SOLVERS,
    SYMMETRIC_ONLY,
    Case,
    Solver,
    admissible,
    extended_residual,
    rounding,
    solvable,
    symmetric,
    true_residual,
)
from problems import DTYPES, randn

from newton_krylov.errors import UnsupportedError
from newton_krylov.linear_solvers.result import LinearResult, Status
from newton_krylov.operators import FunctionOperator
from newton_krylov.registry import entry, names

RTOL = {torch.float32: 1e-4, torch.float64: 1e-9}


def test_every_registered_solver_is_in_the_zoo() -> None:
    ours = {name for name in names("solver") if _is_ours(name)}
    assert {solver.name for solver in SOLVERS} == ours


def _is_ours(name: str) -> bool:
    """Tell a solver of square systems from an example's, registered by another test."""
    part = entry("solver", name)  # least squares have other systems: test_least_squares.py
    return part.target.__module__.startswith("newton_krylov.") and not part.needs


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("solver", "case"), solvable(), ids=str)
def test_solves(solver: Solver, case: Case, dtype: torch.dtype, device: torch.device) -> None:
    A, b = case.at(dtype, device)
    result = solver(A, b, rtol=RTOL[dtype], maxiter=LIMIT)
    # The direct solver solves indefinite systems, and says that they are.
    assert result.converged or result.status is Status.NEGATIVE_CURVATURE
    assert result.x.dtype == dtype
    assert result.x.device.type == device.type
    threshold = RTOL[dtype] * float(torch.linalg.vector_norm(b.double()))
    residual = true_residual(A, b, result.x)
    assert residual <= 1.1 * threshold + rounding(A, b, result.x)
    error = torch.linalg.vector_norm(result.x.double().cpu() - case.shortest)
    # |x - x*| <= |r| / (smallest singular value); in float32 the matrix itself is rounded.
    rounded = case.norm * torch.finfo(dtype).eps * len(b) * torch.linalg.vector_norm(case.shortest)
    assert error <= (residual + 2 * rounded) / case.smallest


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("solver", "case"), admissible(), ids=str)
def test_tells_the_truth(solver: Solver, case: Case, dtype: torch.dtype) -> None:
    A, b = case.at(dtype)
    before = A.clone(), b.clone()
    result = solver(A, b, rtol=RTOL[dtype], maxiter=LIMIT)
    assert torch.equal(A, before[0])
    assert torch.equal(b, before[1])
    _assert_honest(result, A, b, RTOL[dtype])


def _assert_honest(result: LinearResult, A: torch.Tensor, b: torch.Tensor, rtol: float) -> None:
    assert torch.isfinite(result.x).all()
    assert len(result.residual_norms) == result.iterations + 1
    assert result.matvecs >= result.iterations
    threshold = rtol * float(torch.linalg.vector_norm(b.double()))
    residual, slack = true_residual(A, b, result.x), rounding(A, b, result.x)
    assert abs(result.residual_norms[-1] - residual) <= 0.1 * max(residual, threshold) + slack
    if result.converged:
        assert residual <= 1.1 * threshold + slack
    if result.status is Status.NEGATIVE_CURVATURE:
        assert result.direction is not None
    if result.direction is not None:
        _assert_nonpositive(result, A, b)


def _assert_nonpositive(result: LinearResult, A: torch.Tensor, b: torch.Tensor) -> None:
    """d'A d <= 0 within rounding, and (b - A x)'d >= 0; A d = 0 for a breakdown.

    x is where d was met: the last iterate, or, where the solver went on, one not reported, and
    b'd >= 0 is what is left to look at.
    """
    assert result.direction is not None
    eps = torch.finfo(b.dtype).eps
    d = result.direction.double() / torch.linalg.vector_norm(result.direction.double())
    norm = float(torch.linalg.matrix_norm(A.double(), 2))
    Ad = A.double() @ d
    assert d @ Ad <= 8 * eps * norm
    if result.status is Status.BREAKDOWN:
        assert torch.linalg.vector_norm(Ad) <= 20 * eps**0.5 * norm
    stopped = result.status in (Status.NEGATIVE_CURVATURE, Status.BREAKDOWN)
    r = b.double() - A.double() @ result.x.double() if stopped else b.double()
    assert r @ d >= -rounding(A, b, result.x) - 1e-8 * torch.linalg.vector_norm(b.double())


@pytest.mark.parametrize(("solver", "case"), admissible(), ids=str)
def test_tells_the_truth_at_any_tolerance(solver: Solver, case: Case) -> None:
    A, b = case.system
    for rtol in (1e-2, 1e-6, 1e-13, 0.0):
        _assert_honest(solver(A, b, rtol=rtol, maxiter=300), A, b, rtol)


@pytest.mark.parametrize("case", [case for case in CASES if not case.consistent], ids=str)
@pytest.mark.parametrize("solver", [s for s in SOLVERS if s.monotone and s.name != "gcr"], ids=str)
def test_an_inconsistent_system_ends_at_its_smallest_residual(solver: Solver, case: Case) -> None:
    A, b = case.system
    result = solver(A, b, rtol=1e-9, maxiter=LIMIT)
    assert not result.converged
    if result.status is not Status.NEGATIVE_CURVATURE or not solver.iterative:
        best = true_residual(A, b, case.shortest)
        assert true_residual(A, b, result.x) <= best * (1 + 1e-6) + rounding(A, b, result.x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
class TestTiny:
    def test_zero_right_side(self, solver: Solver, dtype: torch.dtype) -> None:
        A, _ = CASE["spd"].at(dtype)
        x0 = randn(len(A), seed=1, dtype=dtype)
        for start in (None, x0):
            result = solver(A, torch.zeros(len(A), dtype=dtype), x0=start)
            assert result.status is Status.CONVERGED
            assert not result.x.any()
            assert result.iterations == result.matvecs == 0

    def test_exact_start(self, solver: Solver, dtype: torch.dtype) -> None:
        A = torch.diag(torch.arange(1.0, 9.0, dtype=dtype))
        x0 = torch.ones(8, dtype=dtype)
        result = solver(A, A @ x0, x0=x0)
        assert result.status is Status.CONVERGED
        assert torch.equal(result.x, x0)
        assert (result.iterations, result.matvecs, result.residual_norms) == (0, 1, [0.0])

    def test_one_unknown(self, solver: Solver, dtype: torch.dtype) -> None:
        result = solver(torch.tensor([[4.0]], dtype=dtype), torch.tensor([3.0], dtype=dtype))
        assert result.status is Status.CONVERGED
        assert float(result.x) == pytest.approx(0.75, rel=1e-6)
        assert result.iterations == 1

    def test_no_unknowns(self, solver: Solver, dtype: torch.dtype) -> None:
        empty = torch.zeros(0, dtype=dtype)
        result = solver(torch.zeros(0, 0, dtype=dtype), empty)
        assert result.status is Status.CONVERGED
        assert result.x.shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
class TestNotFinite:
    def test_matrix(self, solver: Solver, bad: float, dtype: torch.dtype) -> None:
        A, b = CASE["spd"].at(dtype)
        A = A.clone()
        A[3, 3] = bad
        result = solver(A, b)
        assert result.status is Status.BREAKDOWN
        assert torch.isfinite(result.x).all()

    def test_right_side(self, solver: Solver, bad: float, dtype: torch.dtype) -> None:
        A, b = CASE["spd"].at(dtype)
        b = b.clone()
        b[3] = bad
        result = solver(A, b)
        assert result.status is Status.BREAKDOWN
        assert torch.isfinite(result.x).all()

    def test_start(self, solver: Solver, bad: float, dtype: torch.dtype) -> None:
        A, b = CASE["spd"].at(dtype)
        result = solver(A, b, x0=torch.full_like(b, bad))
        assert result.status is Status.BREAKDOWN
        assert torch.isfinite(result.x).all()

    def test_a_product_in_the_middle(self, solver: Solver, bad: float, dtype: torch.dtype) -> None:
        A, b = CASE["spd"].at(dtype)
        products = 0

        def multiply(v: torch.Tensor) -> torch.Tensor:
            nonlocal products
            products += 1
            return A @ v if products < 6 else torch.full_like(v, bad)

        result = solver(FunctionOperator(multiply, len(b), dtype, b.device), b, rtol=0.0)
        assert result.status is Status.BREAKDOWN
        assert torch.isfinite(result.x).all()


@pytest.mark.parametrize("solver", SYMMETRIC_ONLY, ids=str)
class TestNonsymmetric:
    def test_a_declared_operator_is_refused(self, solver: Solver) -> None:
        A, b = CASE["positive_real"].system
        operator = FunctionOperator(lambda v: A @ v, len(b), b.dtype, b.device, symmetric=False)
        with pytest.raises(UnsupportedError, match=f"{solver} is for symmetric .* gmres or gcr"):
            solver(operator, b)

    def test_a_matrix_is_looked_at(self, solver: Solver) -> None:
        A, b = CASE["positive_real"].system
        scipy_sparse = pytest.importorskip("scipy.sparse")
        matrices = (A, A.to_sparse_csr(), A.to_sparse_coo(), A.numpy(), scipy_sparse.csr_array(A))
        for matrix in matrices:
            with pytest.raises(UnsupportedError, match="symmetric"):
                solver(matrix, b)

    def test_rounding_is_not_asymmetry(self, solver: Solver) -> None:
        A, b = CASE["spd"].at(torch.float32)
        A = A * (1 + 1e-6 * randn(*A.shape, seed=2, dtype=torch.float32))
        assert not torch.equal(A, A.T)
        assert solver(A, b, rtol=1e-3).converged


@pytest.mark.parametrize("case", [CASE["laplacian"], CASE["ill_conditioned"]], ids=str)
@pytest.mark.parametrize("solver", ITERATIVE, ids=str)
def test_a_restart_from_its_own_answer_goes_on(solver: Solver, case: Case) -> None:
    A, b = case.system
    first = solver(A, b, rtol=1e-3)
    second = solver(A, b, rtol=1e-6, x0=first.x, maxiter=LIMIT)
    assert first.converged
    assert second.converged
    assert second.residual_norms[0] == pytest.approx(true_residual(A, b, first.x), rel=1e-6)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_float32_survives_squares_that_overflow(solver: Solver, scale: float) -> None:
    """|b|^2 is beyond float32's range, above or below."""
    A = symmetric([1.0, 2.0, 3.0, 4.0]).float()
    b = scale * torch.ones(4)
    result = solver(A, b, rtol=1e-5)
    assert result.converged
    expected = torch.linalg.solve(A.double(), b.double())
    assert torch.allclose(result.x.double(), expected, rtol=1e-4, atol=0.0)


SCALED = [(dtype, scale) for dtype, scales in SCALES.items() for scale in scales]
TRIDIAGONAL = (
    torch.diag(torch.full((20,), 2.5))
    - torch.diag(torch.ones(19), 1)
    - torch.diag(torch.ones(19), -1)
).double()


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize(("dtype", "scale"), SCALED, ids=str)
class TestScales:
    """Whatever the units of A and b: solved wherever the solution is a number of the type."""

    def test_matrix_and_right_side(self, solver: Solver, dtype: torch.dtype, scale: float) -> None:
        A, b = (scale * TRIDIAGONAL).to(dtype), (scale * torch.ones(20).double()).to(dtype)
        self.solved(solver, A, b)

    def test_right_side(self, solver: Solver, dtype: torch.dtype, scale: float) -> None:
        self.solved(solver, TRIDIAGONAL.to(dtype), torch.full((20,), scale, dtype=dtype))

    def test_matrix(self, solver: Solver, dtype: torch.dtype, scale: float) -> None:
        self.solved(solver, (scale * TRIDIAGONAL).to(dtype), torch.ones(20, dtype=dtype))

    def test_start_and_preconditioner(
        self, solver: Solver, dtype: torch.dtype, scale: float
    ) -> None:
        A, b = TRIDIAGONAL.to(dtype), torch.full((20,), scale, dtype=dtype)
        M = (torch.eye(20).double() / 2.5 / scale).to(dtype)
        self.solved(solver, A, b, M=M, x0=0.3 * b)

    def solved(self, solver: Solver, A: torch.Tensor, b: torch.Tensor, **options: object) -> None:
        result = solver(A, b, rtol=1e-4, **options)
        norm = extended_residual(A, b, torch.zeros_like(b))
        assert result.converged
        assert extended_residual(A, b, result.x) <= 1e-4 * norm * (1 + 1e-3)
        assert result.residual_norms[0] <= norm * (1 + 1e-3)

    def test_opposite_units_leave_the_range_in_a_status(
        self, solver: Solver, dtype: torch.dtype, scale: float
    ) -> None:
        """The solution is beyond the type's range, or zero in it: never an exception, nor a lie."""
        A, b = (scale * TRIDIAGONAL).to(dtype), torch.full((20,), 1 / scale, dtype=dtype)
        result = solver(A, b, rtol=1e-4)
        assert torch.isfinite(result.x).all()
        norm = extended_residual(A, b, torch.zeros_like(b))
        residual = extended_residual(A, b, result.x)
        assert result.converged == (residual <= 1e-4 * norm)
        assert abs(result.residual_norms[-1] - residual) <= 1e-3 * residual + 1e-8 * norm


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
class TestRangeOfNumbers:
    def test_a_right_side_of_denormal_numbers(self, solver: Solver) -> None:
        A, b = TRIDIAGONAL, torch.full((20,), 1e-320, dtype=torch.float64)
        result = solver(A, b)
        residual = extended_residual(A, b, result.x)
        assert result.residual_norms[-1] == pytest.approx(residual, rel=1e-3)
        assert not result.converged or residual <= 1e-5 * extended_residual(A, b, 0 * b)

    def test_numbers_whose_sum_overflows(self, solver: Solver) -> None:
        result = solver(TRIDIAGONAL, torch.full((20,), 1.7e308, dtype=torch.float64))
        assert result.status is Status.BREAKDOWN
        assert torch.isfinite(result.x).all()

    @pytest.mark.parametrize("scale", [1e-320, 1e-160, 1e160, 1e305])
    def test_a_tiny_or_huge_symmetric_matrix_is_symmetric(
        self, solver: Solver, scale: float
    ) -> None:
        result = solver(
            scale * torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double(), torch.ones(2).double()
        )
        assert torch.isfinite(result.x).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", HARD)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_tells_the_truth_on_hard_systems(solver: Solver, family: str, dtype: torch.dtype) -> None:
    """What is reported is the true residual, and `converged` is judged on nothing else."""
    if solver.needs_symmetry and "frank" in family:
        return
    A = HARD[family].to(dtype)
    for b in (torch.ones(len(A), dtype=dtype), A @ randn(len(A), seed=1, dtype=dtype)):
        for rtol in (1e-2, 1e-4, 1e-8):
            result = solver(A, b, rtol=rtol, maxiter=LIMIT)
            residual, slack = extended_residual(A, b, result.x), rounding(A, b, result.x)
            threshold = rtol * float(torch.linalg.vector_norm(b.double()))
            assert (
                abs(result.residual_norms[-1] - residual) <= 0.1 * max(residual, threshold) + slack
            )
            assert result.converged == (result.residual_norms[-1] <= threshold)
            if result.converged:
                assert residual <= threshold + slack
            if solver.name != "cg":  # which minimizes another norm
                assert residual <= 1.01 * float(torch.linalg.vector_norm(b.double())) + slack


@pytest.mark.parametrize("name", ["minres", "minres_qlp"])
def test_a_least_squares_end_is_one(name: str) -> None:
    """In single precision; the eigenvalues are 0.03, and 1e-5 and 1e-7 of that."""
    A, b = HARD["one tiny, one tinier"].float(), torch.ones(3)
    result = entry("solver", name).target(A, b)
    assert true_residual(A, b, result.x) <= 1.02
    assert result.residual_norms[-1] == pytest.approx(true_residual(A, b, result.x), rel=1e-3)


@pytest.mark.parametrize("solver", ITERATIVE, ids=str)
def test_the_last_allowed_iteration_may_be_the_one_that_is_doubted(solver: Solver) -> None:
    A, b = symmetric([1e-7, 1.0, 2.0]).float(), torch.ones(3)
    for maxiter in (1, 2, 3, 4):
        result = solver(A, b, rtol=1e-6, maxiter=maxiter)
        assert result.iterations <= maxiter
        residual = true_residual(A, b, result.x)
        assert result.residual_norms[-1] == pytest.approx(residual, rel=0.1, abs=1e-6)


def test_gmres_does_not_believe_that_a_function_is_linear() -> None:
    """M(v) = v |v|: the recurrences take it for a matrix, the true residual does not."""
    A, b = CASE["general"].system
    result = entry("solver", "gmres").target(A, b, M=lambda v: v / (1 + v.abs()), rtol=1e-3)
    residual = true_residual(A, b, result.x)
    assert result.residual_norms[-1] == pytest.approx(residual, rel=0.1)
    assert not result.converged or residual <= 1e-3 * torch.linalg.vector_norm(b)
