"""Low-rank curvatures: closed forms against dense inverses, eigenpairs against dense ones."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DTYPES, assert_close, make, quadratic, randn, ulps
from torch import nn

from newton_krylov.curvature.low_rank_operator import LowRankOperator
from newton_krylov.curvature.lowrank import LowRank, Rank1
from newton_krylov.errors import ConfigError
from newton_krylov.linear_solvers.result import Status
from newton_krylov.objectives.network.objective import Network
from newton_krylov.operators import AffineOperator, LinearOperator
from newton_krylov.registry import entry


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def orthonormal(n, k, seed=0, dtype=torch.float64):
    return torch.linalg.qr(randn(n, k, seed=seed)).Q.to(dtype)


def matrix(A: LowRankOperator):
    """Form V diag(values) V' + rest (I - V V') as it is written."""
    V = A.vectors
    return V @ torch.diag(A.values) @ V.T + A.rest * (torch.eye(len(V)).to(V) - V @ V.T)


# --- the operator ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rest", [0.0, 0.7])
@pytest.mark.parametrize("k", [1, 3])
def test_products_are_those_of_the_matrix(k, rest, dtype):
    A = LowRankOperator(orthonormal(9, k, dtype=dtype), randn(k, seed=1, dtype=dtype), rest)
    dense, V = matrix(A), randn(9, 4, seed=2, dtype=dtype)
    assert_close(A @ V, dense @ V, ulps(dtype), "matmat")
    assert_close(A @ V[:, 0], dense @ V[:, 0], ulps(dtype), "matvec")
    assert_close(A.dense(), dense, ulps(dtype), "dense")
    assert_close(A.diagonal(), dense.diagonal(), ulps(dtype), "diagonal")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 12),
    k=st.integers(1, 4),
    tau=st.floats(1e-6, 1e3),
    size=st.floats(1e-3, 1e3),
)
def test_woodbury_is_the_dense_inverse(seed, n, k, tau, size):
    k = min(k, n)
    values = size * randn(k, seed=seed).abs()
    A = LowRankOperator(orthonormal(n, k, seed), values)
    b = randn(n, seed=seed + 1)
    dense = matrix(A) + tau * torch.eye(n).double()
    condition = float((values.max() + tau) / tau)
    assert_close(
        AffineOperator(A, shift=tau).solve(b), torch.linalg.solve(dense, b), 1e-13 * condition
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), value=st.floats(1e-3, 1e3), tau=st.floats(1e-5, 1e2))
def test_one_pair_is_sherman_and_morrison_s_formula(seed, value, tau):
    v, g = orthonormal(8, 1, seed)[:, 0], randn(8, seed=seed + 1)
    A = AffineOperator(
        LowRankOperator(v[:, None], torch.tensor([value], dtype=torch.float64)), shift=tau
    )
    expected = (g - value * (v @ g) / (tau + value) * v) / tau
    assert_close(A.solve(g), expected, 1e-13 * (1 + value / tau))


def test_negative_values_are_solved_with_too():
    A = LowRankOperator(orthonormal(6, 2), torch.tensor([-3.0, 2.0]).double())
    b = randn(6, seed=1)
    expected = torch.linalg.solve(matrix(A) + 0.5 * torch.eye(6).double(), b)
    assert_close(AffineOperator(A, shift=0.5).solve(b), expected, 1e-13)


def test_damping_and_scaling_of_any_order_keep_the_closed_form():
    A = LowRankOperator(orthonormal(7, 2), torch.tensor([4.0, 1.0]).double())
    nested = AffineOperator(AffineOperator(AffineOperator(A, shift=0.3), scale=2.0), shift=0.1)
    assert nested.has_solve
    b = randn(7, seed=1)
    expected = torch.linalg.solve(2 * (matrix(A) + 0.3 * torch.eye(7).double()) + 0.1 *
                                  torch.eye(7).double(), b)  # fmt: skip
    assert_close(nested.solve(b), expected, 1e-13)
    result = entry("solver", "exact").build({})(nested, b)
    assert result.status is Status.CONVERGED
    assert result.iterations == 1
    assert_close(result.x, expected, 1e-13)


class Undense(LowRankOperator):
    """Refuses to become a matrix."""

    def dense(self):
        raise AssertionError("a matrix was formed")


def test_a_million_dimensions_are_no_matter():
    n = 10**6
    v = torch.nn.functional.normalize(randn(n, seed=0, dtype=torch.float32), dim=0)
    A = AffineOperator(Undense(v[:, None], torch.tensor([50.0])), shift=0.1)
    b = randn(n, seed=1, dtype=torch.float32)
    result = entry("solver", "exact").build({})(A, b, rtol=1e-3)
    assert result.status is Status.CONVERGED
    assert_close(A @ result.x, b, 1e-3)


def test_a_singular_matrix_is_refused_with_what_to_do():
    A = LowRankOperator(orthonormal(6, 2), torch.tensor([3.0, 2.0]).double())
    with pytest.raises(ConfigError, match=r"rank 2 cannot be inverted in 6.*damping\.tau"):
        A.solve(randn(6, seed=0))
    whole = LowRankOperator(orthonormal(2, 2), torch.tensor([3.0, 2.0]).double())
    assert_close(whole.solve(whole @ torch.ones(2).double()), torch.ones(2), 1e-14)


# --- the curvatures -------------------------------------------------------------------------

INDEFINITE = torch.tensor([6.0, 4.0, 1.0, 0.5, 0.1, -0.2, -3.0, -7.0]).double()
POSITIVE = torch.tensor([9.0, 5.0, 2.0, 1.0, 0.5, 0.3, 0.2, 0.1]).double()


def at(curvature, eigenvalues):
    f = quadratic(eigenvalues)
    point = f.at(randn(len(eigenvalues), seed=4))
    return curvature.at(point, generator()), point.hessian().dense()


def nearest(H, keep, values):
    """Return sum of values_i q_i q_i' over the chosen eigenvectors."""
    eigenvalues, Q = torch.linalg.eigh(H)
    return sum(
        new * torch.outer(Q[:, i], Q[:, i])
        for i, old in enumerate(eigenvalues.tolist())
        for want, new in zip(keep, values, strict=True)
        if abs(old - want) < 1e-9
    )


