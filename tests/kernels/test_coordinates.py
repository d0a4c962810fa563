"""Coordinate descent on quadratic functions with corners: optimality, and compiled as plain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newton_krylov.kernels import coordinates
from newton_krylov.kernels.coordinates import minimize, sweeps
from newton_krylov.kernels.rows import VARIABLE
from newton_krylov.kernels.sweep import sweep


@st.composite
def problems(draw):
    """A'A with some columns twice, some zero, of any rank; corners of any size, some of 0."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    n, rows = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    A = rng.normal(size=(rows, n)) * 10.0 ** rng.integers(-2, 2, n)
    for j in range(n):
        kind = rng.integers(0, 6)
        if kind == 0:
            A[:, j] = 0
        elif kind == 1:
            A[:, j] = A[:, rng.integers(0, n)]
    c = A.T @ rng.normal(size=rows)  # so that there is a minimum whatever the corners are
    s = np.abs(c).max() * rng.random(n) * rng.choice([0.0, 0.1, 1.0], n)
    return A.T @ A, c, s, rng.normal(size=n) * rng.integers(0, 2, n)


def value(H, c, s, x):
    return x @ H @ x / 2 + c @ x + s @ np.abs(x)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_the_least_subgradient_is_what_is_said_and_no_other_point_is_lower(problem):
    H, c, s, start = problem
    x, made, left = minimize(H, s, start, H @ start + c, 1e-12 * max(1, np.abs(c).max()))
    m = H @ x + c
    excess = np.where(x == 0, np.maximum(np.abs(m) - s, 0), np.abs(m + s * np.sign(x)))
    assert np.linalg.norm(excess) == pytest.approx(left, abs=1e-9 * (1 + np.abs(c).max()))
    assert made >= 1
    assert value(H, c, s, x) <= value(H, c, s, start) + 1e-12
    if left <= 1e-10:
        rng = np.random.default_rng(0)
        for size in (1e-3, 1.0):
            other = x + size * rng.normal(size=len(x))
            assert value(H, c, s, other) >= value(H, c, s, x) - 1e-9 * (1 + np.abs(c).max())


def test_columns_that_resemble_each_other_end_at_the_rounding_error():
    """Sweeps alone would take some thousands."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(60, 1)) + 0.01 * rng.normal(size=(60, 20))
    H, c = A.T @ A, A.T @ rng.normal(size=60)
    x, made, left = minimize(H, np.full(20, 1e-3), np.zeros(20), c, 1e-10)
    assert left <= 1e-10 and made < 300
    y, m = np.zeros(20), c.copy()
    sweep(H, np.full(20, 1e-3), y, m, 300)
    assert value(H, c, np.full(20, 1e-3), y) > value(H, c, np.full(20, 1e-3), x) + 1e-9


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_compiled_sweep_is_the_plain_one(dtype, monkeypatch):
    pytest.importorskip("numba")
    rng = np.random.default_rng(1)
    A = rng.normal(size=(100, 70)).astype(dtype)
    H, c, s = A.T @ A, (A.T @ rng.normal(size=100)).astype(dtype), np.full(70, 5, dtype)
    ends = []
    for setting in ("on", "off"):
        monkeypatch.setenv(VARIABLE, setting)
        x, m = np.zeros(70, dtype), c.copy()
        loop = sweeps(H)
        assert (loop is sweep) == (setting == "off")
        assert loop(H, s, x, m, 3) == 3
        ends.append(np.concatenate([x, m]))
    np.testing.assert_allclose(*ends, rtol=0, atol=3e3 * np.finfo(dtype).eps)


def test_a_small_matrix_loads_no_numba(monkeypatch):
    monkeypatch.setattr(coordinates, "load", None)
    assert sweeps(np.eye(63)) is sweep
