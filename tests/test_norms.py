"""Norms, of which torch's own lose digits and, in single precision, range."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from newton_krylov.norms import euclidean, norm


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
