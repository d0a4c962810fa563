"""Losses of generalized linear models, against SciPy's densities and scikit-learn's regressors."""

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from problems import (
    BY_NAME,
    CONVEX_LOSSES,
    DTYPES,
    LOSSES,
    assert_close,
    make,
    make_dataset,
    randn,
    ulps,
)
from sklearn.linear_model import GammaRegressor, PoissonRegressor, TweedieRegressor
from sklearn.metrics import d2_tweedie_score, mean_absolute_error, mean_tweedie_deviance, r2_score

from newton_krylov.data.dataset import Split
from newton_krylov.errors import ConfigError, UnsupportedError
from newton_krylov.objectives.free_intercept import tangent_reach
from newton_krylov.objectives.log_link import NegativeBinomialTerms, TweedieTerms
from newton_krylov.optimizers.gd import largest_curvature
from newton_krylov.registry import entry
from newton_krylov.runs.optimum import certified_optimum

TARGETS = torch.tensor([0.0, 1.0, 2.0, 7.0, 40.0, 1000.0], dtype=torch.float64)
OUTPUTS = torch.tensor([-1.5, 0.0, 0.9, 2.1, 3.5, 7.0], dtype=torch.float64)


def single(name, z, y, **options):
    """Bind a loss to samples whose outputs are the parameters themselves."""
    X = torch.eye(len(z), dtype=z.dtype)
    data = make_dataset("binary" if name == "probit" else "regression", X=X, y=y, dtype=z.dtype)
    return entry("loss", name).target(data, l2=0.0, **options)


def samples(f):
    """Return what a loss is bound to."""
    return Split(f.features.X, f.y, f.sample_weight, f.offset)


def optimum_of(name, data, **options):
    found = certified_optimum(data, entry("loss", name), options, torch.float64)
    assert found is not None
    assert found.gap_bound < 1e-12
    return found.value


DENSITIES = {
    "poisson": scipy.stats.poisson.logpmf,
    "gamma": lambda y, mu: scipy.stats.gamma.logpdf(y, a=1.0, scale=mu),
    "negative_binomial": lambda y, mu: scipy.stats.nbinom.logpmf(y, 2.5, 2.5 / (2.5 + mu)),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_a_loss_is_the_negative_log_density_less_that_of_a_perfect_prediction(name):
    y = TARGETS + (name == "gamma")
    f = single(name, OUTPUTS, y, **({"theta": 2.5} if name == "negative_binomial" else {}))
    y, mu = y.numpy(), np.exp(OUTPUTS.numpy())
    best = DENSITIES[name](y, np.maximum(y, 1e-300))
    assert f.at(OUTPUTS).value == pytest.approx((best - DENSITIES[name](y, mu)).mean(), rel=1e-11)


@pytest.mark.parametrize("power", [1.0, 1.2, 1.5, 1.9, 2.0, 2.5, 3.0])
def test_tweedie_is_half_scikit_learns_deviance(power):
    y = TARGETS + (power >= 2)
    value = single("tweedie", OUTPUTS, y, power=power).at(OUTPUTS).value
    deviance = mean_tweedie_deviance(y.numpy(), np.exp(OUTPUTS.numpy()), power=power)
    assert value == pytest.approx(deviance / 2, rel=1e-11)


def test_probit_and_huber_are_scipys():
    y = torch.tensor([0, 1, 1, 0, 1, 0])
    z = OUTPUTS.numpy()
    value = -scipy.stats.norm.logcdf(np.where(y == 1, z, -z)).mean()
    assert single("probit", OUTPUTS, y).at(OUTPUTS).value == pytest.approx(value, rel=1e-13)
    value = scipy.special.huber(0.7, z - TARGETS.numpy()).mean()
    f = single("huber", OUTPUTS, TARGETS, delta=0.7)
    assert f.at(OUTPUTS).value == pytest.approx(value, rel=1e-13)


def _half_deviance(y, mu, power):
    a, b = 1 - power, 2 - power
    if power == 1:
        return y * mpmath.log(y / mu) - y + mu
    if power == 2:
        return y / mu - 1 - mpmath.log(y / mu)
    return y**b / (a * b) - y * mu**a / a + mu**b / b


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.0, None])
def test_nothing_cancels_where_the_fit_is_good(dtype, power):
    """Each sample's loss and slope keep their digits, however near z is to log(y)."""
    y = torch.tensor([1.0, 3.0, 2.0, 5.0, 300.0, 2.0, 9.0], dtype=dtype)
    z = torch.log(y) + torch.tensor([0.0, 1e-3, -1e-2, 0.3, -2.0, 9.0, -9.0], dtype=dtype)
    option = {"theta": 2.0} if power is None else {"power": power}
    f = single("negative_binomial" if power is None else "tweedie", z, y, **option)
    with mpmath.workdps(60):
        for i in range(len(y)):
            one = f.subset(torch.tensor([i])).at(z)
            t, m = mpmath.mpf(float(y[i])), mpmath.exp(mpmath.mpf(float(z[i])))
            if power is None:
                value = t * mpmath.log(t / m) - (t + 2) * mpmath.log((t + 2) / (m + 2))
                slope = 2 * (m - t) / (m + 2)
            else:
                value, slope = _half_deviance(t, m, power), m ** (2 - power) - t * m ** (1 - power)
            # z itself is known to its last bit alone.
            off = ulps(dtype, 4) * (1 + abs(float(z[i])))
            allowed = off * (abs(float(slope)) + float(y[i]) ** 0.5 * float(value) ** 0.5)
            assert abs(one.value - float(value)) <= 4 * (allowed + off * float(value))
            curved = float(one.hessian().diagonal()[i])
            assert abs(float(one.grad[i]) - float(slope)) <= off * (curved + 4 * abs(float(slope)))