@pytest.mark.parametrize(
    ("negative", "keep", "values"),
    [
        ("absolute", [-7.0, 6.0, 4.0], [7.0, 6.0, 4.0]),
        ("keep", [-7.0, 6.0, 4.0], [-7.0, 6.0, 4.0]),
        ("truncate", [6.0, 4.0, 1.0], [6.0, 4.0, 1.0]),
    ],
)
def test_the_rules_for_negative_eigenvalues(negative, keep, values):
    A, H = at(LowRank(3, negative=negative, rtol=1e-12), INDEFINITE)
    assert_close(A.dense(), nearest(H, keep, values), 1e-9)


def test_truncation_leaves_nothing_of_a_negative_definite_hessian():
    A, _ = at(LowRank(3, negative="truncate", rtol=1e-12), -POSITIVE)
    assert_close(A.dense().norm(), 0.0, 0.0)
    assert_close(AffineOperator(A, shift=2.0).solve(randn(8, seed=1)), randn(8, seed=1) / 2, 1e-14)


@pytest.mark.parametrize("negative", ["absolute", "truncate"])
@pytest.mark.parametrize("eigenvalues", [INDEFINITE, POSITIVE, -POSITIVE], ids=["+-", "+", "-"])
@pytest.mark.parametrize("rank", [1, 2, 5, 20])
def test_two_of_the_rules_give_positive_semidefinite_matrices(negative, eigenvalues, rank):
    A, _ = at(LowRank(rank, negative=negative), eigenvalues)
    assert torch.linalg.eigvalsh(A.dense())[0] >= -1e-12


