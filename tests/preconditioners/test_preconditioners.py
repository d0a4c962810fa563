"""Preconditioners: what they are, what they are worth, and that they hide no residual."""

import itertools

import pytest
import torch
from cases import CASE, ITERATIVE, LIMIT, Solver, rounding, spread, symmetric, true_residual
from problems import DTYPES, assert_close, make, make_dataset, randn, ulps
from torch import Tensor

from newton_krylov import cg, cr, gmres, minres
from newton_krylov.errors import UnsupportedError
from newton_krylov.operators import (
    AffineOperator,
    FunctionOperator,
    LinearOperator,
    MatrixOperator,
)
from newton_krylov.preconditioners.auto import Auto
from newton_krylov.preconditioners.base import PreconditionerBuilder, Unit
from newton_krylov.preconditioners.jacobi import Jacobi
from newton_krylov.preconditioners.none import NoPreconditioner
from newton_krylov.preconditioners.nystrom import Nystrom, nystrom_approximation
from newton_krylov.preconditioners.subsampled import Subsampled
from newton_krylov.registry import entry, names

DEFINITE = ["spd", "laplacian", "badly_scaled", "tiny_numbers", "huge_numbers", "one"]
BUILDERS: dict[str, PreconditionerBuilder] = {
    "auto": Auto(), "jacobi": Jacobi(), "nystrom": Nystrom(rank=10), "none": NoPreconditioner(),
}  # fmt: skip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix_of(builder: PreconditionerBuilder, A: Tensor) -> Tensor:
    """Return the preconditioner as a matrix."""
    M = builder.build(MatrixOperator(A), generator())
    eye = torch.eye(len(A), dtype=A.dtype)
    return eye if M is None else torch.stack([M(e) for e in eye], dim=1)


def test_every_registered_preconditioner_is_here() -> None:
    # TestSubsampled needs a sum over samples; that of a network's layers is in curvature/test_kfac.
    elsewhere = {"subsampled", "kfac"}
    assert set(BUILDERS) | elsewhere == set(names("preconditioner"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*DEFINITE, "semidefinite", "ill_conditioned"])
@pytest.mark.parametrize("builder", BUILDERS)
def test_is_symmetric_positive_definite(builder: str, name: str, dtype: torch.dtype) -> None:
    M = matrix_of(BUILDERS[builder], CASE[name].at(dtype)[0]).double()
    size = float(M.abs().max())
    assert torch.allclose(M, M.T, atol=1e3 * torch.finfo(dtype).eps * size, rtol=0.0)
    assert torch.linalg.eigvalsh(M).min() > 0


@pytest.mark.parametrize("name", ["indefinite", "one_negative", "saddle_point", "swap"])
@pytest.mark.parametrize("builder", BUILDERS)
def test_stays_definite_where_the_matrix_is_not(builder: str, name: str) -> None:
    M = matrix_of(BUILDERS[builder], CASE[name].system[0])
    assert torch.linalg.eigvalsh((M + M.T) / 2).min() > 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*DEFINITE, "badly_scaled"])
@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("solver", ITERATIVE, ids=str)
def test_the_residual_that_is_reported_and_stopped_on_is_the_true_one(
    solver: Solver, builder: str, name: str, dtype: torch.dtype
) -> None:
    A, b = CASE[name].at(dtype)
    M = BUILDERS[builder].build(MatrixOperator(A), generator())
    rtol = 1e-3 if dtype is torch.float32 else 1e-8
    trues: list[float] = []
    result = solver(
        A, b, M=M, rtol=rtol, maxiter=LIMIT,
        callback=lambda x, _: trues.append(true_residual(A, b, x)),
    )  # fmt: skip
    assert result.converged
    slack = rounding(A, b, result.x)
    assert true_residual(A, b, result.x) <= 1.1 * rtol * torch.linalg.vector_norm(b) + slack
    for reported, true in zip(result.residual_norms[1:], trues, strict=True):
        assert reported == pytest.approx(true, rel=1e-2, abs=5 * slack)


