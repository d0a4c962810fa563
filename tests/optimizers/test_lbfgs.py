"""L-BFGS: the textbook's recursion, conjugate gradients on a quadratic, and SciPy's."""

from itertools import pairwise

import pytest
import scipy.optimize
import torch
from optimizer_parts import a9a, logistic, make_optimizer, minimize, optimum_of, small
from problems import (
    CONVEX_LOSSES,
    DTYPES,
    Function,
    assert_close,
    make,
    quadratic,
    randn,
    rosenbrock,
)

from newton_krylov.linear_solvers.cg import cg
from newton_krylov.optimizers.line_search import LineSearchResult
from newton_krylov.runs.runner import Outcome


def lbfgs(**options):
    return make_optimizer("lbfgs", **{"line_search": "strong_wolfe", **options})


def exact_search(ray):
    """Minimize along the ray of a quadratic."""
    H = ray.origin.hessian().dense()
    alpha = -ray.slope / float(ray.p @ (H @ ray.p))
    return LineSearchResult(alpha, ray.point(alpha))


@pytest.mark.parametrize("memory", [1, 3, 30])
def test_with_exact_line_searches_on_a_quadratic_it_is_conjugate_gradients(memory):
    """Nocedal and Wright, theorem 6.4 and section 7.2: for any memory, even of one pair."""
    f = quadratic(torch.logspace(0, -1.5, 12, dtype=torch.float64))
    w0 = torch.zeros(12, dtype=torch.float64)
    iterates = []
    cg(
        f.at(w0).hessian(),
        -f.at(w0).grad,
        rtol=1e-12,
        callback=lambda x, r: iterates.append(x.clone()),
    )
    generator = torch.Generator()
    steps = make_optimizer("lbfgs", line_search=exact_search, memory=memory).steps(f, w0, generator)
    next(steps)
    for x, step in zip(iterates[:9], steps, strict=False):
        assert_close(step.point.w, x, 1e-8)


def test_its_directions_are_those_of_the_dense_inverse_update():
    """With all pairs kept: H+ = (I - r s y') H (I - r y s') + r s s', from H0 = (s'y / y'y) I."""
    f = Function(rosenbrock, 4)
    w0 = torch.tensor([-1.2, 1.0, -0.5, 0.8], dtype=torch.float64)
    directions, points = [], []

    def search(ray):
        directions.append(ray.p.clone())
        points.append(ray.origin)
        return make_optimizer("lbfgs", line_search="strong_wolfe").line_search(ray)

    minimize(f, make_optimizer("lbfgs", line_search=search, memory=50), w0, epochs=12)
    pairs = [(b.w - a.w, b.grad - a.grad) for a, b in pairwise(points)]
    for k in range(1, len(points)):
        s, y = pairs[k - 1]
        H = (s @ y) / (y @ y) * torch.eye(4, dtype=torch.float64)
        for s, y in pairs[:k]:
            V = torch.eye(4, dtype=torch.float64) - torch.outer(y, s) / (y @ s)
            H = V.T @ H @ V + torch.outer(s, s) / (y @ s)
        assert_close(directions[k], -H @ points[k].grad, 1e-8)


@pytest.mark.parametrize("line_search", ["strong_wolfe", "armijo"])
@pytest.mark.parametrize("loss", CONVEX_LOSSES, ids=str)
def test_it_reaches_the_certified_optimum_of_any_convex_loss(loss, line_search):
    f = make(loss)
    optimizer = lbfgs(line_search=line_search)
    result = minimize(f, optimizer, randn(f.dim, seed=1), epochs=500, grad_norm=1e-9)
    assert result.outcome is Outcome.CONVERGED
    assert result.rows[-1].loss - minimize(f, "newton").rows[-1].loss <= 1e-16 / f.l2
    assert all(b.loss <= a.loss + f.rounding(a.loss) for a, b in pairwise(result.rows))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_either_precision_it_ends_at_the_rounding_error(dtype):
    result = minimize(logistic(small(dtype=dtype)), lbfgs(), grad_norm=None, epochs=500)
    assert result.outcome in (Outcome.ENDED, Outcome.LIMIT)
    assert abs(result.rows[-1].loss - optimum_of(small()).value) <= 20 * torch.finfo(dtype).eps


@pytest.mark.parametrize("seed", range(3))
def test_it_takes_about_as_many_iterations_and_evaluations_as_scipy_s(seed):
    f = logistic(small(n=400, d=30, condition=100.0))
    w0 = randn(f.dim, seed=seed)
    rows = minimize(f, lbfgs(), w0, epochs=1000, grad_norm=1e-7).rows

    def value_and_gradient(x):
        point = f.at(torch.from_numpy(x.copy()))
        return point.value, point.grad.numpy()

    theirs = scipy.optimize.minimize(
        value_and_gradient, w0.numpy(), jac=True, method="L-BFGS-B",
        options={"maxcor": 10, "ftol": 0.0, "gtol": 1e-8, "maxiter": 5000},
    )  # fmt: skip
    assert rows[-1].loss == pytest.approx(theirs.fun, rel=1e-12)
    assert rows[-1].iteration < 1.3 * theirs.nit
    assert rows[-1].function_count < 1.3 * theirs.nfev


def test_it_reaches_a9a_s_optimum():
    optimum = optimum_of(a9a()).value
    result = minimize(logistic(a9a()), lbfgs(), optimum=optimum, suboptimality=1e-12, epochs=200)
    assert result.outcome is Outcome.CONVERGED
    assert result.rows[-1].iteration < 60
    assert result.rows[-1].hvp_count == 0


@pytest.mark.parametrize("line_search", ["strong_wolfe", "armijo"])
def test_rosenbrock_s_valley_is_followed_to_its_end(line_search):
    f = Function(rosenbrock, 10)
    w0 = torch.tensor([-1.2, 1.0] * 5, dtype=torch.float64)
    result = minimize(f, lbfgs(line_search=line_search), w0, epochs=500, grad_norm=1e-9)
    assert result.outcome is Outcome.CONVERGED


def test_pairs_without_curvature_are_skipped():
    """Full steps on a concave stretch give s'y < 0, with which the update would be indefinite."""
    f = Function(lambda w: torch.cos(w).sum() + 0.05 * (w @ w), 2)
    w0 = torch.tensor([0.1, -0.2], dtype=torch.float64)
    rows = minimize(f, lbfgs(line_search="armijo"), w0, epochs=100, grad_norm=1e-10).rows
    assert all(b.loss < a.loss for a, b in pairwise(rows[:5]))
    assert rows[-1].grad_norm <= 1e-10
