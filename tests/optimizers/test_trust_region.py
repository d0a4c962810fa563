"""Trust regions and dense BFGS: subproblems against theory, updates, resuming."""

from functools import partial

import pytest
import scipy.optimize
import torch
from cases import spread, symmetric
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import randn
from torch import Tensor

from newton_krylov.curvature.hvp import HessianProduct
from newton_krylov.objectives.function import FunctionObjective
from newton_krylov.operators import MatrixOperator
from newton_krylov.optimizers.arc import ARC
from newton_krylov.optimizers.bfgs import BFGS, SSBFGS, InverseHessian, SSBroyden, ssbroyden
from newton_krylov.optimizers.forcing import superlinear
from newton_krylov.optimizers.hager_zhang import hager_zhang
from newton_krylov.optimizers.lbfgs import LBFGS
from newton_krylov.optimizers.line_search import strong_wolfe
from newton_krylov.optimizers.model_step import (
    Ball,
    Cubic,
    DenseModel,
    KrylovModel,
    exact_step,
    steihaug,
)
from newton_krylov.optimizers.trust_region import TrustRegion

START = torch.tensor([-1.2, 1.0], dtype=torch.float64)


def rosenbrock(x: Tensor) -> Tensor:
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def model(A: Tensor, g: Tensor, p: Tensor) -> float:
    return float(g @ p + p @ A @ p / 2)


@given(
    eigenvalues=st.lists(st.floats(-10, 10), min_size=2, max_size=8),
    seed=st.integers(0, 10_000),
    radius=st.floats(1e-3, 1e3),
)
@settings(deadline=None, max_examples=80)
def test_the_exact_step_is_the_global_minimizer(eigenvalues, seed, radius):
    """(A + lambda I) p = -g, lambda >= 0, A + lambda I >= 0: necessary and sufficient."""
    A, g = symmetric(eigenvalues, seed), randn(len(eigenvalues), seed=seed)
    step = exact_step(MatrixOperator(A), g, radius)
    size = float(step.p.norm())
    assert size <= radius * (1 + 1e-9)
    shift = 0.0 if step.inside else max(0.0, -float(step.p @ (A @ step.p + g)) / size**2)
    scale = float(g.norm()) + float(torch.linalg.matrix_norm(A, 2)) * size
    assert float((A @ step.p + shift * step.p + g).norm()) <= 1e-6 * scale
    assert float(torch.linalg.eigvalsh(A)[0]) + shift >= -1e-6 * (1 + abs(shift))
    assert step.inside or size >= radius * (1 - 1e-6)


def test_the_hard_case():
    """g has no part along the lowest eigenvector: the boundary is reached along it."""
    A = torch.diag(torch.tensor([-2.0, 1.0, 3.0], dtype=torch.float64))
    g = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    p = exact_step(MatrixOperator(A), g, 5.0).p
    assert float(p.norm()) == pytest.approx(5.0)
    assert p[1:].tolist() == pytest.approx([-1 / 3, -1 / 5])


@given(
    eigenvalues=st.lists(st.floats(-10, 10), min_size=2, max_size=8),
    seed=st.integers(0, 10_000),
    radius=st.floats(1e-3, 1e3),
)
@settings(deadline=None, max_examples=80)
def test_steihaug_s_step_lies_between_cauchy_s_and_the_best(eigenvalues, seed, radius):
    A, g = symmetric(eigenvalues, seed), randn(len(eigenvalues), seed=seed)
    p = steihaug(MatrixOperator(A), g, radius, 1e-10, 50).p
    size, curvature = float(g.norm()), float(g @ A @ g)
    length = radius / size if curvature <= 0 else min(radius / size, size**2 / curvature)
    slack = 1e-9 * (1 + abs(model(A, g, p)))
    assert float(p.norm()) <= radius * (1 + 1e-9)
    assert model(A, g, p) <= model(A, g, -length * g) + slack
    assert model(A, g, p) >= model(A, g, exact_step(MatrixOperator(A), g, radius).p) - slack


def test_inside_the_ball_steihaug_s_step_is_newton_s():
    A, g = symmetric(spread(20, 10)), randn(20, seed=1)
    step = steihaug(MatrixOperator(A), g, 1e6, 1e-12, 100)
    assert step.inside
    assert torch.allclose(step.p, -torch.linalg.solve(A, g))


def cubic(A: Tensor, g: Tensor, p: Tensor, sigma: float) -> float:
    return model(A, g, p) + sigma * float(p.norm()) ** 3 / 3


def krylov(A: Tensor, g: Tensor) -> KrylovModel:
    return KrylovModel(MatrixOperator(A), g, torch.Generator().manual_seed(0), len(g))