class Hiding(LinearOperator):
    """diag(M) whose scale makes |M r| and r'M r tiny where |r| is large."""

    def __init__(self, n: int) -> None:
        super().__init__(n, torch.float64, torch.device("cpu"))
        self.d = torch.logspace(-8, 0, n, dtype=torch.float64)

    def matvec(self, v: Tensor) -> Tensor:
        return self.d * v


@pytest.mark.parametrize("solver", ITERATIVE, ids=str)
def test_a_users_bad_preconditioner_cannot_fake_convergence(solver: Solver) -> None:
    A, b = CASE["spd"].system
    result = solver(A, b, M=Hiding(len(b)), rtol=1e-6, maxiter=LIMIT)
    residual = true_residual(A, b, result.x)
    tenth = 1e-7 * float(torch.linalg.vector_norm(b))
    assert result.residual_norms[-1] == pytest.approx(residual, rel=0.1, abs=tenth)
    if result.converged:
        assert residual <= 1.1e-6 * torch.linalg.vector_norm(b)


@pytest.mark.parametrize("solver", ITERATIVE[:2] + ITERATIVE[4:], ids=str)
def test_an_indefinite_preconditioner_is_a_breakdown_not_an_answer(solver: Solver) -> None:
    A, b = CASE["spd"].system
    result = solver(A, b, M=lambda v: -v)
    assert result.status == "breakdown"
    assert torch.isfinite(result.x).all()


@pytest.mark.parametrize("solver", ITERATIVE, ids=str)
def test_the_inverse_solves_in_one_step(solver: Solver) -> None:
    A, b = CASE["spd"].system
    result = solver(A, b, M=torch.linalg.inv(A), rtol=1e-8)
    assert result.converged
    assert result.iterations == 1


class TestJacobi:
    def test_divides_by_the_diagonal(self) -> None:
        A, _ = CASE["badly_scaled"].system
        assert torch.allclose(matrix_of(Jacobi(), A), torch.diag(1 / A.diagonal()))

    @pytest.mark.parametrize("method", [cg, cr, minres, gmres])
    def test_pays_on_a_badly_scaled_matrix(self, method: object) -> None:
        A, b = CASE["badly_scaled"].system
        M = Jacobi().build(MatrixOperator(A), generator())
        assert callable(method)
        assert method(A, b, M=M).iterations < 0.7 * method(A, b).iterations

    def test_leaves_zeros_of_the_diagonal_alone(self) -> None:
        A = torch.diag(torch.tensor([4.0, 0.0, 1e-30, -2.0])).double()
        M = matrix_of(Jacobi(), A).diagonal()
        assert M[0] == 0.25
        assert M[3] == 0.5
        assert (M > 0).all()
        assert M.max() < 10
        assert torch.isfinite(matrix_of(Jacobi(), torch.zeros(3, 3))).all()


