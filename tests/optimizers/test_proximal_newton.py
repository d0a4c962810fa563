"""The lasso and the elastic net: closed forms, optimality by autograd, gaps, scikit-learn."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizer_parts import make_optimizer, minimize
from problems import CONVEX_LOSSES, assert_close, make_dataset, matrix, plain, randn
from sklearn.linear_model import ElasticNet, LogisticRegression

from newton_krylov.errors import ConfigError
from newton_krylov.kernels.rows import VARIABLE
from newton_krylov.operators import Forming, MatrixOperator, RestrictedOperator
from newton_krylov.optimizers import proximal_newton
from newton_krylov.records.checkpoint import Checkpoint, Saver
from newton_krylov.registry import entry
from newton_krylov.runs.optimum import certified_optimum
from newton_krylov.runs.runner import Stopping, run


def bind(name, data, **options):
    return entry("loss", name).target(data, **options)


def solve(f, *, grad_norm=1e-12, epochs=100, **parts):
    parts = {"solver": "cg", "preconditioner": "jacobi"} | parts
    optimizer = make_optimizer("proximal_newton", **parts)
    return f.at(minimize(f, optimizer, grad_norm=grad_norm, epochs=epochs).w)


@pytest.mark.parametrize(
    "options",
    [
        {"l1": 0.02, "l2": 0.0},
        {"l1": 0.02, "l2": 0.01, "intercept": "free"},
        {"l1": 0.03, "l2": 0.0, "intercept": "free", "penalty": [0.5, 1, 2, 1, 1, 3, 0.1]},
    ],
    ids=["lasso", "elastic net", "factors"],
)
@pytest.mark.parametrize("loss", CONVEX_LOSSES, ids=str)
def test_the_answer_is_a_minimum_and_the_gap_bounds_any_points(loss, options):
    """Zero is a subgradient, by autograd on the textbook formula; the gap is above f(w) - f*."""
    data = make_dataset(loss.task)
    f = bind(loss.name, data, **options)
    found = solve(f)
    assert found.grad_norm <= 1e-12
    assert f.suboptimality_bound(found) <= 1e-10
    ones = replace(data, train=replace(data.train, X=f.features.X))
    value = plain(loss, bind(loss.name, ones, l2=0.0))
    g = torch.func.grad(value)(found.w) + f.ridge * found.w
    excess = torch.where(
        found.w == 0, (g.abs() - f.lasso).clamp(min=0), (g + f.lasso * found.w.sign()).abs()
    )
    assert float(excess.max()) <= 1e-11
    for seed, scale in enumerate([0.0, 1e-6, 1e-2, 0.3]):
        point = f.at(found.w + scale * randn(f.dim, seed=seed))
        assert -1e-14 <= point.value - found.value <= f.suboptimality_bound(point) + 1e-14


def test_orthonormal_columns_have_the_soft_threshold():
    Q = torch.linalg.qr(randn(40, 6, seed=1)).Q * 40**0.5
    data = make_dataset("regression", X=Q, y=3 * randn(40, seed=2))
    b = Q.T @ data.train.y / 40
    f = bind("least_squares", data, l2=0.5, l1=0.2)
    expected = b.sign() * (b.abs() - 0.2).clamp(min=0) / 1.5
    assert_close(solve(f).w, expected, 1e-13)


@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_least_squares_is_scikit_learns_elastic_net(ratio):
    data = make_dataset("regression", n=80, d=120, condition=30.0)
    l1, l2 = 0.05 * ratio, 0.05 * (1 - ratio)
    f = bind("least_squares", data, l1=l1, l2=l2, intercept="free")
    model = ElasticNet(alpha=0.05, l1_ratio=ratio, tol=1e-13, max_iter=100_000)
    model.fit(data.train.X.numpy(), data.train.y.numpy())
    theirs = f.at(torch.from_numpy(np.append(model.coef_, model.intercept_)))
    ours = solve(f)
    assert -1e-13 <= theirs.value - ours.value <= 1e-8
    assert int((ours.w != 0).sum()) < 60


@pytest.mark.parametrize("name", ["logistic", "multinomial"])
def test_classifiers_are_scikit_learns_with_weights(name):
    task = "binary" if name == "logistic" else "multiclass"
    data = make_dataset(task, n=150)
    v = 0.2 + randn(150, seed=3).abs()
    data = replace(data, train=replace(data.train, weights=v / v.mean()))
    f = bind(name, data, l1=0.006, l2=0.014, intercept="free")
    model = LogisticRegression(
        C=1 / (150 * 0.02), l1_ratio=0.3, solver="saga", tol=1e-10, max_iter=20_000
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated keywords, and where it does not converge
        model.fit(data.train.X.numpy(), data.train.y.numpy(), sample_weight=data.train.weights)
    W = torch.from_numpy(np.column_stack([model.coef_, model.intercept_]).T.reshape(-1).copy())
    theirs, ours = f.at(W), solve(f)
    assert -1e-13 <= theirs.value - ours.value <= 1e-8
    assert theirs.value - ours.value <= f.suboptimality_bound(theirs) + 1e-15


HARD = {
    "more columns than rows": lambda: matrix(40, 150, condition=1e3),
    "twins": lambda: torch.cat([matrix(100, 20), matrix(100, 20)], 1),
    "nearly one direction": lambda: randn(150, 1, seed=1) + 0.03 * randn(150, 40, seed=2),
    "a zero column": lambda: torch.cat([matrix(60, 6), torch.zeros(60, 1).double()], 1),
}


@pytest.mark.parametrize("l1", [1e-2, 1e-4])
@pytest.mark.parametrize("X", HARD)
@pytest.mark.parametrize("name", ["logistic", "least_squares", "multinomial", "poisson"])
def test_hard_problems_are_certified(name, X, l1):
    task = {"logistic": "binary", "multinomial": "multiclass", "poisson": "counts"}
    data = make_dataset(task.get(name, "regression"), X=HARD[X]())
    f = bind(name, data, l1=l1, l2=0.0)
    optimizer = make_optimizer(
        "proximal_newton", solver="cg", preconditioner="jacobi", forcing=("fixed", {"eta": 1e-6})
    )
    found = f.at(minimize(f, optimizer, grad_norm=1e-13, epochs=100).w)
    assert f.suboptimality_bound(found) <= 1e-8 * max(1.0, found.value)


def test_a_factor_is_a_columns_unit():
    """Of the L1 term: the penalty c |w| is that of c w, the weight of the column over c."""
    data = make_dataset("binary")
    c = torch.tensor([0.5, 1, 2, 3, 1, 0.2, 4], dtype=torch.float64)
    ours = solve(bind("logistic", data, l2=0.0, l1=0.02, penalty=c.tolist()))
    scaled = replace(data, train=replace(data.train, X=data.train.X / c))
    theirs = solve(bind("logistic", scaled, l2=0.0, l1=0.02))
    assert ours.value == pytest.approx(theirs.value, rel=1e-14)
    assert_close(ours.w * c, theirs.w, 1e-9)


def test_a_column_without_a_penalty_has_no_shrinkage_and_no_certificate():
    data = make_dataset("multiclass")
    f = bind("multinomial", data, l2=0.1, l1=0.05, penalty=[0, 1, 1, 1, 1, 1, 1])
    found = solve(f, grad_norm=1e-10)
    assert float(found.smooth_grad[:4].norm()) <= 1e-10
    assert not f.certified and f.suboptimality_bound(found) == np.inf


def test_penalties_of_the_wrong_number_are_refused():
    with pytest.raises(ConfigError, match="has 2 factors, and dataset=zoo has 7 columns"):
        bind("logistic", make_dataset("binary"), penalty=[1.0, 2.0])


def test_the_certified_optimum_has_corners(tmp_path, monkeypatch):
    monkeypatch.setenv("NEWTON_KRYLOV_CACHE", str(tmp_path))
    data = make_dataset("counts")
    options = {"l1": 0.03, "l2": 0.0, "intercept": "free"}
    optimum = certified_optimum(data, entry("loss", "poisson"), options, torch.float64)
    assert optimum is not None and optimum.gap_bound < 1e-11
    found = solve(bind("poisson", data, **options))
    assert found.value == pytest.approx(optimum.value, rel=1e-14)


@pytest.mark.parametrize("solver", ["cr", "minres", "minres_qlp", "exact"])
def test_any_solver_serves(solver):
    f = bind("logistic", make_dataset("binary", d=20), l1=0.01, l2=0.001)
    assert solve(f, solver=solver, preconditioner="none").value == pytest.approx(
        solve(f).value, rel=1e-14
    )


def test_without_corners_it_is_newtons_method():
    f = bind("logistic", make_dataset("binary"), l2=0.01)
    parts = {"solver": "cg", "forcing": "superlinear"}
    ours = minimize(f, make_optimizer("proximal_newton", **parts), epochs=6)
    newton = minimize(f, make_optimizer("newton", **parts), epochs=6)
    for a, b in zip(ours.rows, newton.rows, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-12)


def test_a_restricted_operator_is_the_submatrix():
    A = randn(6, 6, seed=1)
    operator = MatrixOperator(A + A.T)
    index = torch.tensor([4, 0, 3])
    part = RestrictedOperator(operator, index)
    dense = (A + A.T)[index][:, index]
    V = randn(3, 2, seed=2)
    assert_close(part @ V, dense @ V, 1e-14)
    assert_close(part @ V[:, 0], dense @ V[:, 0], 1e-14)
    assert torch.equal(part.dense(), dense)
    assert torch.equal(part.diagonal(), dense.diagonal())


def test_the_default_forcing_term_serves_sparse_columns_that_outnumber_the_rows():
    draw = np.random.default_rng(1)
    X = torch.from_numpy(draw.random((80, 500)) * (draw.random((80, 500)) < 0.05))
    X = X / X.std(0).clamp(min=1e-3)
    y = torch.from_numpy(draw.integers(0, 2, 80))
    f = bind("logistic", make_dataset("binary", X=X, y=y), l1=0.01, l2=0.0)
    optimizer = make_optimizer("proximal_newton", forcing="superlinear")
    found = f.at(minimize(f, optimizer, grad_norm=1e-10, epochs=30).w)
    assert f.suboptimality_bound(found) <= 1e-8


def test_a_nearly_free_lasso_of_sparse_columns_ends_in_few_steps():
    """A Hessian of rank 60 on 300 columns: steps need a shift of its own size."""
    draw = np.random.default_rng(0)
    X = torch.from_numpy(draw.normal(size=(60, 300)) * (draw.random((60, 300)) < 0.05))
    y = (X @ torch.from_numpy(draw.normal(size=300)) > 0).long()
    f = bind("logistic", make_dataset("binary", X=X, y=y), l1=1e-5, l2=0.0)
    found = f.at(minimize(f, make_optimizer("proximal_newton"), grad_norm=1e-10, epochs=60).w)
    assert f.suboptimality_bound(found) <= 1e-8


def test_a_cheap_matrix_serves_all_solves_of_a_step(monkeypatch):
    """And ends where products do."""
    found = []
    for most in (proximal_newton._PRODUCTS, -1.0):
        monkeypatch.setattr(proximal_newton, "_PRODUCTS", most)
        f = bind("logistic", make_dataset("binary", n=300, d=12), l1=0.01, l2=0.0)
        optimizer = make_optimizer("proximal_newton", solver="cg", preconditioner="jacobi")
        rows = minimize(f, optimizer, grad_norm=1e-11).rows
        found.append((rows, f.counts))
    (formed, counts), (plain_rows, others) = found
    assert counts.hvp == 0 and len(formed) - 1 <= counts.hessian <= len(formed)
    assert others.hessian == 0 and others.hvp > 3 * counts.hessian
    assert formed[-1].loss == pytest.approx(plain_rows[-1].loss, abs=1e-13)


@pytest.mark.parametrize(("n", "formed"), [(6, True), (7, False)])
def test_no_matrix_is_formed_that_is_many_times_what_a_product_reads(n, formed):
    class Sparse(MatrixOperator):
        def forming(self):
            return Forming(5, 1, 1.0, lambda every, first: self.dense())

    A = Sparse(torch.eye(n, dtype=torch.float64))
    assert (proximal_newton._formed(A, 10) is not A) == formed


@st.composite
def many_columns(draw):
    """Wide or tall data of any loss, with columns twice, empty and constant ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    n, d = draw(st.sampled_from([(12, 200), (40, 300), (120, 20), (25, 90)]))
    X = rng.normal(size=(n, d)) * (rng.random((n, d)) < draw(st.sampled_from([0.3, 1.0])))
    for j in rng.choice(d, d // 5, replace=False):
        X[:, j] = [0.0 * X[:, j], 0.0 * X[:, j] + 1, X[:, rng.integers(d)]][rng.integers(3)]
    loss = draw(st.sampled_from(CONVEX_LOSSES))
    return loss, torch.from_numpy(X), rng.choice([0.3, 0.05]), draw(st.booleans())


@settings(max_examples=60, deadline=None)
@given(
    many_columns(),
    st.sampled_from([1.0, 0.5]),
    st.sampled_from(["none", "free"]),
    st.booleans(),
    st.booleans(),
)
def test_any_data_are_solved_to_a_certified_gap(problem, ratio, intercept, weighs, factors):
    """To 1e-10 of the minimum, by steps in few columns where there are many."""
    loss, X, share, sparse = problem
    data = make_dataset(loss.task, X=X, sparse=sparse)
    v = 0.5 + randn(len(X), seed=1).abs()
    if weighs:
        data = replace(data, train=replace(data.train, weights=v / v.mean()))
    c = (0.5 + randn(X.shape[1], seed=2).abs()).tolist() if factors else None
    zero = bind(loss.name, data, l2=0.0, intercept=intercept, penalty=c)
    slopes = zero.at(torch.zeros(zero.dim).double()).grad
    lam = share * float(slopes[: X.shape[1] * zero.n_outputs].abs().max()) or 1.0
    f = zero.with_l2(lam * (1 - ratio), lam * ratio)
    found = solve(f, grad_norm=1e-13, epochs=150)
    assert f.suboptimality_bound(f.at(found.w)) <= 1e-10 * max(1.0, found.value)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", ["logistic", "probit", "multinomial"])
def test_of_many_columns_a_step_reads_few(name, sparse):
    """The same minimum as that of steps in all of them, for a part of the products."""
    task = {"logistic": "binary", "multinomial": "multiclass", "probit": "binary"}[name]
    data = make_dataset(task, n=50, d=2000, sparse=sparse)
    f = bind(name, data, l1=0.05, l2=0.0)
    found = solve(f, grad_norm=1e-11)
    few = f.counts.passes
    assert f.suboptimality_bound(found) <= 1e-10
    with pytest.MonkeyPatch.context() as patch:
        every = torch.arange(f.dim)
        patch.setattr(proximal_newton, "_working_set", lambda point, A: (every, A))
        g = bind(name, data, l1=0.05, l2=0.0)
        other = solve(g, grad_norm=1e-11)
    assert found.value == pytest.approx(other.value, abs=1e-12)
    assert few < g.counts.passes / 2


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", ["logistic", "multinomial"])
def test_the_hessian_of_some_columns_is_a_part_of_the_whole(name, sparse):
    task = {"logistic": "binary", "multinomial": "multiclass"}[name]
    data = make_dataset(task, n=40, d=9, sparse=sparse)
    f = bind(name, data, l2=0.3, l1=0.1, intercept="free", penalty=list(range(9)))
    columns = torch.tensor([0, 3, 8, 9])
    index = f.weights_of(columns)
    A = f.at(randn(f.dim, seed=1)).hessian()
    part = A.of_columns(columns)
    assert_close(part.dense(), A.dense()[index][:, index], 1e-13)
    V = randn(len(index), 3, seed=2)
    assert_close(part @ V[:, 0], A.dense()[index][:, index] @ V[:, 0], 1e-13)
    shifted = A.affine(scale=2.0, shift=0.5)
    assert_close(shifted.of_columns(columns).dense(), shifted.dense()[index][:, index], 1e-13)
    assert A.affine(diagonal=torch.ones(f.dim).double()).of_columns(columns) is None
    single = A.cast(torch.float32).of_columns(columns)
    assert_close(single.dense().double(), A.dense()[index][:, index], 1e-6)
    g = f.of_columns(columns)
    assert torch.equal(g.lasso * torch.ones(g.dim), (f.lasso * torch.ones(f.dim))[index])
    assert MatrixOperator(A.dense()).of_columns(columns) is None


def test_new_columns_come_in_however_many_weights_there_are():
    """More of them than a formed matrix may have columns: of data with few numbers."""
    rng = np.random.default_rng(0)
    X = torch.diag(torch.from_numpy(1 + rng.random(400)))
    X[torch.from_numpy(rng.integers(0, 400, 200)), torch.arange(200)] += 1
    y = torch.from_numpy(rng.normal(size=400))
    f = bind("least_squares", make_dataset("regression", X=X, y=y, sparse=True), l1=2e-4, l2=0.0)
    found = solve(f)
    assert int((found.w != 0).sum()) > 2 * math.sqrt(f.features.entries)
    assert f.suboptimality_bound(found) <= 1e-12


@pytest.mark.parametrize("name", ["logistic", "multinomial", "poisson"])
def test_a_run_cut_after_two_steps_goes_on_as_an_uninterrupted_one(name, tmp_path):
    """The shift and the last inner solve are kept; the working set is told from the weights."""
    task = {"logistic": "binary", "multinomial": "multiclass", "poisson": "counts"}[name]
    data = make_dataset(task, n=50, d=600)

    def go(steps, **more):
        f = bind(name, data, l1=0.03, l2=0.0, intercept="free")
        optimizer = make_optimizer("proximal_newton", solver="cg", preconditioner="auto")
        stopping, w0 = Stopping(epochs=steps), torch.zeros(f.dim).double()
        return run(optimizer, f, w0, stopping, torch.Generator().manual_seed(0), **more)

    go(2, on_checkpoint=Saver(tmp_path / "c.pt", 0.0))
    cut = Checkpoint.load(tmp_path / "c.pt")
    assert cut.rows[-1].iteration == 2
    whole, resumed = go(6), go(6, resume=cut)
    assert_close(resumed.w, whole.w, 1e-9)
    assert torch.equal(resumed.w != 0, whole.w != 0)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 300), (8, 1)])
