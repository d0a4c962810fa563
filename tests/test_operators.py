"""Operators against dense matrices: products, columns, diagonals, closed forms."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from cases import CASE, symmetric
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DTYPES, assert_close, randn, ulps
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.operators import (
    AffineOperator,
    CastOperator,
    Compression,
    FunctionOperator,
    LinearOperator,
    MatrixOperator,
    as_operator,
)


class Minimal(LinearOperator):
    """A subclass that overrides only `matvec`."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        self.matrix = matrix

    def matvec(self, v: Tensor) -> Tensor:
        return self.matrix @ v


class Closed(Minimal):
    """c I, with its closed form."""

    def __init__(self, c: float, n: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__(c * torch.eye(n, dtype=dtype))
        self.c = c

    def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
        return b / (self.c + shift)


MAKERS: dict[str, Callable[[Tensor], LinearOperator]] = {
    "matrix": MatrixOperator,
    "CSR": lambda A: MatrixOperator(A.to_sparse_csr()),
    "function": lambda A: FunctionOperator(lambda v: A @ v, len(A), A.dtype, A.device),
    "subclass": Minimal,
    "shifted": lambda A: AffineOperator(
        MatrixOperator(A - 0.7 * torch.eye(len(A), dtype=A.dtype, device=A.device)), shift=0.7
    ),
    "scaled": lambda A: AffineOperator(MatrixOperator(A / -3.0), scale=-3.0),
    "nested": lambda A: AffineOperator(AffineOperator(Minimal(A / 2.0), shift=0.0), scale=2.0),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", MAKERS)
def test_products(kind: str, dtype: torch.dtype, device: torch.device) -> None:
    A, b = CASE["spd"].at(dtype, device)
    operator = MAKERS[kind](A)
    V = randn(len(b), 3, seed=2, dtype=dtype, device=device)
    assert operator.shape == A.shape
    assert operator.dtype == dtype
    assert operator.device.type == device.type
    for product, expected in (
        (operator.matvec(b), A @ b),
        (operator @ b, A @ b),
        (operator.matmat(V), A @ V),
        (operator @ V, A @ V),
        (operator.dense(), A),
        (operator.diagonal(), A.diagonal()),
    ):
        assert product.dtype == dtype
        assert_close(product, expected, ulps(dtype), kind)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_product_is_never_its_argument(kind: str) -> None:
    """Solvers overwrite products in place."""
    eye = torch.eye(5).double()
    operator = MAKERS[kind](eye)
    v = randn(5, seed=0)
    before = v.clone()
    operator.matvec(v).zero_()
    assert torch.equal(v, before)
    identity = FunctionOperator(lambda v: v, 5, v.dtype, v.device)
    AffineOperator(identity, shift=1.0).matvec(v)
    assert torch.equal(v, before)


def test_dense_and_diagonal_do_not_alias_into_damage() -> None:
    A = symmetric([1.0, 2.0, 3.0])
    before = A.clone()
    AffineOperator(MatrixOperator(A), shift=1.0).dense()
    MatrixOperator(A).diagonal().zero_()
    assert torch.equal(A, before)


class TestClosedForm:
    def test_is_announced(self) -> None:
        assert Closed(2.0, 3).has_solve
        assert not MatrixOperator(torch.eye(3)).has_solve
        with pytest.raises(UnsupportedError, match="MatrixOperator has no closed-form solve"):
            MatrixOperator(torch.eye(3)).solve(torch.ones(3))

    @pytest.mark.parametrize("shift", [0.0, 0.5])
    def test_survives_damping_and_scaling(self, shift: float) -> None:
        b = randn(4, seed=0)
        for operator in (
            AffineOperator(Closed(2.0, 4), shift=0.25),
            AffineOperator(Closed(2.0, 4), scale=4.0),
            AffineOperator(AffineOperator(Closed(2.0, 4), shift=1.0), scale=0.5),
            AffineOperator(AffineOperator(Closed(2.0, 4), scale=0.5), shift=1.0),
        ):
            assert operator.has_solve
            matrix = operator.dense() + shift * torch.eye(4).double()
            assert_close(operator.solve(b, shift), torch.linalg.solve(matrix, b), 1e-14)

    def test_is_not_invented(self) -> None:
        assert not AffineOperator(MatrixOperator(torch.eye(3)), shift=1.0).has_solve
        assert not AffineOperator(MatrixOperator(torch.eye(3)), scale=1.0).has_solve


class TestAffine:
    """scale A + shift I + diag(d), and an operator of another type, have all that A has."""

    @pytest.mark.parametrize("wrapper", [AffineOperator, CastOperator])
    def test_no_method_is_forgotten(self, wrapper: type[LinearOperator]) -> None:
        """Whatever an operator may override, a wrapper has to pass on."""
        derived = {"affine", "to_scipy", "has_solve", "has_diagonal"}  # made of the others
        public = {name for name in vars(LinearOperator) if not name.startswith("_")} - derived
        assert public <= set(vars(wrapper))

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @given(
        scale=st.floats(-3, 3), shift=st.floats(-3, 3), added=st.booleans(),
        twice=st.booleans(), seed=st.integers(0, 99),
    )  # fmt: skip
    @settings(deadline=None, max_examples=50)
    def test_is_the_dense_matrix(
        self, dtype: torch.dtype, scale: float, shift: float, added: bool, twice: bool, seed: int
    ) -> None:
        A = randn(6, 6, seed=seed, dtype=dtype)
        d = randn(6, seed=seed + 1, dtype=dtype) if added else None
        operator = MatrixOperator(A, symmetric=False).affine(scale=scale, shift=shift, diagonal=d)
        expected = (
            scale * A + shift * torch.eye(6, dtype=dtype) + torch.diag(d if added else 0 * A[0])
        )
        if twice:
            operator, expected = operator.affine(scale=2.0, shift=1.0), 2 * expected + torch.eye(6)
        V = randn(6, 3, seed=2, dtype=dtype)
        tolerance = 50 * torch.finfo(dtype).eps * (1 + float(expected.abs().sum()))
        for ours, theirs in (
            (operator @ V, expected.to(dtype) @ V),
            (operator @ V[:, 0], expected.to(dtype) @ V[:, 0]),
            (operator.dense(), expected.to(dtype)),
            (operator.diagonal(), expected.diagonal().to(dtype)),
        ):
            assert ours.dtype == dtype
            assert float((ours - theirs).abs().max()) <= tolerance

    def test_nothing_changed_is_itself(self) -> None:
        A = MatrixOperator(torch.eye(3))
        assert A.affine() is A
        assert A.cast(torch.float32) is A

    def test_what_survives(self) -> None:
        A = Closed(2.0, 4)
        assert A.capabilities == {"solve"}
        assert A.affine(shift=1.0, scale=3.0).capabilities == {"solve"}
        assert A.affine(diagonal=torch.ones(4).double()).capabilities == set()
        assert A.affine(scale=0.0, shift=1.0).capabilities == set()
        with pytest.raises(UnsupportedError, match="AffineOperator has no closed-form solve"):
            A.affine(diagonal=torch.ones(4).double()).solve(torch.ones(4).double())

    def test_a_cast_keeps_the_closed_form(self) -> None:
        single = Closed(2.0, 4).affine(shift=0.5).cast(torch.float32)
        b = randn(4, seed=0, dtype=torch.float32)
        assert single.has_solve and single.dtype == torch.float32
        assert torch.allclose(single.solve(b), b / 2.5)
        assert torch.allclose(single.solve(b, 1.0), b / 3.5)

    def test_of_samples_and_compressions(self) -> None:
        class Parts(Minimal):
            def sampled(self, size: int, generator: torch.Generator) -> LinearOperator:
                return MatrixOperator(2 * self.matrix)

            def compression(self) -> Compression:
                return Compression(MatrixOperator(self.matrix), lambda U: U, lambda v: v)

        A = symmetric([1.0, 2.0, 3.0])
        operator = Parts(A).affine(scale=3.0, shift=1.0)
        eye = torch.eye(3).double()
        part, small = operator.sampled(1, torch.Generator()), operator.compression()
        assert part is not None and small is not None
        assert torch.allclose(part.dense(), 6 * A + eye)
        assert torch.allclose(small.operator.dense(), 3 * A + eye)
        cast = Parts(A).cast(torch.float32).compression()
        assert cast is not None and cast.expand(torch.ones(3, 1)).dtype == torch.float32


class TestToSciPy:
    @pytest.mark.parametrize("kind", MAKERS)
    def test_serves_their_solvers(self, kind: str) -> None:
        A, b = CASE["spd"].system
        x, info = scipy.sparse.linalg.cg(MAKERS[kind](A).to_scipy(), b.numpy(), rtol=1e-10)
        assert info == 0
        assert torch.allclose(A @ torch.from_numpy(x), b, atol=1e-7)

    def test_products_and_types(self) -> None:
        A = randn(5, 5, seed=0, dtype=torch.float32)
        peer = MatrixOperator(A, symmetric=False).to_scipy()
        V = randn(5, 3, seed=1, dtype=torch.float32).numpy()
        assert peer.dtype == np.float32 and (peer @ V).dtype == np.float32
        assert np.allclose(peer @ V, A.numpy() @ V, atol=1e-5)
        assert np.allclose(peer @ V[:, :1], A.numpy() @ V[:, :1], atol=1e-5)
        with pytest.raises(NotImplementedError):
            peer.rmatvec(V[:, 0])


class TestArrays:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_the_callers_arrays_are_never_changed(self, dtype: torch.dtype) -> None:
        """An unsorted CSR matrix stays as it is, and a read-only one serves."""
        data, columns = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 0, 1, 0])
        csr = scipy.sparse.csr_array((data, columns, np.array([0, 2, 4])), shape=(2, 2))
        for array in (csr.data, csr.indices, csr.indptr):
            array.setflags(write=False)
        operator = as_operator(csr, torch.ones(2, dtype=dtype), symmetric=False)
        expected = torch.tensor([[2.0, 1.0], [4.0, 3.0]], dtype=dtype)
        assert torch.equal(operator.dense(), expected)
        assert columns.tolist() == [1, 0, 1, 0]

    def test_one_output_buffer(self) -> None:
        A, buffer = torch.tensor([[2.0, 1.0], [1.0, 3.0]]), torch.empty(2)
        for function in (
            lambda v: torch.mv(A, v, out=buffer),
            lambda v: torch.mv(A, v, out=buffer)[:],
            lambda v: torch.from_numpy(np.dot(A.numpy(), v.numpy(), out=buffer.numpy())),
        ):
            operator = FunctionOperator(function, 2, A.dtype, A.device)
            assert torch.equal(operator.dense(), A)
            first = operator.matvec(torch.tensor([1.0, 0.0]))
            operator.matvec(torch.tensor([0.0, 1.0]))
            assert torch.equal(first, A[:, 0])

    def test_a_scipy_operator_with_one_buffer(self) -> None:
        """SciPy's own `matmat` would make all columns the last one."""
        A, buffer = np.array([[2.0, 1.0], [1.0, 3.0]]), np.empty(2)
        scipy_operator = scipy.sparse.linalg.LinearOperator(
            (2, 2), matvec=lambda v: np.dot(A, v.ravel(), out=buffer), dtype=float
        )
        operator = as_operator(scipy_operator, torch.ones(2).double())
        assert torch.equal(operator.dense(), torch.from_numpy(A))

    def test_extended_precision_is_rounded(self) -> None:
        A = np.array([[2.0, 1.0], [1.0, 3.0]], dtype=np.longdouble)
        operator = as_operator(A, torch.ones(2).double())
        assert operator.dense().tolist() == A.tolist()

    def test_a_subclass_with_one_buffer(self) -> None:
        class Buffered(Minimal):
            buffer = torch.empty(3).double()

            def matvec(self, v: Tensor) -> Tensor:
                return torch.mv(self.matrix, v, out=self.buffer)

        A = symmetric([1.0, 2.0, 3.0])
        assert torch.equal(Buffered(A).dense(), A)


class TestAsOperator:
    def test_an_operator_is_itself(self) -> None:
        operator = MatrixOperator(torch.eye(3))
        assert as_operator(operator, torch.ones(3)) is operator

    @pytest.mark.parametrize("symmetric", [True, False])
    def test_symmetry_is_the_callers_word(self, symmetric: bool) -> None:
        b = torch.ones(3)
        for A in (torch.eye(3), torch.eye(3).numpy(), lambda v: v):
            assert as_operator(A, b, symmetric=symmetric).symmetric is symmetric

    def test_wrappers_keep_symmetry(self) -> None:
        operator = MatrixOperator(torch.eye(3), symmetric=False)
        assert not AffineOperator(operator, shift=1.0).symmetric
        assert not AffineOperator(operator, scale=1.0).symmetric
