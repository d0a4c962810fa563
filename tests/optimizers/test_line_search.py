"""Line searches against their own conditions, on nasty functions of one variable."""

import math
from dataclasses import astuple

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from problems import LOSSES, Function, make, randn, ray_of
from pydantic import ValidationError

from newton_krylov.errors import ConfigError
from newton_krylov.optimizers.hager_zhang import hager_zhang
from newton_krylov.optimizers.line_search import armijo, fixed, none, strong_wolfe
from newton_krylov.registry import entry, names


def gamma(beta):
    return math.sqrt(1 + beta**2) - beta


def yanai(beta1, beta2):
    """More and Thuente's (5.4): convex, with almost all of its bend near both ends."""
    return lambda a: (
        gamma(beta1) * torch.sqrt((1 - a) ** 2 + beta2**2)
        + gamma(beta2) * torch.sqrt(a**2 + beta1**2)
    )


def wavy(a, beta=0.01, waves=39):
    """More and Thuente's (5.3): |1 - a| rounded at the tip, under small fast waves."""
    tip = ((a - 1) ** 2 / beta + beta) / 2
    v = torch.where(a <= 1 - beta, 1 - a, torch.where(a >= 1 + beta, a - 1, tip))
    return v + 2 * (1 - beta) / (waves * math.pi) * torch.sin(waves * math.pi / 2 * a)


MORE_THUENTE = {
    "5.1": lambda a: -a / (a**2 + 2),
    "5.2": lambda a: (a + 0.004) ** 5 - 2 * (a + 0.004) ** 4,
    "5.3": wavy,
    "5.4": yanai(0.001, 0.001),
    "5.5": yanai(0.01, 0.001),
    "5.6": yanai(0.001, 0.01),
}
BARRIERS = {
    "log barrier": lambda a: -torch.log(1 - a) - 3 * a,
    "narrow log barrier": lambda a: -torch.log(1e-6 - a) - 1e7 * a,
    "inverse barrier": lambda a: torch.where(a < 1, 1 / (1 - a) ** 2, math.nan) - 5 * a,
    "square root": lambda a: torch.sqrt(a + 1e-9) - torch.sqrt(1 - a) - 40 * a,
    "overflow": lambda a: torch.exp(torch.exp(20 * a)) - 100 * a,
    "quartic of a tiny scale": lambda a: (1e15 * a) ** 4 - 1e15 * a,
    "quartic of a huge scale": lambda a: (1e-9 * a) ** 4 - 1e-9 * a,
}
FUNCTIONS = MORE_THUENTE | BARRIERS


def assert_sufficient_decrease(ray, found, c1):
    """phi(alpha) <= phi(0) + c1 alpha phi'(0), up to the rounding of phi."""
    slack = ray.origin.objective.rounding(max(abs(ray.origin.value), abs(found.point.value)))
    assert found.accepted
    assert found.point.value <= ray.origin.value + c1 * found.alpha * ray.slope + slack


def assert_wolfe(ray, found, c1, c2):
    assert_sufficient_decrease(ray, found, c1)
    assert abs(float(found.point.grad @ ray.p)) <= c2 * abs(ray.slope) * (1 + 1e-12)