def test_one_sample_or_one_column(n, d, sparse):
    y = torch.from_numpy(np.random.default_rng(0).normal(size=n)) + 3
    X = randn(n, d, seed=1)
    data = make_dataset("regression", X=X, y=y, sparse=sparse)
    for options in ({"l2": 0.0}, {"l2": 1e-9}, {"l2": 0.1, "intercept": "free"}):
        f = bind("least_squares", data, l1=0.05, **options)
        found = solve(f, grad_norm=1e-11)
        assert f.suboptimality_bound(found) <= 1e-9


@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_columns_that_are_unpenalized_twice_leave_the_minimum_of_the_loss(l2):
    """Their Hessian is singular, with a ridge on the others, too."""
    data = make_dataset("regression", n=40, d=300)
    X = data.train.X.clone()
    X[:, 1], X[:, 2] = X[:, 0], 0.0
    data = replace(data, train=replace(data.train, X=X))
    penalty = [0.0, 0.0, 0.0] + [1.0] * 297
    once = bind("least_squares", data, l1=0.1, l2=l2, penalty=[0.0, 1e3, 1.0] + [1.0] * 297)
    f = bind("least_squares", data, l1=0.1, l2=l2, penalty=penalty)
    assert solve(f).value == pytest.approx(solve(once).value, abs=1e-10)


@pytest.mark.parametrize("kernels", ["on", "off"])
def test_single_precision_ends_at_its_rounding_error(kernels, monkeypatch):
    monkeypatch.setenv(VARIABLE, kernels)
    double = make_dataset("binary", n=50, d=1000)
    single = make_dataset("binary", n=50, d=1000, dtype=torch.float32)
    f, g = (bind("logistic", data, l1=0.03, l2=0.0) for data in (double, single))
    found = f.at(solve(g, grad_norm=1e-12).w.double())
    assert found.value - solve(f).value <= 1e-6
