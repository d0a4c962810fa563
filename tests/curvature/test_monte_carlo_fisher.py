"""The Fisher matrix by Monte Carlo: its mean is the Fisher matrix, and its draws are fixed."""

import pytest
import torch
from networks import network
from problems import assert_close, make, randn

from newton_krylov.curvature.monte_carlo_fisher import MonteCarloFisher
from newton_krylov.errors import UnsupportedError

DRAWS = 3000
NEAR = 0.1
"""Five standard deviations of a mean of so many draws, or more: each is of the order of 1."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("loss", ["logistic", "multinomial", "least_squares"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_its_mean_over_draws_is_the_gauss_newton_matrix(loss, sparse):
    f = make(loss, n=15, sparse=sparse)
    point = f.at(0.3 * randn(f.dim, seed=1))
    A = MonteCarloFisher(DRAWS).at(point, generator())
    assert_close(A.dense(), point.gauss_newton().dense(), NEAR)
    assert_close(A.diagonal(), A.dense().diagonal(), 1e-12)


@pytest.mark.parametrize("case", ["mlp", "cnn", "looped"])
def test_of_a_network_too(case):
    f = network(case, l2=0.1)
    point = f.at(f.initial())
    A = MonteCarloFisher(DRAWS).at(point, generator())
    assert_close(A.dense(), point.gauss_newton().dense(), NEAR)


@pytest.mark.parametrize(
    "f", [make("multinomial", n=15), network("mlp", l2=0.1)], ids=["table", "network"]
)
def test_one_draw_is_a_fixed_semidefinite_matrix(f):
    point = f.at(torch.full((f.dim,), 0.1).double())
    A, again, other = (MonteCarloFisher().at(point, generator(seed)) for seed in (1, 1, 2))
    v = randn(f.dim, seed=3)
    assert torch.equal(A @ v, A @ v)
    assert torch.equal(A @ v, again @ v)
    assert not torch.allclose(A @ v, other @ v)
    dense = A.dense()
    assert_close(dense, dense.T, 1e-12)
    assert float(torch.linalg.eigvalsh(dense)[0]) >= f.l2 - 1e-12


def test_draws_stay_where_graphs_do_not_fit_in_the_memory():
    small, f = (network("mlp", memory=memory) for memory in (1.0, 1e9))
    w = f.initial()
    A, B = (g.at(w).monte_carlo_fisher(2, generator()) for g in (small, f))
    assert small.passes.kept_graphs == 0
    assert torch.equal(A @ w, B @ w)


def test_a_loss_that_is_no_likelihood_is_refused():
    f = make("squared_hinge")
    with pytest.raises(UnsupportedError, match="a likelihood"):
        MonteCarloFisher().at(f.at(torch.zeros(f.dim).double()), generator())
