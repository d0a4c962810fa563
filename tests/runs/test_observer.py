"""The observer: it sees the dense spectrum, looks when it is due, and the run never notices."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from problems import make, randn
from small_networks import network, optimizer

from newton_krylov.curvature.diagonal import Diagonal
from newton_krylov.curvature.ggn import GaussNewton
from newton_krylov.curvature.hvp import HessianProduct
from newton_krylov.curvature.lowrank import LowRank
from newton_krylov.curvature.subsampled import SubsampledHessian
from newton_krylov.errors import ConfigError
from newton_krylov.registry import entry
from newton_krylov.runs.observer import Observation, Observer
from newton_krylov.runs.runner import Stopping, run
from newton_krylov.spectral.density import Density, jensen_shannon

EXACT = Observation(every=1, top=4, rtol=1e-9, trace=30, density=True, probes=20, steps=10)


def dense(f, w):
    return torch.linalg.eigvalsh(f.at(w).hessian().dense())


def largest(values, count):
    return values[values.abs().argsort(descending=True)][:count]


def check(snapshot, values):
    """Compare with a dense spectrum, whose eigenvalues `values` are."""
    top = largest(values, len(snapshot.values))
    torch.testing.assert_close(
        torch.tensor(snapshot.values, dtype=top.dtype), top, rtol=1e-8, atol=1e-10
    )
    assert max(snapshot.residuals) <= 1e-9 * float(top[0].abs())
    assert snapshot.trace == pytest.approx(float(values.sum()), rel=1e-8)
    density = Density(
        *(torch.tensor(part, dtype=torch.float64) for part in (snapshot.nodes, snapshot.shares)), 0
    )
    off_diagonal = float((values**2).mean()) ** 0.5  # Hutchinson's deviation is below this
    assert density.moment(1) == pytest.approx(float(values.mean()), abs=4 * off_diagonal / 4.5)
    assert min(snapshot.nodes) >= float(values.min()) - 1e-9
    assert max(snapshot.nodes) <= float(values.max()) + 1e-9


@pytest.mark.parametrize("loss", ["logistic", "multinomial", "sigmoid_least_squares"])
def test_it_sees_the_dense_spectrum_of_a_linear_model(loss):
    f = make(loss, d=9)
    w = randn(f.dim, seed=1)
    snapshot = Observer(replace(EXACT, trace=3 * f.dim), f, HessianProduct(), 0).look(
        3, 1.5, f.at(w)
    )
    assert (snapshot.iteration, snapshot.seconds) == (3, 1.5)
    check(snapshot, dense(f, w))


@pytest.mark.parametrize("layers", [None, ["first"], ["last", "middle"]], ids=str)
def test_it_sees_the_dense_spectrum_of_a_network_by_layers_or_whole(layers):
    f = network()
    w = f.initial() + 0.3 * randn(f.dim, seed=1)
    observation = replace(EXACT, trace=3 * f.dim, layers=layers)
    snapshot = Observer(observation, f, HessianProduct(), 0).look(0, 0.0, f.at(w))
    H = f.at(w).hessian().dense()
    if layers is not None:
        own = torch.cat([torch.arange(f.dim)[block] for name, block in f.blocks.items()
                         if name in layers])  # fmt: skip
        H = H[own][:, own]
    check(snapshot, torch.linalg.eigvalsh(H))


def test_it_sees_any_curvature_s_spectrum():
    f = network()
    point = f.at(f.initial() + 0.3 * randn(f.dim, seed=1))
    generator = torch.Generator().manual_seed(0)
    for curvature in (GaussNewton(), LowRank(6, rtol=1e-12, maxiter=90), Diagonal(probes=3)):
        A = curvature.at(point, generator)
        if not isinstance(curvature, Diagonal):  # which is drawn again
            values = torch.linalg.eigvalsh(A.dense())
            check(
                Observer(replace(EXACT, trace=3 * f.dim), f, curvature, 0).look(0, 0.0, point),
                values,
            )
    seen = Observer(Observation(every=1), f, SubsampledHessian(0.5), 0).look(0, 0.0, point)
    assert len(seen.values) == 5


def test_a_part_of_the_samples_stays_the_same_part():
    f = make("logistic", n=100)
    observer = Observer(replace(EXACT, samples=30, trace=30), f, HessianProduct(), 5)
    w = randn(f.dim, seed=1)
    one, other = (observer.look(k, 0.0, f.at(w)) for k in range(2))
    assert one.values == pytest.approx(other.values, rel=1e-10)
    whole = largest(dense(f, w), 4)
    assert one.values[0] != pytest.approx(float(whole[0]), rel=1e-3)


def test_it_looks_at_the_start_then_every_so_often_and_at_the_end():
    f = make("logistic")
    observer = Observer(Observation(every=3), f, HessianProduct(), 0)
    point = f.at(randn(f.dim, seed=1))
    looked = []
    for iteration in (0, 1, 2, 3, 4, 5, 8, 9, 10, 12):  # a method that skips some
        if observer.due(iteration):
            observer.look(iteration, 0.0, point)
            looked.append(iteration)
    assert looked == [0, 3, 8, 12]
    assert not observer.due(12, end=True)
    assert observer.due(13, end=True)
    assert not Observer(Observation(every=3), f, HessianProduct(), 0, after=7).due(8)


def test_what_is_not_asked_for_is_left_out_and_costs_nothing():
    f = make("logistic")
    point = f.at(randn(f.dim, seed=1))
    nothing = Observer(Observation(every=1, top=0, trace=0), f, HessianProduct(), 0).look(
        0, 0.0, point
    )
    assert (nothing.matvecs, nothing.values, nothing.nodes) == (0, [], ())
    assert math.isnan(nothing.trace)
    assert Observer(Observation(every=1, top=99), f, HessianProduct(), 0).top == f.dim


@pytest.mark.parametrize(
    ("make_objective", "name", "options"),
    [
        (lambda: make("logistic", l2=1e-3), "newton", {}),
        (lambda: network(dropout=0.3), "sgd", {"batch_size": 30, "learning_rate": 0.1}),
        (
            lambda: network(dropout=0.3),
            "layerwise_newton",
            {"layers": ["middle"], "batch_size": 30},
        ),
    ],
    ids=["newton", "sgd", "layerwise"],
)
def test_the_run_is_the_same_with_and_without_it(make_objective, name, options):
    """The same iterates bit for bit, and the same counts of everything."""

    def trace(observed):
        f = make_objective()
        w0 = f.initial() if hasattr(f, "initial") else torch.zeros(f.dim).double()
        observer = Observer(replace(EXACT, trace=9, probes=2), f, HessianProduct(), 7)

        def on_step(row, point):
            if observed:
                observer.look(row.iteration, row.seconds, point)

        result = run(
            optimizer(name, **options), f, w0, Stopping(epochs=3),
            torch.Generator().manual_seed(1), on_step=on_step,
        )  # fmt: skip
        rows = [{k: v for k, v in row.metrics().items() if "seconds" not in k}
                for row in result.rows]  # fmt: skip
        return repr(rows), result.w

    (rows, w), (seen, v) = trace(observed=False), trace(observed=True)
    assert rows == seen
    assert torch.equal(w, v)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 61}, r"spectrum\.samples=61 exceeds the 60 samples"),
        ({"layers": ["first"]}, r"spectrum\.layers needs a network"),
    ],
)
def test_what_an_objective_lacks_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Observer(Observation(every=1, **options), make("logistic"), HessianProduct(), 0)


def test_bad_values_are_refused_with_a_sentence():
    with pytest.raises(ConfigError, match=r"'frist' is not a layer of the network.*first"):
        Observer(Observation(every=1, layers=["frist"]), network(), HessianProduct(), 0)
    for key, value in {"every": 0, "top": -1, "rtol": 0.0, "probes": 0}.items():
        with pytest.raises(ConfigError, match=rf"spectrum\.{key}={value} is not valid"):
            entry("spectrum", "observation").validate({key: value})
    with pytest.raises(ConfigError, match=r"spectrum\.trace=2 is not valid: Hutch\+\+ takes"):
        Observation(trace=2)


def test_blocks_are_compared_by_the_densities_of_the_layers_alone():
    f = network()
    w = f.initial()
    seen = Observer(Observation(every=1, blocks=True, steps=60), f, HessianProduct(), 0).look(
        0, 0.0, f.at(w)
    )
    names = [*f.blocks]
    assert [(a, b) for a, b, _ in seen.distances] == [*combinations(names, 2)]
    dense = f.at(w).hessian().dense()
    exact = {}
    for name, block in f.blocks.items():
        values = torch.linalg.eigvalsh(dense[block, block])
        exact[name] = Density(values, torch.full((len(values),), 1 / len(values)).double(), 0)
    for a, b, found in seen.distances:  # the estimate is of five random vectors
        assert found == pytest.approx(jensen_shannon(exact[a], exact[b]), abs=0.15)
    assert seen.metrics()["block_heterogeneity"] == pytest.approx(seen.heterogeneity)
    with pytest.raises(ConfigError, match=r"spectrum\.blocks needs a network"):
        Observer(Observation(every=1, blocks=True), make("logistic"), HessianProduct(), 0)
