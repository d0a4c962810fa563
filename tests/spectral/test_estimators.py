"""Traces and diagonals from random products: unbiased, converging, honest about their error."""

import math

import pytest
import torch
from problems import make, randn

from newton_krylov.operators import FunctionOperator, MatrixOperator
from newton_krylov.spectral.estimators import diagonal, frobenius, gaussian, signs, trace


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


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def low_rank(n, r):
    V = torch.linalg.qr(randn(n, r, seed=3)).Q
    return MatrixOperator((V * torch.arange(1.0, r + 1).double()) @ V.T)


@pytest.mark.parametrize("A", [SLOW, FAST], ids=["slow decay", "fast decay"])
def test_xtrace_is_unbiased_and_says_about_how_wrong_it_is(A):
    """Its samples depend on one another, so the error is a guess: within a factor of two here."""
    true = float(A.matrix.diagonal().sum())
    estimates = [trace(A, 12, generator=generator(s), method="xtrace") for s in range(2000)]
    values = torch.tensor([estimate.value for estimate in estimates]).double()
    deviation = float(values.std())
    assert abs(float(values.mean()) - true) < 4 * deviation / math.sqrt(len(values))
    claimed = math.sqrt(sum(e.error**2 for e in estimates) / len(estimates))
    assert deviation / 2 < claimed < 2 * deviation


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "xtrace"])
def test_gaussian_probes_are_unbiased_too(method):
    true = float(SLOW.matrix.diagonal().sum())
    values = torch.tensor(
        [trace(SLOW, 9, generator=generator(s), method=method, probe="gaussian").value
         for s in range(2000)]
    ).double()  # fmt: skip
    assert abs(float(values.mean()) - true) < 4 * float(values.std()) / math.sqrt(len(values))


def test_the_variance_of_gaussian_probes_is_the_theory_s():
    """2 |A|_F^2 a sample, the diagonal included."""
    values = [
        trace(SLOW, 4, generator=generator(s), method="hutchinson", probe="gaussian").value
        for s in range(4000)
    ]
    expected = math.sqrt(2 * float(SLOW.matrix.square().sum()) / 4)
    assert float(torch.tensor(values).std()) == pytest.approx(expected, rel=0.06)
    z = gaussian(SLOW, generator())
    assert z.shape == (40,)


def test_xtrace_is_the_mean_of_what_each_vector_adds_to_the_others():
    """Against its definition: Hutchinson's sample beside the sketch of all other vectors."""
    A, count = FAST.matrix, 6
    g = generator()
    Omega = torch.stack([signs(FAST, g) for _ in range(count)], 1)
    samples = []
    for i in range(count):
        Q = torch.linalg.qr(A @ torch.cat((Omega[:, :i], Omega[:, i + 1 :]), 1)).Q
        z = Omega[:, i] - Q @ (Q.T @ Omega[:, i])
        samples.append(float(torch.trace(Q.T @ A @ Q) + z @ A @ z))
    estimate = trace(FAST, 2 * count, generator=generator(), method="xtrace")
    assert estimate.value == pytest.approx(sum(samples) / count, rel=1e-9)
    assert estimate.error == pytest.approx(
        float(torch.tensor(samples).double().std()) / math.sqrt(count), rel=1e-6
    )
    assert estimate.matvecs == 2 * count


def test_xdiag_is_the_mean_of_what_each_vector_adds_to_the_others():
    A, count = FAST.matrix, 6
    g = generator()
    Omega = torch.stack([signs(FAST, g) for _ in range(count)], 1)
    total = torch.zeros(len(A)).double()
    for i in range(count):
        Q = torch.linalg.qr(A @ torch.cat((Omega[:, :i], Omega[:, i + 1 :]), 1)).Q
        z = Omega[:, i]
        total += (Q @ Q.T @ A).diagonal() + z * (A @ z - Q @ (Q.T @ (A @ z)))
    mine = diagonal(FAST, 2 * count, generator=generator(), method="xdiag")
    assert torch.allclose(mine, total / count, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("products", [12, 40, 80, 400])
def test_of_a_matrix_of_low_rank_and_with_all_products_they_are_exact(products):
    A = low_rank(40, 4)
    exact = A.matrix.diagonal()
    estimate = trace(A, products, generator=generator(), method="xtrace")
    assert estimate.value == pytest.approx(float(exact.sum()), rel=1e-9)
    assert estimate.error <= 1e-9
    assert torch.allclose(diagonal(A, products, generator=generator(), method="xdiag"), exact)
    assert torch.allclose(
        diagonal(SLOW, 80, generator=generator(), method="xdiag"), SLOW.matrix.diagonal()
    )


def test_both_beat_hutchinson_where_eigenvalues_decay():
    exact = FAST.matrix.diagonal()
    errors = {
        method: torch.stack(
            [diagonal(FAST, 24, generator=generator(s), method=method) - exact for s in range(50)]
        ).square().mean()
        for method in ("hutchinson", "xdiag")
    }  # fmt: skip
    assert errors["xdiag"] < 0.05 * errors["hutchinson"]
    wrong = {
        method: sum(
            (trace(FAST, 24, generator=generator(s), method=method).value - exact.sum()) ** 2
            for s in range(50)
        )
        for method in ("hutch++", "xtrace")
    }
    assert wrong["xtrace"] < wrong["hutch++"]


@pytest.mark.parametrize("probe", ["signs", "gaussian"])
def test_the_square_of_the_frobenius_norm_is_unbiased(probe):
    A = randn(30, 30, seed=1)  # need not be symmetric
    true = float(torch.linalg.matrix_norm(A))
    estimates = [frobenius(A, 10, generator=generator(s), probe=probe) for s in range(1000)]
    squares = torch.tensor([e.value**2 for e in estimates]).double()
    assert abs(float(squares.mean()) - true**2) < 4 * float(squares.std()) / math.sqrt(1000)
    values = torch.tensor([e.value for e in estimates]).double()
    claimed = math.sqrt(sum(e.error**2 for e in estimates) / len(estimates))
    assert claimed == pytest.approx(float(values.std()), rel=0.15)
    assert estimates[0].matvecs == 10


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_no_square_leaves_the_range(scale):
    A = scale * SLOW.matrix
    for estimate, one in (
        (frobenius(A, 8, generator=generator()), frobenius(SLOW, 8, generator=generator())),
        (trace(A, 8, generator=generator()), trace(SLOW, 8, generator=generator())),
        (
            trace(A, 8, generator=generator(), method="hutchinson"),
            trace(SLOW, 8, generator=generator(), method="hutchinson"),
        ),
    ):
        assert estimate.value == pytest.approx(scale * one.value, rel=1e-9)
        assert estimate.error == pytest.approx(scale * one.error, rel=1e-9)
    zero = frobenius(torch.zeros(3, 3), 2, generator=generator())
    assert (zero.value, zero.error) == (0.0, 0.0)


def test_too_few_products_are_one_sentence():
    for call in (
        lambda: trace(SLOW, 3, generator=generator(), method="xtrace"),
        lambda: diagonal(SLOW, 1, generator=generator(), method="xdiag"),
        lambda: frobenius(SLOW, 0, generator=generator()),
    ):
        with pytest.raises(ValueError, match="products are too few for"):
            call()
