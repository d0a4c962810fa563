"""Exact, Gauss-Newton and sub-sampled curvatures against dense matrices from autograd."""

import copy

import pytest
import torch
from problems import LOSSES, assert_close, make, plain, randn, ulps

from newton_krylov.curvature.exact import ExactHessian
from newton_krylov.curvature.ggn import GaussNewton
from newton_krylov.curvature.hvp import HessianProduct
from newton_krylov.curvature.regularized_subsampled import RegularizedSubsampled
from newton_krylov.curvature.sampling import Blocks, sample_size
from newton_krylov.curvature.subsampled import SubsampledHessian
from newton_krylov.errors import ConfigError
from newton_krylov.registry import entry

SAMPLING = [SubsampledHessian, RegularizedSubsampled]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def autograd_hessian(loss, f, w):
    return torch.func.hessian(plain(loss, f))(w.double())


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("curvature", [ExactHessian(), HessianProduct()], ids=["exact", "hvp"])
def test_exact_and_hvp_are_the_hessian(curvature, loss, sparse):
    f = make(loss, sparse=sparse)
    w, V = randn(f.dim, seed=1), randn(f.dim, 3, seed=2)
    H = autograd_hessian(loss, f, w)
    A = curvature.at(f.at(w), generator())
    assert A.symmetric and A.shape == (f.dim, f.dim)
    assert_close(A.dense(), H, ulps(f.dtype))
    assert_close(A @ V[:, 0], H @ V[:, 0], ulps(f.dtype))
    assert_close(A @ V, H @ V, ulps(f.dtype))
    assert_close(A.diagonal(), H.diagonal(), ulps(f.dtype))


def test_products_with_the_exact_matrix_read_no_data_and_those_of_hvp_do():
    f = make("logistic")
    point, v = f.at(randn(f.dim, seed=1)), randn(f.dim, seed=2)
    formed = ExactHessian().at(point, generator())
    counts = copy.copy(f.counts)
    _ = formed @ v
    assert f.counts == counts
    assert counts.hessian == 1 and counts.hvp == 0
    _ = HessianProduct().at(point, generator()) @ v
    assert f.counts.hvp == 1 and f.counts.passes == counts.passes + 1


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_gauss_newton_is_positive_semidefinite_and_the_hessian_of_a_convex_loss(loss):
    f = make(loss, l2=0.0)
    w = 3 * randn(f.dim, seed=1)
    G = GaussNewton().at(f.at(w), generator()).dense()
    values = torch.linalg.eigvalsh(G)
    assert values[0] > -1e-12 * values[-1]
    H = autograd_hessian(loss, f, w)
    if loss.convex:
        assert_close(G, H, ulps(f.dtype))
    else:
        assert torch.linalg.eigvalsh(H)[0] < -1e-3 * values[-1]


# --- samples ------------------------------------------------------------------------------------


def test_blocks_are_disjoint_until_the_permutation_is_used_up():
    blocks, draw = Blocks(), generator()
    first = [blocks.draw(4, 10, draw) for _ in range(2)]
    assert len({*first[0].tolist(), *first[1].tolist()}) == 8
    third = blocks.draw(4, 10, draw)  # only two are left: a new permutation
    assert len(set(third.tolist())) == 4
    for block in (*first, third):
        assert torch.equal(block, block.sort().values)
    assert set(Blocks().draw(10, 10, draw).tolist()) == set(range(10))


def test_each_sample_is_drawn_as_often_as_any_other():
    blocks, draw = Blocks(), generator()
    times = torch.zeros(12, dtype=torch.int64)
    for _ in range(30):
        times[blocks.draw(4, 12, draw)] += 1
    assert times.tolist() == [10] * 12


def test_the_sample_size_is_a_number_or_a_share():
    assert sample_size(7, 0.5, 100) == 7
    assert sample_size(None, 0.5, 101) == 50
    assert sample_size(None, 1e-9, 100) == 1
    with pytest.raises(ConfigError, match=r"hessian_approx\.size=101 exceeds the 100 samples"):
        sample_size(101, 0.5, 100)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("curvature", SAMPLING)