@pytest.mark.parametrize(
    ("name", "options", "model"),
    [
        ("poisson", {}, PoissonRegressor()),
        ("gamma", {}, GammaRegressor()),
        ("tweedie", {"power": 1.7}, TweedieRegressor(power=1.7, link="log")),
    ],
)
def test_the_optimum_with_weights_and_a_free_intercept_is_scikit_learns(name, options, model):
    data = make_dataset(BY_NAME[name].task, n=200)
    weights = 0.1 + randn(200, seed=8).abs()
    weights /= weights.mean()
    data = replace(data, train=replace(data.train, weights=weights))
    model.set_params(alpha=0.02, tol=1e-12, solver="newton-cholesky", max_iter=1000)
    model.fit(data.train.X.numpy(), data.train.y.numpy(), sample_weight=weights.numpy())
    w = torch.from_numpy(np.append(model.coef_, model.intercept_))
    f = entry("loss", name).target(data, l2=0.02, intercept="free", **options)
    optimum = optimum_of(name, data, l2=0.02, intercept="free", **options)
    assert f.at(w).value == pytest.approx(optimum, abs=1e-11)


@pytest.mark.parametrize("name", ["negative_binomial", "probit", "huber"])
def test_the_optimum_is_scipys(name):
    data = make_dataset(BY_NAME[name].task, n=100)
    f = entry("loss", name).target(data, l2=0.02, intercept="free")

    def value_and_gradient(w):
        point = f.at(torch.from_numpy(w))
        return point.value, point.grad.numpy()

    found = scipy.optimize.minimize(
        value_and_gradient, np.zeros(f.dim), jac=True, method="BFGS", options={"gtol": 1e-9}
    )
    assert found.fun == pytest.approx(optimum_of(name, data, l2=0.02, intercept="free"), abs=1e-13)


