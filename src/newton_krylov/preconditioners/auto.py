"""The preconditioner that the sizes suggest."""

from typing import Any, NamedTuple

import torch
from scipy.linalg import lapack
from torch import Tensor

from newton_krylov.linear_solvers.result import Preconditioner
from newton_krylov.operators import FewSamples, Forming, LinearOperator
from newton_krylov.preconditioners.base import Factored, PreconditionerBuilder, Unit
from newton_krylov.preconditioners.jacobi import Jacobi
from newton_krylov.registry import register

_FIRST = 8
_GROWTH = 4
_MOST_PRODUCTS = 8.0
_MOST_OF_FEW = 40.0
"""Problems of fewer samples than features take more products than these without."""
_SOLVES = 8
"""Triangular solves that take the time of an inverse."""
_SPEED = 8.0
"""How much faster an operation is in a factorization, which uses the cache, than in a product."""


class _Lapack(NamedTuple):
    potrf: Any
    potrs: Any


_LAPACK = {
    torch.float32: _Lapack(lapack.spotrf, lapack.spotrs),
    torch.float64: _Lapack(lapack.dpotrf, lapack.dpotrs),
}


@register("preconditioner", "auto")
class Auto(PreconditionerBuilder):
    """A factorized Hessian of some samples, the diagonal, or none, as the sizes suggest.

    Where the Hessian of an eighth of the samples can be formed and factorized in the time of a few
    products (a linear model of one output and up to some hundred features), its inverse is the
    preconditioner, and serves as long as solves with it are short. As soon as they have taken as
    many products beyond one as another matrix costs (the rule of renting until one has paid the
    price), or the next ones will, one of four times as many samples is made where the optimizer
    stands, until it is of all samples: then a solve is one iteration, and the method is exact
    Newton. So ill-conditioned problems, for which a sample says too little, come to the full matrix
    by themselves. Where only the L2 term changes, as along a path of penalties, the same matrix
    serves with the new term.

    Of fewer samples than features the inverse is had from the samples' matrix X X', formed once
    (Woodbury's formula; of all samples and in double precision alone): at once where that and a
    factorization cost no more than forty products, else as soon as products have taken as long. It
    is factorized again with new second derivatives where that takes a few products, and else by the
    same rule. Until then there is no preconditioner: the L2 term's eigenvalue, of as many
    eigenvectors as features outnumber samples, is one for CG, and the diagonal would make many.

    Elsewhere it is the operator's diagonal, if that is cheap, and nothing otherwise.

    The times are counted in operations, not measured, so that a run can be repeated.
    """

    def __init__(self) -> None:
        self._inverse: _Inverse | None = None
        self._dual: _Dual | None = None
        self._every = 0
        self._applied = 0
        self._spent = 0

    def build(self, A: LinearOperator, generator: torch.Generator) -> Preconditioner | None:
        """Return v -> M v; None where there is nothing cheap."""
        self._spent += max(0, self._applied - 1)
        few = A.few_samples()
        if few is not None:
            return self._of_few_samples(few)
        forming = A.forming()
        if forming is not None and self._is_due(A, forming):
            self._spent = 0
            self._every = self._next(A, forming)
            self._inverse = _inverted(forming, self._every, generator)
        if forming is not None and self._inverse is not None:
            self._inverse = self._inverse.with_ridge(forming.ridge)
        inverse = self._inverse
        if inverse is None:
            return Jacobi().build(A, generator) if A.has_diagonal else None
        self._applied = 0
        return _Applied(self, inverse)

    def _of_few_samples(self, few: FewSamples) -> Preconditioner:
        """Return Woodbury's inverse, or the unit matrix until products have cost as much."""
        known = self._dual
        if known is not None and not torch.allclose(known.units, _units(few), rtol=1e-6):
            known = None
        factorizing = len(few.weights) ** 3 / (_SPEED * 12 * few.entries)
        cost = factorizing + (few.cost if known is None else 0.0)
        little = _MOST_OF_FEW if known is None else _MOST_PRODUCTS
        if cost <= little or self._spent > cost or 2 * (self._applied - 2) > cost:
            self._spent = 0
            known = _Dual.of(few, None if known is None else known.gram)
        self._dual = known
        self._applied = 0
        if known is None or known.factor is None:
            return Unit(self.count)
        return _OfFewSamples(self, few, known)

    def count(self) -> None:
        """Count a use of the preconditioner that was built last."""
        self._applied += 1

    def _next(self, A: LinearOperator, forming: Forming) -> int:
        """Return of every how many samples one would be in the next matrix."""
        if self._every:
            return max(1, self._every // _GROWTH)
        return max(1, min(_FIRST, forming.samples // (4 * A.shape[0])))

    def _is_due(self, A: LinearOperator, forming: Forming) -> bool:
        """Return whether another matrix would save more products than it costs.

        It would have if those spent since the last one are as many. The last solve's are what each
        of the next two, at least, would take; two with a good one.
        """
        cost = _cost(A, forming, self._next(A, forming))
        if self._inverse is None:
            return not self._every and cost <= _MOST_PRODUCTS
        return self._spent > cost or 2 * (self._applied - 2) > cost

    def state_dict(self) -> dict[str, Any]:
        """Return the preconditioner that is in use."""
        inverse = None if self._inverse is None else vars(self._inverse).copy()
        return {
            "inverse": inverse,
            "dual": None if self._dual is None else vars(self._dual).copy(),
            "every": self._every,
            "applied": self._applied,
            "spent": self._spent,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        inverse, dual = state["inverse"], state["dual"]
        self._inverse = None if inverse is None else _Inverse(**inverse)
        self._dual = None if dual is None else _Dual(**dual)
        self._every = state["every"]
        self._applied, self._spent = state["applied"], state["spent"]


class _Inverse:
    """The inverse of a factorized matrix, formed as soon as it has been of use often.

    Parameters
    ----------
    factor : Tensor, shape (n, n)
        Cholesky's, below the diagonal, column by column.
    ridge : float or Tensor, shape (n,)
        What is on the matrix's diagonal whatever the samples are.
    uses : int
        Products so far.
    matrix : Tensor or None, shape (n, n)
        The inverse, once it is formed.
    """

    def __init__(
        self,
        factor: Tensor,
        ridge: float | Tensor,
        uses: int = 0,
        matrix: Tensor | None = None,
    ) -> None:
        self.factor, self.ridge, self.uses, self.matrix = factor, ridge, uses, matrix

    def with_ridge(self, ridge: float | Tensor) -> "_Inverse":
        """Return the inverse with another ridge; itself where rounding leaves none."""
        change = ridge - self.ridge
        if not (change.any() if isinstance(change, Tensor) else change):
            return self
        L = self.factor.tril()
        matrix = L @ L.T
        matrix.diagonal().add_(change)
        factor = _factorized(matrix)
        return self if factor is None else _Inverse(factor, ridge)

    def times(self, v: Tensor) -> Tensor:
        """Multiply a vector of shape (n,)."""
        self.uses += 1
        if self.uses > _SOLVES and self.matrix is None:
            self.matrix = torch.cholesky_inverse(self.factor)
        if self.matrix is not None:
            return self.matrix @ v
        if v.device.type == "cpu":  # LAPACK's own, which copies no matrix
            solve = _LAPACK[v.dtype].potrs
            return torch.from_numpy(solve(self.factor.numpy(), v.numpy(), lower=1)[0])
        return torch.cholesky_solve(v[:, None], self.factor)[:, 0]


class _Applied(Factored):
    """What was built, for one system."""

    def __init__(self, builder: Auto, inverse: _Inverse) -> None:
        self._builder, self._inverse = builder, inverse

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply a vector of shape (n,)."""
        self._builder.count()
        return self._inverse.times(v)

    def factor(self) -> Tensor:
        """Return Cholesky's factor, transposed."""
        self._builder.count()
        return self._inverse.factor.T


class _Dual:
    """What Woodbury's formula needs for (X'DX + r C)^-1, C diagonal.

    With K = X C^-1 X' it is C^-1/r - C^-1 X' D^1/2 (I + D^1/2 K D^1/2 / r)^-1 D^1/2 X C^-1 / r^2.

    Parameters
    ----------
    gram : Tensor, shape (m, m)
        K, which serves whatever D and r are.
    units : Tensor, shape (n,)
        The diagonal of C.
    root : Tensor, shape (m,)
        That of D^1/2.
    factor : Tensor or None, shape (m, m)
        Cholesky's, of I + D^1/2 K D^1/2 / r; None where rounding makes that impossible.
    ridge : float
        r.
    """

    def __init__(
        self, gram: Tensor, units: Tensor, root: Tensor, factor: Tensor | None, ridge: float
    ) -> None:
        self.gram, self.units, self.root = gram, units, root
        self.factor, self.ridge = factor, ridge

    @classmethod
    def of(cls, few: FewSamples, gram: Tensor | None) -> "_Dual":
        """Factorize for an operator."""
        units = _units(few)
        gram = few.gram(1 / units) if gram is None else gram
        root, ridge = few.weights.clamp(min=0).sqrt(), float(few.ridge.max())
        matrix = gram * (root / ridge) * root[:, None]
        matrix.diagonal().add_(1.0)
        factor, info = torch.linalg.cholesky_ex(matrix)
        return cls(gram, units, root, factor if int(info) == 0 else None, ridge)

    def times(self, few: FewSamples, v: Tensor) -> Tensor:
        """Multiply a vector of shape (n,): a pass over the data."""
        assert self.factor is not None
        x = v / (self.ridge * self.units)
        u = torch.cholesky_solve((self.root * few.times(x))[:, None], self.factor)[:, 0]
        return x - few.adjoint(self.root * u) / (self.ridge * self.units)


def _units(few: FewSamples) -> Tensor:
    """Return the ridge in units of its largest entry, and that where there is none."""
    units = few.ridge / few.ridge.max()
    return torch.where(units > 0, units, 1.0)


class _OfFewSamples:
    """What was built for fewer samples than features, for one system."""

    def __init__(self, builder: Auto, few: FewSamples, dual: _Dual) -> None:
        self._builder, self._few, self._dual = builder, few, dual

    def __call__(self, v: Tensor) -> Tensor:
        """Multiply a vector of shape (n,)."""
        self._builder.count()
        return self._dual.times(self._few, v)


def _cost(A: LinearOperator, forming: Forming, every: int) -> float:
    """Return the time of a part's matrix and of its inverse, in products."""
    return forming.cost / every + A.shape[0] ** 3 / (_SPEED * 4 * forming.entries)


def _inverted(forming: Forming, every: int, generator: torch.Generator) -> _Inverse | None:
    """Return the inverse of a part's matrix; None where rounding made that indefinite."""
    first = int(torch.randint(every, (), generator=generator))
    factor = _factorized(forming.part(every, first))
    return None if factor is None else _Inverse(factor, forming.ridge)


def _factorized(matrix: Tensor) -> Tensor | None:
    """Return Cholesky's factor of a matrix, which is overwritten; None if it is indefinite.

    What is below the matrix's diagonal is not read.
    """
    if matrix.device.type == "cpu":
        # In place: the matrix is symmetric, so its rows are the columns that LAPACK asks for.
        found, info = _LAPACK[matrix.dtype].potrf(matrix.numpy().T, lower=1, clean=0, overwrite_a=1)
        factor = torch.from_numpy(found)
    else:
        factor, info = torch.linalg.cholesky_ex(matrix.T)
    return None if int(info) != 0 else factor