def test_truncation_is_the_nearest_positive_semidefinite_matrix_of_its_rank():
    A, H = at(LowRank(2, negative="truncate", rtol=1e-12), INDEFINITE)
    best = torch.linalg.matrix_norm(H - A.dense())
    for seed in range(50):
        B = randn(8, 2, seed=seed)
        assert torch.linalg.matrix_norm(H - B @ B.T) >= best
    for noise in 1e-3 * randn(50, 8, 2, seed=9):  # and in its neighbourhood
        B = A.vectors * A.values.sqrt() + noise
        assert torch.linalg.matrix_norm(H - B @ B.T) >= best


def test_all_pairs_are_the_hessian():
    for eigenvalues in (INDEFINITE, POSITIVE):
        A, H = at(LowRank(8, negative="keep"), eigenvalues)
        assert_close(A.dense(), H, 1e-12)


def test_rank_one_is_low_rank_with_one_pair():
    one, H = at(Rank1(rtol=1e-12), INDEFINITE)
    same, _ = at(LowRank(1, rtol=1e-12), INDEFINITE)
    assert_close(one.dense(), same.dense(), 1e-9)
    assert_close(one.dense(), nearest(H, [-7.0], [7.0]), 1e-9)


def test_the_rest_is_in_units_of_the_smallest_kept_value():
    A, H = at(LowRank(2, negative="keep", rest=0.5, rtol=1e-12), POSITIVE)
    assert A.rest == pytest.approx(0.5 * 5.0)
    assert_close(torch.linalg.eigvalsh(A.dense()), torch.tensor([2.5] * 6 + [5, 9]), 1e-9)
    # With rest = 1 the matrix is at least the Hessian, so its step is one of descent.
    above, _ = at(LowRank(2, rest=1.0, rtol=1e-12), POSITIVE)
    assert torch.linalg.eigvalsh(above.dense() - H)[0] >= -1e-9


def test_a_residual_is_told_and_bounds_the_error_of_the_value():
    curvature = Rank1(rtol=0.3)
    A, H = at(curvature, POSITIVE)
    v, value = A.vectors[:, 0], float(A.values[0])
    residual = float((H @ v - value * v).norm())
    assert curvature.note == f"lambda {value:.3g} (residual {residual:.1g})"
    assert (torch.linalg.eigvalsh(H) - value).abs().min() <= residual + 1e-12


# --- warm starts ----------------------------------------------------------------------------


class Counting(LinearOperator):
    """Counts products."""

    def __init__(self, matrix):
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        self.matrix, self.count = matrix, 0

    def matvec(self, v):
        self.count += 1
        return self.matrix @ v


class At:
    """A point with a given Hessian."""

    def __init__(self, H):
        self.H = Counting(H)

    def hessian(self):
        return self.H


def drifting(count, n=300, change=0.01):
    """Return points whose Hessians change a little from one to the next."""
    values = torch.logspace(-4, 1, n, dtype=torch.float64)
    H = orthonormal(n, n, seed=1)
    H = H @ torch.diag(values) @ H.T
    points = []
    for seed in range(count):
        noise = randn(n, n, seed=seed + 10)
        noise = noise + noise.T
        H = H + change * noise / torch.linalg.matrix_norm(noise, 2)
        points.append(At(H))
    return points


@pytest.mark.parametrize("rank", [1, 3])
def test_a_warm_start_costs_fewer_products(rank):
    warm = LowRank(rank, maxiter=200)
    warm_counts, cold_counts = [], []
    for point in drifting(6):
        found = warm.at(point, generator())
        warm_counts.append(point.H.count)
        point.H.count = 0
        cold = LowRank(rank, maxiter=200).at(point, generator())
        cold_counts.append(point.H.count)
        top = torch.linalg.eigvalsh(point.H.matrix).flip(0)[:rank]
        for pairs in (found, cold):  # both as accurate as was asked
            assert (pairs.values - top).abs().max() <= 0.05 * top[0]
    assert warm_counts[0] == cold_counts[0]
    assert sum(warm_counts[1:]) <= 0.7 * sum(cold_counts[1:])


