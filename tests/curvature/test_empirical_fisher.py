"""The empirical Fisher matrix against the sum of the samples' own gradients, by autograd."""

import pytest
import torch
from problems import LOSSES, assert_close, make, plain, quadratic, randn

from newton_krylov.curvature.empirical_fisher import EmpiricalFisher
from newton_krylov.errors import UnsupportedError

NO_CHANCE = torch.Generator()


def expected(f, loss, w):
    """Return mean g_i g_i' + l2 I, g_i the gradient of sample i's loss alone."""
    unregularized = f.with_l2(0.0)
    total = f.l2 * torch.eye(f.dim).double()
    for i in range(f.n_samples):
        g = torch.func.grad(plain(loss, unregularized.subset(torch.tensor([i]))))(w)
        total += torch.outer(g, g) / f.n_samples
    return total


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_it_is_the_mean_of_the_samples_outer_products(loss, sparse):
    f = make(loss, n=15, sparse=sparse)
    w = randn(f.dim, seed=1)
    A = EmpiricalFisher().at(f.at(w), NO_CHANCE)
    matrix = expected(f, loss, w)
    assert_close(A.dense(), matrix, 1e-12, "dense")
    assert_close(A.diagonal(), matrix.diagonal(), 1e-12, "diagonal")
    V = randn(f.dim, 3, seed=2)
    assert_close(A @ V, matrix @ V, 1e-12, "matmat")
    assert_close(A @ V[:, 0], matrix @ V[:, 0], 1e-12, "matvec")


@pytest.mark.parametrize("loss", ["logistic", "multinomial"])
def test_a_product_costs_one_pass(loss):
    f = make(loss)
    A = EmpiricalFisher().at(point := f.at(randn(f.dim, seed=1)), NO_CHANCE)
    _ = point.value, point.grad
    before = f.counts.passes
    _ = A @ randn(f.dim, seed=2)
    assert (f.counts.hvp, f.counts.passes - before) == (1, 1)


def test_an_objective_without_samples_is_refused():
    f = quadratic(torch.ones(3).double())
    with pytest.raises(UnsupportedError, match="needs the gradients of single samples"):
        EmpiricalFisher().at(f.at(torch.zeros(3).double()), NO_CHANCE)
