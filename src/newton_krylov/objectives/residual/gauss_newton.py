"""The Gauss-Newton matrix of residuals: products, dense, and closed forms in the smaller space."""

import copy
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from newton_krylov.objectives.base import Counts
from newton_krylov.operators import Capability, RectangularOperator, times_transpose
from newton_krylov.rectangular import MatrixMap, NormalOperator

Factor = Callable[[Tensor], Tensor]


class GaussNewtonOperator(NormalOperator):
    """J'J at a point, whose gradient J'r is the right side that it is made for.

    The closed form works in the smaller of the two spaces: with as many weights as residuals or
    fewer by Cholesky factors of J'J + shift I, else of J J' + shift I, by

        (J'J + shift I)^-1 J'r = J' (J J' + shift I)^-1 r.

    Parameters
    ----------
    J : RectangularOperator
        m by n.
    r : Tensor, shape (m,)
        The residuals.
    memory : float
        Bytes that J may take; where it does not fit, there is no closed form.
    counts : Counts
        What is evaluated is added to.
    share : float
        Share of all samples that the residuals are of.
    """

    def __init__(
        self, J: RectangularOperator, r: Tensor, memory: float, counts: Counts, share: float = 1.0
    ) -> None:
        super().__init__(J, r)
        self._given = J
        self._memory, self._counts, self._share = memory, counts, share
        self._factored: tuple[float, Factor] | None = None

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        self._counts.add(hvp=self._share, passes=self._share)
        return super().matvec(v)

    @cached_property
    def matrix(self) -> Tensor:
        """J, dense, shape (m, n); products are made with it from then on."""
        self._counts.add(hessian=self._share, passes=self._share)
        matrix = self.J.dense()
        self.J = MatrixMap(matrix)
        return matrix

    @cached_property
    def gram(self) -> Tensor:
        """J'J, or JJ' where there are fewer residuals than weights."""
        m, n = self.J.shape
        if n <= m:
            return times_transpose(self.matrix.T)
        quick = self._given.outer()
        if quick is None:
            return times_transpose(self.matrix)
        self._counts.add(hessian=self._share, passes=self._share)
        return quick

    def dense(self) -> Tensor:
        """Form J'J, shape (n, n)."""
        m, n = self.J.shape
        return self.gram.clone() if n <= m else self.matrix.T @ self.matrix

    def diagonal(self) -> Tensor:
        """Return the diagonal of J'J, shape (n,)."""
        return self.matrix.square().sum(0)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """A diagonal and a closed form, where J fits in the memory."""
        m, n = self.J.shape
        fits = m * n * self.u.element_size() <= self._memory
        return super().capabilities if fits else frozenset()

    def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
        """Solve (J'J + shift I) x = b, shape (n,): the shortest solution if it is singular."""
        m, n = self.J.shape
        inverse = self._inverse(shift)
        if n <= m:
            return inverse(b)
        problem = self.least_squares(b)
        if problem is not None:
            return self.J.rmatvec(inverse(problem.u))
        Jb = self.J.matvec(b)
        if shift > 0:
            return (b - self.J.rmatvec(inverse(Jb))) / shift
        return self.J.rmatvec(inverse(inverse(Jb)))

    def _inverse(self, shift: float) -> Factor:
        """Return the inverse of the smaller matrix and this shift; the last one is kept."""
        if self._factored is None or self._factored[0] != shift:
            self._factored = shift, factor(self.gram, shift)
        return self._factored[1]

    def aimed(self, r: Tensor) -> "GaussNewtonOperator":
        """Return the same operator for another right side J'r; what is formed is shared.

        Parameters
        ----------
        r : Tensor, shape (m,)
            In the place of the residuals.

        Returns
        -------
        GaussNewtonOperator
            With `b` = J'r.
        """
        other = copy.copy(self)
        other.u, other.b = r, self.J.rmatvec(r)
        return other


def factor(matrix: Tensor, shift: float) -> Factor:
    """Return b -> (matrix + shift I)^-1 b for a semidefinite matrix.

    Parameters
    ----------
    matrix : Tensor, shape (k, k)
        Symmetric positive semidefinite but for rounding; not changed.
    shift : float
        At least 0.

    Returns
    -------
    callable
        By Cholesky factors; by eigenvalues where the matrix is singular within rounding, and then
        of the shortest solutions.
    """
    shifted = matrix.clone()
    shifted.diagonal().add_(shift)
    L, info = torch.linalg.cholesky_ex(shifted)
    if not int(info):
        return lambda b: torch.cholesky_solve(b.unsqueeze(1), L).squeeze(1)
    values, Q = torch.linalg.eigh(shifted)
    zero = len(values) * torch.finfo(values.dtype).eps * values[-1].abs()
    inverse = torch.where(values > zero, values, torch.inf).reciprocal()
    return lambda b: Q @ (inverse * (Q.T @ b))