class TestNystrom:
    def test_is_exact_on_a_matrix_of_its_rank(self) -> None:
        A = symmetric(torch.cat((torch.tensor([5.0, 3.0, 1.0]), torch.zeros(27))))
        U, values = nystrom_approximation(MatrixOperator(A), 6, generator())
        assert torch.allclose((U * values) @ U.T, A, atol=1e-6)
        assert torch.allclose(values[:3], torch.tensor([5.0, 3.0, 1.0]).double(), atol=1e-6)

    def test_approximates_from_below(self) -> None:
        """0 <= A_nys <= A in the order of semidefinite matrices (Frangella et al., lemma 2.1)."""
        A = symmetric(spread(40, 1e4))
        U, values = nystrom_approximation(MatrixOperator(A), 12, generator())
        assert torch.linalg.eigvalsh(A - (U * values) @ U.T).min() >= -1e-6
        assert (values >= 0).all()
        assert (values.diff() <= 1e-12).all()
        assert torch.allclose(U.T @ U, torch.eye(12).double(), atol=1e-8)

    def test_costs_rank_products(self) -> None:
        class Counting(MatrixOperator):
            columns = 0

            def matmat(self, V: Tensor) -> Tensor:
                self.columns += V.shape[1]
                return super().matmat(V)

        A = Counting(CASE["spd"].system[0])
        Nystrom(rank=7).build(A, generator())
        assert A.columns == 7

    @pytest.mark.parametrize("seed", range(5))
    def test_condition_number_is_small_once_the_rank_covers_the_spectrum(self, seed: int) -> None:
        """kappa(P^-1/2 (A + mu I) P^-1/2) < 28 in expectation (Frangella et al., theorem 5.3)."""
        mu, n = 1e-3, 100
        B = symmetric(torch.cat((spread(20, 1e3), torch.full((n - 20,), 1e-9).double())), seed)
        A = AffineOperator(MatrixOperator(B), shift=mu)
        M = Nystrom(rank=40, shift=mu).build(A, generator(seed))
        assert M is not None
        P = torch.stack([M(e) for e in torch.eye(n).double()], dim=1)
        values = torch.linalg.eigvals(P @ A.dense()).real
        assert values.max() / values.min() < 28

    def test_saves_iterations_on_a_decaying_spectrum(self) -> None:
        n, mu = 200, 1e-4
        values = torch.cat((spread(30, 1e3), torch.zeros(n - 30))).double()
        A = AffineOperator(MatrixOperator(symmetric(values)), shift=mu)
        b = randn(n, seed=1)
        M = Nystrom(rank=40, shift=mu).build(A, generator())
        plain, preconditioned = cg(A, b, rtol=1e-8), cg(A, b, M=M, rtol=1e-8)
        assert preconditioned.converged
        assert preconditioned.iterations < plain.iterations / 2

    def test_rank_is_bounded_by_the_dimension(self) -> None:
        A, b = CASE["tiny_numbers"].system
        M = Nystrom(rank=500).build(MatrixOperator(A), generator())
        assert cg(A, b, M=M).iterations <= 2

    def test_an_indefinite_matrix_is_left_alone(self) -> None:
        A = MatrixOperator(CASE["negative_definite"].system[0])
        assert Nystrom().build(A, generator()) is None

    def test_the_generator_decides(self) -> None:
        A = MatrixOperator(symmetric(spread(30, 1e3)))
        v = randn(30, seed=9)
        built = [Nystrom(rank=5).build(A, generator(seed)) for seed in (0, 0, 1)]
        results = [M(v) for M in built if M is not None]
        assert torch.equal(results[0], results[1])
        assert not torch.equal(results[0], results[2])


def test_defaults_are_the_configurations(device: torch.device) -> None:
    """Built by name, as a run builds them; on any device."""
    A = symmetric(spread(30, 1e3)).to(device)
    b = randn(30, seed=1, device=device)
    for name in names("preconditioner"):
        M = entry("preconditioner", name).build({}).build(MatrixOperator(A), generator())
        assert cg(A, b, M=M, rtol=1e-6).converged


