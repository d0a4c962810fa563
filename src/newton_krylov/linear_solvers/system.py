"""What every iterative solver shares: the system, its tolerance, its record, its verification.

A method is written as one *cycle*: from the residual `r`, of length one, it runs its recurrences
until they say that the residual is small, or that it cannot go on. `solve` runs cycles. Recurrences
drift away from b - A x in floating point, so each cycle also keeps an estimate of that drift; only
where it could matter does `solve` pay for one product to look at the true residual, and when that
fails the test it starts another cycle from there (iterative refinement), as long as cycles make
progress.

All numbers of a cycle are relative to its start: r = (b - A x) / |b - A x|, products are those of
A / unit (see `operators.Products`), and `move` and `advance` bring steps and norms back into the
user's units. So squares are in range whatever the units of A and b.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.linear_solvers.result import Callback, LinearResult, Preconditioner, Status
from newton_krylov.norms import euclidean, exponent, is_moderate, scaled, scaled_by_power
from newton_krylov.operators import (
    LinearOperator,
    Products,
    as_operator,
    check_vector,
    is_function,
    is_symmetric,
)

ITERATIONS_PER_UNKNOWN = 10
"""The default `maxiter` is this times n, as in SciPy."""

SINGULAR_IMAGE = 10.0
"""Where d'A d = 0 within rounding, A d = 0 is likely if |A d| <= this sqrt(eps) |A| |d|.

