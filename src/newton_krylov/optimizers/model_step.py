"""Minimizers of g'p + p'A p / 2 in a ball or with a cubic penalty, dense and in Krylov space."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from newton_krylov.norms import euclidean, exponent, is_safe, scaled, scaled_by_power
from newton_krylov.operators import LinearOperator
from newton_krylov.spectral.lanczos import LanczosBasis

_HARD = 1e-10
"""A gradient's part along the lowest eigenvectors below this part of it is none: the hard case."""
_OFTEN, _SELDOM = 20, 5
"""Small models are solved after every product up to the first number, then after so many."""
_BEYOND = 30
"""Products after the gradient's Krylov space is exhausted, which look for negative curvature."""


@dataclass(frozen=True)
class ModelStep:
    """A step that makes a model small.

    Attributes
    ----------
    p : Tensor, shape (n,)
        The step.
    iterations : int
        Products with the curvature.
    inside : bool
        Whether the bound on |p| made no difference.
    """

    p: Tensor
    iterations: int
    inside: bool


class Bound(Protocol):
    """Keeps |p| short: the best p has (A + lambda I) p = -g with |p| = length(lambda)."""

    def length(self, shift: float) -> float:
        """Return |p| that belongs to lambda >= 0."""

    def slope(self, shift: float) -> float:
        """Return the derivative of 1 / length."""

    def most(self, base: float, size: float) -> float:
        """Return a mu with |c| / mu <= length(base + mu) for |c| = size."""


@dataclass(frozen=True)
class Ball:
    """|p| <= radius."""

    radius: float

    def length(self, shift: float) -> float:
        """Return the radius."""
        return self.radius

    def slope(self, shift: float) -> float:
        """Return 0."""
        return 0.0

    def most(self, base: float, size: float) -> float:
        """See `Bound`."""
        return size / self.radius


@dataclass(frozen=True)
class Cubic:
    """The penalty sigma |p|^3 / 3, whose gradient is sigma |p| p."""

    sigma: float

    def length(self, shift: float) -> float:
        """Return lambda / sigma."""
        return shift / self.sigma

    def slope(self, shift: float) -> float:
        """Return that of sigma / lambda."""
        return -self.sigma / shift / shift

    def most(self, base: float, size: float) -> float:
        """See `Bound`."""
        return (math.sqrt(base * base + 4 * self.sigma * size) - base) / 2


def diagonal_step(values: Tensor, c: Tensor, bound: Bound) -> tuple[Tensor, bool]:
    """Minimize c'y + y'diag(values) y / 2 under a bound: globally.

    Moré and Sorensen (1983) for the ball; Cartis, Gould and Toint (2011), theorem 3.1, for the
    cubic. In the hard case, where c has no part along the lowest eigenvectors and y is too short,
    one of these fills it up.

    Parameters
    ----------
    values : Tensor, shape (k,)
        Rising.
    c : Tensor, shape (k,)
        The gradient.
    bound : Bound
        Ball or cubic penalty.

    Returns
    -------
    y : Tensor, shape (k,)
        A global minimizer.
    inside : bool
        Whether the bound made no difference.
    """
    lowest, size = float(values[0]), euclidean(c)
    base = max(0.0, -lowest)
    eps = torch.finfo(values.dtype).eps
    above = values + base if lowest > 0 else values - lowest
    if lowest > 0 and euclidean(c / above) <= bound.length(0.0):
        return -c / above, True
    flat = above <= eps * len(values) * max(float(values.abs().max()), torch.finfo(c.dtype).tiny)
    if euclidean(c[flat]) <= _HARD * size and lowest <= 0:
        rest = torch.where(flat, torch.zeros_like(c), c / above.masked_fill(flat, 1.0))
        missing = bound.length(base) ** 2 - euclidean(rest) ** 2
        if missing >= 0:
            y = -rest
            y[0] += math.sqrt(missing)
            return y, False
    return -c / (above + _multiplier(above, c, base, bound)), False