def with_offset(data, offset):
    return replace(data, train=replace(data.train, offset=offset))


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.task != "multiclass"], ids=str)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_an_offset_is_a_column_of_weight_one(loss, sparse):
    data, offset = make_dataset(loss.task, sparse=sparse), 0.5 * randn(60, seed=4)
    f = entry("loss", loss.name).target(with_offset(data, offset), l2=0.03)
    X = data.train.X.to_dense() if sparse else data.train.X
    column = make_dataset(
        loss.task, X=torch.cat([X, offset[:, None]], 1), y=data.train.y, sparse=sparse
    )
    g = entry("loss", loss.name).target(column, l2=0.03)
    w, p = randn(2, f.dim, seed=1) / 2
    one = torch.ones(1, dtype=torch.float64)
    ours, theirs = f.at(w), g.at(torch.cat([w, one]))
    assert ours.value == pytest.approx(theirs.value - 0.015, rel=1e-13)
    assert_close(ours.grad, theirs.grad[:-1], 1e-12)
    assert_close(ours.hessian().dense(), theirs.hessian().dense()[:-1, :-1], 1e-12)
    ray = theirs.ray(torch.cat([p, 0 * one]))
    assert ours.ray(p).value(0.7) == pytest.approx(ray.value(0.7) - 0.015, rel=1e-13)
    some = torch.arange(0, 60, 3)
    assert ours.subset(some).value == pytest.approx(f.subset(some).at(w).value, rel=1e-13)
    low = ours.cast(torch.float32)
    assert low.value == pytest.approx(ours.value, rel=1e-5)
    assert f.data_loss(w, samples(f)) == pytest.approx(ours.value - 0.015 * float(w @ w), rel=1e-12)


@pytest.mark.parametrize("name", ["poisson", "logistic", "negative_binomial"])
def test_the_certificate_holds_with_an_offset_and_a_free_intercept(name):
    data = with_offset(make_dataset(BY_NAME[name].task), randn(60, seed=4))
    best = optimum_of(name, data, l2=0.02, intercept="free")
    f = entry("loss", name).target(data, l2=0.02, intercept="free")
    for seed, scale in enumerate([0.0, 1e-3, 0.1, 1.0]):
        point = f.at(scale * randn(f.dim, seed=seed))
        assert -1e-15 <= point.value - best <= f.suboptimality_bound(point) + 1e-15


def test_an_exposure_is_a_weight_of_the_frequency():
    """As scikit-learn models exposures: targets y / e of weights e."""
    counts, e = make_dataset("counts"), torch.exp(randn(60, seed=4))
    f = entry("loss", "poisson").target(with_offset(counts, torch.log(e)), l2=0.03)
    mean = float(e.mean())
    frequencies = Split(counts.train.X, counts.train.y / e, e / mean)
    g = entry("loss", "poisson").target(replace(counts, train=frequencies), l2=0.03 / mean)
    w = randn(f.dim, seed=1) / 2
    assert_close(f.at(w).grad, mean * g.at(w).grad, 1e-13)
    assert_close(f.at(w).hessian().dense(), mean * g.at(w).hessian().dense(), 1e-13)


@pytest.mark.parametrize("loss", [L for L in CONVEX_LOSSES if L.task != "multiclass"], ids=str)
def test_no_hessian_is_above_the_steepest(loss):
    f = make(loss, l2=0.1)
    if loss.exponential:
        with pytest.raises(ConfigError, match="has no bound to take it from; set it"):
            largest_curvature(f, torch.Generator())
        return
    above = f.steepest().dense()
    for seed, scale in [(1, 0.0), (2, 1.0), (3, 30.0)]:
        H = f.at(scale * randn(f.dim, seed=seed)).hessian().dense()
        assert float(torch.linalg.eigvalsh(above - H)[0]) >= -1e-13