class TestSubsampled:
    @pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
    def test_of_all_samples_is_the_inverse(self, sparse: bool) -> None:
        f = make("logistic", sparse=sparse)
        A = f.at(randn(f.dim, seed=1)).hessian()
        M = Subsampled(samples=10**6, first=0).build(AffineOperator(A, shift=0.5), generator())
        assert M is not None
        v = randn(f.dim, seed=2)
        assert_close(M(AffineOperator(A, shift=0.5) @ v), v, ulps(f.dtype))
        assert cg(A, v, M=Subsampled(10**6, 0).build(A, generator())).iterations == 1

    def test_a_sample_s_estimate_is_unbiased_and_counted(self) -> None:
        f = make("logistic", n=40)
        A = f.at(randn(f.dim, seed=1)).hessian()
        draw, mean = generator(), torch.zeros(f.dim, f.dim, dtype=f.dtype)
        before = f.counts.passes
        for _ in range(2000):
            part = A.sampled(10, draw)
            assert part is not None
            mean += part.dense() / 2000
        assert f.counts.passes - before == pytest.approx(2000 * 10 / 40)
        assert_close(mean, A.dense(), 0.05)

    def test_pays_on_an_ill_conditioned_problem(self) -> None:
        f = make("logistic", n=2000, d=30, condition=1e4, l2=1e-6)
        A, b = f.at(0.1 * randn(f.dim, seed=1)).hessian(), randn(f.dim, seed=2)
        M = Subsampled(samples=600, first=0).build(A, generator())
        assert cg(A, b, M=M, rtol=1e-8).iterations < 0.5 * cg(A, b, rtol=1e-8).iterations

    def test_is_built_when_it_is_said(self) -> None:
        f = make("logistic")
        A, v = f.at(randn(f.dim, seed=1)).hessian(), randn(f.dim, seed=2)
        builder = Subsampled(samples=20, first=2, every=3)
        found = [builder.build(A, generator(seed)) for seed in range(8)]
        assert found[0] is None and found[1] is None
        images = [M(v) for M in found[2:] if M is not None]
        same = [torch.equal(a, b) for a, b in itertools.pairwise(images)]
        assert same == [True, True, False, True, True]

    def test_leaves_an_indefinite_sample_alone(self) -> None:
        f = make("sigmoid_least_squares", l2=0.0)
        A = AffineOperator(f.at(3 * randn(f.dim, seed=1)).hessian(), shift=-1.0)
        assert Subsampled(first=0).build(A, generator()) is None

    def test_an_operator_without_samples_is_refused(self) -> None:
        with pytest.raises(UnsupportedError, match="take jacobi or nystrom"):
            Subsampled(first=0).build(MatrixOperator(torch.eye(3)), generator())


