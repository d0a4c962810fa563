"""A wide linear layer's Hessian in the span of its inputs: smaller, with the same eigenvalues."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from problems import assert_close, randn
from torch import nn

from newton_krylov.curvature.lowrank import LowRank, Rank1
from newton_krylov.objectives.network.objective import Network

N, WIDE, OUT = 12, 60, 5
X, Y = randn(N, 8, seed=1), randn(N, 3, seed=2).argmax(1)


def network(*, bias=True, dropout=0.0, l2=0.0, chunk=500, activation=nn.Tanh):
    torch.manual_seed(4)
    module = nn.Sequential(
        OrderedDict(
            front=nn.Linear(8, WIDE),
            bend=nn.Tanh(),
            drop=nn.Dropout(dropout),
            wide=nn.Linear(WIDE, OUT, bias=bias),
            turn=activation(),
            drop2=nn.Dropout(dropout),
            last=nn.Linear(OUT, 3),
        )
    ).double()
    return Network(module, F.cross_entropy, X, Y, l2=l2, chunk=chunk)


def layer(f, name="wide"):
    part = f.restricted([name], f.initial())
    return part.at(part.initial())


CASES = {
    "plain": {"bias": False},
    "bias": {},
    "l2": {"l2": 0.3},
    "spans": {"chunk": 5},
    "relu": {"activation": nn.ReLU},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_it_is_the_hessian_in_the_span_of_the_inputs(options):
    f = network(**options)
    H = layer(f).hessian()
    small = H.compression()
    m = N * OUT
    assert small.operator.shape == (m, m)
    dense, S = H.dense(), small.operator.dense()
    E = small.expand(torch.eye(m).double())
    assert_close(E.T @ E, torch.eye(m).double(), 1e-10)  # an isometry
    assert_close(S, E.T @ dense @ E, 1e-9)
    rest = torch.eye(H.shape[0]).double() - E @ E.T
    assert_close(dense, E @ S @ E.T + f.l2 * rest, 1e-9)
    v = randn(H.shape[0], seed=5)
    assert_close(small.reduce(v), E.T @ v, 1e-9)


def test_fixed_dropout_masks_are_the_same_in_it():
    f = network(dropout=0.4).subset(torch.arange(N), noise=3)
    H = layer(f).hessian()
    small = H.compression()
    E = small.expand(torch.eye(N * OUT).double())
    assert_close(small.operator.dense(), E.T @ H.dense() @ E, 1e-9)


@pytest.mark.parametrize("curvature", [Rank1(rtol=1e-10), LowRank(4, rtol=1e-10)])
def test_a_curvature_finds_the_hessian_s_eigenpairs_by_it(curvature):
    point = layer(network())
    generator = torch.Generator().manual_seed(0)
    A = curvature.at(point, generator)
    dense = point.hessian().dense()
    values, vectors = torch.linalg.eigh(dense)
    top = values.abs().argsort(descending=True)[: len(A.values)]
    assert_close(A.values, values[top].abs(), 1e-8)
    overlaps = (vectors[:, top].T @ A.vectors).abs().diagonal()
    assert_close(overlaps, torch.ones(len(top)), 1e-6)
    before = point.objective.counts.hvp
    curvature.at(layer(network()), generator)  # from the last vectors, the same again
    assert point.objective.counts.hvp == before


def test_a_warm_start_goes_through_it():
    generator = torch.Generator().manual_seed(0)
    curvature, f = Rank1(rtol=1e-6, maxiter=60), network()
    curvature.at(layer(f), generator)
    cold, f = f.counts.hvp, network()
    curvature.at(layer(f), generator)
    assert f.counts.hvp == 1 < cold


def test_what_it_costs_is_one_pass_and_products_without_passes():
    f = network()
    H = layer(f).hessian()
    before = f.counts.passes
    small = H.compression()
    assert f.counts.passes - before == 1
    _ = small.operator @ randn(N * OUT, seed=1)
    assert (f.counts.passes - before, f.counts.hvp) == (1, 1)


def test_inputs_that_repeat_are_no_matter():
    f = network().subset(torch.tensor([0, 1, 1, 0, 2, 2, 2, 0]))
    point = layer(f)
    A = LowRank(3, rtol=1e-9).at(point, torch.Generator().manual_seed(0))
    values = torch.linalg.eigvalsh(point.hessian().dense())
    assert_close(A.values, values.abs().sort(descending=True).values[:3], 1e-6)


@pytest.mark.parametrize(
    "layers", [["front"], ["wide", "last"], ["last"], ["front", "wide", "last"]], ids=str
)
def test_what_is_no_wide_linear_layer_alone_is_left_as_it_is(layers):
    f = network()
    part = f.restricted(layers, f.initial())
    assert part.at(part.initial()).hessian().compression() is None


def test_a_weight_that_another_layer_shares_is_left_as_it_is():
    shared = nn.Linear(WIDE, WIDE, bias=False).double()
    module = nn.Sequential(nn.Linear(8, WIDE).double(), shared, nn.Tanh(), shared)
    f = Network(module, F.cross_entropy, X, Y)
    part = f.restricted(["1"], f.initial())
    assert part.at(part.initial()).hessian().compression() is None
