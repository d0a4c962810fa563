"""What every iterative solver shares: the system, its tolerance, its record, its honesty.

A method is written as one *cycle*: from the system's `x` and its residual `r` it runs its
recurrences until they say that the residual is small, or that it cannot go on. `solve` runs
cycles. Recurrences drift away from b - A x in floating point, so each cycle also keeps an estimate
of that drift; only where it could matter does `solve` pay for one product to look at the true
residual, and when that fails the test it starts another cycle from there (iterative refinement),
as long as cycles make progress.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.linear_solvers.result import Callback, LinearResult, Preconditioner, Status
from newton_krylov.norms import euclidean
from newton_krylov.operators import LinearOperator, as_operator

ITERATIONS_PER_UNKNOWN = 10
"""The default `maxiter` is this times n, as in SciPy."""

SINGULAR_IMAGE = 10.0
"""Where d'A d = 0 within rounding, A d = 0 is likely if |A d| <= this sqrt(eps) |A| |d|.

For a semidefinite A, |A d|^2 <= |A| d'A d; ten times the root of that allows for rounding.
"""

CURVATURE_ROUNDING = 4.0
"""d'A d is zero within rounding if it is at most this eps |A| |d|^2: a few times what a product and
an inner product round off, since |A| is known from below only."""

_VERIFY_AT = 0.1
"""A drift below this part of the tolerance needs no verifying product."""
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
        The preconditioner, as a function.
    x, r : Tensor, shape (n,)
        The iterate, updated in place, and the residual at the start of the cycle (the cycle's to
        overwrite).
    norms : list of float
        Residual norms so far.
    norm_A : float
        Largest |A v| / |v| seen: a lower bound of |A|, near it after a few iterations.
    direction : Tensor or None, shape (n,)
        The direction of nonpositive curvature, once one was met.
    drift : float
        Estimate of how far the recurrences have taken the residual from b - A x.

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
        _check_vector("b", b, b)
        self.A = as_operator(A, b)
        _check_kind("A", self.A, b)
        if symmetric and not _is_symmetric(A, self.A):
            raise UnsupportedError(
                f"{method} is for symmetric operators and this one is not symmetric; "
                f"use gmres or gcr (or exact)"
            )
        self.M = _as_function(M, b)
        self.b = b.detach()
        self.eps = torch.finfo(b.dtype).eps
        self.n = b.shape[0]
        self.maxiter = ITERATIONS_PER_UNKNOWN * self.n if maxiter is None else maxiter
        self.callback = callback
        self.iterations = 0
        self.matvecs = 0
        self.norm_A = 0.0
        self.direction: Tensor | None = None
        self.drift = 0.0
        self._norm_x = 0.0  # of the iterate whose residual was last computed by a product
        self._verified_at = 0
        self.norm_b = euclidean(self.b)
        self.threshold = max(rtol * self.norm_b, atol)
        if x0 is not None:
            _check_vector("x0", x0, b)
        self._x0 = None if self.norm_b == 0.0 else x0  # the solution of A x = 0 is known
        self.x = self.start()
        if self._x0 is None:
            self.r = self.b.clone()
            self.norms = [self.norm_b]
        else:
            self.norms = [self.true_residual()]

    def start(self) -> Tensor:
        """Return a fresh copy of the start, shape (n,)."""
        return torch.zeros_like(self.b) if self._x0 is None else self._x0.detach().clone()

    def judge_start(self) -> Status | None:
        """Look at the start before the first product.

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

    @property
    def uncertainty(self) -> float:
        """How far the recurred residual norm may be from the true one.

        The drift, and the rounding of the product that the recurrences started from.
        """
        return self.drift + self.eps * self.norm_A * self._norm_x

    def product(self, v: Tensor) -> Tensor:
        """Multiply by A, and count.

        Parameters
        ----------
        v : Tensor, shape (n,)
            Any vector.

        Returns
        -------
        Tensor, shape (n,)
            A v.

        Raises
        ------
        TypeError, ValueError
            If the first product does not have the vector's shape, dtype and device.
        """
        self.matvecs += 1
        Av = self.A.matvec(v).detach()  # a user's operator may be one that autograd records
        if self.matvecs == 1:
            _check_vector("the product A v", Av, v)
        return Av

    def true_residual(self) -> float:
        """Compute r = b - A x by a product, forget the drift, and return the norm of r.

        Returns
        -------
        float
            |b - A x|.
        """
        self.r = torch.sub(self.b, self.product(self.x))
        self.drift = 0.0
        self._norm_x = euclidean(self.x)
        self._verified_at = self.iterations
        return euclidean(self.r)

    def advance(self, norm: float, drift: float, x: Tensor | None = None) -> Status | None:
        """Record one iteration.

        Parameters
        ----------
        norm : float
            The recurred residual norm.
        drift : float
            What this iteration adds to the drift.
        x : Tensor or None, shape (n,)
            The iterate for the callback, where the method does not keep it in `self.x`.

        Returns
        -------
        Status or None
            Why the cycle must end now, if it must.
        """
        self.iterations += 1
        self.drift += drift
        self.norms.append(norm)
        if self.callback is not None:
            self.callback(self.x if x is None else x, norm)
        if norm <= max(self.threshold, _MEANINGLESS_AT * self.uncertainty):
            return Status.CONVERGED
        return Status.MAXITER if self.iterations >= self.maxiter else None

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

    def settle(self) -> float:
        """Return the residual norm, by a product if the recurrence may not be trusted.

        Returns
        -------
        float
            The last entry of `norms`, mended where that was needed.
        """
        known = self._verified_at == self.iterations and self.drift == 0.0
        limit = _VERIFY_AT * max(self.norms[-1], self.threshold)
        if not known and not self.uncertainty <= limit:
            self.norms[-1] = self.true_residual()
        return self.norms[-1]

    def result(self, status: Status) -> LinearResult:
        """Make the result.

        Parameters
        ----------
        status : Status
            Why the solver stopped.

        Returns
        -------
        LinearResult
            With the current iterate.
        """
        return LinearResult(
            self.x, status, self.iterations, self.matvecs, self.norms, self.direction
        )