def test_memory_is_bounded_by_the_rank_and_not_by_the_products():
    (point,) = drifting(1)
    A = LowRank(1, rtol=1e-9, maxiter=300).at(point, generator())
    assert point.H.count > 3 * 9  # more products than vectors it may keep
    assert A.values[0] == pytest.approx(float(torch.linalg.eigvalsh(point.H.matrix)[-1]))


def test_the_limit_of_products_holds_and_what_was_reached_is_used():
    curvature = LowRank(2, rtol=1e-15, maxiter=4)
    (point,) = drifting(1)
    A = curvature.at(point, generator())
    assert point.H.count == 4
    assert A.values.shape == (2,)


def test_a_state_goes_on_where_another_curvature_was():
    first, second = drifting(2)
    one = LowRank(2)
    one.at(first, generator())
    other = LowRank(2)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.at(second, generator()).dense(), other.at(second, generator()).dense())
    fresh = LowRank(2)
    fresh.load_state_dict(fresh.state_dict())
    assert fresh.state_dict() == {}


def test_a_start_of_another_size_is_not_used():
    curvature = Rank1()
    at(curvature, POSITIVE)
    A, _ = at(curvature, POSITIVE[:5])
    assert A.shape == (5, 5)


@pytest.mark.parametrize("loss", ["logistic", "sigmoid_least_squares", "multinomial"])
def test_it_serves_linear_models(loss):
    f = make(loss)
    point = f.at(randn(f.dim, seed=1))
    A = LowRank(3, rtol=1e-10).at(point, generator())
    values = torch.linalg.eigvalsh(point.hessian().dense())
    assert_close(A.values, values.abs().sort(descending=True).values[:3], 1e-8)


def convolutional(activation=nn.ReLU):
    torch.manual_seed(2)
    module = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 3, 3), bend=activation(), pool=nn.MaxPool2d(2), flat=nn.Flatten(),
            drop=nn.Dropout(0.3), hidden=nn.Linear(12, 5), turn=activation(), last=nn.Linear(5, 3),
        )
    ).double()  # fmt: skip
    X, y = randn(20, 1, 6, 6, seed=1), randn(20, 3, seed=2).argmax(1)
    return Network(module, F.cross_entropy, X, y).subset(torch.arange(20), noise=4)


@pytest.mark.parametrize("layer", ["conv", "hidden", "last"])
def test_by_one_layer_of_a_piecewise_linear_network_the_hessian_is_the_gauss_newton_matrix(layer):
    f = convolutional()
    part = f.restricted([layer], f.initial())
    point = part.at(part.initial())
    assert_close(point.hessian().dense(), point.gauss_newton().dense(), 1e-12)
    one, other = (
        LowRank(3, matrix=matrix, rtol=1e-10, maxiter=200).at(point, generator())
        for matrix in ("hessian", "gauss_newton")
    )
    assert_close(one.values, other.values, 1e-9)


def test_by_all_layers_it_is_not_and_each_matrix_gives_its_own_pairs():
    f = convolutional(nn.Tanh)
    point = f.at(f.initial())
    for matrix, operator in (("hessian", point.hessian()), ("gauss_newton", point.gauss_newton())):
        A = LowRank(2, matrix=matrix, rtol=1e-10, maxiter=200).at(point, generator())
        values = torch.linalg.eigvalsh(operator.dense())
        assert_close(A.values, values.abs().sort(descending=True).values[:2], 1e-8)


@pytest.mark.parametrize("name", ["rank1", "lowrank", "rank1_pyhessian"])
def test_bad_parameters_are_refused(name):
    for key, value in {"negative": "ignore", "rest": -1.0, "maxiter": 0}.items():
        with pytest.raises(ConfigError, match=rf"hessian_approx\.{key}={value!r} is not valid"):
            entry("hessian_approx", name).validate({key: value})