@given(
    eigenvalues=st.lists(st.floats(-10, 10), min_size=2, max_size=8),
    seed=st.integers(0, 10_000),
    sigma=st.floats(1e-3, 1e3),
)
@settings(deadline=None, max_examples=80)
def test_the_cubic_s_step_is_the_global_minimizer(eigenvalues, seed, sigma):
    """(A + lambda I) p = -g, lambda = sigma |p|, A + lambda I >= 0 (Cartis, Gould, Toint, 3.1)."""
    A, g = symmetric(eigenvalues, seed), randn(len(eigenvalues), seed=seed)
    for made in (DenseModel(MatrixOperator(A), g), krylov(A, g)):
        p = made.step(Cubic(sigma), 1e-12).p
        shift = sigma * float(p.norm())
        scale = float(g.norm()) + float(torch.linalg.matrix_norm(A, 2)) * float(p.norm())
        assert float((A @ p + shift * p + g).norm()) <= 1e-6 * scale
        assert float(torch.linalg.eigvalsh(A)[0]) + shift >= -1e-6 * (1 + shift)


@pytest.mark.parametrize("bound", [Ball(0.5), Ball(1e3), Cubic(0.1), Cubic(1e3)], ids=str)
def test_in_a_large_space_lanczos_s_step_is_the_dense_one(bound):
    """Of an indefinite matrix of 200 rows, in fewer products; another bound takes few more."""
    values = torch.linspace(-1, 1, 200, dtype=torch.float64) ** 3 * 100 + 5
    A, g = symmetric(values.tolist(), 3), randn(200, seed=4)
    lanczos = krylov(A, g)
    mine = lanczos.step(bound, 1e-8)
    p = DenseModel(MatrixOperator(A), g).step(bound, 0.0).p
    assert float((mine.p - p).norm()) <= 1e-5 * float(p.norm())
    assert mine.iterations < 200
    shorter = Ball(bound.radius / 4) if isinstance(bound, Ball) else Cubic(bound.sigma * 16)
    again, dense = lanczos.step(shorter, 1e-8), DenseModel(MatrixOperator(A), g).step(shorter, 0)
    assert again.iterations == 0
    assert float((again.p - dense.p).norm()) <= 1e-5 * float(dense.p.norm())


@pytest.mark.parametrize("bound", [Ball(5.0), Cubic(0.3)], ids=str)
def test_the_hard_case_in_krylov_space(bound):
    """The gradient's space has none of the lowest eigenvector; a random vector finds it."""
    A = torch.diag(torch.tensor([-2.0, 1.0, 3.0, 3.0, 4.0], dtype=torch.float64))
    g = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    p, dense = krylov(A, g).step(bound, 1e-8).p, DenseModel(MatrixOperator(A), g).step(bound, 0).p
    length = 5.0 if isinstance(bound, Ball) else 2 / 0.3
    assert float(p.norm()) == pytest.approx(length) == float(dense.norm())
    assert p[1:].tolist() == pytest.approx([-1 / 3, -1 / 5, 0, 0], abs=1e-9)
    assert p.abs().tolist() == pytest.approx(dense.abs().tolist(), abs=1e-9)


def test_gltr_goes_on_along_the_boundary_where_steihaug_stops():
    A, g = symmetric(torch.linspace(-1, 10, 60).tolist(), 1), randn(60, seed=2)
    stopped = model(A, g, steihaug(MatrixOperator(A), g, 2.0, 1e-8, 100).p)
    best = model(A, g, exact_step(MatrixOperator(A), g, 2.0).p)
    assert model(A, g, krylov(A, g).step(Ball(2.0), 1e-8).p) == pytest.approx(best, rel=1e-9)
    assert stopped > best + 1e-3 * abs(best)


@pytest.mark.parametrize(
    "method",
    [
        TrustRegion(HessianProduct(), superlinear, "gltr"),
        TrustRegion(HessianProduct(), superlinear, "exact"),
        ARC(HessianProduct(), superlinear),
        ARC(HessianProduct(), superlinear, "exact"),
    ],
)
@pytest.mark.parametrize("unit", [1e-15, 1.0, 1e15])
def test_a_saddle_is_left_from_the_very_point(method, unit):
    def function(x: Tensor) -> Tensor:
        return unit * (x[0] ** 2 - x[1] ** 2 + x[1] ** 4 + x[2] ** 2)

    start = torch.zeros(3, dtype=torch.float64)
    made = method.steps(FunctionObjective(function, start), start, torch.Generator())
    steps = [step for _, step in zip(range(60), made, strict=False)]
    assert steps[-1].point.value == pytest.approx(-unit / 4, rel=1e-6)


def test_the_update_meets_the_secant_equation_and_is_scipy_s():
    """H y = s; on a quadratic, with exact searches, H becomes the inverse in n steps."""
    memory = InverseHessian()
    theirs = scipy.optimize.BFGS(init_scale="auto")
    theirs.initialize(6, "inv_hess")
    A = symmetric(spread(6, 10))
    for k in range(5):
        s = randn(6, seed=k)
        memory.update(s, A @ s)
        theirs.update(s.numpy(), (A @ s).numpy())
        assert torch.allclose(memory.H @ (A @ s), s)
        assert torch.allclose(memory.H, memory.H.T)
        assert float(torch.linalg.eigvalsh(memory.H)[0]) > 0
        assert memory.H.numpy() == pytest.approx(theirs.get_matrix(), rel=1e-8, abs=1e-10)


def test_a_pair_without_curvature_changes_nothing():
    memory = InverseHessian()
    memory.update(torch.ones(2).double(), -torch.ones(2).double())
    assert memory.H is None