def _multiplier(above: Tensor, c: Tensor, base: float, bound: Bound) -> float:
    """Solve |c / (above + mu)| = length(base + mu) for mu > 0: Newton's steps between bounds.

    Of 1 / |p|, which is nearly linear. mu itself is sought, since base + mu may have no digits
    of it.
    """
    low, high = 0.0, bound.most(base, euclidean(c))
    mu = high
    for _ in range(200):
        p = c / (above + mu)
        size, target = euclidean(p), bound.length(base + mu)
        if abs(size - target) <= 1e-13 * target or high - low <= 1e-16 * high:
            break
        low, high = (mu, high) if size > target else (low, mu)
        ahead = math.nan  # a cube that under- or overflows says nothing of the slope
        if 1e-100 < size < 1e100 and target > 0:
            slope = float((p.square() / (above + mu)).sum()) / size**3 - bound.slope(base + mu)
            ahead = mu - (1 / size - 1 / target) / slope
        mu = ahead if low < ahead < high else (low + high) / 2
    return mu


class DenseModel:
    """A model that is solved by the eigenvalues of the formed matrix.

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n; formed.
    g : Tensor, shape (n,)
        The gradient.
    """

    def __init__(self, A: LinearOperator, g: Tensor) -> None:
        self._values, self._Q = torch.linalg.eigh(A.dense())
        self._c, self._products = self._Q.T @ g, A.shape[0]

    def step(self, bound: Bound, rtol: float) -> ModelStep:
        """Return the global minimizer."""
        y, inside = diagonal_step(self._values, self._c, bound)
        products, self._products = self._products, 0
        return ModelStep(self._Q @ y, products, inside)


class KrylovModel:
    """A model in the Krylov space of the gradient, by Lanczos's process, which bounds share.

    Gould, Lucidi, Roma and Toint, "Solving the trust-region subproblem using the Lanczos method",
    SIAM Journal on Optimization 9 (1999); for the cubic Cartis, Gould and Toint, "Adaptive cubic
    regularisation methods for unconstrained optimization, part I", Mathematical Programming 127
    (2011), section 6.2. Where the space is exhausted a random vector carries on, so that the hard
    case is met, too. Another bound at the same point costs no more products, unless it asks for a
    larger space. The basis is kept, orthogonal to all digits.

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n.
    g : Tensor, shape (n,)
        The gradient; where it is zero, the lowest curvature is looked for.
    generator : torch.Generator
        Draws a vector where the space is exhausted, on the CPU.
    limit : int
        Dimensions of the space.
    """

    def __init__(
        self, A: LinearOperator, g: Tensor, generator: torch.Generator, limit: int
    ) -> None:
        self._size = euclidean(g)
        self._limit = min(limit, A.shape[0])
        self._basis = LanczosBasis(A, self._limit, generator)
        self._basis.start(g if self._size > 0 else None)
        self._exhausted: int | None = None

    def step(self, bound: Bound, rtol: float) -> ModelStep:
        """Return the minimizer in the smallest space where the model's gradient is small.

        Parameters
        ----------
        bound : Bound
            Ball or cubic penalty.
        rtol : float
            Relative size of the model's gradient: |g + (A + lambda I) p| <= rtol |g|.

        Returns
        -------
        ModelStep
            Lowers the model at least as much as the best step along -g does.
        """
        basis, before = self._basis, self._basis.size
        while True:
            if basis.size == 0:
                self._expand()
            elif basis.size <= _OFTEN or basis.size % _SELDOM == 0 or self._full:
                y, inside, residual = self._minimized(bound)
                if residual <= rtol or self._full:
                    p = basis.V[: basis.size].T @ y
                    return ModelStep(p, basis.size - before, inside)
                self._expand()
            else:
                self._expand()

    @property
    def _full(self) -> bool:
        end = self._limit
        if self._exhausted is not None:
            end = min(end, self._exhausted + _BEYOND)
        return self._basis.size >= end

    def _expand(self) -> None:
        if self._basis.expand() and self._exhausted is None:
            self._exhausted = self._basis.size

    def _minimized(self, bound: Bound) -> tuple[Tensor, bool, float]:
        """Return the coordinates of the step, and the relative size of the model's gradient."""
        basis = self._basis
        theta, S = basis.ritz()
        k = basis.products.exponent
        y, inside = diagonal_step(scaled_by_power(theta, k), self._size * S[0], bound)
        y = S @ y
        if self._exhausted is not None:
            return y, inside, math.inf  # go on to look for negative curvature
        residual = scaled(basis.beta, k) * abs(float(y[-1]))
        if self._size > 0:
            return y, inside, residual / self._size
        bottom = basis.beta * abs(float(S[-1, 0]))
        return y, inside, bottom / max(abs(float(theta[0])), torch.finfo(theta.dtype).tiny)


