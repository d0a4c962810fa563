"""PyHessian's eigenpair against ours, the dense one and its authors' use; nothing stays behind."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from problems import DTYPES, assert_close, make, quadratic, randn
from torch import nn

from newton_krylov.curvature.lowrank import Rank1
from newton_krylov.curvature.rank1_pyhessian import Rank1PyHessian, top_eigenpair
from newton_krylov.objectives.network.objective import Network
from newton_krylov.operators import AffineOperator
from newton_krylov.spectral.lanczos import lanczos

pyhessian = pytest.importorskip("pyhessian", reason="PyHessian is not installed")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def module(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)
    ).double()


X, Y = randn(40, 6, seed=1), (randn(40, 3, seed=2)).argmax(1)
LAYERS = ["0", "3", "5"]


def network(**options) -> Network:
    return Network(module(**options), F.cross_entropy, X, Y)


def by_hand(net: nn.Module, layer: str, seed: int, tol: float) -> tuple[float, torch.Tensor]:
    """Use PyHessian as its authors do, the other layers frozen."""
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith(f"{layer}."))
    torch.manual_seed(seed)
    computer = pyhessian.hessian(net, nn.CrossEntropyLoss(), (X, Y), cuda=False)
    (value,), (vector,) = computer.eigenvalues(maxIter=10_000, tol=tol)
    return value, F.normalize(torch.cat([part.reshape(-1) for part in vector]), dim=0)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_s_pair_is_pyhessian_s_own_and_lanczos_s_and_the_dense_one(layer):
    f = network()
    part = f.restricted([layer], f.initial())
    point = part.at(part.initial())
    dense = point.hessian().dense()
    values, vectors = torch.linalg.eigh(dense)
    top = values.abs().argmax()
    theirs = top_eigenpair(point, generator(), tol=1e-12, maxiter=10_000)
    ours = lanczos(point.hessian(), 1, which="magnitude", generator=generator(), rtol=1e-10)
    value, vector = by_hand(module(), layer, seed=5, tol=1e-12)
    # PyHessian divides by |v| + 1e-6, which leaves its vectors a little short of 1.
    assert value == pytest.approx(float(values[top]), rel=1e-4)
    assert_close(theirs.values[0], values[top], 1e-7)
    assert_close(ours.values[0], values[top], 1e-12)
    for v in (theirs.vectors[:, 0], ours.vectors[:, 0], vector):
        assert abs(float(v @ vectors[:, top])) == pytest.approx(1, abs=1e-6)
    assert theirs.matvecs > ours.matvecs


def test_the_whole_network_s_pair_is_the_dense_one():
    f = network()
    point = f.at(f.initial())
    values = torch.linalg.eigvalsh(point.hessian().dense())
    pair = top_eigenpair(point, generator(), tol=1e-12, maxiter=10_000)
    assert_close(pair.values[0], values[values.abs().argmax()], 1e-8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", ["logistic", "multinomial", "sigmoid_least_squares"])
def test_it_serves_linear_models(loss, dtype):
    f = make(loss, dtype=dtype)
    point = f.at(randn(f.dim, seed=1, dtype=dtype))
    values = torch.linalg.eigvalsh(point.hessian().dense())
    pair = top_eigenpair(point, generator(), tol=1e-7, maxiter=10_000)
    assert pair.values.dtype == dtype
    assert_close(pair.values[0], values[values.abs().argmax()], 1e-4)
    assert float(pair.vectors.norm()) == pytest.approx(1, rel=1e-5)


def test_the_largest_in_absolute_value_may_be_negative_and_each_rule_deals_with_it():
    f = quadratic(torch.tensor([3.0, 1.0, -5.0]).double())
    point = f.at(torch.zeros(3).double())
    pair = top_eigenpair(point, generator(), tol=1e-10)
    assert float(pair.values[0]) == pytest.approx(-5, rel=1e-8)
    for negative, expected in {"absolute": 5.0, "truncate": 0.0, "keep": -5.0}.items():
        A = Rank1PyHessian(negative=negative, tol=1e-10).at(point, generator())
        assert float(A.values[0]) == pytest.approx(expected, rel=1e-8)
        b = randn(3, seed=1)
        dense = A.dense() + 0.1 * torch.eye(3).double()
        assert_close(AffineOperator(A, shift=0.1).solve(b), torch.linalg.solve(dense, b), 1e-12)


def test_the_value_belongs_to_the_vector_and_the_residual_is_told():
    """PyHessian's own lambda is of the vector before the one that it returns."""
    f = make("logistic", d=20)
    point = f.at(randn(20, seed=1))
    curvature = Rank1PyHessian(tol=0.05)
    A = curvature.at(point, generator())
    H, v = point.hessian(), A.vectors[:, 0]
    assert_close(A.values[0], v @ (H @ v), 1e-12)
    residual = float((H @ v - A.values[0] * v).norm())
    assert curvature.note == f"lambda {float(A.values[0]):.3g} (residual {residual:.1g})"
    assert residual > 1e-6


