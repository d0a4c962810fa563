"""Other libraries' optimizers: the same objective, the same start, honest traces."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import scipy.optimize
import torch
from optimizer_parts import a9a, logistic, make_optimizer, minimize, optimum_of, small
from problems import Function, make, make_dataset, randn, rosenbrock
from sklearn.linear_model import LogisticRegression

from newton_krylov.errors import ConfigError, UnsupportedError
from newton_krylov.optimizers.peers.library import load
from newton_krylov.registry import entry, names
from newton_krylov.runs.runner import Outcome

METHODS = {
    "scipy_newton_cg": "Newton-CG",
    "scipy_trust_ncg": "trust-ncg",
    "scipy_trust_krylov": "trust-krylov",
    "scipy_lbfgsb": "L-BFGS-B",
}
SCIPY = list(METHODS)
SKLEARN = ["sklearn_newton_cg", "sklearn_newton_cholesky", "sklearn_lbfgs", "sklearn_liblinear"]
PEERS = SCIPY + SKLEARN


def test_the_issue_s_peers_are_all_there():
    assert set(PEERS) <= set(names("optimizer"))


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("l2", [1.0, 0.01, 1e-3])
@pytest.mark.parametrize("name", PEERS)
def test_they_minimize_our_objective_whatever_the_regularizer(name, l2, sparse):
    """A wrong C = 1 / (n l2), an intercept, or a bias that escapes the penalty would all show."""
    dataset = small(sparse=sparse)
    f = logistic(dataset, l2)
    optimum = optimum_of(dataset, l2=l2).value
    result = minimize(f, make_optimizer(name), optimum=optimum, suboptimality=1e-11, grad_norm=None)
    assert result.outcome is Outcome.CONVERGED
    assert result.rows[-1].suboptimality > -1e-15


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("bias", [False, True])
def test_they_reach_a9a_s_optimum_with_and_without_bias(name, bias):
    optimum = optimum_of(a9a(bias=bias)).value
    f = logistic(a9a(bias=bias))
    result = minimize(f, make_optimizer(name), optimum=optimum, suboptimality=1e-10, grad_norm=None)
    assert result.outcome is Outcome.CONVERGED
    assert result.rows[-1].iteration <= 30


@pytest.mark.parametrize("name", [*SCIPY, "sklearn_liblinear"])
def test_squared_hinge_too(name):
    dataset = make_dataset("binary")
    f = entry("loss", "squared_hinge").build({"l2": 0.05}, dataset=dataset)
    result = minimize(f, make_optimizer(name), grad_norm=None, epochs=200)
    assert result.rows[-1].loss == pytest.approx(minimize(f, "newton").rows[-1].loss, rel=1e-7)


@pytest.mark.parametrize("name", [*SCIPY, "sklearn_newton_cg", "sklearn_lbfgs"])
def test_the_multinomial_loss_too(name):
    """scikit-learn's coefficients are classes by features, ours features by classes."""
    f = make("multinomial", n=150)
    result = minimize(f, make_optimizer(name), randn(f.dim, seed=1), grad_norm=None, epochs=200)
    assert result.rows[-1].loss == pytest.approx(minimize(f, "newton").rows[-1].loss, rel=1e-9)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", ["sklearn_newton_cg", "sklearn_newton_cholesky", "sklearn_lbfgs"])
def test_an_intercept_without_a_penalty_is_scikit_learn_s_own(name, sparse):
    f = entry("loss", "logistic").build(
        {"l2": 0.05, "intercept": "free"}, dataset=small(sparse=sparse)
    )
    w0 = randn(f.dim, seed=3)
    rows = minimize(f, make_optimizer(name), w0, grad_norm=None, epochs=200).rows
    assert rows[0].loss == f.at(w0).value
    assert rows[-1].loss == pytest.approx(minimize(f, "newton").rows[-1].loss, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("sklearn_liblinear", {"intercept": "free"}, "liblinear penalizes the intercept; take"),
        ("sklearn_lbfgs", {"penalty": [0.0] + [1.0] * 6}, "penalizes all columns alike"),
    ],
)
def test_a_penalty_that_scikit_learn_does_not_have_is_refused(name, options, says):
    f = entry("loss", "logistic").build({"l2": 0.05, **options}, dataset=make_dataset("binary"))
    with pytest.raises(UnsupportedError, match=says):
        minimize(f, make_optimizer(name))


@pytest.mark.parametrize("name", PEERS)
def test_all_but_liblinear_start_where_the_run_does(name):
    f = logistic(small())
    w0 = randn(f.dim, seed=3)
    rows = minimize(f, make_optimizer(name), w0, epochs=1, grad_norm=None).rows
    if name == "sklearn_liblinear":
        assert "knows no start but zero" in rows[0].note
        w0 = torch.zeros_like(w0)
    assert rows[0].loss == f.at(w0).value
    assert rows[1].loss < rows[0].loss


# --- how a trace came about ---------------------------------------------------------------------


