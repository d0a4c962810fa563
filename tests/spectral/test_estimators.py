"""Traces and diagonals from random products: unbiased, converging, honest about their error."""

import math

import pytest
import torch
from problems import make, randn

from newton_krylov.operators import FunctionOperator, MatrixOperator
from newton_krylov.spectral.estimators import diagonal, signs, trace


def symmetric(eigenvalues, seed=0):
    n = len(eigenvalues)
    Q = torch.linalg.qr(randn(n, n, seed=seed)).Q
    return MatrixOperator(Q @ torch.diag(eigenvalues) @ Q.T)


SLOW = symmetric(torch.linspace(-1, 2, 40).double())
FAST = symmetric(torch.logspace(2, -4, 40).double())


def test_signs_are_signs_as_often_one_as_the_other(device):
    A = FunctionOperator(lambda v: v, 10_000, torch.float32, device)
    z = signs(A, torch.Generator().manual_seed(0))
    assert (z.dtype, z.device.type) == (torch.float32, device.type)
    assert bool((z.abs() == 1).all())
    assert abs(float(z.mean())) < 0.04


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
@pytest.mark.parametrize("A", [SLOW, FAST], ids=["slow decay", "fast decay"])
def test_a_trace_is_unbiased_and_its_error_is_what_it_says(A, method):
    true = float(A.matrix.diagonal().sum())
    estimates = [
        trace(A, 9, generator=torch.Generator().manual_seed(seed), method=method)
        for seed in range(2000)
    ]
    values = torch.tensor([estimate.value for estimate in estimates], dtype=torch.float64)
    deviation = float(values.std())
    assert abs(float(values.mean()) - true) < 4 * deviation / math.sqrt(len(values))
    claimed = math.sqrt(sum(e.error**2 for e in estimates) / len(estimates))
    assert claimed == pytest.approx(deviation, rel=0.15)


def test_hutchinson_s_variance_is_the_theory_s():
    off = SLOW.matrix - SLOW.matrix.diagonal().diag()
    values = [
        trace(SLOW, 4, generator=torch.Generator().manual_seed(s), method="hutchinson").value
        for s in range(4000)
    ]
    expected = math.sqrt(2 * float(off.square().sum()) / 4)
    assert float(torch.tensor(values).std()) == pytest.approx(expected, rel=0.05)


def test_hutch_plus_plus_is_far_more_accurate_where_eigenvalues_decay():
    errors = {
        method: [
            abs(
                trace(FAST, 30, generator=torch.Generator().manual_seed(s), method=method).value
                - float(FAST.matrix.diagonal().sum())
            )
            for s in range(100)
        ]
        for method in ("hutchinson", "hutch++")
    }
    assert sum(errors["hutch++"]) < 0.15 * sum(errors["hutchinson"])


def test_hutch_plus_plus_is_exact_for_a_matrix_of_low_rank_and_for_a_small_one():
    B = randn(50, 4, seed=1)
    low = MatrixOperator(B @ B.T)
    estimate = trace(low, 15, generator=torch.Generator().manual_seed(0))
    assert estimate.value == pytest.approx(float(B.square().sum()), rel=1e-12)
    assert estimate.matvecs == 15
    small = symmetric(torch.tensor([3.0, -1.0, 2.0]).double())
    estimate = trace(small, 30, generator=torch.Generator().manual_seed(0))
    assert (estimate.value, estimate.error) == (pytest.approx(4.0, rel=1e-12), 0.0)


def test_one_sample_has_no_error_estimate_and_too_few_products_are_refused():
    generator = torch.Generator().manual_seed(0)
    assert math.isnan(trace(SLOW, 1, generator=generator, method="hutchinson").error)
    with pytest.raises(ValueError, match="2 products are too few for hutch"):
        trace(SLOW, 2, generator=generator)


def test_a_diagonal_is_unbiased_and_its_variance_is_the_theory_s():
    estimates = torch.stack(
        [diagonal(SLOW, 3, generator=torch.Generator().manual_seed(s)) for s in range(4000)]
    )
    off = (SLOW.matrix - SLOW.matrix.diagonal().diag()).square().sum(1)
    deviation = (off / 3).sqrt()
    error = estimates.mean(0) - SLOW.matrix.diagonal()
    assert bool((error.abs() <= 4.5 * deviation / math.sqrt(4000)).all())
    assert torch.allclose(estimates.std(0), deviation, rtol=0.07)


def test_a_diagonal_converges_like_one_over_the_root_of_the_probes():
    def error(probes):
        found = [
            diagonal(SLOW, probes, generator=torch.Generator().manual_seed(s)) for s in range(30)
        ]
        return math.sqrt(sum(float((f - SLOW.matrix.diagonal()).square().sum()) for f in found))

    assert error(16) / error(256) == pytest.approx(4.0, rel=0.2)


def test_a_diagonal_matrix_is_found_by_one_probe():
    entries = randn(20, seed=3)
    found = diagonal(MatrixOperator(entries.diag()), 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, entries)


def test_they_serve_a_linear_model_s_hessian():
    f = make("multinomial", n=80, d=6)
    H = f.at(randn(f.dim, seed=1)).hessian()
    estimate = trace(H, 3 * f.dim, generator=torch.Generator().manual_seed(0))
    assert estimate.value == pytest.approx(float(H.dense().diagonal().sum()), rel=1e-10)
