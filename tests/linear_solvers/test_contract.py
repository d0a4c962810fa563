"""What every solver takes and returns: operands, options, callbacks, statuses, costs, memory."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from cases import BY_NAME, CASE, ITERATIVE, SOLVERS, Solver, spread, symmetric, true_residual
from problems import DTYPES, randn
from torch import Tensor

from newton_krylov.linear_solvers.cg import cg
from newton_krylov.linear_solvers.cr import cr
from newton_krylov.linear_solvers.minres import minres
from newton_krylov.linear_solvers.minres_qlp import minres_qlp
from newton_krylov.linear_solvers.result import Status
from newton_krylov.operators import FunctionOperator, MatrixOperator
from newton_krylov.registry import entry

ALL = pytest.mark.parametrize("solver", SOLVERS, ids=str)
EACH_ITERATIVE = pytest.mark.parametrize("solver", ITERATIVE, ids=str)


def _int32_csr(A: Tensor) -> Tensor:
    csr = A.to_sparse_csr()
    return torch.sparse_csr_tensor(
        csr.crow_indices().int(), csr.col_indices().int(), csr.values(), size=A.shape
    )


def _linear(A: Tensor) -> torch.nn.Module:
    layer = torch.nn.Linear(*A.shape, bias=False, dtype=A.dtype)
    with torch.no_grad():
        layer.weight.copy_(A)
    return layer


def _read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


def _with_buffer(A: Tensor) -> Callable[[Tensor], Tensor]:
    """A function whose products all lie in one place, which it looks at again."""
    buffer, last = torch.empty(len(A), dtype=A.dtype), torch.zeros(len(A), dtype=A.dtype)

    def multiply(v: Tensor) -> Tensor:
        assert torch.equal(buffer, last) or not last.any(), "the solver has written into it"
        torch.mv(A, v, out=buffer)
        last.copy_(buffer)
        return buffer

    return multiply


def _with_array(A: np.ndarray) -> Callable[[Tensor], Tensor]:
    buffer = np.empty(len(A), dtype=A.dtype)
    return lambda v: torch.from_numpy(np.dot(A, v.numpy(), out=buffer))


OPERANDS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda A: A,
    "sparse CSR": lambda A: A.to_sparse_csr(),
    "sparse CSR with int32 indices": _int32_csr,
    "sparse COO": lambda A: A.to_sparse_coo(),
    "operator": MatrixOperator,
    "function": lambda A: lambda v: A @ v,
    "function with a buffer": _with_buffer,
    "function with NumPy's buffer": lambda A: _with_array(A.numpy()),
    "module": _linear,
    "tensor with requires_grad": lambda A: A.clone().requires_grad_(),
    "NumPy": lambda A: A.numpy(),
    "NumPy, read-only": lambda A: _read_only(A.numpy().copy()),
    "SciPy sparse": lambda A: scipy.sparse.csr_array(A.numpy()),
    "SciPy operator": lambda A: scipy.sparse.linalg.aslinearoperator(A.numpy()),
    "SciPy operator without transpose": lambda A: scipy.sparse.linalg.LinearOperator(
        A.shape, matvec=lambda v: A.numpy() @ v
    ),
}


def _undeclared(factor: complex) -> Any:
    """A SciPy operator whose type is not reported."""
    operator = scipy.sparse.linalg.LinearOperator((3, 3), matvec=lambda v: factor * v)
    operator.dtype = None
    return operator


def _declared(factor: complex) -> Any:
    return scipy.sparse.linalg.aslinearoperator(factor * np.eye(3))


class TestOperands:
    @pytest.mark.parametrize("kind", OPERANDS)
    @ALL
    def test_every_kind_of_matrix_gives_the_same(self, solver: Solver, kind: str) -> None:
        A, b = CASE["spd"].system
        expected = solver(A, b)
        result = solver(OPERANDS[kind](A), b)
        error = torch.linalg.vector_norm(result.x - expected.x)
        assert error <= 1e-5 * torch.linalg.vector_norm(expected.x)
        assert result.iterations == pytest.approx(expected.iterations, abs=2)
        assert not result.x.requires_grad

    @pytest.mark.parametrize("kind", OPERANDS)
    @EACH_ITERATIVE
    def test_every_kind_of_preconditioner_gives_the_same(self, solver: Solver, kind: str) -> None:
        A, b = CASE["badly_scaled"].system
        M = torch.diag(1 / A.diagonal())
        expected = solver(A, b, M=lambda v: M @ v)
        result = solver(A, b, M=OPERANDS[kind](M))
        assert result.converged
        assert torch.allclose(result.x, expected.x, rtol=1e-3, atol=1e-3)
        assert result.iterations == expected.iterations

    @EACH_ITERATIVE
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_identities_that_hand_back_their_argument(
        self, solver: Solver, dtype: torch.dtype
    ) -> None:
        A, b = CASE["spd"].at(dtype)
        plain = solver(A, b, rtol=1e-4)
        preconditioned = solver(A, b, M=lambda v: v, rtol=1e-4)
        assert preconditioned.iterations == pytest.approx(plain.iterations, abs=2)
        assert true_residual(A, b, preconditioned.x) <= 1.2e-4 * torch.linalg.vector_norm(b)
        assert torch.allclose(solver(lambda v: v, b).x, b)

    @ALL
    def test_a_preconditioner_with_a_buffer_of_its_own(self, solver: Solver) -> None:
        A, b = CASE["badly_scaled"].system
        buffer, scale = torch.empty_like(b), 1 / A.diagonal()
        mine = solver(A, b, M=lambda v: torch.mul(scale, v, out=buffer))
        assert true_residual(A, b, mine.x) <= 1.1e-5 * torch.linalg.vector_norm(b)

    @ALL
    def test_autograd_is_neither_needed_nor_recorded(self, solver: Solver) -> None:
        A, b = CASE["spd"].system
        weights = A.clone().requires_grad_()
        recorded = b.clone().requires_grad_()
        result = solver(lambda v: weights @ v, recorded, x0=recorded)
        assert not result.x.requires_grad
        assert weights.grad is None

    @pytest.mark.parametrize(
        ("A", "b", "error", "message"),
        [
            (torch.eye(3), np.ones(3), TypeError, "b must be a torch tensor, not ndarray"),
            (torch.eye(3), torch.ones(3, 1), ValueError, r"b must have shape \(3,\)"),
            (torch.eye(3), torch.ones(4), ValueError, r"A has shape \(3, 3\), but b has"),
            (torch.ones(3, 4), torch.ones(3), ValueError, "expected a square matrix"),
            (np.eye(4), torch.ones(3), ValueError, r"A has shape \(4, 4\), but b has"),
            (torch.eye(3).double(), torch.ones(3), TypeError, "A is torch.float64 on cpu, but b"),
            (torch.eye(3), torch.ones(3).long(), TypeError, "b must be float32 or float64"),
            (torch.eye(3).half(), torch.ones(3).half(), TypeError, "b must be float32 or float64"),
            (torch.eye(3).cfloat(), torch.ones(3).cfloat(), TypeError, "b must be float32 or"),
            (torch.eye(3).cfloat(), torch.ones(3), TypeError, "A is complex .*: solve the real"),
            (1j * np.eye(3), torch.ones(3), TypeError, "A is complex .*: solve the real"),
            (scipy.sparse.csr_array(1j * np.eye(3)), torch.ones(3), TypeError, "A is complex"),
            (_declared(1j), torch.ones(3), TypeError, "A is"),
            (_undeclared(1j), torch.ones(3), TypeError, "the product A v is complex"),
            (lambda v: 1j * v, torch.ones(3), TypeError, "the product A v must be .* real system"),
            (np.full((3, 3), "a"), torch.ones(3), TypeError, "A must hold real numbers, not <U1"),
            (np.asmatrix(np.eye(3)), torch.ones(3), TypeError, "A is a NumPy matrix .*np.asarray"),
            (np.ma.masked_less(np.eye(3), 0.5), torch.ones(3), TypeError, "A has masked entries"),
            ("matrix", torch.ones(3), TypeError, "A must be a tensor, .* not str"),
            (lambda v: v[:2], torch.ones(3), ValueError, r"the product A v must have shape \(3,\)"),
            (lambda v: v.double(), torch.ones(3), TypeError, "the product A v is torch.float64"),
            (lambda v: v.numpy(), torch.ones(3), TypeError, "function must return a torch tensor"),
        ],
    )  # fmt: skip
    @EACH_ITERATIVE
    def test_a_mistake_is_one_sentence(
        self, solver: Solver, A: Any, b: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message) as caught:
            solver(A, b)
        assert "\n" not in str(caught.value)

    @EACH_ITERATIVE
    def test_a_mistake_with_the_start_or_the_preconditioner(self, solver: Solver) -> None:
        A, b = CASE["spd"].system
        with pytest.raises(ValueError, match=r"x0 must have shape \(40,\), not \(39,\)"):
            solver(A, b, x0=b[1:])
        with pytest.raises(TypeError, match=r"x0 is torch.float32"):
            solver(A, b, x0=b.float())
        with pytest.raises(ValueError, match="M has shape"):
            solver(A, b, M=torch.eye(3).double())
        with pytest.raises(TypeError, match=r"M must be a tensor, .* not str"):
            solver(A, b, M="jacobi")


MISTAKES = [
    ({"maxiter": 0}, "maxiter=0 is not valid: it should be greater than 0"),
    ({"maxiter": -3}, "maxiter=-3 is not valid"),
    ({"maxiter": 2.5}, "maxiter=2.5 is not valid: it should be a valid integer"),
    ({"rtol": -1.0}, "rtol=-1.0 is not valid: it should be greater than or equal to 0"),
    ({"rtol": float("nan")}, "rtol=nan is not valid"),
    ({"atol": -1e-3}, "atol=-0.001 is not valid"),
    ({"rtol": "small"}, "rtol='small' is not valid: it should be a valid number"),
]


class TestValues:
    """The annotations hold in calls, as they do in configurations."""

    @pytest.mark.parametrize(("options", "message"), MISTAKES, ids=str)
    @ALL
    def test_a_wrong_value_is_one_sentence(
        self, solver: Solver, options: dict[str, Any], message: str
    ) -> None:
        A, b = CASE["spd"].system
        with pytest.raises(ValueError, match=message) as caught:
            solver(A, b, **options)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("gcr", {"restart": 0}), ("gcr", {"truncate": -1}), ("gmres", {"restart": 0}),
            ("gmres", {"side": "up"}), ("gmres", {"orthogonalization": "qr"}),
            ("minres", {"negative_curvature": "follow"}), ("minres_qlp", {"negative_curvature": 1}),
        ],
    )  # fmt: skip
    def test_own_options_too(self, name: str, options: dict[str, Any]) -> None:
        A, b = CASE["spd"].system
        with pytest.raises(ValueError, match="is not valid: it should be"):
            entry("solver", name).target(A, b, **options)

    @ALL
    def test_an_unknown_option_is_suggested(self, solver: Solver) -> None:
        A, b = CASE["spd"].system
        with pytest.raises(TypeError, match=f"{solver} has no parameter 'tol'.*rtol"):
            solver(A, b, tol=1e-3)
        with pytest.raises(TypeError, match="callback must be a function, not int"):
            solver(A, b, callback=3)

    @ALL
    def test_numbers_of_numpy_and_torch(self, solver: Solver) -> None:
        A, b = CASE["spd"].system
        result = solver(A, b, rtol=torch.tensor(1e-3), maxiter=np.int64(40), atol=np.float32(0))
        assert result.converged

    @ALL
    def test_the_signature_and_the_text_are_whole(self, solver: Solver) -> None:
        target = entry("solver", solver.name).target
        text = inspect.getdoc(target) or ""
        for name in inspect.signature(target).parameters:
            assert re.search(rf"^({name}\b|rtol, {name}\b).* : ", text, re.M) or name == "atol"
        assert text.count("\nParameters\n----------\n") == text.count("\nReturns\n") == 1


class TestOptions:
    @ALL
    def test_rtol_and_atol(self, solver: Solver) -> None:
        A, b = CASE["badly_scaled"].system
        norm = float(torch.linalg.vector_norm(b))
        for rtol, atol in ((1e-3, 0.0), (0.0, 1e-3), (1e-3, 1e-1), (1e-1, 1e-3)):
            result = solver(A, b, rtol=rtol, atol=atol)
            assert result.converged
            assert true_residual(A, b, result.x) <= max(rtol * norm, atol)
            if solver.iterative:  # and no sooner than needed
                assert all(r > max(rtol * norm, atol) for r in result.residual_norms[:-1])

    @ALL
    def test_maxiter(self, solver: Solver) -> None:
        A, b = CASE["badly_scaled"].system
        result = solver(A, b, rtol=0.0, maxiter=1)
        assert result.iterations == 1
        assert not result.converged
        if solver.iterative:
            assert result.status is Status.MAXITER
            assert solver(A, b, rtol=0.0, maxiter=7).iterations == 7

    @ALL
    def test_x0(self, solver: Solver) -> None:
        """From x0 is from zero for the system of the difference, A d = b - A x0."""
        A, b = CASE["spd"].system
        x0 = randn(len(b), seed=5)
        before = x0.clone()
        result = solver(A, b, x0=x0, rtol=1e-9)
        assert torch.equal(x0, before)
        assert result.residual_norms[0] == pytest.approx(true_residual(A, b, x0))
        r0 = b - A @ x0
        other = solver(A, r0, rtol=0.0, atol=1e-9 * float(torch.linalg.vector_norm(b)))
        assert torch.allclose(result.x, x0 + other.x, rtol=1e-7, atol=1e-9)
        assert result.iterations == pytest.approx(other.iterations, abs=2)

    @ALL
    def test_callback_sees_every_iterate_with_its_residual(self, solver: Solver) -> None:
        A, b = CASE["positive_real" if not solver.needs_symmetry else "spd"].system
        seen: list[tuple[float, float]] = []
        result = solver(
            A, b, rtol=1e-7, callback=lambda x, norm: seen.append((norm, true_residual(A, b, x)))
        )
        assert [norm for norm, _ in seen] == pytest.approx(result.residual_norms[1:])
        for norm, true in seen:
            assert norm == pytest.approx(true, rel=1e-4, abs=1e-12)
        assert true_residual(A, b, result.x) == pytest.approx(seen[-1][1], rel=1e-6)

    @EACH_ITERATIVE
    def test_callback_does_not_change_the_iterates(self, solver: Solver) -> None:
        A, b = CASE["spd"].system
        with_callback = solver(A, b, callback=lambda x, norm: None)
        without = solver(A, b)
        assert torch.equal(with_callback.x, without.x)
        assert with_callback.residual_norms == without.residual_norms

    @ALL
    def test_repeats_itself(self, solver: Solver) -> None:
        A, b = CASE["badly_scaled"].system
        assert torch.equal(solver(A, b).x, solver(A, b).x)


class TestCost:
    @EACH_ITERATIVE
    def test_one_product_an_iteration(self, solver: Solver) -> None:
        A, b = CASE["spd"].system
        products = 0

        def multiply(v: Tensor) -> Tensor:
            nonlocal products
            products += 1
            return A @ v

        operator = FunctionOperator(multiply, len(b), b.dtype, b.device)
        for x0, extra in ((None, 0), (torch.ones_like(b), 1)):
            products = 0
            result = solver(operator, b, x0=x0, rtol=1e-5)
            assert result.converged
            assert products == result.matvecs == result.iterations + extra

    @EACH_ITERATIVE
    def test_a_preconditioner_costs_no_product(self, solver: Solver) -> None:
        A, b = CASE["badly_scaled"].system
        result = solver(MatrixOperator(A), b, M=torch.diag(1 / A.diagonal()))
        assert result.matvecs == result.iterations


STATED = {
    ("cg", False): 4, ("cg", True): 5, ("cr", False): 6, ("cr", True): 9,
    ("minres", False): 7, ("minres", True): 10, ("minres_qlp", False): 8, ("minres_qlp", True): 12,
    ("gcr", False): 14, ("gmres", False): 10,
}  # fmt: skip
"""Vectors of length n that the docstrings state, without and with a preconditioner; with
`restart` 5 for gcr (2 m + 4) and gmres (m + 1 + 4)."""


@pytest.mark.parametrize(("name", "preconditioned"), STATED)
def test_keeps_no_more_vectors_than_stated(name: str, preconditioned: bool) -> None:
    """The peak of memory allocated by torch during a solve, in vectors of length n."""
    n = 100_000
    d = torch.linspace(1, 30, n, dtype=torch.float64)
    operator = FunctionOperator(lambda v: d * v, n, d.dtype, d.device)
    inverse = 1 / (d + 3)
    options = {"restart": 5} if name in ("gcr", "gmres") else {}
    M = (lambda v: inverse * v) if preconditioned else None
    solve, b = entry("solver", name).target, torch.ones_like(d)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        result = solve(operator, b, M=M, rtol=1e-4, **options)
    assert result.iterations >= 6
    events = profile.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert float(np.cumsum(changes).max()) / (8 * n) <= STATED[name, preconditioned] + 0.01


STATUSES = [
    ("cg", "spd", {}, Status.CONVERGED),
    ("cg", "spd", {"maxiter": 2}, Status.MAXITER),
    ("cg", "semidefinite_inconsistent", {}, Status.BREAKDOWN),
    ("cg", "indefinite", {}, Status.NEGATIVE_CURVATURE),
    ("cg", "spd", {"rtol": 0.0}, Status.STAGNATED),
    ("cr", "indefinite", {}, Status.NEGATIVE_CURVATURE),
    ("cr", "zero_matrix", {}, Status.BREAKDOWN),
    ("cr", "spd", {"rtol": 0.0}, Status.STAGNATED),
    ("gcr", "swap", {}, Status.BREAKDOWN),
    ("gcr", "positive_real", {"rtol": 0.0}, Status.STAGNATED),
    ("gmres", "shift", {"restart": 5}, Status.STAGNATED),
    ("gmres", "zero_matrix", {}, Status.BREAKDOWN),
    ("minres", "singular_inconsistent", {}, Status.LEAST_SQUARES),
    ("minres", "indefinite", {"negative_curvature": "stop"}, Status.NEGATIVE_CURVATURE),
    ("minres_qlp", "singular_inconsistent", {}, Status.LEAST_SQUARES),
    ("minres_qlp", "indefinite", {"rtol": 0.0, "maxiter": 400}, Status.STAGNATED),
    ("exact", "indefinite", {}, Status.NEGATIVE_CURVATURE),
    ("exact", "semidefinite_inconsistent", {}, Status.LEAST_SQUARES),
    ("exact", "spd", {"rtol": 0.0}, Status.STAGNATED),
]


class TestStatus:
    @pytest.mark.parametrize(("solver", "case", "options", "status"), STATUSES)
    def test_reached(self, solver: str, case: str, options: dict[str, Any], status: Status) -> None:
        A, b = CASE[case].system
        assert BY_NAME[solver](A, b, **options).status is status

    def test_every_one_is_reached(self) -> None:
        assert {status for *_, status in STATUSES} == set(Status)

    def test_each_says_what_to_do(self) -> None:
        remedies = [status.remedy for status in Status]
        assert len(set(remedies)) == len(Status)
        assert all(len(remedy) > 20 for remedy in remedies)


class TestConverged:
    def test_is_whether_the_tolerance_was_met(self) -> None:
        """Whatever else the status says of A."""
        A, b = CASE["indefinite"].system
        result = BY_NAME["exact"](A, b)
        assert result.status is Status.NEGATIVE_CURVATURE
        assert result.converged
        assert result.tolerance == pytest.approx(1e-10 * float(torch.linalg.vector_norm(b)))

    @pytest.mark.parametrize("b", [[0.0, 1.0], [1.0, 2.0]])
    def test_a_nonsymmetric_matrix_has_no_curvature(self, b: list[float]) -> None:
        A = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()
        result = BY_NAME["exact"](A, torch.tensor(b).double())
        assert result.converged
        assert (result.status, result.direction) == (Status.CONVERGED, None)

    def test_a_scipy_operator_is_believed(self) -> None:
        products = 0

        def multiply(v: np.ndarray) -> np.ndarray:
            nonlocal products
            products += 1
            return 2.0 * v

        A = scipy.sparse.linalg.LinearOperator((4, 4), matvec=multiply, dtype=float)
        products = 0  # SciPy's constructor may look at the type of a product
        for solver in SOLVERS[:2]:
            assert solver(A, torch.ones(4).double()).matvecs == products
            products = 0


class TestOneMethodsOptions:
    @pytest.mark.parametrize("orthogonalization", ["mgs", "mgs2", "cgs2"])
    @pytest.mark.parametrize("name", ["spd", "general", "convection_diffusion"])
    def test_gmres_orthogonalizations_agree(self, orthogonalization: str, name: str) -> None:
        A, b = CASE[name].system
        result = BY_NAME["gmres"](A, b, orthogonalization=orthogonalization, rtol=1e-8)
        assert result.converged
        assert true_residual(A, b, result.x) <= 1.1e-8 * torch.linalg.vector_norm(b)

    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize("restart", [5, 60])
    def test_gmres_sides_stop_on_the_true_residual(self, side: str, restart: int) -> None:
        """A preconditioner that scales rows by up to 1e6 hides nothing."""
        A, b = CASE["convection_diffusion"].system
        scale = torch.logspace(-3, 3, len(b)).double()
        result = BY_NAME["gmres"](
            A, b, M=lambda v: scale * v, side=side, restart=restart, rtol=1e-6, maxiter=2000
        )
        assert result.residual_norms[-1] == pytest.approx(
            true_residual(A, b, result.x), rel=1e-3, abs=1e-8
        )
        if restart == 60:
            assert result.converged

    def test_gmres_left_history_is_the_true_residual(self) -> None:
        A, b = CASE["badly_scaled"].system
        M = torch.diag(1 / A.diagonal())
        trues: list[float] = []
        result = BY_NAME["gmres"](
            A, b, M=M, side="left", callback=lambda x, _: trues.append(true_residual(A, b, x))
        )
        assert result.residual_norms[1:] == pytest.approx(trues, rel=1e-5)

    def test_gcr_takes_a_preconditioner_that_changes(self) -> None:
        """Flexible: M may be another solver, of random exactness."""
        A, b = CASE["laplacian"].system
        cg = BY_NAME["cg"]
        depths = iter([3, 8, 5, 12] * 40)
        result = BY_NAME["gcr"](A, b, M=lambda v: cg(A, v, maxiter=next(depths)).x, rtol=1e-8)
        assert result.converged
        assert result.iterations < cg(A, b, rtol=1e-8).iterations
        assert true_residual(A, b, result.x) <= 1.1e-8 * torch.linalg.vector_norm(b)

    @pytest.mark.parametrize("truncate", [1, 3, 10])
    def test_gcr_truncation_converges_on_positive_real_systems(self, truncate: int) -> None:
        A, b = CASE["positive_real"].system
        result = BY_NAME["gcr"](A, b, truncate=truncate, rtol=1e-8)
        assert result.converged

    def test_exact_refines_what_a_factorization_leaves(self) -> None:
        A = symmetric(spread(60, 1e5)).float()
        b = randn(60, seed=1, dtype=torch.float32)
        one = BY_NAME["exact"](A, b, rtol=0.0, maxiter=1)
        more = BY_NAME["exact"](A, b, rtol=0.0, maxiter=5)
        assert more.iterations > 1
        assert true_residual(A, b, more.x) < true_residual(A, b, one.x)

    def test_exact_uses_a_closed_form(self) -> None:
        class Inverse(MatrixOperator):
            def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
                return b / (2.0 + shift)

            def dense(self) -> Tensor:
                raise AssertionError("the closed form needs no matrix")

        b = randn(5, seed=1)
        result = BY_NAME["exact"](Inverse(2 * torch.eye(5).double()), b)
        assert result.converged
        assert torch.equal(result.x, b / 2)

    def test_exact_closed_form_of_an_indefinite_operator(self) -> None:
        """x'A x < 0 shows in b'x: the solution itself is the direction of negative curvature."""

        class Negative(MatrixOperator):
            def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
                return -b / (2.0 - shift)

        A, b = -2 * torch.eye(5).double(), randn(5, seed=1)
        result = BY_NAME["exact"](Negative(A), b)
        assert result.status is Status.NEGATIVE_CURVATURE
        assert result.direction is not None
        assert result.direction @ A @ result.direction < 0
        assert b @ result.direction > 0


@ALL
@pytest.mark.parametrize("numpy", [False, True])
def test_a_function_that_changes_its_argument_is_refused(solver: Solver, numpy: bool) -> None:
    def double(v: Tensor) -> Tensor:
        return torch.from_numpy(np.multiply(v, 2.0, out=v.numpy())) if numpy else v.mul_(2.0)

    with pytest.raises(ValueError, match="changes v in place: work on a copy"):
        solver(double, torch.tensor([1.0, 2.0]))


@ALL
def test_a_number_is_no_right_side(solver: Solver) -> None:
    with pytest.raises(ValueError, match="must be a vector of shape"):
        solver(torch.eye(1), torch.tensor(1.0))


@pytest.mark.parametrize("method", [cg, cr, minres, minres_qlp])
@pytest.mark.parametrize("maxiter", [3, None])
@pytest.mark.parametrize("asymmetry", [0.03, 1.0])
def test_the_residual_of_a_function_that_is_not_symmetric_is_true(method, maxiter, asymmetry):
    g = torch.Generator().manual_seed(0)
    for n in (4, 8, 20):
        B, C = torch.randn(2, n, n, generator=g, dtype=torch.float64)
        A, b = B + B.T + asymmetry * C, torch.randn(n, generator=g, dtype=torch.float64)
        for rtol in (1e-6, 0.1):
            result = method(lambda v, A=A: A @ v, b, rtol=rtol, maxiter=maxiter)
            true, tolerance = float((b - A @ result.x).norm()), rtol * float(b.norm())
            assert result.residual_norms[-1] == pytest.approx(true, rel=0.1, abs=0.1 * tolerance)
            assert result.status is not Status.CONVERGED or true <= tolerance * (1 + 1e-9)
