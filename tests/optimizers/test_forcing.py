"""Forcing terms: their formulas and safeguards, and the rates of convergence they promise."""

import math
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from optimizer_parts import logistic, make_optimizer, minimize, small
from problems import Function, randn

from newton_krylov.errors import ConfigError
from newton_krylov.linear_solvers.result import LinearResult, Status
from newton_krylov.optimizers.forcing import Inner, Outer, eisenstat_walker, fixed, superlinear
from newton_krylov.optimizers.line_search import LineSearchResult
from newton_krylov.registry import entry

GOLDEN = (1 + math.sqrt(5)) / 2
norms = st.floats(1e-12, 1e12)
etas = st.floats(1e-8, 0.9)
inners = st.builds(Inner, etas, norms, norms, st.floats(1e-3, 1.0))


def sloppy(A, b, *, rtol, M=None):
    """Solve with a relative residual of exactly rtol: the least that a forcing term asks for."""
    matrix, noise = A.dense(), randn(len(b), seed=int(1e6 * rtol))
    residual = noise * (rtol * torch.linalg.vector_norm(b) / torch.linalg.vector_norm(noise))
    x = torch.linalg.solve(matrix, b - residual)
    norm = float(torch.linalg.vector_norm(b))
    return LinearResult(x, Status.CONVERGED, 1, 1, [norm, rtol * norm])


def gradient_norms(forcing, **stop):
    f = logistic(small())
    optimizer = make_optimizer(solver=sloppy, forcing=forcing)
    return [row.grad_norm for row in minimize(f, optimizer, **stop).rows]


# --- what convergence they lead to --------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.5, 0.1, 0.01])
def test_a_fixed_eta_gives_linear_convergence_with_that_factor(eta):
    """Dembo, Eisenstat and Steihaug: |g+| = eta |g| + O(|g|^2)."""
    g = gradient_norms(("fixed", {"eta": eta}), grad_norm=1e-10)
    ratios = [b / a for a, b in pairwise(g) if a < 1e-3]
    assert len(ratios) >= 3
    assert ratios == pytest.approx([eta] * len(ratios), rel=0.02)


def test_superlinear_gives_convergence_of_order_three_halves():
    g = gradient_norms("superlinear", grad_norm=1e-13)
    constants = [b / a**1.5 for a, b in pairwise(g) if 1e-9 < a < 1e-2]
    assert len(constants) >= 3
    # Beside the eta |g| = |g|^1.5 there is the O(|g|^2) of Newton's method itself.
    assert all(0.5 < c < 1.5 for c in constants)
    assert constants[-1] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("choice", "order"), [(1, GOLDEN), (2, 2.0)])
def test_eisenstat_and_walker_s_choices_converge_with_their_orders(choice, order):
    """Their theorems 2.2 and 2.3: order (1 + sqrt 5) / 2 at least, and alpha."""
    g = gradient_norms(("eisenstat_walker", {"choice": choice}), grad_norm=1e-14)
    late = [x for x in g if 1e-13 < x < 1e-1]
    falls = [math.log(b / a) for a, b in pairwise(late)]
    orders = [b / a for a, b in pairwise(falls)]
    assert orders[-1] > order - 0.25


def test_an_exact_solve_gives_quadratic_convergence():
    optimizer = make_optimizer(forcing=("fixed", {"eta": 1e-12}))
    rows = minimize(logistic(small()), optimizer).rows
    late = [row.grad_norm for row in rows if 1e-12 < row.grad_norm < 1e-1]
    orders = [math.log(b) / math.log(a) for a, b in pairwise(late)]
    assert len(late) >= 3
    assert orders[-1] > 1.8


def test_a_looser_forcing_term_needs_fewer_inner_and_more_outer_iterations():
    f = logistic(small(condition=100.0))
    counts = []
    for eta in (1e-10, 1e-1):
        optimizer = make_optimizer(solver="cg", forcing=("fixed", {"eta": eta}))
        rows = minimize(f, optimizer, grad_norm=1e-6).rows
        counts.append((rows[-1].iteration, sum(row.inner_iterations for row in rows)))
    (tight_outer, tight_inner), (loose_outer, loose_inner) = counts
    assert tight_outer < loose_outer
    assert tight_inner > loose_inner


# --- the formulas -------------------------------------------------------------------------------


def test_fixed_and_superlinear_are_their_formulas():
    for norm in (1e-6, 1e-2, 1.0, 1e3):
        assert fixed(Outer(norm), eta=0.3) == 0.3
        assert superlinear(Outer(norm), eta=0.5) == min(0.5, math.sqrt(norm))


def test_choice_1_compares_with_the_linear_model():
    """Formula (2.2): eta = | |g_k| - |g_k-1 + H p| | / |g_k-1|, far from its safeguard."""
    last = Inner(eta=1e-3, grad_norm=2.0, residual_norm=0.02, step_size=1.0)
    assert eisenstat_walker(Outer(0.1, last), choice=1) == pytest.approx((0.1 - 0.02) / 2)
    assert eisenstat_walker(Outer(0.01, last), choice=1) == pytest.approx((0.02 - 0.01) / 2)


