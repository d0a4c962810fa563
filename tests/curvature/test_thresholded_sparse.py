"""The thresholded Hessian: what it keeps, and that it stays positive semidefinite."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import assert_close, make, randn
from transport_problems import dual, zeros

from newton_krylov.curvature.thresholded_sparse import ThresholdedSparse
from newton_krylov.errors import ConfigError
from newton_krylov.registry import entry

NO_CHANCE = torch.Generator()


def operator(point, kept):
    return ThresholdedSparse(kept).at(point, NO_CHANCE)


def expected(H, kept):
    """Keep the diagonal and the `kept` dim largest off-diagonal entries, by sorting them all."""
    off = H - H.diagonal().diag()
    count = round(kept * len(H) / 2) * 2
    threshold = off.abs().flatten().sort(descending=True).values[count - 1]
    return torch.where(off.abs() >= threshold, off, 0.0) + H.diagonal().diag()


@pytest.mark.parametrize("kept", [0.5, 1, 3, 5.5])
@pytest.mark.parametrize(
    "f",
    [dual(12, 12), dual(9, 14), make("logistic", d=12)],
    ids=["square transport", "transport", "logistic"],
)
def test_it_keeps_the_diagonal_and_the_largest_entries_as_a_sparse_matrix(f, kept):
    point = f.at(0.1 * randn(f.dim, seed=1))
    dense = point.hessian().dense()
    M = operator(point, kept)
    assert M.matrix.layout is torch.sparse_csr
    assert M.matrix.crow_indices().dtype == torch.int32
    assert M.matrix.values().numel() == len(dense) + 2 * round(kept * len(dense) / 2)
    assert_close(M.dense(), expected(dense, kept), 1e-15)
    assert torch.equal(M.diagonal(), M.dense().diagonal())
    V = randn(len(dense), 3, seed=2)
    assert_close(M @ V, M.dense() @ V, 1e-14)
    assert_close(M @ V[:, 0], M.dense() @ V[:, 0], 1e-14)


@pytest.mark.parametrize("n", [5, 12])
def test_kept_counts_the_entries_per_row_of_the_plan(n):
    f = dual(n, n)
    M = operator(f.at(zeros(f)), 3)
    assert M.matrix.values().numel() == 2 * n + 2 * (3 * n)


@pytest.mark.parametrize("f", [dual(), make("logistic", d=12)], ids=["transport", "logistic"])
def test_keeping_everything_is_the_hessian(f):
    point = f.at(0.1 * randn(f.dim, seed=1))
    assert_close(operator(point, 1000).dense(), point.hessian().dense(), 1e-15)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 9), st.floats(1, 400))
def test_it_is_positive_semidefinite_and_at_least_half_the_hessian(seed, kept, eta):
    f = dual(eta=eta, seed=seed % 11)
    point = f.at(randn(f.dim, seed=seed) * 3 / eta)
    H, M = point.hessian().dense(), operator(point, kept).dense()
    slack = 1e-13 * M.diagonal().max()
    assert torch.linalg.eigvalsh(M)[0] >= -slack
    assert torch.linalg.eigvalsh(2 * M - H)[0] >= -slack


def test_what_is_left_out_makes_it_definite_where_the_hessian_is_singular():
    f = dual()
    point = f.at(zeros(f))
    null = torch.cat([torch.ones(9), -torch.ones(7)]).double()
    *_, values = point.hessian().largest_off_diagonal(8)
    left_out = f.eta * point.plan.sum() - values.sum()
    M = operator(point, 1)
    # Along the gauge the curvature is twice what was left out.
    assert_close(null @ (M @ null), 2 * left_out, 1e-12)
    assert torch.linalg.eigvalsh(M.dense())[0] > 1e-6 * M.diagonal().max()


def test_forming_it_costs_half_a_pass_and_its_products_none():
    f = dual()
    point = f.at(zeros(f))
    _ = point.value
    before = f.counts.passes
    M = operator(point, 2)
    _ = M @ zeros(f)
    assert f.counts.passes - before == 0.5


def test_bad_parameters_are_refused():
    with pytest.raises(ConfigError, match=r"hessian_approx\.kept=0\.0 is not valid"):
        entry("hessian_approx", "thresholded_sparse").build({"kept": 0.0})
