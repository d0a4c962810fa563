"""Capped conjugate gradients, regularized Newton and Newton with a sketch: theorems and rates."""

import math
from itertools import pairwise

import pytest
import torch
from cases import spread, symmetric
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import randn
from torch import Tensor

from newton_krylov.curvature.hvp import HessianProduct
from newton_krylov.objectives.function import FunctionObjective
from newton_krylov.operators import FunctionOperator, MatrixOperator
from newton_krylov.optimizers.capped_cg import _between, _iterates, capped_cg
from newton_krylov.optimizers.forcing import superlinear
from newton_krylov.optimizers.line_search import armijo
from newton_krylov.optimizers.nncg import NNCG
from newton_krylov.optimizers.regularized_newton import RegularizedNewton
from newton_krylov.preconditioners.nystrom import nystrom_approximation


@given(
    eigenvalues=st.lists(st.floats(-10, 10), min_size=2, max_size=30),
    seed=st.integers(0, 10_000),
    eps=st.floats(1e-4, 10),
    rtol=st.sampled_from([0.5, 1e-3, 1e-8]),
)
@settings(deadline=None, max_examples=150)
def test_it_ends_with_a_solution_or_with_negative_curvature(eigenvalues, seed, eps, rtol):
    """Royer, O'Neill and Wright, lemma 1: either, within the cap on its products."""
    A, g = symmetric(eigenvalues, seed), randn(len(eigenvalues), seed=seed)
    found = capped_cg(MatrixOperator(A), g, eps, rtol)
    d = found.d
    if found.negative:
        rounding = 1e-12 * float(torch.linalg.matrix_norm(A, 2)) * float(d @ d)
        assert float(d @ A @ d) < -eps * float(d @ d) + rounding
    else:
        assert float((A @ d + 2 * eps * d + g).norm()) <= rtol * float(g.norm()) * (1 + 1e-6)
        assert float(g @ d) < 0
    assert found.iterations <= 2 * len(g) + 11


def test_the_cap_bounds_the_products_whatever_the_dimension():
    """A definite matrix of 2,000 rows takes no more than conjugate gradients' bound."""
    values = torch.linspace(0, 1, 2000, dtype=torch.float64)
    A = FunctionOperator(lambda v: values * v, 2000, torch.float64, torch.device("cpu"))
    eps, rtol = 0.01, 1e-6
    found = capped_cg(A, randn(2000, seed=0), eps, rtol)
    kappa = (1 + 2 * eps) / eps
    assert not found.negative
    assert found.iterations <= math.sqrt(kappa) * math.log(2 * kappa / rtol)


def test_where_convergence_is_too_slow_a_difference_of_iterates_has_negative_curvature():
    """Made for it: the residual grows, so some d = y_last - y_i has d'B d < eps |d|^2."""
    values = torch.cat([torch.tensor([-0.3], dtype=torch.float64), spread(19, 1e3)])
    A, g, eps = MatrixOperator(torch.diag(values)), torch.ones(20, dtype=torch.float64), 1e-3
    seen = []
    for number, now in enumerate(_iterates(A, g, eps)):
        seen.append(now)
        if number == 25:
            break
    d = _between(A, g, eps, seen[-1], 25)
    assert d is not None
    assert float(d @ (values * d)) < -eps * float(d @ d)


def test_a_sketch_of_an_indefinite_matrix_has_its_large_part():
    A = symmetric([100.0, 50.0, 20.0, *([0.01] * 20), -0.5], 1)
    U, values = nystrom_approximation(
        MatrixOperator(A), 15, torch.Generator().manual_seed(0), indefinite=True
    )
    assert values[:3].tolist() == pytest.approx([100, 50, 20], rel=0.1)
    assert torch.allclose(U.T @ U, torch.eye(15, dtype=torch.float64), atol=1e-10)
    assert float(values.min()) >= 0


def valley(x: Tensor) -> Tensor:
    """Rosenbrock's in ten dimensions, and a saddle ridge along the last coordinate."""
    return (100 * (x[1:-1] - x[:-2] ** 2) ** 2 + (1 - x[:-2]) ** 2).sum() + (
        x[-1] ** 2 - 1
    ) ** 2 / 4


def test_regularized_newton_follows_negative_curvature_and_converges_quadratically():
    start = torch.zeros(11, dtype=torch.float64)
    start[-1] = 1e-3  # beside the ridge
    f = FunctionObjective(valley, start)
    made = RegularizedNewton(HessianProduct(), superlinear).steps(f, start, torch.Generator())
    steps = [step for _, step in zip(range(80), made, strict=False)]
    assert any("negative curvature" in note for step in steps for note in step.notes)
    assert steps[-1].point.value < 1e-16
    norms = [step.point.grad_norm for step in steps if 1e-13 < step.point.grad_norm < 1e-2]
    rates = [b / a**1.4 for a, b in pairwise(norms)]
    assert rates
    assert max(rates) < 100


@pytest.mark.parametrize("unit", [1e-15, 1e15])
@pytest.mark.parametrize("name", ["regularized_newton", "nncg"])
def test_the_unit_of_the_loss_changes_nothing(name, unit):
    parts = (HessianProduct(), armijo, superlinear)
    method = NNCG(*parts) if name == "nncg" else RegularizedNewton(parts[0], superlinear)
    start = torch.full((11,), 0.5, dtype=torch.float64)
    f = FunctionObjective(lambda x: unit * valley(x), start)
    steps = [s for _, s in zip(range(150), method.steps(f, start, torch.Generator()), strict=False)]
    assert steps[-1].point.value < 1e-12 * unit


def test_the_sketch_is_renewed_every_few_steps():
    start = torch.full((11,), 0.5, dtype=torch.float64)
    f = FunctionObjective(valley, start)
    method, ages = NNCG(HessianProduct(), armijo, superlinear, rank=5, every=4), []
    for _ in zip(range(13), method.steps(f, start, torch.Generator()), strict=False):
        ages.append(method.state_dict()["age"])
    assert ages == [0, *([1, 2, 3, 4] * 3)]