class TestAuto:
    def test_grows_to_the_whole_matrix_where_solves_stay_long(self) -> None:
        """Of all samples it is the inverse: then CG takes one iteration."""
        f = make("logistic", n=4000, d=20, condition=1e6, l2=1e-10)
        A, b = f.at(0.1 * randn(f.dim, seed=1)).hessian(), randn(f.dim, seed=2)
        builder, draw = Auto(), generator()
        lengths = []
        for _ in range(6):
            M = builder.build(A, draw)
            lengths.append(cg(A, b, M=M, rtol=1e-10).iterations)
        assert lengths[0] < cg(A, b, rtol=1e-10, maxiter=1000).iterations / 3
        assert lengths[-1] == 1
        assert lengths == sorted(lengths, reverse=True)

    def test_one_that_serves_is_kept_and_saved(self) -> None:
        f = make("logistic", n=4000, d=5, l2=0.1)
        A, v = f.at(randn(f.dim, seed=1)).hessian(), randn(f.dim, seed=2)
        builder, other, draw = Auto(), Auto(), generator()
        before = f.counts.passes
        first = builder.build(A, draw)
        assert first is not None
        assert f.counts.passes - before == pytest.approx(1 / 8)
        other.load_state_dict(builder.state_dict())
        for kept in (builder, other):
            again = kept.build(A, draw)
            assert again is not None and torch.equal(again(v), first(v))
        assert f.counts.passes - before == pytest.approx(1 / 8)

    def test_a_part_s_matrix_is_that_of_its_samples(self) -> None:
        for sparse in (False, True):
            f = make("logistic", n=103, sparse=sparse)
            point = f.at(randn(f.dim, seed=1))
            forming = AffineOperator(point.hessian(), shift=0.5).forming()
            assert forming is not None and forming.samples == 103
            part = point.subset(torch.arange(2, 103, 4)).hessian().dense()
            expected = part + 0.5 * torch.eye(f.dim, dtype=f.dtype)
            assert_close(forming.part(4, 2).triu(), expected.triu(), ulps(f.dtype))
            whole = point.hessian().affine(shift=0.5).dense()
            assert_close(forming.part(1, 0).triu(), whole.triu(), ulps(f.dtype))

    @pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
    @pytest.mark.parametrize("penalty", [None, "of columns", "free intercept"])
    def test_of_few_samples_it_is_the_inverse_once_products_have_cost_as_much(
        self, sparse: bool, penalty: str | None
    ) -> None:
        given = {
            None: {},
            "of columns": {"penalty": torch.linspace(0.1, 2.0, 300).tolist()},
            "free intercept": {"intercept": "free"},
        }[penalty]
        data = make_dataset("binary", n=200, d=300, sparse=sparse)
        f = entry("loss", "logistic").target(data, l2=1e-3, **given)
        A, B = (f.at(randn(f.dim, seed=seed)).hessian() for seed in (1, 2))
        b, builder, draw = randn(f.dim, seed=3), Auto(), generator()

        def solve(A: LinearOperator) -> int:
            return cg(A, b, M=builder.build(A, draw), rtol=1e-9).iterations

        lengths = [solve(A) for _ in range(12)]
        plain, few = cg(A, b, rtol=1e-9).iterations, A.few_samples()
        # The free intercept's direction is off, and takes an iteration more.
        exact = 1 + (penalty == "free intercept")
        unaided = lengths.index(exact)
        assert lengths == unaided * [plain] + (12 - unaided) * [exact]
        assert few is not None and few.cost < max(2, unaided) * plain
        assert solve(B) == exact and f.counts.hessian == 1  # X X' is formed once
        for l2 in (7e-4, 3e-4, 1.1e-4):  # along a path, too
            builder.build(f.with_l2(l2).at(randn(f.dim, seed=2)).hessian(), draw)
        assert f.counts.hessian == 1
        builder.build(B, draw)
        other = Auto()
        other.load_state_dict(builder.state_dict())
        here, there = (each.build(B, draw) for each in (builder, other))
        assert here is not None and there is not None and torch.equal(here(b), there(b))

    def test_what_rounding_leaves_no_factor_of_is_formed_once(self) -> None:
        data = make_dataset("binary", X=randn(30, 1, seed=1) + 1e-9 * randn(30, 300, seed=2))
        f = entry("loss", "logistic").target(data, l2=1e-300)
        A, builder, draw = f.at(randn(f.dim, seed=1)).hessian(), Auto(), generator()
        for _ in range(3):
            assert isinstance(builder.build(A, draw), Unit)
            other = Auto()
            other.load_state_dict(builder.state_dict())
            assert isinstance(other.build(A, draw), Unit)
        assert f.counts.hessian == 1

    @pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
    def test_parts_of_few_samples_make_the_operator(self, sparse: bool) -> None:
        f = make("logistic", n=20, d=30, sparse=sparse)
        A, v = f.at(randn(f.dim, seed=1)).hessian(), randn(f.dim, seed=2)
        X = f.features.X.to_dense()
        for operator in (A, A.affine(scale=2.0, shift=0.3), A.affine(diagonal=v.abs())):
            few, rtol = operator.few_samples(), ulps(torch.float64)
            assert few is not None
            product = few.adjoint(few.weights * few.times(v)) + few.ridge * v
            assert_close(product, operator @ v, rtol)
            assert_close(few.gram(v.abs()), (X * v.abs()) @ X.T, rtol)
        # Rounding spoils the formula in single precision; what is formed of some serves no others.
        single = f.cast(torch.float32).at(v.float()).hessian()
        for operator in (A.cast(torch.float32), single, single.cast(torch.float64)):
            assert operator.few_samples() is None
        drawn = f.subset(torch.arange(f.n_samples).flip(0)).at(v).hessian()
        assert drawn.few_samples() is None and A.sampled(20, generator()).few_samples() is None
        assert A.affine(shift=-1.0).few_samples() is None
        assert make("logistic", n=31, d=30).at(v).hessian().few_samples() is None

    def test_without_samples_or_a_diagonal_there_is_nothing(self) -> None:
        f = make("logistic", n=200, d=300, l2=0.0)
        A, v = f.at(randn(f.dim, seed=1)).hessian(), randn(f.dim, seed=2)
        M = Auto().build(A, generator())  # nothing but the samples makes it regular
        assert M is not None
        assert_close(M(v), v / A.diagonal(), ulps(f.dtype))
        plain = FunctionOperator(lambda v: 2 * v, 3, torch.float64, torch.device("cpu"))
        assert Auto().build(plain, generator()) is None