@pytest.mark.parametrize("name", SCIPY)
def test_scipy_s_rows_are_its_iterations_and_its_costs_its_evaluations(name):
    f = logistic(small())
    rows = minimize(f, make_optimizer(name), epochs=6, grad_norm=None).rows
    assert rows[0].note == "live, through SciPy's callback"
    iterates, g = [], logistic(small())

    def at(x):
        return g.at(torch.from_numpy(x.copy()))

    second_order = {"hessp": lambda x, v: (at(x).hessian() @ torch.from_numpy(v)).numpy()}
    scipy.optimize.minimize(
        lambda x: (at(x).value, at(x).grad.numpy()),
        np.zeros(f.dim),
        jac=True,
        method=METHODS[name],
        callback=lambda intermediate_result: iterates.append(intermediate_result.x.copy()),
        **({} if name == "scipy_lbfgsb" else second_order),
    )
    expected = [at(x).value for x in iterates[:6]]
    assert len(expected) >= 4
    assert [row.loss for row in rows[1 : len(expected) + 1]] == pytest.approx(expected, rel=1e-12)
    inner = [row.inner_iterations for row in rows]
    assert sum(inner) == rows[-1].hvp_count
    assert all(row.step_seconds > 0 for row in rows)


@pytest.mark.parametrize("name", SKLEARN)
def test_scikit_learn_s_rows_are_fits_of_their_own_and_say_so(name):
    f = logistic(small())
    rows = minimize(f, make_optimizer(name), epochs=4, grad_norm=None).rows
    assert rows[0].note == "rerun from here for every row"
    assert [row.note for row in rows[1:]] == [f"rerun with max_iter={k}" for k in (1, 2, 3, 4)]
    assert all(b.seconds >= a.seconds for a, b in pairwise(rows))
    X, y = f.features.X.numpy(), f.y.numpy()
    for row in rows[1:]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(
                C=1 / (200 * 0.01), fit_intercept=False, tol=2.2e-16,
                solver=name.removeprefix("sklearn_").replace("_", "-"), max_iter=row.iteration,
            ).fit(X, y)  # fmt: skip
        w = torch.from_numpy(model.coef_[0].copy())
        assert row.loss == pytest.approx(f.at(w).value, rel=1e-9)


@pytest.mark.parametrize("name", SKLEARN)
def test_what_scikit_learn_does_not_tell_is_unknown_not_zero(name):
    f = logistic(small())
    row = minimize(f, make_optimizer(name), epochs=2, grad_norm=None).rows[-1]
    unknown = (row.inner_iterations, row.data_passes, row.hvp_count, row.function_count)
    assert all(math.isnan(value) for value in unknown)
    assert f.counts.function == 0.0


@pytest.mark.parametrize("name", PEERS)
def test_left_alone_they_end_by_themselves_and_say_why(name):
    f = logistic(small())
    result = minimize(f, make_optimizer(name), grad_norm=None, epochs=500)
    if name != "scipy_trust_krylov":  # that one goes on for ever in the last bits
        assert result.outcome is Outcome.ENDED
        assert "SciPy's" in result.reason or "scikit-learn's" in result.reason
    assert result.rows[-1].loss - optimum_of(small()).value < 1e-9


def test_a_refused_step_of_a_trust_region_is_a_row_with_a_note():
    f = Function(rosenbrock, 2)
    w0 = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    rows = minimize(f, make_optimizer("scipy_trust_ncg"), w0, epochs=60, grad_norm=1e-9).rows
    refused = [(a, b) for a, b in pairwise(rows) if b.note == "step refused"]
    assert refused
    assert all(a.loss == b.loss for a, b in refused)
    assert rows[-1].loss < 1e-18


@pytest.mark.parametrize("name", PEERS)
def test_they_give_no_warnings_and_leave_numpy_s_error_state_alone(name):
    before = np.geterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Sparse")
        minimize(logistic(small()), make_optimizer(name), epochs=3, grad_norm=None)
    assert np.geterr() == before


@pytest.mark.parametrize("name", SCIPY)
def test_an_abandoned_run_leaves_nothing_behind(name):
    f = logistic(small())
    steps = make_optimizer(name).steps(f, torch.zeros(f.dim).double(), torch.Generator())
    next(steps), next(steps)
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)


@pytest.mark.parametrize("name", SCIPY)
def test_an_error_inside_the_objective_is_not_swallowed(name):
    f = logistic(small())

    class Broken(Exception):
        pass

    def explode(w):
        raise Broken

    steps = make_optimizer(name).steps(f, torch.zeros(f.dim).double(), torch.Generator())
    next(steps)
    f.at = explode
    with pytest.raises(Broken):
        list(steps)


def test_what_they_cannot_do_is_refused_with_a_sentence():
    with pytest.raises(UnsupportedError, match="minimizes loss=logistic or multinomial, not"):
        minimize(make("least_squares"), make_optimizer("sklearn_lbfgs"))
    with pytest.raises(UnsupportedError, match="minimizes loss=logistic or squared_hinge, not"):
        minimize(Function(rosenbrock, 2), make_optimizer("sklearn_liblinear"))
    with pytest.raises(UnsupportedError, match=r"liblinear needs loss\.l2 > 0"):
        minimize(logistic(small(), 0.0), make_optimizer("sklearn_liblinear"))
    with pytest.raises(ConfigError, match="initial_trust_radius=2 must be below"):
        make_optimizer("scipy_trust_ncg", initial_trust_radius=2.0, max_trust_radius=1.0)
    with pytest.raises(UnsupportedError, match="need the package 'no_such_package'"):
        load("no_such_package.module")