For a semidefinite A, |A d|^2 <= |A| d'A d; ten times the root of that allows for rounding.
"""

CURVATURE_ROUNDING = 4.0
"""d'A d is zero within rounding if it is at most this eps |A| |d|^2: a few times what a product and
an inner product round off, since |A| is known from below only."""

_CAUTION = 100.0
"""An estimated error this many times smaller than what it could falsify needs no verifying product:
drifts are estimates, and |A| is known from below only."""
_VERIFY_AT = 0.1
"""A possible error below this part of the residual and the tolerance is not worth a product."""
_MEANINGLESS_AT = 0.01
"""A recurred residual below this part of its drift says nothing any more."""
_PROGRESS = 0.5
"""A cycle that does not at least halve the true residual is the last one."""


class System:
    """A x = b while it is being solved.

    Parameters
    ----------
    A : operator or matrix
        Anything `operators.as_operator` takes.
    b : Tensor, shape (n,)
        Right side; float32 or float64.
    x0 : Tensor or None, shape (n,)
        Start; zero if None.
    M : operator, matrix or None
        Anything `operators.as_operator` takes.
    rtol, atol : float
        Stop at |b - A x| <= max(rtol |b|, atol).
    maxiter : int or None
        Iteration limit; None means `ITERATIONS_PER_UNKNOWN` times n.
    callback : callable or None
        See `result.Callback`.
    method : str
        Name of the method, for messages.
    symmetric : bool
        Whether the method needs a symmetric operator.

    Attributes
    ----------
    M : callable or None
        The preconditioner, as a function, divided by a power of two near its size.
    linear_M : bool
        Whether M is declared linear: a matrix or an operator, and not a function.
    x : Tensor, shape (n,)
        The iterate, in the user's units.
    r : Tensor, shape (n,)
        The residual at the start of the cycle, of length one (the cycle's to overwrite).
    norms : list of float
        Residual norms so far.
    norm_A : float
        Largest |A v| / |v| seen: a lower bound of |A|, near it after a few iterations.
    direction : Tensor or None, shape (n,)
        The direction of nonpositive curvature, once one was met.
    drift : float
        Estimate of how far the recurrences have taken the residual from b - A x.
    overflow : bool
        Whether a step was beyond the range of the type, and was not taken.

    Raises
    ------
    UnsupportedError
        If the method needs a symmetric operator and `A` is declared nonsymmetric, or is an explicit
        matrix that is not symmetric.
    TypeError, ValueError
        If types, dtypes or shapes do not fit.
    """

    def __init__(
        self,
        A: Any,
        b: Tensor,
        x0: Tensor | None,
        *,
        M: Any = None,
        rtol: float,
        atol: float,
        maxiter: int | None,
        callback: Callback | None,
        method: str,
        symmetric: bool,
    ) -> None:
        check_vector("b", b, b)
        self.A = as_operator(A, b)
        _check_kind("A", self.A, b)
        if symmetric and not is_symmetric(A, self.A):
            raise UnsupportedError(
                f"{method} is for symmetric operators and this one is not symmetric; "
                f"use gmres or gcr (or exact)"
            )
        self.believed_symmetric = symmetric and is_function(A, self.A)
        self.M = _preconditioner(M, b)
        self.linear_M = M is None or isinstance(M, LinearOperator) or not callable(M)
        self.b = b.detach()
        self.eps = torch.finfo(b.dtype).eps
        self.n = b.shape[0]
        self.maxiter = ITERATIONS_PER_UNKNOWN * self.n if maxiter is None else maxiter
        self.callback = callback
        self.iterations = 0
        self.norm_A = 0.0
        self.direction: Tensor | None = None
        self.drift = 0.0
        self._products = Products(self.A)
        self._scale = 1.0  # the residual's norm at the start of the cycle
        self.overflow = False
        self._norm_x = 0.0  # of the iterate whose residual was last computed by a product
        self._verified_at = 0
        self.norm_b = euclidean(self.b)
        self.threshold = max(rtol * self.norm_b, atol)
        if x0 is not None:
            check_vector("x0", x0, b)
        self._x0 = None if self.norm_b == 0.0 else x0  # the solution of A x = 0 is known
        self.x = self.start()
        self.r, self.r_exponent = self.b, 0  # b - A x is r 2^r_exponent
        if self._x0 is None:
            self.norms = [self.norm_b]
            if not is_moderate(self.norm_b, b.dtype):
                self.r_exponent = exponent(self.b)
            self.r = scaled_by_power(self.b, -self.r_exponent)
        else:
            self.norms = [self.true_residual()]

    @property
    def matvecs(self) -> int:
        """Products with A so far."""
        return self._products.count

    def start(self) -> Tensor:
        """Return a fresh copy of the start, shape (n,)."""
        return torch.zeros_like(self.b) if self._x0 is None else self._x0.detach().clone()

    def judge_start(self) -> Status | None:
        """Look at the start before the first cycle.

        Returns
        -------
        Status or None
            Why there is nothing to do: it solves the system, or is not finite.
        """
        if not math.isfinite(self.norms[0]):
            if not torch.isfinite(self.x).all():
                self.x.zero_()
            return Status.BREAKDOWN
        return Status.CONVERGED if self.norms[0] <= self.threshold else None

    def begin(self) -> None:
        """Begin a cycle at `x`: bring the residual to length one."""
        self._scale = self.norms[-1]
        self.r.div_(scaled(self._scale, -self.r_exponent))

    @property
    def uncertainty(self) -> float:
        """How far the recurred residual norm may be from the true one.

        The drift, and the rounding of the product that the recurrences started from.
        """
        return self.drift + self._rounding(self._norm_x)

    def _rounding(self, norm_x: float) -> float:
        """Return what A x rounds off, eps |A| |x|."""
        return self.eps * scaled(self.norm_A * norm_x, self._products.exponent)

    def product(self, v: Tensor) -> Tensor:
        """Multiply a vector of moderate size, shape (n,), by A / unit, and count."""
        return self._products(v)

    def move(self, x: Tensor, d: Tensor, length: float) -> None:
        """Add to x, in place, what `length` d of the cycle is in the user's units."""
        alpha = length * scaled(self._scale, -self._products.exponent)
        if abs(alpha) <= torch.finfo(x.dtype).max:
            x.add_(d, alpha=alpha)
        else:
            self.overflow = True

    def in_units(self, dx: Tensor) -> Tensor:
        """Return 2^r_exponent dx, shape (n,): the step for a solution of A dx = r."""
        return dx if self.r_exponent == 0 else scaled_by_power(dx, self.r_exponent)

    def add_drift(self, drift: float) -> None:
        """Add to the drift, in the cycle's units."""
        self.drift += drift * self._scale

    def true_residual(self) -> float:
        """Compute r = b - A x by a product, forget the drift, and return |b - A x|.

        Returns
        -------
        float
            |b - A x|.
        """
        self._norm_x = euclidean(self.x)
        self._verified_at = self.iterations
        self.drift = 0.0
        self.r, self.r_exponent = self._residual(self.x, self._norm_x)
        return scaled(euclidean(self.r), self.r_exponent)

    def _residual(self, x: Tensor, norm_x: float) -> tuple[Tensor, int]:
        """Compute b - A x by a product, as r 2^k with k = 0 in all but extreme units."""
        sizes = (self.norm_b, norm_x)
        plain = all(size == 0.0 or is_moderate(size, x.dtype) for size in sizes)
        k = 0 if plain else exponent(x)
        Ax = self.product(x if k == 0 else scaled_by_power(x, -k))
        k += self._products.exponent
        if plain and k == 0:
            return torch.sub(self.b, Ax), 0
        top = exponent(self.b)  # in units in which neither b nor A x is large
        if Ax.any():
            top = max(top, exponent(Ax) + k)
        return scaled_by_power(self.b, -top).sub_(scaled_by_power(Ax, k - top)), top

    def refresh(self) -> float:
        """Compute the residual by a product within a cycle, its norm in the cycle's units."""
        self.norms[-1] = self.true_residual()
        self.r.div_(scaled(self._scale, -self.r_exponent))
        return self.norms[-1] / self._scale

    def descent(self, x: Tensor) -> Tensor:
        """Compute the direction of b - A x for an iterate x, shape (n,), by a product."""
        return self._residual(x, euclidean(x))[0]

    def advance(self, norm: float, drift: float, x: Tensor | None = None) -> Status | None:
        """Record one iteration.

        Parameters
        ----------
        norm : float
            The recurred residual norm; that at the start of the cycle is 1.
        drift : float
            What this iteration adds to the drift, in the same units.
        x : Tensor or None, shape (n,)
            The iterate for the callback, where the method does not keep it in `self.x`.

        Returns
        -------
        Status or None
            Why the cycle must end now, if it must.
        """
        self.iterations += 1
        self.add_drift(drift)
        self.norms.append(norm * self._scale)
        if self.callback is not None:
            self.callback(self.x if x is None else x, self.norms[-1])
        if self.overflow:
            return Status.BREAKDOWN
        if self.norms[-1] <= max(self.threshold, _MEANINGLESS_AT * self.uncertainty):
            return Status.CONVERGED
        return Status.MAXITER if self.iterations >= self.maxiter else None

    @property
    def relative_uncertainty(self) -> float:
        """The uncertainty in the cycle's units."""
        return self.uncertainty / self._scale if self._scale > 0.0 else math.inf

    def curvature_stop(
        self, curvature: float, norm_squared: float, d: Tensor, Ad: Tensor
    ) -> Status | None:
        """Judge the curvature d'A d along a direction; keep the direction if it is not positive.

        Within rounding of zero, d'A d = 0 has two causes. If A d is zero as well, A is singular
        and the method has broken down; if it is not, A has eigenvalues of both signs.

        Parameters
        ----------
        curvature : float
            d'A d.
        norm_squared : float
            d'd.
        d, Ad : Tensor, shape (n,)
            The direction and its product.

        Returns
        -------
        Status or None
            Why the cycle must end, or None where the curvature is positive.
        """
        if not math.isfinite(curvature) or norm_squared == 0.0:
            return Status.BREAKDOWN
        self.norm_A = max(self.norm_A, abs(curvature) / norm_squared)
        rounding = CURVATURE_ROUNDING * self.eps * self.norm_A * norm_squared
        if curvature > rounding:
            return None
        self.direction = d
        if curvature < -rounding:
            return Status.NEGATIVE_CURVATURE
        image = euclidean(Ad) / math.sqrt(norm_squared)
        self.norm_A = max(self.norm_A, image)
        singular = image <= SINGULAR_IMAGE * math.sqrt(self.eps) * self.norm_A
        return Status.BREAKDOWN if singular else Status.NEGATIVE_CURVATURE

    def settle(self, *, certain: bool = False) -> float:
        """Return the residual norm, by a product if the recurrence may not be trusted.

        Parameters
        ----------
        certain : bool
            By a product in any case.

        Returns
        -------
        float
            The last entry of `norms`, corrected where that was needed.
        """
        known = self._verified_at == self.iterations and self.drift == 0.0
        if certain or (not known and self._in_doubt()):
            self.norms[-1] = self.true_residual()
        return self.norms[-1]

    def _in_doubt(self) -> bool:
        """Return whether an error could matter to the residual norm or to what is said of it."""
        size = euclidean(self.x)
        info = torch.finfo(self.x.dtype)
        in_range = info.tiny / info.eps < size < math.inf
        if self.overflow or not in_range:
            return True  # x is not what the recurrences say
        norm = self.norms[-1]
        error = _CAUTION * (self.drift + self._rounding(max(size, self._norm_x)))
        undecided = norm <= self.threshold < norm + error
        return undecided or not error <= _VERIFY_AT * max(norm, self.threshold)

    def is_least_squares(self) -> bool:
        """Verify that A r = 0 (A M r with a preconditioner) within rounding, for the true r.

        Returns
        -------
        bool
            Whether x minimizes the residual; one more product.
        """
        r = self.r / scaled(self.norms[-1], -self.r_exponent)
        z = r if self.M is None else self.M(r)
        image, size = euclidean(self.product(z)), euclidean(z)
        return image <= SINGULAR_IMAGE * math.sqrt(self.eps) * self.norm_A * size

    def result(self, status: Status) -> LinearResult:
        """Make the result, with the current iterate."""
        return LinearResult(
            self.x,
            status,
            self.iterations,
            self.matvecs,
            self.norms,
            self.direction,
            tolerance=self.threshold,
        )


def solve(
    system: System, cycle: Callable[[System], Status], *, by_symmetry: bool = False
) -> LinearResult:
    """Run cycles of a method until the true residual meets the tolerance or cannot.

    Parameters
    ----------
    system : System
        System not yet iterated.
    cycle : callable
        Runs the method from `system.x` and `system.r`, leaves the last finite iterate in
        `system.x`, and returns why it ended; `CONVERGED` means that the recurrences say so.
    by_symmetry : bool
        Whether its residual norms are true for symmetric operators only, and so for a function
        once a product has confirmed them.

    Returns
    -------
    LinearResult
        `CONVERGED` only if the true residual meets the tolerance, within what its estimated errors
        leave no doubt of. The last residual norm is true to a tenth of itself or of the tolerance,
        or to the rounding of one product.
    """
    status = system.judge_start()
    best: Tensor | None = None
    while status is None:
        norm = system.norms[-1]
        system.begin()
        ended = cycle(system)
        claimed = system.norms[-1]
        doubted = by_symmetry and system.believed_symmetric
        end = system.settle(certain=doubted or ended is Status.LEAST_SQUARES)
        verified = ended is Status.LEAST_SQUARES and system.is_least_squares()
        lost = system.overflow or not math.isfinite(euclidean(system.x))
        if lost:
            ended = Status.BREAKDOWN  # the solution is beyond the range of the type
        worse = not end <= system.threshold and not end < norm and not verified
        if worse and (lost or claimed < norm or best is not None):
            # The recurrences claimed progress that is not there: x was better at the start.
            system.x, system.norms[-1] = system.start() if best is None else best, norm
        status = _judge(system, ended, verified, end, norm)
        best = system.x.clone() if status is None else None
    return system.result(status)


def _judge(
    system: System, ended: Status, verified: bool, end: float, start: float
) -> Status | None:
    """Say why to stop after a cycle that led from one residual norm to another, if so."""
    if end <= system.threshold:
        return Status.CONVERGED
    if verified or ended not in (Status.CONVERGED, Status.LEAST_SQUARES):
        return ended
    if not math.isfinite(end):
        return Status.BREAKDOWN
    if not end <= _PROGRESS * start:
        return Status.STAGNATED
    return Status.MAXITER if system.iterations >= system.maxiter else None


def _preconditioner(M: Any, b: Tensor) -> Preconditioner | None:
    if M is None:
        return None
    operator = as_operator(M, b, name="M")
    _check_kind("M", operator, b)
    return Products(operator, "M")


def _check_kind(name: str, A: LinearOperator, b: Tensor) -> None:
    if A.dtype != b.dtype or A.device != b.device:
        raise TypeError(f"{name} is {A.dtype} on {A.device}, but b is {b.dtype} on {b.device}")