def test_self_scaling_mends_curvature_that_is_overestimated():
    """H / min(1, s'y / s'H^-1 s) before the update: H is right at once in all directions."""
    plain, scaled, small = InverseHessian(), InverseHessian(), InverseHessian()
    s = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    for memory, first, size in ((plain, 1e-4, None), (scaled, 1e-4, 1e4), (small, 1e4, 1e-4)):
        memory.H = first * torch.eye(4, dtype=torch.float64)
        memory.update(s, s, size)  # of the Hessian I
        assert torch.allclose(memory.H @ s, s)
    assert scaled.H[2, 2] == pytest.approx(1.0)
    assert plain.H[2, 2] == pytest.approx(1e-4)
    assert small.H[2, 2] == pytest.approx(1e4)  # underestimated curvature is left to the update


def direct(B: Tensor, s: Tensor, y: Tensor, tau: float, theta: float) -> Tensor:
    """tau (B - B s s'B / s'B s + theta w w') + y y' / s'y, as Al-Baali and Khalfan write it."""
    Bs, sy = B @ s, s @ y
    w = (s @ Bs).sqrt() * (y / sy - Bs / (s @ Bs))
    return (
        tau * (B - torch.outer(Bs, Bs) / (s @ Bs) + theta * torch.outer(w, w))
        + torch.outer(y, y) / sy
    )


@given(seed=st.integers(0, 10_000), condition=st.floats(1, 1e4), size=st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=60)
def test_self_scaled_broyden_s_update_is_the_inverse_of_the_paper_s(seed, condition, size):
    n = 5
    B, A = symmetric(spread(n, condition), seed), symmetric(spread(n, 30), seed + 1)
    s = size * randn(n, seed=seed)
    y = A @ s
    b, h = float(s @ B @ s / (s @ y)), float(y @ torch.linalg.solve(B, y) / (s @ y))
    a = b * h - 1
    low = min(1.0, h * (1 - (a / (1 + a)) ** 0.5))
    theta = max((low - 1) / a, min(1 / low, (1 - b) / b))
    sigma = 1 + theta * a
    tau = min(1, 1 / b)
    if theta > 0:
        tau *= min(sigma ** (-1 / (n - 1)), 1 / theta)
    else:
        tau = min(tau * sigma ** (-1 / (n - 1)), sigma)
    memory = InverseHessian()
    memory.H = torch.linalg.inv(B)
    memory.update(s, y, float(s @ B @ s), ssbroyden)
    expected = torch.linalg.inv(direct(B, s, y, tau, theta))
    assert torch.allclose(memory.H, expected, rtol=1e-6, atol=1e-8 * float(expected.norm()))
    assert float(torch.linalg.eigvalsh(memory.H)[0]) > 0


@pytest.mark.parametrize("make", [BFGS, SSBFGS, SSBroyden, LBFGS])
@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e20])
def test_the_unit_of_the_loss_changes_nothing(make, unit):
    """Powers of two would change no bit; the first step and the pairs' test have no unit."""

    def path(unit: float) -> list[Tensor]:
        f = FunctionObjective(lambda x: unit * rosenbrock(x), START)
        made = make(hager_zhang).steps(f, START, torch.Generator())
        return [step.point.w for _, step in zip(range(25), made, strict=False)]

    for mine, plain in zip(path(unit), path(1.0), strict=True):
        assert torch.allclose(mine, plain, rtol=1e-6, atol=1e-9)


def test_the_size_that_the_method_hands_over_is_that_of_its_matrix():
    f, seen = FunctionObjective(rosenbrock, START), []

    class Watched(InverseHessian):
        def update(self, s, y, size=None, *rule):
            if self.H is not None:
                seen.append((size, float(s @ torch.linalg.solve(self.H, s))))
            super().update(s, y, size, *rule)

    method = BFGS(strong_wolfe, "always")
    for _ in zip(method.iterate(f, START, Watched(), torch.Generator()), range(15), strict=False):
        pass
    assert len(seen) >= 10
    for mine, dense in seen:
        assert mine == pytest.approx(dense, rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        partial(TrustRegion, HessianProduct(), superlinear),
        partial(TrustRegion, HessianProduct(), superlinear, "exact"),
        partial(BFGS, strong_wolfe),
        partial(BFGS, strong_wolfe, "always"),
    ],
    ids=["steihaug", "exact", "bfgs", "ssbfgs"],
)
def test_a_continued_run_is_the_uninterrupted_one(make):
    f, generator = FunctionObjective(rosenbrock, START), torch.Generator()
    whole = []
    for step in make().steps(f, START, generator):
        whole.append(step.evaluated().point.w)
        if len(whole) > 60:
            break
    assert torch.allclose(whole[-1], torch.ones(2, dtype=torch.float64), atol=1e-6)
    first = make()
    steps = first.steps(f, START, generator)
    for _ in range(6):
        w = next(steps).evaluated().point.w
    second = make()
    second.load_state_dict(first.state_dict())
    rest = second.steps(f, w, generator)
    for expected in whole[5:12]:
        assert torch.equal(next(rest).evaluated().point.w, expected)
