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
from newton_krylov.optimizers.bfgs import BFGS, InverseHessian
from newton_krylov.optimizers.forcing import superlinear
from newton_krylov.optimizers.line_search import strong_wolfe
from newton_krylov.optimizers.trust_region import TrustRegion, exact_step, steihaug

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


def test_the_size_that_the_method_hands_over_is_that_of_its_matrix():
    f, seen = FunctionObjective(rosenbrock, START), []

    class Watched(InverseHessian):
        def update(self, s, y, size=None):
            if self.H is not None:
                seen.append((size, float(s @ torch.linalg.solve(self.H, s))))
            super().update(s, y, size)

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
