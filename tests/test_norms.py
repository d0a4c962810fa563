"""Norms, of which torch's own lose digits and, in single precision, range."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from newton_krylov.norms import euclidean, exponent, is_bottomless, norm, scaled, scaled_by_power


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025, 100_000, 3_000_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_norm_has_the_precision_of_its_vector(n: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for v in (torch.full((n,), 0.1, dtype=dtype), torch.randn(n, dtype=dtype, generator=generator)):
        exact = math.sqrt(math.fsum((v.double() ** 2).tolist()))
        for computed in (float(norm(v)), euclidean(v)):
            assert computed == pytest.approx(exact, rel=100 * torch.finfo(dtype).eps)
    assert norm(v).dtype is dtype and norm(v).shape == ()


def test_every_second_number_of_a_vector_is_one_too() -> None:
    assert float(norm(torch.ones(5000)[::2])) == 50.0


@given(exponent=st.integers(-37, 36), n=st.integers(1, 5000))
def test_squares_out_of_range_do_no_harm(exponent: int, n: int) -> None:
    v = torch.full((n,), 10.0**exponent)
    assert euclidean(v) == pytest.approx(float(v[0]) * math.sqrt(n), rel=1e-6)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_shows(value: float) -> None:
    assert not math.isfinite(euclidean(torch.tensor([1.0, value])))


@given(exponent=st.integers(-307, 300), n=st.integers(1, 3000))
def test_nor_do_they_in_double_precision(exponent: int, n: int) -> None:
    v = torch.full((n,), 10.0**exponent, dtype=torch.float64)
    assert euclidean(v) == pytest.approx(float(v[0]) * math.sqrt(n), rel=1e-12)


def test_at_the_ends_of_the_range() -> None:
    assert euclidean(torch.tensor([3e-322, 4e-322], dtype=torch.float64)) == pytest.approx(
        5e-322, rel=0.02
    )
    assert euclidean(torch.tensor([3.0, 4.0], dtype=torch.float64) * 1e307) == pytest.approx(5e307)
    assert euclidean(torch.full((9,), 1.7e308, dtype=torch.float64)) == math.inf
    assert euclidean(torch.zeros(3)) == euclidean(torch.zeros(0)) == 0.0


@given(k=st.integers(-1000, 1000), x=st.floats(1e-3, 1e3))
def test_powers_of_two_change_no_digit(k: int, x: float) -> None:
    v = torch.tensor([x, 0.0], dtype=torch.float64)
    assert torch.equal(scaled_by_power(scaled_by_power(v, k), -k), v)
    assert float(scaled_by_power(v, k)[0]) == scaled(x, k) == math.ldexp(x, k)
    assert math.ldexp(0.5, exponent(v)) <= x < math.ldexp(1.0, exponent(v))


def test_beyond_the_range_is_infinite() -> None:
    assert scaled(1.0, 5000) == math.inf
    assert scaled(1.0, -5000) == 0.0
    assert exponent(torch.zeros(2)) == exponent(torch.tensor([math.inf])) == 0


def test_what_is_beyond_any_size_below_zero() -> None:
    """Whatever the unit of the start: a value of 1e40 in units of 1e30 is an ordinary one."""
    assert is_bottomless(-1e33, 0.0) and is_bottomless(-1e33, 1e-300)
    assert not is_bottomless(-1e40, 1e30) and is_bottomless(-1e70, 1e30)
    assert is_bottomless(-math.inf, 1.0)
    assert not is_bottomless(math.inf, 1.0) and not is_bottomless(math.nan, 1.0)
