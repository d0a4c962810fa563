"""Eigenpairs by Lanczos against dense eigenvalues, within the bounds that residuals give."""

import pytest
import torch
from cases import SYMMETRIC_CASES, Case, spread, symmetric
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DTYPES
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.operators import MatrixOperator
from newton_krylov.spectral.lanczos import Eigenpairs, lanczos, largest_eigenvalue
from newton_krylov.spectral.pencil import pencil_extremes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wanted(A: Tensor, k: int, which: str) -> Tensor:
    """Return the k eigenvalues asked for, in order, by a dense solver."""
    values = torch.linalg.eigvalsh(A.double())
    key = {"largest": -values, "smallest": values, "magnitude": -values.abs()}[which]
    return values[torch.argsort(key)][:k]


def assert_pairs(pairs: Eigenpairs, A: Tensor) -> None:
    """Residuals are the true ones, vectors orthonormal, an eigenvalue within each residual."""
    A, eps = A.double(), torch.finfo(pairs.vectors.dtype).eps
    V, values = pairs.vectors.double(), pairs.values.double()
    scale = float(torch.linalg.matrix_norm(A, 2)) + 1e-300
    slack = 50 * eps * scale * len(A) ** 0.5
    residuals = torch.linalg.vector_norm(A @ V - V * values, dim=0)
    assert torch.allclose(residuals, pairs.residual_norms.double(), rtol=0.1, atol=slack)
    assert torch.allclose(V.T @ V, torch.eye(V.shape[1]).double(), atol=1e3 * eps)
    gaps = (torch.linalg.eigvalsh(A).unsqueeze(0) - values.unsqueeze(1)).abs().min(dim=1).values
    assert (gaps <= residuals + slack).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
@pytest.mark.parametrize("case", SYMMETRIC_CASES, ids=str)
def test_against_dense(case: Case, which: str, dtype: torch.dtype) -> None:
    A, _ = case.at(dtype)
    k = min(3, len(A))
    rtol = 1e-4 if dtype is torch.float32 else 1e-8
    pairs = lanczos(MatrixOperator(A), k, which=which, generator=generator(), rtol=rtol)
    assert_pairs(pairs, A)
    assert pairs.values.shape == pairs.residual_norms.shape == (k,)
    assert pairs.vectors.shape == (len(A), k)
    assert pairs.matvecs <= len(A)
    if pairs.converged:  # the first is the extreme one; copies of a multiple one may be missing
        first = float(pairs.values[0].double().abs() - wanted(A, k, which)[0].abs())
        assert abs(first) <= 10 * rtol * case.norm


