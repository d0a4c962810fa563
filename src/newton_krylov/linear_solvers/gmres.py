"""GMRES (Saad and Schultz 1986): the paper's Algorithm 1."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from newton_krylov.linear_solvers.method import linear_solver
from newton_krylov.linear_solvers.result import LinearResult, Status
from newton_krylov.linear_solvers.system import System, solve
from newton_krylov.norms import euclidean, norm

Orthogonalization = Literal["mgs", "mgs2", "cgs2"]
Orthogonalize = Callable[[list[Tensor], Tensor, Tensor], Tensor]


@linear_solver(
    "gmres",
    symmetric=False,
    M="Near A^-1; linear. A function, which cannot declare that, costs one product to verify.",
    maxiter="Limit of inner iterations, each one product (not of restarts, as in SciPy); 10 n by "
    "default.",
)
def gmres(
    s: System,
    *,
    restart: PositiveInt = 30,
    orthogonalization: Orthogonalization = "cgs2",
    side: Literal["right", "left"] = "right",
) -> LinearResult:
    """GMRES(m): any A, the smallest residual over the Krylov space since the last restart.

    Arnoldi's process with a choice of orthogonalization, Givens rotations on the Hessenberg
    matrix, restarts every `restart` iterations. Preconditioning from the right (default) leaves
    the residual that is minimized the true one; from the left, |M (b - A x)| is minimized, and the
    true norm, on which the method stops all the same, costs a second basis and a second
    synchronization per iteration. A callback costs a pass over the basis an iteration, to form x.
    `BREAKDOWN` where the Krylov space is exhausted and A is singular on it. Keeps `restart` + 1
    vectors of length n for the basis and 4 more.

    Parameters
    ----------
    restart : int
        Size of the basis.
    orthogonalization : {"mgs", "mgs2", "cgs2"}
        Modified Gram-Schmidt once (the original method) or twice, or classical Gram-Schmidt
        twice, which orthogonalizes as well as "mgs2" in four matrix-vector products.
    side : {"right", "left"}
        Where M is applied.
    """

    def cycle(s: System) -> Status:
        residual = 1.0
        while True:
            # Not kept in a variable: one basis at a time.
            status, after = _Sweep(
                s, side, _ORTHOGONALIZE[orthogonalization], restart, residual
            ).run()
            if status:
                return status
            if not after < residual * (1.0 - s.eps):
                return Status.STAGNATED
            residual = after

    return solve(s, cycle)


class _Sweep:
    """The iterations between two restarts.

    The QR factorization of the Hessenberg matrix lives on the host, as lists: `R` by columns, the
    rotations, and `g`, the rotated right side, whose last entry is the residual.
    """

    def __init__(
        self,
        s: System,
        side: str,
        orthogonalize: Orthogonalize,
        restart: int,
        residual: float,
    ) -> None:
        self.s = s
        self.residual = residual  # |r|, relative to the start of the cycle
        self.right = s.M if side == "right" else None
        self.left = s.M if side == "left" else None
        self.orthogonalize = orthogonalize
        self.size = min(restart, s.n, s.maxiter - s.iterations)
        self.V = s.b.new_empty(self.size + 1, s.n)
        self.rows = list(self.V.unbind(0))
        self.AV = s.b.new_empty(self.size, s.n) if self.left else None
        self.R: list[list[float]] = []
        self.rotations: list[tuple[float, float]] = []
        self.g: list[float] = []
        self.residuals: list[float] = []  # |g[-1]| after each column
        self.scale = 0.0  # largest column: a lower bound of |A M|

    def run(self) -> tuple[Status | None, float]:
        """Fill the basis; no status means it is full and the residual, returned too, too large."""
        return self._fill(), self.residual

    def _fill(self) -> Status | None:
        s = self.s
        start = s.r if self.left is None else self.left(s.r)
        beta = self.residual if self.left is None else euclidean(start)
        if not 0.0 < beta < math.inf:
            return Status.BREAKDOWN
        torch.div(start, beta, out=self.rows[0])
        self.g = [beta]
        for j in range(self.size):
            column = self._arnoldi(j)
            image = math.hypot(*column)
            if not math.isfinite(image):
                return self._finish(Status.BREAKDOWN)
            if column[-1] <= s.eps * image:
                # It seems that nothing more can be gained here; the true residual decides.
                s.drift = math.inf
            if not self._rotate(column, image):
                return self._finish(Status.BREAKDOWN)
            if status := self._advance():
                return self._finish(status)
        self._finish(None)
        return None

    def _arnoldi(self, j: int) -> list[float]:
        """Extend the basis by A v_j; the new column of the Hessenberg matrix."""
        v = self.rows[j]
        z = v if self.right is None else self.right(v)
        w = self.s.product(z)
        if self.AV is not None and self.left is not None:
            self.AV[j] = w
            w = self.left(w).clone()
        sizes = [torch.dot(z, z), torch.dot(w, w)] if self.right else []
        h = self.orthogonalize(self.rows[: j + 1], self.V[: j + 1], w)
        length = norm(w)
        torch.div(w, length, out=self.rows[j + 1])
        # The one synchronization of an iteration:
        column: list[float] = torch.cat((h, torch.stack((length, *sizes)))).tolist()
        if self.right:
            zz, ww = column[-2:]
            column = column[:-2]
            image = math.sqrt(ww / zz) if zz > 0.0 else math.inf
        else:
            image = math.hypot(*column)
        self.s.norm_A = max(self.s.norm_A, image)
        return column

    def _rotate(self, column: list[float], image: float) -> bool:
        """Bring the new column to triangular form; False if it adds nothing."""
        for i, (c, s) in enumerate(self.rotations):
            a, b = column[i], column[i + 1]
            column[i], column[i + 1] = c * a + s * b, c * b - s * a
        below = column.pop()
        pivot = math.hypot(column[-1], below)
        if pivot <= self.s.eps * image:
            return False
        c, s = column[-1] / pivot, below / pivot
        column[-1] = pivot
        self.R.append(column)
        self.rotations.append((c, s))
        last = self.g.pop()
        self.g += [c * last, -s * last]
        self.residuals.append(abs(s * last))
        self.scale = max(self.scale, image)
        return True

    def _advance(self) -> Status | None:
        """Record the iteration with its true residual norm."""
        s = self.s
        x, norm = None, abs(self.g[-1])
        if s.callback is not None:
            x = s.x.clone()
            s.move(x, self._correction(self._coefficients(len(self.R))), 1.0)
        if self.AV is not None:
            y = s.b.new_tensor(self._coefficients(len(self.R)))
            norm = euclidean(s.r - self.AV[: len(self.R)].T @ y)
        self.residual = norm
        return s.advance(norm, 0.0, x)

    def _coefficients(self, k: int) -> list[float]:
        """Solve the leading k by k part of the triangular system R y = g."""
        y = self.g[:k]
        for j in reversed(range(k)):
            column = self.R[j]
            y[j] /= column[j]
            yj = y[j]
            y[:j] = [a - yj * h for a, h in zip(y[:j], column, strict=False)]
        return y

    def _correction(self, y: list[float]) -> Tensor:
        dx = self.V[: len(y)].T @ self.s.b.new_tensor(y)
        return dx if self.right is None else self.right(dx)

    def _finish(self, status: Status | None) -> Status | None:
        """Update x, and for a restart the residual, without a product."""
        s, k = self.s, len(self.R)
        if k == 0:
            return status
        y = self._sound_coefficients()
        dx = self._correction(y)
        s.move(s.x, dx, 1.0)
        s.add_drift(s.eps * s.norm_A * euclidean(dx) if s.linear_M else math.inf)
        if len(y) < k:
            if status is None:
                self.residual = s.refresh()
            else:
                s.norms[-1] = s.true_residual()
        elif status is None and self.AV is not None:
            s.r.sub_(self.AV[: len(y)].T @ s.b.new_tensor(y))
        elif status is None:
            t = s.b.new_tensor(self._residual_coordinates())
            s.r = self.V[: k + 1].T @ t
        return status

    def _sound_coefficients(self) -> list[float]:
        """Solve for the coefficients of as many columns as rounding permits.

        Where A is singular and b outside its range, R becomes singular too: the coefficients
        grow without bound while the residual stays (Brown and Walker 1997). Columns that make x so
        large that A x rounds off more than the residual is without them are left out.
        """
        k = len(self.R)
        y = self._coefficients(k)
        while k > 1 and self.s.eps * self.scale * math.hypot(*y) > self.residuals[k - 2]:
            k -= 1
            y = self._coefficients(k)
        return y

    def _residual_coordinates(self) -> list[float]:
        """Express the residual in the basis: the last entry of g, rotated back."""
        k = len(self.rotations)
        t = [0.0] * k + [self.g[-1]]
        for i in reversed(range(k)):
            c, s = self.rotations[i]
            t[i], t[i + 1] = c * t[i] - s * t[i + 1], s * t[i] + c * t[i + 1]
        return t


def _mgs(rows: list[Tensor], V: Tensor, w: Tensor) -> Tensor:
    """Orthogonalize by modified Gram-Schmidt: one projection after the other, in place."""
    coefficients = []
    for v in rows:
        h = torch.dot(v, w)
        w.addcmul_(v, h, value=-1)
        coefficients.append(h)
    return torch.stack(coefficients)


def _mgs2(rows: list[Tensor], V: Tensor, w: Tensor) -> Tensor:
    return _mgs(rows, V, w) + _mgs(rows, V, w)


def _cgs2(rows: list[Tensor], V: Tensor, w: Tensor) -> Tensor:
    """Orthogonalize by classical Gram-Schmidt, twice (Giraud et al. 2005: twice is enough)."""
    VT = V.T
    first = torch.mv(V, w)
    w.addmv_(VT, first, alpha=-1)
    second = torch.mv(V, w)
    w.addmv_(VT, second, alpha=-1)
    return first.add_(second)


_ORTHOGONALIZE: dict[str, Orthogonalize] = {
    "mgs": _mgs,
    "mgs2": _mgs2,
    "cgs2": _cgs2,
}