Model = DenseModel | KrylovModel


def exact_step(A: LinearOperator, g: Tensor, radius: float) -> ModelStep:
    """Minimize g'p + p'A p / 2 in |p| <= radius by the eigenvalues of A (Moré and Sorensen 1983).

    The solution has (A + lambda I) p = -g with lambda >= 0, A + lambda I positive semidefinite and
    lambda (radius - |p|) = 0.

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n; formed.
    g : Tensor, shape (n,)
        The gradient.
    radius : float
        Above 0.

    Returns
    -------
    ModelStep
        The global minimizer.
    """
    return DenseModel(A, g).step(Ball(radius), 0.0)


def steihaug(A: LinearOperator, g: Tensor, radius: float, rtol: float, maxiter: int) -> ModelStep:
    """Minimize g'p + p'A p / 2 in |p| <= radius by conjugate gradients (Steihaug 1983).

    Follows CG until the tolerance is met, and to the boundary where it would leave the ball or
    meets a direction of nonpositive curvature.

    Parameters
    ----------
    A : LinearOperator
        Symmetric, n by n.
    g : Tensor, shape (n,)
        Not zero.
    radius : float
        Above 0.
    rtol : float
        Stop at |g + A p| <= rtol |g|.
    maxiter : int
        Limit of products.

    Returns
    -------
    ModelStep
        Lowers the model at least as much as the best step along -g does.
    """
    size = euclidean(g)
    if not is_safe(size, g.dtype):
        return _along_gradient(A, g, size, radius)
    p, r = torch.zeros_like(g), -g
    d, rr = r.clone(), euclidean(r) ** 2
    stop = rtol * math.sqrt(rr)
    for number in range(1, maxiter + 1):
        Ad = A @ d
        curvature = float(torch.dot(d, Ad))
        ahead = p + (rr / curvature) * d if curvature > 0 else None
        if ahead is None or not euclidean(ahead) < radius:
            return ModelStep(p + _to_boundary(p, d, radius) * d, number, False)
        p, r = ahead, r - (rr / curvature) * Ad
        before, rr = rr, euclidean(r) ** 2
        if math.sqrt(rr) <= stop:
            return ModelStep(p, number, True)
        d = r + (rr / before) * d
    return ModelStep(p, maxiter, True)


def _along_gradient(A: LinearOperator, g: Tensor, size: float, radius: float) -> ModelStep:
    """Return the best step along -g, without a square of |g|."""
    u = scaled_by_power(g, -exponent(g))
    u = u / euclidean(u)
    curvature = float(torch.dot(u, A @ u))
    inside = curvature > 0 and size / curvature < radius
    return ModelStep(-(size / curvature if inside else radius) * u, 1, inside)


def _to_boundary(p: Tensor, d: Tensor, radius: float) -> float:
    """Return t >= 0 with |p + t d| = radius."""
    dd, pd, pp = map(float, (torch.dot(d, d), torch.dot(p, d), torch.dot(p, p)))
    root = math.sqrt(pd * pd + dd * (radius**2 - pp))
    return (radius**2 - pp) / (pd + root) if pd > 0 else (root - pd) / dd


def first_radius(A: LinearOperator, g: Tensor, w: Tensor) -> float:
    """Return the length of the best step along -g; the parameters' size where there is none."""
    size = euclidean(g)
    curvature = 0.0
    if size > 0:
        u = g / size
        curvature = float(torch.dot(u, A @ u))
    return size / curvature if curvature > 0 else (euclidean(w) or 1.0)
