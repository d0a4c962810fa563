"""Operators against dense matrices: products, columns, diagonals, closed forms."""

from collections.abc import Callable

import pytest
import torch
from cases import CASE, symmetric
from problems import DTYPES, assert_close, randn, ulps
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.operators import (
    AffineOperator,
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
