"""SVRG and SAGA: estimates without bias, steps of theory, linear convergence to the optimum."""

from itertools import chain, islice, pairwise

import pytest
import torch
from optimizer_parts import a9a, logistic, make_optimizer, minimize, optimum_of, small
from problems import (
    CONVEX_LOSSES,
    LIPSCHITZ_LOSSES,
    STEEPEST_AT_ZERO,
    Function,
    assert_close,
    make,
    randn,
)

from newton_krylov.errors import UnsupportedError
from newton_krylov.optimizers.minibatch import (
    GradientTable,
    batch_smoothness,
    batches,
    smoothness,
)
from newton_krylov.runs.runner import Outcome

BOTH = ["svrg", "saga"]
SINGLE_OUTPUT = [loss for loss in LIPSCHITZ_LOSSES if loss.name != "multinomial"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("loss", CONVEX_LOSSES, ids=str)
def test_the_estimate_is_the_batch_s_change_on_top_of_what_is_remembered(loss, sparse):
    f = make(loss, n=40, sparse=sparse)
    w0, w, index = randn(f.dim, seed=1), randn(f.dim, seed=2), torch.tensor([3, 8, 20])

    def gradient(samples, at):
        return f.subset(samples).at(at).grad - f.l2 * at

    everything = torch.arange(40)
    expected = gradient(index, w) - gradient(index, w0) + gradient(everything, w0)
    table = GradientTable(f, w0)
    assert_close(table.estimate(w, index, remember=False), expected, 1e-12)


@pytest.mark.parametrize("loss", CONVEX_LOSSES, ids=str)
def test_over_the_batches_of_a_permutation_the_estimate_has_no_bias(loss):
    f = make(loss, n=40)
    w0, w = randn(f.dim, seed=1), randn(f.dim, seed=2)
    table = GradientTable(f, w0)
    drawn = islice(batches(40, 8, generator()), 5)
    mean = torch.stack([table.estimate(w, index, remember=False) for index in drawn]).mean(0)
    assert_close(mean, f.at(w).grad - f.l2 * w, 1e-12)


@pytest.mark.parametrize("loss", CONVEX_LOSSES, ids=str)
def test_what_is_remembered_is_always_the_last_gradient_of_each_sample(loss):
    f = make(loss, n=30)
    at = [randn(f.dim, seed=1)] * 30
    table = GradientTable(f, at[0])
    for k, index in enumerate(islice(batches(30, 7, generator()), 12)):
        w = randn(f.dim, seed=10 + k)
        table.estimate(w, index, remember=True)
        for i in index.tolist():
            at[i] = w
    each = [f.subset(torch.tensor([i])).at(w).grad - f.l2 * w for i, w in enumerate(at)]
    assert_close(table.mean, torch.stack(each).mean(0), 1e-11)


def test_batches_are_permutations_one_after_another():
    drawn = islice(batches(10, 4, generator()), 6)
    numbers = [index.tolist() for index in drawn]
    assert [len(index) for index in numbers] == [4, 4, 2, 4, 4, 2]
    for start in (0, 3):
        assert sorted(chain(*numbers[start : start + 3])) == list(range(10))


@pytest.mark.parametrize("loss", SINGLE_OUTPUT, ids=str)
def test_the_constants_bound_the_curvature_of_the_function_and_of_every_sample(loss):
    f = make(loss, n=25)
    L, L_max = smoothness(f, generator())
    each = []
    for w in (torch.zeros(f.dim).double(), randn(f.dim, seed=1), 3 * randn(f.dim, seed=2)):
        assert float(torch.linalg.eigvalsh(f.at(w).hessian().dense())[-1]) <= L * (1 + 1e-9)
        for i in range(25):
            H = f.subset(torch.tensor([i])).at(w).hessian().dense()
            each.append(float(torch.linalg.eigvalsh(H)[-1]))
    assert max(each) <= L_max * (1 + 1e-9)
    if loss in STEEPEST_AT_ZERO:
        assert max(each) == pytest.approx(L_max, rel=1e-9)


def test_the_expected_smoothness_goes_from_the_worst_sample_s_to_the_function_s():
    assert batch_smoothness(2.0, 50.0, 100, 1) == pytest.approx((50.0, 50.0))
    assert batch_smoothness(2.0, 50.0, 100, 100) == pytest.approx((2.0, 0.0))
    assert batch_smoothness(2.0, 50.0, 1, 8) == (2.0, 0.0)
    values = [batch_smoothness(2.0, 50.0, 100, b)[0] for b in range(1, 101)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("loss", SINGLE_OUTPUT, ids=str)
def test_they_reach_the_certified_optimum_of_any_convex_loss(loss, name):
    f = make(loss, n=120, l2=0.1)
    optimizer = make_optimizer(name, batch_size=8)
    result = minimize(f, optimizer, epochs=1500, grad_norm=1e-9)
    assert result.outcome is Outcome.CONVERGED
    assert result.rows[-1].loss - minimize(f, "newton").rows[-1].loss <= 1e-16 / f.l2


@pytest.mark.parametrize("name", BOTH)
def test_convergence_is_linear_where_sgd_s_noise_would_stop_it(name):
    f = logistic(small(), l2=0.1)
    optimum = optimum_of(small(), l2=0.1).value
    rows = minimize(f, make_optimizer(name), optimum=optimum, epochs=400, grad_norm=1e-12).rows
    gaps = {target: next(r.iteration for r in rows if r.suboptimality < target)
            for target in (1e-3, 1e-6, 1e-9, 1e-12)}  # fmt: skip
    first, *later = gaps.values()
    assert later[2] - later[1] < 2 * (later[0] - first) + 5


@pytest.mark.parametrize("name", BOTH)
def test_a_batch_of_everything_is_gradient_descent(name):
    """Nothing is then estimated: SVRG makes a step from each w, SAGA one a pass."""
    f = logistic(small())
    a, b = (
        minimize(f, make_optimizer(which, step_size=0.5, **options), epochs=6).w
        for which, options in (("gd", {}), (name, {"batch_size": 200}))
    )
    assert_close(a, b, 1e-12)


def test_a_recorded_step_of_svrg_is_two_passes_and_one_of_saga_is_one():
    for name, passes in (("svrg", 2), ("saga", 1)):
        rows = minimize(logistic(small()), make_optimizer(name, batch_size=10), epochs=6).rows
        spent = [b.data_passes - a.data_passes for a, b in pairwise(rows[1:])]
        assert spent == pytest.approx([passes] * 5)
        assert rows[-1].hvp_count > 0  # of the Lanczos iteration for the default step


def test_saga_may_be_recorded_more_often():
    f = logistic(small())
    once, often = (
        minimize(f, make_optimizer("saga", batch_size=10, steps_per_pass=k), epochs=4 * k)
        for k in (1, 5)
    )
    assert torch.equal(once.w, often.w)
    assert len(often.rows) == 5 * 4 + 1


@pytest.mark.parametrize("name", BOTH)
def test_the_seed_decides(name):
    f = logistic(small())

    def losses(seed):
        rows = minimize(f, make_optimizer(name, batch_size=8), epochs=5, seed=seed).rows
        return [row.loss for row in rows]

    assert losses(1) == losses(1) != losses(2)


@pytest.mark.slow
@pytest.mark.parametrize("name", BOTH)
def test_on_a9a_they_reach_1e_12_in_tens_of_passes(name):
    optimum = optimum_of(a9a()).value
    result = minimize(
        logistic(a9a()), make_optimizer(name), optimum=optimum, suboptimality=1e-12, epochs=60
    )
    assert result.outcome is Outcome.CONVERGED
    assert result.rows[-1].data_passes < 80


@pytest.mark.parametrize("name", BOTH)
def test_what_they_cannot_do_is_refused_with_a_sentence(name):
    with pytest.raises(UnsupportedError, match=f"optimizer={name} remembers one number"):
        minimize(Function(lambda w: w @ w, 2), make_optimizer(name))


@pytest.mark.parametrize("name", BOTH)
def test_many_classes_have_a_default_step_size(name):
    f = make("multinomial", l2=0.1)
    rows = minimize(f, make_optimizer(name), epochs=60).rows
    assert rows[-1].grad_norm < 1e-2 * rows[0].grad_norm
    L, L_max = smoothness(f, torch.Generator().manual_seed(0))
    for seed in range(5):  # Boehning's bound holds far out, too
        w = 3.0 * seed * randn(f.dim, seed=seed)
        assert float(torch.linalg.eigvalsh(f.at(w).hessian().dense())[-1]) <= L * (1 + 1e-6)
    assert L_max * (1 + 1e-6) >= L