@pytest.mark.parametrize("c2", [0.9, 0.1, 0.002])
@pytest.mark.parametrize("initial", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_strong_wolfe_holds_from_any_first_trial(name, initial, c2):
    ray = ray_of(FUNCTIONS[name])
    found = strong_wolfe(ray, c1=1e-3, c2=c2, initial=initial, max_steps=60)
    assert_wolfe(ray, found, 1e-3, c2)


@pytest.mark.parametrize("initial", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("name", MORE_THUENTE)
def test_strong_wolfe_needs_few_evaluations(name, initial):
    """More and Thuente's own search takes up to 12 to 30 from these starts."""
    ray = ray_of(MORE_THUENTE[name])
    assert_wolfe(ray, strong_wolfe(ray, c2=0.1, initial=initial), 1e-4, 0.1)
    assert ray.origin.objective.counts.function <= 25


def assert_wolfe_or_approximate(ray, found, delta, sigma):
    """The two ways in which Hager and Zhang's search may end."""
    assert found.accepted
    start, slope = ray.slope, float(found.point.grad @ ray.p)
    slack = ray.origin.objective.rounding(ray.origin.value)
    assert slope >= sigma * start
    enough = found.point.value <= ray.origin.value + delta * found.alpha * start
    flat = slope <= (2 * delta - 1) * start and found.point.value <= ray.origin.value + slack
    assert enough or flat


@pytest.mark.parametrize("sigma", [0.9, 0.1, 0.002])
@pytest.mark.parametrize("initial", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "square root"])
def test_hager_zhang_s_conditions_hold_from_any_first_trial(name, initial, sigma):
    ray = ray_of(FUNCTIONS[name])
    delta = min(0.1, sigma)
    found = hager_zhang(ray, delta=delta, sigma=sigma, initial=initial, max_steps=100)
    assert_wolfe_or_approximate(ray, found, delta, sigma)


@pytest.mark.parametrize("initial", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("name", MORE_THUENTE)
def test_hager_zhang_needs_few_evaluations(name, initial):
    ray = ray_of(MORE_THUENTE[name])
    assert hager_zhang(ray, delta=0.05, sigma=0.1, initial=initial).accepted
    assert ray.origin.objective.counts.function <= 25


def test_hager_zhang_finds_the_slope_s_zero_where_values_are_rounding():
    """phi falls by a rounding error of itself; its slope is known to all digits."""
    ray = ray_of(lambda a: 1e9 + 1e-8 * ((a - 3) ** 2 - 9))
    found = hager_zhang(ray, sigma=0.5, delta=0.49)
    assert found.alpha == pytest.approx(3.0, rel=0.02)
    assert ray.origin.value - found.point.value <= 2e-7


def test_hager_zhang_gives_up_with_the_best_decrease_it_met_and_keeps_to_its_budget():
    ray = ray_of(lambda a: -a)
    found = hager_zhang(ray, max_steps=10)
    assert (found.alpha, ray.origin.objective.counts.function) == (5.0**9, 11)
    for budget in range(1, 12):
        ray = ray_of(MORE_THUENTE["5.3"])
        hager_zhang(ray, sigma=1e-12, delta=1e-13, max_steps=budget)
        assert ray.origin.objective.counts.function <= budget + 1


@pytest.mark.parametrize("constants", [{"delta": 0.5}, {"delta": 0.3, "sigma": 0.2}])
def test_hager_zhang_s_constants_in_the_wrong_order_are_refused(constants):
    with pytest.raises(ConfigError, match=r"line_search\.delta="):
        hager_zhang(ray_of(lambda a: -a), **constants)


@pytest.mark.parametrize("shrink", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("c1", [1e-4, 0.3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_armijo_takes_the_first_sufficient_step_of_its_sequence(name, c1, shrink):
    ray = ray_of(FUNCTIONS[name])
    found = armijo(ray, c1=c1, shrink=shrink, initial=10.0, max_steps=500)
    assert_sufficient_decrease(ray, found, c1)
    before = found.alpha / shrink
    if before <= 10.0 * (1 + 1e-12):
        slack = ray.origin.objective.rounding(ray.origin.value)
        assert not ray.value(before) <= ray.origin.value + c1 * before * ray.slope + slack


smooth = st.tuples(
    st.floats(-2, 2), st.floats(0.1, 100), st.floats(0, 0.9), st.floats(0.1, 30), st.floats(0, 6)
)


@given(parameters=smooth, initial=st.floats(-3, 3).map(lambda e: 10**e), c2=st.floats(0.01, 0.95))
@settings(max_examples=300, deadline=None)
def test_strong_wolfe_on_quadratics_with_waves(parameters, initial, c2):
    """A quadratic of any width and a sine of any frequency: bounded below, many minima."""
    exponent, depth, share, frequency, phase = parameters
    width = 10**exponent

    def phi(a):
        t = a / width
        return depth * ((t - 1) ** 2 + share * torch.cos(frequency * t + phase) / frequency)

    ray = ray_of(phi)
    if ray.slope >= 0:
        return
    found = strong_wolfe(ray, c2=c2, initial=initial, max_steps=80)
    assert_wolfe(ray, found, 1e-4, c2)


@given(minimum=st.floats(1e-3, 1e3), initial=st.floats(1e-3, 1e3), offset=st.floats(-5, 5))
@settings(max_examples=100, deadline=None)
def test_strong_wolfe_finds_a_quadratics_minimum_by_interpolation(minimum, initial, offset):
    """The cubic through two points of a parabola is the parabola.

    Where the minimum is within 1e-4 .. 0.1 of a bracket's end, up to four trials are kept away
    from that end before the fifth may be at it.
    """
    ray = ray_of(lambda a: (a / minimum - 1) ** 2 + offset)
    found = strong_wolfe(ray, c2=1e-4, c1=1e-6, initial=initial)
    assert found.alpha == pytest.approx(minimum, rel=1e-3)
    doublings = max(0.0, math.log2(minimum / initial))
    shrinkings = max(0.0, math.log10(initial / minimum))
    assert ray.origin.objective.counts.function <= doublings + 2 * shrinkings + 8


class TestNearAnOptimum:
    """The decrease is below the rounding of phi; "line search failed" must not be the answer."""

    @pytest.fixture(params=[1e-9, 1e-12, 1e-15])
    def ray(self, request):
        """A Newton step on |w|^2 / 2 + 1000 from |w| = 1e-9 and nearer: phi is flat."""
        f = Function(lambda w: (w @ w) / 2 + 1000, 3)
        w = request.param * torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        return f.at(w).ray(-w)

    @pytest.mark.parametrize("search", [armijo, strong_wolfe])
    def test_the_full_newton_step_is_accepted(self, search, ray):
        assert search(ray).alpha == 1.0

    def test_even_where_rounding_makes_the_value_rise(self):
        """Values with noise of a few units in the last place, as a long sum has."""
        noise = torch.Generator().manual_seed(0)

        def f(w):
            last_place = 1000 * torch.finfo(torch.float64).eps
            return (w @ w) / 2 + 1000 + 3 * last_place * (torch.rand(1, generator=noise) - 0.5)[0]

        for _ in range(20):
            point = Function(f, 3).at(1e-9 * randn(3, seed=1))
            ray = point.ray(-point.w)
            ray.__dict__["slope"] = -float(point.w @ point.w)
            assert armijo(ray).alpha == 1.0

    @pytest.mark.parametrize("search", [armijo, strong_wolfe])
    def test_a_step_that_really_raises_the_value_is_still_refused(self, search):
        point = Function(lambda w: (w @ w) / 2 + 1000, 2).at(1e-5 * randn(2, seed=2))
        assert search(point.ray(-3 * point.w)).alpha < 1.0


@pytest.mark.parametrize("search", [armijo, hager_zhang, strong_wolfe])
def test_a_ray_that_never_goes_down_is_refused_at_its_origin(search):
    ray = ray_of(lambda a: torch.where(a == 0, -a, math.nan))
    found = search(ray)
    assert not found.accepted
    assert found.point is ray.origin
    assert ray.origin.objective.counts.function <= 41


@pytest.mark.parametrize("search", [armijo, hager_zhang, strong_wolfe])
def test_an_origin_that_is_not_finite_is_refused(search):
    assert not search(ray_of(lambda a: a * math.nan)).accepted


def test_strong_wolfe_gives_up_with_the_best_decrease_it_met():
    """phi falls for ever: there is no Wolfe point, but every trial is a decrease."""
    ray = ray_of(lambda a: -a)
    found = strong_wolfe(ray, max_steps=10)
    assert found.alpha == 2.0**9
    assert found.point.value == -(2.0**9)


def test_strong_wolfe_keeps_to_its_budget():
    for budget in range(1, 12):
        ray = ray_of(MORE_THUENTE["5.3"])
        strong_wolfe(ray, c2=1e-12, c1=1e-13, max_steps=budget)
        assert ray.origin.objective.counts.function <= budget + 1


def test_armijo_keeps_to_its_budget():
    ray = ray_of(lambda a: -a + 1e9 * a**2)
    assert not armijo(ray, max_steps=5).accepted
    assert ray.origin.objective.counts.function == 5 + 1


def test_none_and_fixed_do_not_look():
    ray = ray_of(lambda a: a**2 - a)
    assert none(ray).alpha == 1.0
    assert fixed(ray, step_size=3.5).alpha == 3.5
    assert float(fixed(ray, step_size=3.5).point.w) == 3.5
    assert ray.origin.objective.counts.function == 0


def test_wolfe_constants_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match=r"line_search\.c1=0\.9 must be smaller than"):
        strong_wolfe(ray_of(lambda a: -a), c1=0.9, c2=0.5)


def test_the_registry_holds_them():
    assert {"armijo", "fixed", "hager_zhang", "none", "strong_wolfe"} <= set(names("line_search"))
    for key, value in {"c1": 1.5, "shrink": 0.0, "initial": -1.0, "max_steps": 0}.items():
        with pytest.raises((ConfigError, ValidationError)):
            entry("line_search", "armijo").build({key: value})


def cost(f, operation):
    """(function, gradient, hvp, hessian, passes) of one operation."""
    before = astuple(f.counts)[:5]
    operation()
    return tuple(b - a for a, b in zip(before, astuple(f.counts)[:5], strict=True))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("search", [armijo, hager_zhang, strong_wolfe])
def test_a_whole_step_of_descent_is_one_pass(loss, search):
    """Half for X p, half for the gradient at the end; trials read no data."""
    f = make(loss)
    point = f.at(randn(f.dim, seed=1))
    p = -1e3 * point.grad
    _ = point.value
    found = []

    def step():
        found.append(search(point.ray(p)))
        _ = found[0].point.value, found[0].point.grad

    functions, gradients, hvps, hessians, passes = cost(f, step)
    assert found[0].accepted and functions > 1
    assert (gradients, hvps, hessians, passes) == (1, 0, 0, 1)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_trial_is_evaluated_twice(name):
    """The step that strong Wolfe ends with may be an earlier trial than its last."""
    for budget in range(1, 15):
        ray, seen = ray_of(FUNCTIONS[name]), set()
        original = ray.point
        ray.point = lambda a, seen=seen, original=original: seen.add(a) or original(a)
        _ = strong_wolfe(ray, c2=1e-3, max_steps=budget).point.value
        assert ray.origin.objective.counts.function == len(seen - {0.0}) + 1
