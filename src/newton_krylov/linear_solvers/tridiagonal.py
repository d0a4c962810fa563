"""Lanczos's process with the QR factorization of its matrix: what MINRES and MINRES-QLP share.

Names are those of Choi, Paige and Saunders (2011): after k steps A V_k = V_{k+1} T_k with T_k
tridiagonal, Q_k T_k = R_k with the three diagonals gamma, delta, epsilon, and the rotated right
side Q_k (beta_1 e_1) = (tau_1, ..., tau_k, phi_k), so that |phi_k| is the residual's norm.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from newton_krylov.linear_solvers.result import Status
from newton_krylov.linear_solvers.system import (
    CURVATURE_ROUNDING,
    SINGULAR_IMAGE,
    System,
)
from newton_krylov.norms import euclidean

NegativeCurvature = Literal["ignore", "stop"]


class TridiagonalQR:
    """The process from the residual of a system.

    With a preconditioner, V is orthonormal in the inner product of M^-1, and phi is the M-norm of
    the residual; its Euclidean norm, on which the solvers stop, then costs one more vector.

    Parameters
    ----------
    s : System
        System whose `r` becomes the first vector; its `M` must be symmetric positive definite.
    negative_curvature : {"ignore", "stop"}
        Whether a step that meets negative curvature stops the process.
    iterate : callable
        Returns x_{k-1}, the iterate before the current step.

    Attributes
    ----------
    v : Tensor, shape (n,)
        The k-th Lanczos vector (multiplied by M).
    gamma, delta, epsilon : float
        R[k, k], R[k-1, k] and R[k-2, k].
    tau : float
        The k-th entry of the rotated right side.
    norm : float
        |b - A x_k|, the Euclidean norm, relative to that at the start.
    norm_T : float
        Largest column of T: a lower bound of |A| (of |L'A L| for M = L L').
    """

    def __init__(
        self,
        s: System,
        negative_curvature: NegativeCurvature,
        iterate: Callable[[], Tensor],
    ) -> None:
        self.s = s
        self.M = M = s.M
        self._policy = negative_curvature
        self._iterate = iterate
        self.norm = 1.0
        self._w = s.r  # v, before it is multiplied by M
        self._w_old = torch.zeros_like(self._w)
        self._r = None if M is None else self._w.clone()
        self._next = self._w if M is None else M(self._w)
        square = 1.0 if M is None else torch.dot(self._w, self._next).item()
        self._definite = square > 0.0
        self._phi = math.sqrt(square) if self._definite else 0.0
        if M is not None and self._definite:
            self._next = self._next / self._phi
            self._w.div_(self._phi)
        self._k = 0
        self._beta = 0.0
        self._c, self._s = -1.0, 0.0
        self._delta_bar, self._epsilon_next = 0.0, 0.0
        self.norm_T = 0.0

    def step(self, extra: Tensor) -> tuple[Status | None, float]:
        """Take one step: a product, a column of T, a column of R.

        Parameters
        ----------
        extra : Tensor, shape ()
            A scalar of the caller's to bring to the host in the step's one synchronization.

        Returns
        -------
        Status or None
            Why the process must stop, with x_{k-1} the last iterate, if it must.
        float
            The value of `extra`.
        """
        if not self._definite:
            return Status.BREAKDOWN, 0.0
        v = self.v = self._next
        Av = self.s.product(v)
        w = torch.sub(Av, self._w_old, alpha=self._beta, out=self._w_old)
        alpha = torch.dot(v, w)
        w.addcmul_(self._w, alpha, value=-1)
        Mw = w if self.M is None else self.M(w)
        scalars = [extra, alpha, torch.dot(w, Mw)]
        if self._r is not None:
            pairs = ((self._r, self._r), (self._r, w), (w, w), (v, v), (Av, Av))
            scalars += [torch.dot(a, b) for a, b in pairs]
        value, alpha_host, square, *products = torch.stack(scalars).tolist()
        if not math.isfinite(alpha_host + square):
            return Status.BREAKDOWN, value
        self._factorize(alpha_host, math.sqrt(max(square, 0.0)))
        if products:
            self._definite = square >= -self.s.eps * self.s.n * products[2]
            self.s.norm_A = max(self.s.norm_A, math.sqrt(products[4] / products[3]))
        else:
            self.s.norm_A = self.norm_T
        status = self._judge()
        if self._beta == 0.0:
            self.s.drift = math.inf  # seems exhausted; the true residual decides
        self._k += 1
        if status is None:
            self._normalize(w, Mw)
            self._measure(products)
        return status, value

    def _factorize(self, alpha: float, beta: float) -> None:
        """Apply the last rotation to the new column of T, and find the next rotation."""
        self.norm_T = max(self.norm_T, math.hypot(self._beta, alpha, beta))
        self.delta = self._c * self._delta_bar + self._s * alpha
        gamma_bar = self._s * self._delta_bar - self._c * alpha
        self.epsilon, self._epsilon_next = self._epsilon_next, self._s * beta
        self._delta_bar = -self._c * beta
        # For the residual r of x_{k-1}, z = M r: z'A z / |r|^2 and |A z| / |r| in the M-norms
        # (Liu and Roosta 2022).
        self._curvature = -self._c * gamma_bar
        self._image = math.hypot(gamma_bar, self._delta_bar)
        self._beta = 0.0 if beta <= self.s.eps * self.norm_T else beta  # 0: space exhausted
        self.gamma = math.hypot(gamma_bar, self._beta)
        if self.gamma > 0.0:
            self._c, self._s = gamma_bar / self.gamma, self._beta / self.gamma
        self.tau = self._c * self._phi
        self._phi = self._s * self._phi

    def _judge(self) -> Status | None:
        """Look at the curvature along the last residual r, and whether A r = 0."""
        s = self.s
        rounding = CURVATURE_ROUNDING * s.eps * self.norm_T
        if self._curvature > rounding:
            return None
        singular = self._image <= SINGULAR_IMAGE * math.sqrt(s.eps) * self.norm_T
        if self._curvature >= -rounding and singular:
            # Below its uncertainty r is noise, and does not show that the system is inconsistent.
            return Status.CONVERGED if self.norm <= s.relative_uncertainty else Status.LEAST_SQUARES
        if s.direction is None:
            s.direction = self._last_residual()
        return Status.NEGATIVE_CURVATURE if self._policy == "stop" else None

    def _last_residual(self) -> Tensor:
        """Form z = M r for x_{k-1}; without M this costs a product, but only once in a solve."""
        if self._k == 0:
            return self.v.clone()
        if self._r is not None and self.M is not None:
            return self.M(self._r).clone()
        return self.s.descent(self._iterate())

    def _normalize(self, w: Tensor, Mw: Tensor) -> None:
        """Make w the next Lanczos vector."""
        self._w_old, self._w = self._w, w
        if self._beta > 0.0:
            # In this order, for M may hand back its argument.
            self._next = w if self.M is None else Mw / self._beta
            w.div_(self._beta)

    def _measure(self, products: list[float]) -> None:
        """Find the Euclidean residual norm: r_k = s_k^2 r_{k-1} - c_k phi_k w_{k+1}."""
        if self._r is None:
            self.norm = abs(self._phi)
            return
        keep, add = self._s**2, -self._c * self._phi
        self._r.mul_(keep).add_(self._w, alpha=add)
        rr, rw, ww = products[:3]
        if self._beta > 0.0:
            rw, ww = rw / self._beta, ww / self._beta / self._beta
        terms = (keep * keep * rr, 2.0 * keep * add * rw, add * add * ww)
        square, size = math.fsum(terms), sum(map(abs, terms))
        if square <= 1e3 * self.s.eps * size:  # cancellation: pay a second synchronization
            self.norm = euclidean(self._r)
        else:
            self.norm = math.sqrt(square)