def solve(system: System, cycle: Callable[[System], Status]) -> LinearResult:
    """Run cycles of a method until the true residual meets the tolerance or cannot.

    Parameters
    ----------
    system : System
        Fresh.
    cycle : callable
        Runs the method from `system.x` and `system.r`, leaves the last finite iterate in
        `system.x`, and returns why it ended; `CONVERGED` means that the recurrences say so.

    Returns
    -------
    LinearResult
        Its last residual norm is true to a tenth of itself or of the tolerance, or to the
        rounding of one product.
    """
    if status := system.judge_start():
        return system.result(status)
    norm = system.norms[0]
    best: Tensor | None = None
    while True:
        status = cycle(system)
        claimed, end = system.norms[-1], system.settle()
        if end <= system.threshold:
            return system.result(Status.CONVERGED)
        if not end < norm and (claimed < norm or best is not None):
            # The recurrences claimed progress that is not there: x was better where it started.
            system.x, system.norms[-1] = system.start() if best is None else best, norm
        if status is not Status.CONVERGED:
            return system.result(status)
        if not end <= _PROGRESS * norm:
            return system.result(Status.STAGNATED)
        norm, best = end, system.x.clone()


def _as_function(M: Any, b: Tensor) -> Preconditioner | None:
    if M is None:
        return None
    operator = as_operator(M, b, name="M")
    _check_kind("M", operator, b)
    return lambda v: operator.matvec(v).detach()


def _is_symmetric(A: Any, operator: LinearOperator) -> bool:
    """Believe an operator and a function; look at a user's matrix: u'A v = v'A u for random u, v.

    Costs two products, which are not counted.
    """
    if A is operator or not hasattr(A, "shape"):
        return operator.symmetric
    generator = torch.Generator().manual_seed(0)
    uv = torch.randn(2, operator.shape[0], generator=generator, dtype=operator.dtype)
    u, v = uv.to(operator.device)
    Au, Av = operator.matvec(u).detach(), operator.matvec(v).detach()
    difference = abs(torch.dot(u, Av) - torch.dot(v, Au))
    size = euclidean(u) * euclidean(Av) + euclidean(v) * euclidean(Au)
    return not float(difference) > torch.finfo(operator.dtype).eps ** 0.5 * size


def _check_kind(name: str, A: LinearOperator, b: Tensor) -> None:
    if A.dtype != b.dtype or A.device != b.device:
        raise TypeError(f"{name} is {A.dtype} on {A.device}, but b is {b.dtype} on {b.device}")


def _check_vector(name: str, v: Tensor, like: Tensor) -> None:
    if not isinstance(v, Tensor):
        raise TypeError(f"{name} must be a torch tensor, not {type(v).__name__}")
    if v.ndim != 1 or v.shape != like.shape:
        raise ValueError(f"{name} must have shape ({like.shape[0]},), not {tuple(v.shape)}")
    if v.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, not {v.dtype}")
    if v.dtype != like.dtype or v.device != like.device:
        raise TypeError(
            f"{name} is {v.dtype} on {v.device}, but b is {like.dtype} on {like.device}"
        )