@given(
    eigenvalues=st.lists(
        st.floats(-10, 10).map(lambda value: round(value, 9)), min_size=2, max_size=15
    ),
    k=st.integers(1, 3),
    which=st.sampled_from(["largest", "smallest", "magnitude"]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_residuals_bound_the_errors(
    eigenvalues: list[float], k: int, which: str, seed: int
) -> None:
    A = symmetric(eigenvalues, seed)
    pairs = lanczos(
        MatrixOperator(A), min(k, len(A)), which=which, generator=generator(seed), rtol=1e-10
    )
    assert_pairs(pairs, A)


def test_an_exhausted_space_is_carried_on() -> None:
    """Two distinct eigenvalues exhaust a Krylov space in two steps; six pairs are wanted."""
    A = symmetric([5.0] * 4 + [1.0] * 10)
    pairs = lanczos(MatrixOperator(A), 6, generator=generator(), rtol=1e-12)
    assert pairs.converged
    assert (pairs.values - 5.0).abs().min() < 1e-12
    assert int(((pairs.values - 5.0).abs() < 1e-12).sum()) >= 3
    assert_pairs(pairs, A)


def test_the_largest_in_magnitude_may_be_negative() -> None:
    """What PyHessian's users take for the largest eigenvalue."""
    A = symmetric([-7.0, -1.0, 0.5, 2.0, 3.0])
    pair = lanczos(MatrixOperator(A), 1, which="magnitude", generator=generator())
    assert float(pair.values) == pytest.approx(-7.0)
    assert largest_eigenvalue(MatrixOperator(A), generator=generator()) == pytest.approx(3.0)


def test_says_when_it_has_not_converged() -> None:
    A = symmetric(spread(200, 1e6))
    pairs = lanczos(
        MatrixOperator(A), 2, which="smallest", generator=generator(), rtol=1e-12, maxiter=10
    )
    assert not pairs.converged
    assert pairs.matvecs == 10
    assert_pairs(pairs, A)


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_a_bounded_basis_finds_the_same(which: str) -> None:
    A = symmetric(torch.linspace(-1, 3, 150).double())
    bounded = lanczos(
        MatrixOperator(A), 3, which=which, generator=generator(), rtol=1e-9,
        basis_size=25, maxiter=2000,
    )  # fmt: skip
    assert bounded.converged
    assert torch.allclose(bounded.values, wanted(A, 3, which), atol=1e-8)
    assert_pairs(bounded, A)


def test_a_good_start_is_worth_its_products() -> None:
    A = symmetric(torch.linspace(0, 1, 300).double())
    cold = lanczos(MatrixOperator(A), 1, generator=generator(), rtol=1e-6)
    warm = lanczos(MatrixOperator(A), 1, generator=generator(), rtol=1e-6, v0=cold.vectors[:, 0])
    assert warm.matvecs < cold.matvecs / 4


def test_the_generator_decides() -> None:
    A = MatrixOperator(symmetric(spread(100, 100)))
    runs = [lanczos(A, 1, generator=generator(seed), maxiter=5) for seed in (0, 0, 1)]
    assert torch.equal(runs[0].vectors, runs[1].vectors)
    assert not torch.equal(runs[0].vectors, runs[2].vectors)


def test_mistakes() -> None:
    A = symmetric([1.0, 2.0])
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"k={k} eigenpairs of a 2 by 2 operator"):
            lanczos(MatrixOperator(A), k, generator=generator())
    with pytest.raises(UnsupportedError, match="symmetric"):
        lanczos(MatrixOperator(A, symmetric=False), 1, generator=generator())


class TestPencil:
    def test_all_products_give_the_generalized_eigenvalues(self) -> None:
        A, H = symmetric(spread(12, 40)), symmetric(spread(12, 20), seed=3)
        values = torch.linalg.eigvals(torch.linalg.solve(H, A)).real
        found = pencil_extremes(
            MatrixOperator(A), lambda r: torch.linalg.solve(H, r), 12, generator()
        )
        assert found == pytest.approx((float(values.min()), float(values.max())), rel=1e-8)

    @given(products=st.integers(1, 30), seed=st.integers(0, 1000))
    @settings(deadline=None, max_examples=40)
    def test_estimates_lie_within_the_spectrum(self, products: int, seed: int) -> None:
        A, H = symmetric(spread(15, 40), seed), symmetric(spread(15, 20), seed + 1)
        values = torch.linalg.eigvals(torch.linalg.solve(H, A)).real
        low, high = pencil_extremes(
            MatrixOperator(A), lambda r: torch.linalg.solve(H, r), products, generator(seed)
        )
        assert float(values.min()) * (1 - 1e-9) <= low <= high <= float(values.max()) * (1 + 1e-9)

    def test_an_exhausted_space(self) -> None:
        """H = A: one step tells all."""
        A = symmetric(spread(10, 40))
        found = pencil_extremes(
            MatrixOperator(A), lambda r: torch.linalg.solve(A, r), 8, generator()
        )
        assert found == pytest.approx((1.0, 1.0))


def test_works_on_a_device(device: torch.device) -> None:
    A = symmetric(spread(50, 100)).to(device)
    pairs = lanczos(MatrixOperator(A), 2, generator=generator(), rtol=1e-8)
    assert pairs.vectors.device.type == device.type
    assert torch.allclose(pairs.values.cpu(), wanted(A.cpu(), 2, "largest"), atol=1e-8)
