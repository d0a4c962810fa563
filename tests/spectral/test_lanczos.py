"""Eigenpairs by Lanczos against dense eigenvalues, within the bounds that residuals give."""

import pytest
import scipy.sparse
import torch
from cases import SYMMETRIC_CASES, Case, spread, symmetric
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DTYPES
from torch import Tensor

from newton_krylov.errors import NotFiniteError, UnsupportedError
from newton_krylov.operators import FunctionOperator, MatrixOperator
from newton_krylov.spectral.lanczos import Eigenpairs, gauss_quadrature, lanczos, largest_eigenvalue
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


def of_values(values: torch.Tensor) -> FunctionOperator:
    return FunctionOperator(lambda v: values * v, len(values), values.dtype, values.device)


REST = torch.linspace(0, 1, 800).double()
COPIES = [
    ("largest", [5.0, 5.0], REST),
    ("largest", [3.0] * 4, torch.ones(30).double()),
    ("largest", [1.2, 1.2, 1.1], REST),
    ("smallest", [-5.0, -5.0, -5.0], REST),
    ("magnitude", [5.0, -5.0, 5.0], REST),
    ("largest", [3.0, 3.0, 2.0, 2.0], torch.zeros(500).double()),
    ("largest", [4.0, 3.0, 2.0], REST),  # none to be found
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("which", "top", "rest"), COPIES, ids=str)
def test_copies_are_found(which: str, top: list[float], rest: torch.Tensor, seed: int) -> None:
    """A Krylov space has one vector of each eigenspace; the rest of it is looked for."""
    values = torch.cat((torch.tensor(top).double(), rest))
    pairs = lanczos(of_values(values), len(top), which=which, generator=generator(seed))
    assert pairs.converged and pairs.complete
    assert torch.allclose(pairs.values.sort().values, torch.tensor(top).double().sort().values)
    gram = pairs.vectors.T @ pairs.vectors
    assert torch.allclose(gram, torch.eye(len(top)).double(), atol=1e-6)
    residuals = torch.linalg.vector_norm(
        values[:, None] * pairs.vectors - pairs.vectors * pairs.values, dim=0
    )
    assert (residuals <= 2e-6 * 5).all()


@given(
    distinct=st.lists(st.integers(-5, 5), min_size=1, max_size=5, unique=True),
    repeats=st.lists(st.integers(1, 6), min_size=5, max_size=5),
    k=st.integers(1, 4),
    which=st.sampled_from(["largest", "smallest", "magnitude"]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=100)
def test_what_is_called_complete_is(
    distinct: list[int], repeats: list[int], k: int, which: str, seed: int
) -> None:
    values = [float(v) for v, r in zip(distinct, repeats, strict=False) for _ in range(r)]
    A = symmetric(values, seed)
    k = min(k, len(values))
    pairs = lanczos(MatrixOperator(A), k, which=which, generator=generator(seed), rtol=1e-9)
    if pairs.complete:
        keys = {"largest": 1, "smallest": -1}.get(which)
        mine, best = pairs.values, wanted(A, k, which)
        same = (mine * keys, best * keys) if keys else (mine.abs(), best.abs())
        assert torch.allclose(*(v.sort().values for v in same), atol=1e-7)
    assert not pairs.converged or pairs.complete


def test_copies_may_be_left_alone() -> None:
    pairs = lanczos(of_values(REST), 2, generator=generator(), copies=False)
    searched = lanczos(of_values(REST), 2, generator=generator())
    assert pairs.converged and not pairs.complete
    assert pairs.matvecs < searched.matvecs


def test_too_few_products_to_tell_leave_it_unknown() -> None:
    needed = lanczos(of_values(REST), 2, generator=generator(), copies=False).matvecs
    pairs = lanczos(of_values(REST), 2, generator=generator(), maxiter=needed + 3)
    assert (pairs.complete, pairs.converged) == (False, False)
    assert pairs.matvecs == needed + 3


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (1e-300, torch.float64),
        (1e300, torch.float64),
        (1e-30, torch.float32),
        (1e30, torch.float32),
    ],
    ids=str,
)
def test_any_units(scale: float, dtype: torch.dtype) -> None:
    """A vanished norm is no exhausted space; a large one does not overflow."""
    values = torch.linspace(0.1, 1, 50).double()
    A = (torch.diag(values) * scale).to(dtype)
    rtol = 1e-5 if dtype is torch.float32 else 1e-8
    pairs = lanczos(A, 2, generator=generator(), rtol=rtol)
    assert pairs.converged
    assert (pairs.values.double() / scale).tolist() == pytest.approx(
        values.flip(0)[:2].tolist(), rel=1e-5
    )
    nodes, weights = gauss_quadrature(MatrixOperator(A), torch.ones(50, dtype=dtype), 20)
    assert float(weights.double() @ nodes.double()) / scale == pytest.approx(0.55, rel=1e-4)


def test_matrices_are_operators() -> None:
    A = symmetric([3.0, 2.0, 1.0])
    for matrix in (A, A.numpy(), scipy.sparse.csr_array(A.numpy()), A.to_sparse_csr()):
        assert float(lanczos(matrix, 1, generator=generator()).values) == pytest.approx(3.0)
    by_function = lanczos(lambda v: A @ v, 1, generator=generator(), v0=torch.ones(3).double())
    assert float(by_function.values) == pytest.approx(3.0)
    zero = lanczos(A, 1, generator=generator(), v0=torch.zeros(3).double())
    assert float(zero.values) == pytest.approx(3.0)


def test_each_mistake_is_one_sentence() -> None:
    A = symmetric([3.0, 2.0, 1.0])
    with pytest.raises(NotFiniteError, match="product 1 with the operator is not finite"):
        lanczos(of_values(torch.full((5,), float("nan")).double()), 1, generator=generator())
    with pytest.raises(NotFiniteError, match="v0 has entries that are not finite"):
        lanczos(A, 1, generator=generator(), v0=torch.full((3,), float("inf")).double())
    with pytest.raises(ValueError, match="v0"):
        lanczos(A, 1, generator=generator(), v0=torch.ones(3, 1).double())
    with pytest.raises(TypeError, match="a function does not know its size"):
        lanczos(lambda v: v, 1, generator=generator())
    with pytest.raises(UnsupportedError, match="symmetric"):
        lanczos(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), 1, generator=generator())
    with pytest.raises(TypeError, match="complex"):
        lanczos(torch.eye(3).cfloat(), 1, generator=generator())