@pytest.mark.parametrize("loss", [L for L in LOSSES if L.task in ("counts", "amounts")], ids=str)
def test_a_regressions_measures_are_scikit_learns(loss):
    power = {"poisson": 1, "gamma": 2, "tweedie": 1.5}.get(loss.name)
    f = make(loss)
    w = randn(f.dim, seed=1) / 3
    weights = 0.1 + randn(60, seed=3).abs()
    split = replace(samples(f), weights=weights / weights.mean())
    y, mu, v = split.y.numpy(), torch.exp(f.outputs_on(w, split)).numpy(), weights.numpy()
    found = f.measures(w, split)
    assert found["mean_absolute_error"] == pytest.approx(
        mean_absolute_error(y, mu, sample_weight=v)
    )
    if power is not None:
        expected = d2_tweedie_score(y, mu, sample_weight=v, power=power)
        assert found["d2"] == pytest.approx(expected)
    assert f.accuracy(w, split) is None


def test_d2_of_least_squares_is_r2_and_is_left_out_of_constant_targets():
    f = make("least_squares")
    w = randn(f.dim, seed=1)
    Z = f.outputs_on(w, samples(f))
    assert f.measures(w, samples(f))["d2"] == pytest.approx(r2_score(f.y, Z))
    zeros = make("poisson", y=torch.zeros(60))
    assert "d2" not in zeros.measures(w, samples(zeros))


@pytest.mark.parametrize(
    ("name", "options", "lowest", "says"),
    [
        ("poisson", {}, -1.0, "of at least 0, and dataset=zoo has -1"),
        ("negative_binomial", {}, -1.0, "of at least 0"),
        ("gamma", {}, 0.0, "above 0, and dataset=zoo has 0"),
        ("tweedie", {"power": 2.5}, 0.0, "above 0"),
    ],
)
def test_targets_out_of_range_are_refused(name, options, lowest, says):
    y = torch.ones(60)
    y[7] = lowest
    with pytest.raises(ConfigError, match=f"loss={name} needs targets {says}"):
        entry("loss", name).target(make_dataset("regression", y=y), **options)


def test_no_minimum_has_no_certificate():
    """Counts that are all 0 send a free intercept to minus infinity."""
    f = entry("loss", "poisson").target(
        make_dataset("regression", y=torch.zeros(60)), intercept="free"
    )
    assert f.suboptimality_bound(f.at(torch.ones(f.dim).double())) == np.inf


def test_an_offset_of_many_classes_is_refused_and_scikit_learn_knows_none():
    many = with_offset(make_dataset("multiclass"), torch.ones(60).double())
    with pytest.raises(ConfigError, match="an output for each class"):
        entry("loss", "multinomial").target(many)
    f = entry("loss", "logistic").target(
        with_offset(make_dataset("binary"), torch.ones(60).double())
    )
    peer = entry("optimizer", "sklearn_lbfgs").build({})
    with pytest.raises(UnsupportedError, match="knows no offset"):
        next(peer.steps(f, torch.zeros(f.dim).double(), torch.Generator()))


@pytest.mark.parametrize("theta", [1e-3, 1.0, 1e6])
@pytest.mark.parametrize("y", [1e-8, 0.3, 5.0, 1e8, 1e15])
def test_no_count_cancels_in_the_negative_binomials_value(y, theta):
    """Against 60 digits; beside eps of itself it is off by what rounding z itself changes."""
    with mpmath.workdps(60):
        count, start = mpmath.mpf(y), mpmath.mpf(math.log(y))
        for t in (-700.0, -60.0, -5.0, -1.0, -1e-3, 1e-3, 1.0, 5.0, 60.0, 400.0):
            z = math.log(y) + t
            off = mpmath.mpf(z) - start
            mean = count * mpmath.exp(off)
            ratio = mpmath.log((mean + theta) / (count + theta))
            exact = float((count + theta) * ratio - count * off)
            slope = float(abs(theta * (mean - count) / (mean + theta)))
            data = (torch.tensor([value], dtype=torch.float64) for value in (z, y))
            found = float(NegativeBinomialTerms(*data, theta=theta).value)
            scale = abs(exact) + abs(t) * y * theta / (y + theta)
            assert abs(found - exact) <= 1e-15 * (scale + slope * (abs(z) + abs(math.log(y)) + 1))


