"""Row-norm sampling and sketches: without bias, close in the spectral norm, and what they cost."""

import math

import pytest
import torch
from problems import assert_close, make, matrix, randn

from newton_krylov.curvature.leverage_subsampled import LeverageSubsampled, _draw
from newton_krylov.curvature.sketched import SketchedHessian
from newton_krylov.errors import ConfigError, UnsupportedError
from newton_krylov.registry import entry

CURVATURES = {
    "leverage": LeverageSubsampled,
    "gaussian": lambda **options: SketchedHessian("gaussian", **options),
    "count_sketch": lambda **options: SketchedHessian("count_sketch", **options),
}
LOSSES = ["logistic", "squared_hinge", "least_squares", "sigmoid_least_squares"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def target(point):
    """What is approximated: the Gauss-Newton matrix, for a convex loss the Hessian."""
    return point.gauss_newton().dense()


def problem(loss="logistic", n=300, *, spread=1.0, sparse=False):
    """Rows whose norms spread over a factor: what row-norm sampling is for."""
    X = matrix(n, 6) * torch.logspace(0, math.log10(spread), n, dtype=torch.float64)[:, None]
    f = make(loss, X=X, sparse=sparse)
    return f, f.at(0.3 * randn(f.dim, seed=1))


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", CURVATURES)
def test_the_mean_over_many_draws_is_the_hessian(name, loss, sparse):
    _, point = problem(loss, n=80, sparse=sparse)
    curvature, draw = CURVATURES[name](size=20, alpha=0.0), generator()
    draws = torch.stack([curvature.at(point, draw).dense() for _ in range(400)])
    mean, deviation = draws.mean(0), draws.std(0) / math.sqrt(400)
    assert ((mean - target(point)).abs() <= 5 * deviation + 1e-12).all()


@pytest.mark.parametrize("name", CURVATURES)
def test_the_error_falls_like_the_root_of_the_size(name):
    _, point = problem(n=1200)
    exact = target(point)

    def error(size):
        curvature, draw = CURVATURES[name](size=size, alpha=0.0), generator(5)
        errors = [
            torch.linalg.matrix_norm(curvature.at(point, draw).dense() - exact, 2)
            for _ in range(20)
        ]
        return float(torch.stack(errors).mean() / torch.linalg.matrix_norm(exact, 2))

    small, large = error(60), error(960)
    assert small / large == pytest.approx(4.0, rel=0.4)
    assert large < 4 * math.sqrt(6 / 960)


@pytest.mark.parametrize("name", CURVATURES)
def test_l2_is_not_sketched_and_alpha_comes_on_top(name):
    f, point = problem()
    shifted, plain = (
        CURVATURES[name](size=50, alpha=alpha).at(point, generator(2)).dense()
        for alpha in (0.7, 0.0)
    )
    assert_close(shifted - plain, 0.7 * torch.eye(f.dim, dtype=f.dtype), 1e-12)
    # With fewer rows than parameters, what is left besides the sketch is l2 exactly.
    few = CURVATURES[name](size=3, alpha=0.0).at(point, generator(2)).dense()
    values = torch.linalg.eigvalsh(few)
    assert values[:3] == pytest.approx([f.l2] * 3, rel=1e-8)


@pytest.mark.parametrize("name", CURVATURES)
def test_its_operator_s_products_are_those_of_its_matrix(name):
    f, point = problem(sparse=True)
    A = CURVATURES[name](size=40, alpha=0.1).at(point, generator(1))
    H, V = A.dense(), randn(f.dim, 3, seed=3)
    assert A.symmetric
    assert_close(A @ V, H @ V, 1e-12)
    assert_close(A @ V[:, 0], H @ V[:, 0], 1e-12)
    assert_close(A.diagonal(), H.diagonal(), 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_row_norm_sampling_keeps_the_trace_exactly(seed):
    """Each drawn row enters with weight 1 / (size p_i), p_i its share of the trace."""
    _, point = problem(spread=100.0)
    H = LeverageSubsampled(size=25, alpha=0.0).at(point, generator(seed)).dense()
    assert_close(H.trace(), target(point).trace(), 1e-12)


def test_where_row_norms_differ_row_norm_sampling_is_closer_than_uniform_sampling():
    _, point = problem(n=1000, spread=1000.0)
    exact = target(point)

    def error(name):
        curvature = entry("hessian_approx", name).build({"size": 100, "alpha": 0.0})
        draw = generator(3)
        errors = [
            torch.linalg.matrix_norm(curvature.at(point, draw).dense() - exact) for _ in range(30)
        ]
        return float(torch.stack(errors).mean())

    assert error("leverage_subsampled") < 0.6 * error("regularized_subsampled")


def test_rows_are_drawn_in_proportion_to_their_mass_and_never_without_any():
    mass = torch.tensor([0.0, 5.0, 1.0, 0.0, 0.1, 3.0, 2.0, 0.0], dtype=torch.float64)
    drawn, times = _draw(mass, 20_000, generator())
    counts = torch.zeros(8, dtype=torch.float64)
    counts[drawn] = times.double()
    assert counts[mass == 0].sum() == 0
    expected = (20_000 * mass / mass.sum())[mass > 0]
    chi_squared = ((counts[mass > 0] - expected) ** 2 / expected).sum()
    assert chi_squared < 18.5  # the 0.999 quantile for 4 degrees of freedom


def test_where_no_sample_has_curvature_only_the_regularizer_is_left():
    """A squared hinge whose margins are all met is flat."""
    X = matrix(40, 3).abs() + 1
    f = make("squared_hinge", X=X, y=torch.ones(40, dtype=torch.int64))
    point = f.at(torch.full((3,), 9.0, dtype=torch.float64))
    for curvature in CURVATURES.values():
        H = curvature(size=10, alpha=0.0).at(point, generator()).dense()
        assert_close(H, f.l2 * torch.eye(3, dtype=torch.float64), 1e-12)


def test_a_count_sketch_without_collisions_is_the_hessian_itself():
    """Each row of B goes to one row of the sketch, with a sign that the square does away with."""
    f, point = problem(n=3)
    curvature = SketchedHessian("count_sketch", size=3, alpha=0.0)

    def collides(seed):
        return len(torch.randint(3, (3,), generator=generator(seed)).unique()) < 3

    seed = next(seed for seed in range(100) if not collides(seed))
    assert_close(curvature.at(point, generator(seed)).dense(), target(point), 1e-12)
    seed = next(seed for seed in range(100) if collides(seed))
    error = curvature.at(point, generator(seed)).dense() - target(point)
    assert torch.linalg.matrix_norm(error) > 1e-3 * f.l2


def test_what_a_sketch_costs_is_counted():
    f, point = problem()
    _ = point.grad
    for curvature, passes in [
        (SketchedHessian("count_sketch", size=30), 0.5),
        (SketchedHessian("gaussian", size=30), 15.0),
        (LeverageSubsampled(size=30), 0.0),
    ]:
        before = f.counts.passes
        A = curvature.at(point, generator())
        assert f.counts.passes - before == passes
        before = f.counts.passes
        _ = A @ point.w
        spent = f.counts.passes - before
        if isinstance(curvature, SketchedHessian):
            assert spent == 0  # the sketch is at hand, no data is read
        else:
            assert 0 < spent <= 30 / 300


@pytest.mark.parametrize("name", ["leverage_subsampled", "sketched"])
def test_what_has_no_square_root_form_is_refused_with_a_sentence(name):
    f = make("multinomial")
    curvature = entry("hessian_approx", name).build({})
    with pytest.raises(UnsupportedError, match="needs a Hessian of the form X'DX, which loss=mult"):
        curvature.at(f.at(randn(f.dim, seed=1)), generator())


@pytest.mark.parametrize("name", CURVATURES)
def test_the_seed_decides(name):
    _, point = problem()
    a, b, c = (CURVATURES[name](size=30).at(point, generator(s)).dense() for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_bad_parameters_are_refused():
    for name, key, value in [
        ("leverage_subsampled", "fraction", 1.5),
        ("sketched", "alpha", -0.1),
        ("sketched", "kind", "fourier"),
    ]:
        shown = repr(value).replace("'", ".")
        with pytest.raises(ConfigError, match=f"hessian_approx.{key}={shown} is not valid"):
            entry("hessian_approx", name).validate({key: value})
    _, point = problem(n=50)
    with pytest.raises(ConfigError, match=r"hessian_approx\.size=51 exceeds the 50 samples"):
        LeverageSubsampled(size=51).at(point, generator())