def test_over_the_blocks_of_a_permutation_the_sampled_hessians_average_to_the_hessian(
    curvature, loss, sparse
):
    f = make(loss, n=60, sparse=sparse)
    w = randn(f.dim, seed=1)
    alpha = {"alpha": 0.0} if curvature is RegularizedSubsampled else {}
    sampled, draw = curvature(fraction=0.2, **alpha), generator()
    parts = [sampled.at(f.at(w), draw).dense() for _ in range(5)]
    assert_close(torch.stack(parts).mean(0), autograd_hessian(loss, f, w), ulps(f.dtype))
    assert not torch.allclose(parts[0], parts[1])


@pytest.mark.parametrize(
    "curvature", [SubsampledHessian(1.0), RegularizedSubsampled(None, 1.0, 0.0)]
)
def test_all_samples_are_the_exact_hessian(curvature):
    f = make("logistic")
    w = randn(f.dim, seed=1)
    A = curvature.at(f.at(w), generator())
    assert torch.equal(A.dense(), f.at(w).hessian().dense())


def test_a_sampled_product_costs_its_share_of_a_pass():
    f = make("logistic", n=60)
    point = f.at(randn(f.dim, seed=1))
    _ = point.value
    A = RegularizedSubsampled(size=15).at(point, generator())
    before = f.counts.passes
    _ = A @ randn(f.dim, seed=2)
    assert f.counts.passes - before == pytest.approx(0.25)
    assert f.counts.hvp == pytest.approx(0.25)


def test_growth_takes_the_sample_to_all_of_the_data():
    f = make("logistic", n=64)
    point = f.at(randn(f.dim, seed=1))
    curvature, draw, shares = SubsampledHessian(fraction=0.125, growth=2.0), generator(), []
    for _ in range(5):
        before = f.counts.hvp
        _ = curvature.at(point, draw) @ point.w
        shares.append(f.counts.hvp - before)
    assert shares == pytest.approx([0.125, 0.25, 0.5, 1.0, 1.0])


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_alpha_is_added_to_the_diagonal(alpha):
    f = make("logistic")
    point = f.at(randn(f.dim, seed=1))
    with_alpha = RegularizedSubsampled(size=20, alpha=alpha).at(point, generator(3)).dense()
    without = RegularizedSubsampled(size=20, alpha=0.0).at(point, generator(3)).dense()
    assert_close(with_alpha, without + alpha * torch.eye(f.dim, dtype=f.dtype), 1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_an_alpha_of_the_size_of_the_sampling_error_bounds_the_hessian(seed):
    """(1 - pi) H <= Hess f <= H with 1 - pi = mu / (mu + 2 alpha), once alpha >= |H_S - Hess f|."""
    f = make("logistic", n=200)
    point = f.at(randn(f.dim, seed=1))
    exact = point.hessian().dense()
    sampled = RegularizedSubsampled(size=20, alpha=0.0).at(point, generator(seed)).dense()
    alpha = float(torch.linalg.matrix_norm(sampled - exact, 2))
    H = RegularizedSubsampled(size=20, alpha=alpha).at(point, generator(seed)).dense()
    mu = float(torch.linalg.eigvalsh(exact)[0])
    L = torch.linalg.cholesky(H)
    Y = torch.linalg.solve_triangular(L, exact, upper=False)
    values = torch.linalg.eigvalsh(torch.linalg.solve_triangular(L, Y.T, upper=False))
    assert values[-1] <= 1 + 1e-12
    assert values[0] >= mu / (mu + 2 * alpha) - 1e-12


@pytest.mark.parametrize("curvature", SAMPLING)
def test_the_seed_decides(curvature):
    f = make("logistic")
    point = f.at(randn(f.dim, seed=1))
    a, b, c = (curvature(fraction=0.3).at(point, generator(s)).dense() for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_bad_parameters_are_refused():
    for name, key, value in [
        ("subsampled", "fraction", 0.0),
        ("subsampled", "growth", 0.5),
        ("regularized_subsampled", "size", 0),
        ("regularized_subsampled", "alpha", -1.0),
    ]:
        with pytest.raises(ConfigError, match=f"hessian_approx.{key}={value} is not valid"):
            entry("hessian_approx", name).validate({key: value})