@pytest.mark.parametrize("power", [1.0000001, 1.3, 1.9, 2.7])
def test_a_power_is_not_rounded_to_single_precision(power):
    z = torch.tensor([-3.0, -0.5, 0.5, 3.0], dtype=torch.float64)
    y = torch.tensor([0.3, 1.0, 2.0, 7.0], dtype=torch.float64)
    exact = y ** (2 - power) * (
        torch.exp((2 - power) * (z - y.log())) - torch.exp((1 - power) * (z - y.log()))
    )
    found = TweedieTerms(z, y, power=power).gradient * len(y)
    assert torch.allclose(found, exact, rtol=1e-13, atol=0)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 2.5, 3.0, 4.0])
@pytest.mark.parametrize("y", [1e-60, 1.0, 1e60])
def test_tweedies_exponentials_leave_the_range_where_the_loss_does_and_never_meet(y, power):
    """Against 60 digits; at z = -750 both powers of the mean are infinite for p = 3."""
    a, b, largest = 1 - power, 2 - power, float(np.finfo(float).max)
    with mpmath.workdps(60):
        for z in (-750.0, -300.0, -60.0, -1.0, 1.0, 60.0, 300.0, 750.0):
            target, mean = mpmath.mpf(y), mpmath.exp(mpmath.mpf(z))
            data = (torch.tensor([value], dtype=torch.float64) for value in (z, y))
            terms = TweedieTerms(*data, power=power)
            exact = {
                "value": _half_deviance(target, mean, power),
                "gradient": mean**b - target * mean**a,
                "weights": b * mean**b - a * target * mean**a,
            }
            # An exponent is known to its last bit alone.
            off = 8 * (1 + (1 + abs(a)) * abs(z) + abs(math.log(y))) * np.finfo(float).eps
            size = float(min(mean**b + target * mean**a + target**b, mpmath.mpf(largest)))
            for name, value in exact.items():
                found = float(getattr(terms, name))
                if abs(value) > largest:
                    assert found == math.copysign(math.inf, value), (z, name)
                else:
                    assert abs(found - float(value)) <= off * size, (z, name)


def test_targets_whose_losses_have_no_number_are_refused():
    z = torch.zeros(3, dtype=torch.float64)
    for y in (1e-200, 1e200):
        with pytest.raises(ConfigError, match="divide the targets by their median"):
            single("tweedie", z, torch.full_like(z, y), power=4.0)


@pytest.mark.parametrize("name", ["probit", "poisson", "huber"])
@pytest.mark.parametrize("b", [-3.0, 0.0, 5.0])
@pytest.mark.parametrize("distance", [0.0, 3.0])
def test_an_intercepts_reach_is_bounded_by_few_tangents(name, b, distance):
    """By a third of twenty, and not far above what the best of them says."""
    y = TARGETS if name != "probit" else torch.tensor([0, 1, 1, 0, 1, 0])
    f = single(name, OUTPUTS, y / 10 if name == "huber" else y)
    asked = []

    def shifted(t):
        asked.append(t)
        terms = f.terms(OUTPUTS + (b + t), f._targets, None)
        u = terms.gradient
        return float(terms.value), float(u.sum()), float(u.norm())

    value = float(f.terms(OUTPUTS + b, f._targets, None).value)
    optimum = scipy.optimize.brentq(lambda t: shifted(t - b)[1], -50, 50, xtol=1e-12)
    asked.clear()
    found = tangent_reach(shifted, value, distance)
    assert abs(optimum - b) <= found < math.inf and len(asked) <= 14
    best = []
    for sign in (1, -1):
        points = [(2.0**k, *shifted(sign * 2.0**k)) for k in range(-2, 8)]
        best.append(
            min(
                max(t + (value - loss + g * distance) / abs(s), 0)
                for t, loss, s, g in points
                if sign * s > 0
            )
        )
    assert found <= 1.3 * max(best)
