"""Compiled products of sparse matrices against dense algebra, and the losses against torch's."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import assert_close, make_dataset, matrix, randn, ulps

from newton_krylov.kernels.rows import VARIABLE, Rows, worthwhile
from newton_krylov.objectives.features import Features
from newton_krylov.optimizers.compiled_secants import CompiledSecants, secants_for
from newton_krylov.optimizers.lbfgs import LBFGS, Secants
from newton_krylov.optimizers.line_search import FIRST_STEP, armijo
from newton_krylov.preconditioners.auto import Auto
from newton_krylov.registry import entry

KINDS = ["floats", "integers", "booleans"]


@st.composite
def matrices(draw):
    """A CSR matrix of any kind: one row, empty rows, entries stored twice, columns of zeros.

    Rows are of lengths in turn, or in order, where four of one length are read at once.
    """
    n = draw(st.sampled_from([1, 2, 7, 513]))
    # Each of these is compiled for itself: columns of 8, 16 and 32 bits, with values or without.
    d, dtype, kind = draw(
        st.one_of(
            st.tuples(st.sampled_from([1, 3, 256]), st.just(np.float64), st.just("ones")),
            st.tuples(st.just(257), st.just(np.float32), st.sampled_from(KINDS)),
            st.tuples(st.just(70_000), st.just(np.float64), st.sampled_from(KINDS)),
        )
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    width = min(d, draw(st.integers(0, 6)))
    lengths = rng.integers(0, width + 1, n)
    if draw(st.booleans()):
        lengths.sort()
    columns = np.concatenate([rng.choice(min(d, 40), k) for k in lengths] or [[]])
    values = {
        "floats": rng.standard_normal(len(columns)),
        "ones": np.ones(len(columns)),
        "integers": rng.integers(-3, 4, len(columns)),
        "booleans": rng.integers(0, 2, len(columns)).astype(bool),
    }[kind]
    pointers = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    parts = values.astype(dtype), columns.astype(np.int32), pointers
    return scipy.sparse.csr_matrix(parts, shape=(n, d))


@settings(max_examples=40, deadline=None)
@given(matrices(), st.sampled_from([None, 0, 1, 3, 9]), st.integers(0, 99))
def test_every_product_is_that_of_dense_algebra(X, columns, seed):
    rng = np.random.default_rng(seed)
    n, d = X.shape
    shape = () if columns is None else (columns,)
    v, u = rng.standard_normal((d, *shape)), rng.standard_normal((n, *shape))
    h = rng.standard_normal(n)
    v, u, h = (x.astype(X.dtype) for x in (v, u, h))
    rows, D = Rows(X), scipy.sparse.csr_matrix(X, dtype=np.float64)
    tolerance = {"rtol": 0, "atol": 2e3 * np.finfo(X.dtype).eps}
    h_columns = h[:, None] if shape else h
    np.testing.assert_allclose(rows.times(v), D @ v, **tolerance)
    np.testing.assert_allclose(rows.adjoint(u), D.T @ u, **tolerance)
    np.testing.assert_allclose(rows.normal(h, v), D.T @ (h_columns * (D @ v)), **tolerance)
    if d < 1000:
        G = rows.gram(h)
        assert (G == G.T).all() and (rows.gram(h, upper=True) == np.triu(G)).all()
        np.testing.assert_allclose(G, D.T @ D.multiply(h[:, None]).toarray(), **tolerance)
    for every, first in ((1, 0), (3, min(n - 1, 2))):
        part = rows.every(every, first)
        taken = D[first::every]
        assert part.shape == taken.shape
        if d < 1000:
            G, scaled = (
                rows.gram(h[first::every], every, first),
                taken.multiply(h[first::every, None]),
            )
            np.testing.assert_allclose(G, taken.T @ scaled.toarray(), **tolerance)
        np.testing.assert_allclose(part.times(v), (D @ v)[first::every], **tolerance)
    D.sum_duplicates()
    rows = Rows(D.astype(X.dtype))
    expected = D.multiply(D).T @ u
    np.testing.assert_allclose(rows.column_square_sums(u), expected, **tolerance)
    squares = np.asarray(D.multiply(D).sum(1)).ravel()
    np.testing.assert_allclose(rows.row_square_norms(), squares, **tolerance)
    # The order of the sums is fixed: nothing differs from one time to the next.
    assert (rows.normal(h, v) == rows.normal(h, v)).all()


@pytest.mark.parametrize(("columns", "dtype"), [(None, np.float64), (9, np.float32)], ids=str)
def test_neighbours_that_are_read_as_one_change_nothing(columns, dtype):
    """Of categories as ones, some of them missing: rows of odd, even and no length."""
    rng = np.random.default_rng(0)
    n, shape = 4000, () if columns is None else (columns,)
    chosen = rng.integers(0, 3, (n, 7)) + 3 * np.arange(7)
    there = rng.random((n, 7)) < 0.9
    there[:3] = False
    pointers = np.concatenate([[0], there.sum(1).cumsum()]).astype(np.int32)
    parts = np.ones(pointers[-1], dtype), chosen[there].astype(np.int32), pointers
    X = scipy.sparse.csr_matrix(parts, shape=(n, 21))
    D = X.toarray().astype(np.float64)
    rows = Rows(X, merges=True)
    assert rows.entries < 0.6 * X.nnz and rows.nbytes < Rows(X).nbytes
    v, u = rng.standard_normal((21, *shape)), rng.standard_normal((n, *shape))
    h, y = rng.random(n), np.sign(rng.standard_normal(n))
    h_columns = h[:, None] if shape else h
    index = np.array([5, 0, 3999, 5])
    tolerance = {"rtol": 0, "atol": 1e5 * np.finfo(dtype).eps}
    for ours, M in ((rows, D), (rows.every(3, 1), D[1::3]), (rows.take(index), D[index])):
        m = len(M)
        np.testing.assert_allclose(ours.times(v), M @ v, **tolerance)
        np.testing.assert_allclose(ours.adjoint(u[:m]), M.T @ u[:m], **tolerance)
        normal = M.T @ (h_columns[:m] * (M @ v))
        np.testing.assert_allclose(ours.normal(h[:m], v), normal, **tolerance)
        G = ours.gram(h[:m])
        np.testing.assert_allclose(G, M.T * h[:m] @ M, **tolerance)
        assert (ours.gram(h[:m], upper=True) == np.triu(G)).all()
        np.testing.assert_allclose(ours.column_square_sums(u[:m]), M.T @ u[:m], **tolerance)
        assert (ours.row_square_norms() == M.sum(1)).all()
        assert (ours.lengths() == M.sum(1)).all()
        pointers, numbers, values = ours.arrays()
        stored = scipy.sparse.csr_matrix((values, numbers, pointers), shape=M.shape)
        assert (stored.toarray() == M).all()
        if columns is None:
            plain = Rows(scipy.sparse.csr_matrix(M.astype(dtype)))
            found, expected = (
                each.evaluate("logistic", v, y[:m], None, np.full(21, 0.3))
                for each in (ours, plain)
            )
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, **tolerance)
            brief = ours.evaluate("logistic", v, y[:m], None, np.full(21, 0.3), outputs=False)
            assert brief.outputs is None and brief.value == found.value
            assert (brief.gradient == found.gradient).all()


def test_neighbours_are_left_alone_where_there_would_be_too_many_words():
    X = scipy.sparse.random(2000, 300, 0.03, "csr", random_state=np.random.default_rng(0))
    X.data[:] = 1
    X.sort_indices()
    assert Rows(X, merges=True).entries == X.nnz
    assert Rows(X[:0], merges=True).times(np.ones(300)).shape == (0,)


@pytest.fixture(scope="module")
def sparse():
    X = matrix(1100, 7)
    X[7], X[:, 4], X[X.abs() < 0.7] = 0, 0, 0
    X[-5:] *= 300  # margins at which exp would overflow
    return X


@pytest.mark.parametrize("loss", ["logistic", "squared_hinge", "least_squares"])
@pytest.mark.parametrize(
    ("dtype", "weighted", "ones"),
    [(torch.float64, False, True), (torch.float64, True, False), (torch.float32, False, False)],
    ids=str,
)
def test_a_loss_in_one_reading_is_the_one_that_torch_evaluates(sparse, loss, dtype, weighted, ones):
    X = (sparse != 0).double() if ones else sparse
    task = "regression" if loss == "least_squares" else "binary"
    data = make_dataset(task, X=X, sparse=True, dtype=dtype)
    if weighted:
        weights = randn(len(X), seed=3).abs().to(dtype)
        data = replace(data, train=replace(data.train, weights=weights / weights.mean()))
    options = {"l2": 0.3, "intercept": "free"}
    ours, torchs = (entry("loss", loss).build(options, dataset=data) for _ in range(2))
    compiled(ours)
    assert ours.reads_once and not torchs.reads_once
    w, p = randn(ours.dim, seed=1).to(dtype), randn(ours.dim, seed=2).to(dtype)
    a, b = ours.at(w), torchs.at(w)
    rtol = ulps(dtype, 400)
    assert a.value == pytest.approx(b.value, rel=rtol)
    assert_close(a.grad, b.grad, rtol)
    assert_close(a.terms.gradient, b.terms.gradient, rtol)
    assert_close(a.terms.weights, b.terms.weights, rtol)
    for name in ("hessian", "gauss_newton", "empirical_fisher"):
        A, B = getattr(a, name)(), getattr(b, name)()
        assert_close(A @ p, B @ p, rtol)
        assert_close(A.diagonal(), B.diagonal(), rtol)
        assert_close(A.dense(), B.dense(), rtol)
    for every, first in ((1, 0), (8, 3)):  # of a part before all are known, and after
        assert_close(*(p.hessian().forming().part(every, first).triu() for p in (a, b)), rtol)
        A = a.hessian()
        _ = A.weights
        assert_close(*(M.forming().part(every, first).triu() for M in (A, b.hessian())), rtol)
    rays = a.ray(p), b.ray(p)
    for alpha in (1.0, 0.5, 1e-3, 2.0):
        values = [ray.value(alpha) for ray in rays]
        slopes = [ray.derivative(alpha) for ray in rays]
        assert values[0] == pytest.approx(values[1], rel=rtol)
        assert slopes[0] == pytest.approx(slopes[1], rel=10 * rtol, abs=10 * rtol)
    index = torch.tensor([3, 0, 7, 7, 1099])
    assert_close(a.subset(index).grad, b.subset(index).grad, rtol)
    assert_close(ours.subset(index).at(w).grad, torchs.subset(index).at(w).grad, rtol)


@pytest.mark.parametrize("loss", ["logistic", "squared_hinge", "least_squares"])
@pytest.mark.parametrize("start", [0.0, 1.0, 40.0])
def test_a_descent_in_one_call_makes_the_steps_of_lbfgs(sparse, loss, start):
    """With weights and a free intercept, from near, and from so far that steps are shortened."""
    task = "regression" if loss == "least_squares" else "binary"
    data = make_dataset(task, X=sparse[:-5], sparse=True)
    weights = randn(len(data.train), seed=3).abs()
    data = replace(data, train=replace(data.train, weights=weights / weights.mean()))
    f = entry("loss", loss).build({"l2": 0.3, "intercept": "free"}, dataset=data)
    compiled(f)
    w0 = start * randn(f.dim, seed=1)
    before = f.counts.passes
    w, made = f.descend(w0, tolerance=1e-7, steps=50, memory=3, first_step=FIRST_STEP)
    assert f.counts.passes - before >= made + 1
    steps = list(islice(LBFGS(armijo, 3).steps(f, w0, torch.Generator()), made + 1))
    assert_close(w, steps[-1].point.w, 1e-8)
    assert made == 50 or (steps[-1].point.grad_norm <= 1e-7 < steps[-2].point.grad_norm)


def compiled(objective):
    """Let the compiled loops serve an objective that is too small for them to be worth it."""
    X = objective.features.X
    parts = (X.values().numpy(), X.col_indices().numpy(), X.crow_indices().numpy())
    objective.features.compiled = Rows(scipy.sparse.csr_matrix(parts, shape=tuple(X.shape)))


def test_one_reading_is_one_pass_and_an_accepted_first_trial_another(sparse):
    f = entry("loss", "logistic").build({}, dataset=make_dataset("binary", X=sparse, sparse=True))
    compiled(f)
    point = f.at(randn(f.dim, seed=1))
    _ = point.value, point.grad, point.hessian()
    assert f.counts.passes == 1.0
    ray = point.ray(randn(f.dim, seed=2))
    _ = ray.value(1.0), ray.point(1.0).grad
    assert f.counts.passes == 2.0
    _ = ray.value(0.5), ray.value(0.25)  # X p, once
    assert f.counts.passes == 2.5
    assert (f.counts.function, f.counts.gradient) == (4, 2)


def test_a_secant_s_step_keeps_no_outputs_and_computes_them_when_they_are_asked_for(sparse):
    f, plain = (
        entry("loss", "logistic").build({}, dataset=make_dataset("binary", X=sparse, sparse=True))
        for _ in range(2)
    )
    compiled(f)
    point = f.at(0.1 * randn(f.dim, seed=1))
    memory = secants_for(f, 3)
    assert isinstance(memory, CompiledSecants)
    M = Auto().build(point.hessian(), torch.Generator().manual_seed(0))
    ray, expected = memory.ray(point, M), Secants.ray(memory, point, M)
    assert_close(ray.p, expected.p, 1e-12)
    assert ray.slope == pytest.approx(expected.slope, rel=1e-12)
    ray.brief = True
    end = ray.point(1.0)
    assert end.value == pytest.approx(expected.value(1.0), rel=1e-14)
    before = f.counts.passes
    torchs = plain.at(end.w)
    assert "Z" not in vars(end) and "Z" in vars(expected.point(1.0))
    assert_close(end.hessian() @ ray.p, torchs.hessian() @ ray.p, 1e-12)
    assert f.counts.passes == before + 1.5  # the outputs once more, and the product
    assert ray.value(0.5) == pytest.approx(expected.value(0.5), rel=1e-14)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_seen(sparse, poison):
    for loss in ("logistic", "squared_hinge"):
        f = entry("loss", loss).build({}, dataset=make_dataset("binary", X=sparse, sparse=True))
        compiled(f)
        w = randn(f.dim, seed=1)
        w[0] = poison
        assert not np.isfinite(f.at(w).value)


def test_multinomial_products_are_the_same(sparse):
    data = make_dataset("multiclass", X=sparse, sparse=True)
    ours, torchs = (entry("loss", "multinomial").build({}, dataset=data) for _ in range(2))
    compiled(ours)
    w = randn(ours.dim, seed=1)
    a, b = ours.at(w), torchs.at(w)
    assert a.value == b.value
    assert_close(a.grad, b.grad, ulps(torch.float64, 100))
    assert_close(a.hessian() @ w, b.hessian() @ w, ulps(torch.float64, 100))
    assert_close(a.hessian().dense(), b.hessian().dense(), ulps(torch.float64, 100))
    assert_close(a.hessian().diagonal(), b.hessian().diagonal(), ulps(torch.float64, 100))


def test_a_cast_shares_the_columns_and_stores_no_transpose(sparse, monkeypatch):
    monkeypatch.setattr("newton_krylov.kernels.rows._LEAST", 1)
    features = Features(make_dataset("binary", X=sparse, sparse=True).train.X)
    features.lay_out()
    single = features.cast(torch.float32)
    v = randn(7, seed=1)
    assert single.compiled._col is features.compiled._col
    assert_close(single.times(v.float()), (sparse @ v).float(), ulps(torch.float32, 50))
    assert "XT" not in vars(features) and "XT" not in vars(single)
    assert features.compiled._col.nbytes == features.X.values().numel()


def test_small_matrices_and_a_wish_leave_all_to_torch(monkeypatch):
    assert worthwhile(10**6) and not worthwhile(1000)
    monkeypatch.setenv(VARIABLE, "off")
    assert not worthwhile(10**6)


SCRIPT = """
import sys
import numpy as np, scipy.sparse
from newton_krylov.runs.parts import register_parts
from newton_krylov.kernels.rows import Rows
register_parts()
assert "numba" not in sys.modules, "numba is imported by a run that does not use it"
X = scipy.sparse.csr_matrix(np.eye(3))
print(Rows(X).times(np.arange(3.0)).tolist())
"""


def test_numba_is_imported_by_use_alone_and_needs_no_cache(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    env = os.environ | {"NEWTON_KRYLOV_CACHE": str(blocked), "NUMBA_CACHE_DIR": ""}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[0.0, 1.0, 2.0]\n", done.stderr


def test_a_matrix_used_directly_has_its_duplicates_added():
    """Squares are wrong of parts; that of (1 + 1)^2 is 4. The caller's matrix stays as it is."""
    X = scipy.sparse.csr_matrix(([1.0, 1.0, 1.0], [1, 1, 0], [0, 2, 3]), shape=(2, 2))
    rows = Rows(X)
    assert_close(
        torch.from_numpy(rows.column_square_sums(np.ones(2))),
        torch.tensor([1.0, 4.0], dtype=torch.float64),
        0.0,
    )
    assert np.array_equal(rows.row_square_norms(), [4.0, 1.0]) and X.nnz == 3