def test_choice_1_of_a_shortened_step_uses_the_model_where_the_step_ended():
    last = Inner(eta=1e-3, grad_norm=2.0, residual_norm=0.02, step_size=0.25)
    predicted = 0.75 * 2.0 + 0.25 * 0.02
    assert eisenstat_walker(Outer(1.4, last), choice=1) == pytest.approx(abs(1.4 - predicted) / 2)


def test_choice_2_is_a_power_of_the_ratio():
    """Formula (2.6): eta = gamma (|g_k| / |g_k-1|)^alpha."""
    last = Inner(eta=1e-3, grad_norm=2.0, residual_norm=0.02, step_size=1.0)
    assert eisenstat_walker(Outer(0.5, last)) == pytest.approx(0.9 * (0.5 / 2) ** 2)
    eta = eisenstat_walker(Outer(0.5, last), gamma=0.5, alpha=1.5)
    assert eta == pytest.approx(0.5 * (0.5 / 2) ** 1.5)


@pytest.mark.parametrize("choice", [1, 2])
def test_the_safeguard_keeps_eta_from_falling_too_fast(choice):
    """A lucky step must not ask for a far more exact solve at once, far from the optimum."""
    last = Inner(eta=0.8, grad_norm=1.0, residual_norm=0.5, step_size=1.0)
    floor = 0.8**GOLDEN if choice == 1 else 0.9 * 0.8**2
    lucky = 0.5 if choice == 1 else 1e-8
    assert floor > 0.1
    assert eisenstat_walker(Outer(lucky, last), choice=choice) == pytest.approx(floor)
    small_eta = Inner(eta=0.05, grad_norm=1.0, residual_norm=0.5, step_size=1.0)
    assert eisenstat_walker(Outer(lucky, small_eta), choice=choice) < 1e-4


@given(last=inners, norm=norms, choice=st.sampled_from([1, 2]))
def test_eta_is_always_usable(last, norm, choice):
    assert 0 < eisenstat_walker(Outer(norm, last), choice=choice) <= 0.9
    assert eisenstat_walker(Outer(norm), choice=choice) == 0.5


@given(last=inners, choice=st.sampled_from([1, 2]))
def test_after_a_refused_step_the_same_system_is_solved_more_exactly(last, choice):
    """The gradient is the same, and the formulas would see a ratio of 1: ask for less exactness."""
    refused = Inner(last.eta, last.grad_norm, last.residual_norm, 0.0)
    assert eisenstat_walker(Outer(last.grad_norm, refused), choice=choice) == last.eta / 2


# --- stale ratios in the loop -------------------------------------------------------------------


@pytest.mark.parametrize("choice", [1, 2])
def test_where_newton_s_step_is_refused_the_next_eta_owes_nothing_to_the_step_taken_instead(choice):
    """The search refuses the system's solution and takes -gradient, which says nothing of eta."""
    f = logistic(small())
    asked, refusals = [], []

    def solver(A, b, *, rtol, M=None):
        asked.append(rtol)
        return sloppy(A, b, rtol=rtol)

    def refuses_once(ray):
        if not refusals:
            refusals.append(ray)
            return LineSearchResult(0.0, ray.origin)
        return LineSearchResult(1.0, ray.point(1.0))

    optimizer = make_optimizer(
        solver=solver, line_search=refuses_once, forcing=("eisenstat_walker", {"choice": choice})
    )
    rows = minimize(f, optimizer, epochs=2).rows
    assert "step refused, along -gradient" in rows[1].note
    assert rows[1].step_size == 1.0
    assert asked == [0.5, 0.25]


@pytest.mark.parametrize("choice", [1, 2])
def test_a_direction_of_negative_curvature_says_nothing_of_eta_either(choice):
    f = Function(lambda w: torch.cos(w).sum() + 0.1 * (w @ w), 3)
    asked = []

    def solver(A, b, *, rtol, M=None):
        asked.append(rtol)
        return entry("solver", "cg").build({})(A, b, rtol=rtol)

    w0 = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    optimizer = make_optimizer(solver=solver, forcing=("eisenstat_walker", {"choice": choice}))
    rows = minimize(f, optimizer, w0, epochs=2).rows
    assert "negative_curvature" in rows[1].note
    assert asked == [0.5, 0.25]


def test_bad_parameters_are_refused():
    for name, key, value in [
        ("fixed", "eta", 1.0),
        ("superlinear", "eta", 0.0),
        ("eisenstat_walker", "choice", 3),
        ("eisenstat_walker", "alpha", 1.0),
        ("eisenstat_walker", "gamma", 0.0),
    ]:
        with pytest.raises(ConfigError, match=f"forcing.{key}={value} is not valid"):
            entry("forcing", name).validate({key: value})
