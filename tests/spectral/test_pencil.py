"""Extreme eigenvalues of a pencil against dense ones."""

import pytest
import scipy.linalg
import torch
from problems import randn

from newton_krylov.operators import MatrixOperator
from newton_krylov.spectral.pencil import pencil_extremes


def positive(n, seed):
    root = randn(n, n, seed=seed)
    return root @ root.T / n + 0.1 * torch.eye(n, dtype=torch.float64)


def extremes(A, H, products, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return pencil_extremes(
        MatrixOperator(A), lambda r: torch.linalg.solve(H, r), products, generator
    )


@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_with_as_many_products_as_dimensions_they_are_exact(n):
    A, H = positive(n, 1), positive(n, 2)
    exact = scipy.linalg.eigh(A.numpy(), H.numpy(), eigvals_only=True)
    assert extremes(A, H, n + 3) == pytest.approx((exact[0], exact[-1]), rel=1e-8)


def test_an_indefinite_matrix_gives_a_negative_value():
    A, H = torch.diag(torch.tensor([-2.0, 1.0, 3.0], dtype=torch.float64)), positive(3, 2)
    exact = scipy.linalg.eigh(A.numpy(), H.numpy(), eigvals_only=True)
    assert extremes(A, H, 3) == pytest.approx((exact[0], exact[-1]), rel=1e-8)
    assert exact[0] < 0


@pytest.mark.parametrize("seed", range(5))
def test_fewer_products_stay_within_the_spectrum_and_come_nearer_with_each(seed):
    A, H = positive(60, 1), positive(60, 2)
    exact = scipy.linalg.eigh(A.numpy(), H.numpy(), eigvals_only=True)
    lows, highs = zip(*(extremes(A, H, k, seed) for k in (2, 5, 10, 30)), strict=True)
    assert all(low >= exact[0] * (1 - 1e-10) for low in lows)
    assert all(high <= exact[-1] * (1 + 1e-10) for high in highs)
    assert list(lows) == sorted(lows, reverse=True) and list(highs) == sorted(highs)
    assert highs[-1] == pytest.approx(exact[-1], rel=1e-3)


def test_an_exhausted_krylov_space_ends_the_iteration():
    """H^-1 A = 2 I has one eigenvalue; nothing is left after one product."""
    H = positive(9, 3)
    calls = []

    def solve(r):
        calls.append(r)
        return torch.linalg.solve(H, r)

    found = pencil_extremes(MatrixOperator(2 * H), solve, 9, torch.Generator().manual_seed(1))
    assert found == pytest.approx((2.0, 2.0), rel=1e-12)
    assert len(calls) <= 2


@pytest.mark.parametrize("scale", [1e-250, 1e-150, 1e150, 1e250])
def test_any_units(scale):
    A, H = positive(9, 1), positive(9, 2)
    low, high = extremes(A, H, 12)
    assert extremes(scale * A, H, 12) == pytest.approx((scale * low, scale * high), rel=1e-9)
    assert extremes(scale * A, scale * H, 12) == pytest.approx((low, high), rel=1e-9)