def test_its_products_are_counted_and_limited():
    f = make("logistic", d=20)
    point = f.at(randn(20, seed=1))
    pair = top_eigenpair(point, generator(), tol=1e-15, maxiter=7)
    assert f.counts.hvp == pair.matvecs == 8
    assert not pair.converged


def test_a_vanishing_hessian_gives_no_curvature_and_no_nan():
    f = quadratic(torch.zeros(3).double())
    A = Rank1PyHessian().at(f.at(torch.ones(3).double()), generator())
    b = randn(3, seed=1)
    assert_close(AffineOperator(A, shift=2.0).solve(b), b / 2, 1e-15)


# --- what PyHessian would leave behind ------------------------------------------------------


def test_the_run_s_generator_decides_and_the_global_one_is_left_as_it_was():
    f = make("logistic", d=20)
    point = f.at(randn(20, seed=1))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = top_eigenpair(point, generator(), tol=0.1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same, other = (
        top_eigenpair(point, generator(), tol=0.1),
        top_eigenpair(point, generator(1), tol=0.1),
    )
    assert torch.equal(one.vectors, same.vectors)
    assert not torch.equal(one.vectors, other.vectors)


def test_the_network_s_mode_and_gradients_stay_as_they_were():
    f = network(dropout=0.5)
    net = f._module
    assert net.training
    part = f.subset(torch.arange(30), noise=7).restricted(["3"], f.initial())
    Rank1PyHessian().at(part.at(part.initial()), generator())
    assert net.training
    assert all(p.grad is None for p in net.parameters())


def test_a_hundred_uses_leave_no_tensor_behind():
    f = network()
    point = f.at(f.initial())
    curvature = Rank1PyHessian(maxiter=3)
    curvature.at(point, generator())
    gc.collect()

    def living() -> int:
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    before = living()
    gc.disable()  # a reference cycle would stay
    try:
        for _ in range(100):
            curvature.at(point, generator())
        assert living() <= before + 5
    finally:
        gc.enable()


def test_the_point_is_freed_with_the_last_reference():
    f = network()
    point = f.at(f.initial())
    Rank1PyHessian(maxiter=3).at(point, generator())
    ghost = weakref.ref(point)
    gc.disable()
    try:
        del point
        assert ghost() is None
    finally:
        gc.enable()


def test_dropout_with_fixed_masks_is_one_fixed_operator_to_both():
    f = network(dropout=0.5).subset(torch.arange(40), noise=11)
    part = f.restricted(["0"], f.initial())
    point = part.at(part.initial())
    values = torch.linalg.eigvalsh(point.hessian().dense())
    largest = values[values.abs().argmax()].abs()
    for curvature in (Rank1PyHessian(tol=1e-9, maxiter=10_000), Rank1(rtol=1e-9, maxiter=100)):
        assert_close(curvature.at(point, generator()).values[0], largest, 1e-6)
