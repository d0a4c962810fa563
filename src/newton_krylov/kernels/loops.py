"""Compiled loops over the rows of a sparse matrix.

Every loop takes the rows a <= i < b of a matrix in CSR form: `ptr`, the unsigned column numbers
`col` and the values `val`, None where all of them are 1 (such loops are compiled without them).
Results of the matrix's width are added up in the array that is handed in, which begins as zeros.

Sums may be reordered (the processor then adds several numbers at once), but a NaN stays a NaN.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

from newton_krylov.files import cache_dir

F = TypeVar("F", bound=Callable[..., Any])

BLOCK = 512
"""Rows that are read twice while they are in the cache: for their outputs, and for the sums."""

_FLAGS = {"reassoc", "contract", "arcp", "nsz"}


def _compiled(function: F) -> F:
    """Compile a function on its first call, and keep the code where that is possible."""
    dispatcher = numba.njit(**_OPTIONS)(function)
    settings: Any = numba.config
    before = settings.CACHE_DIR
    try:
        # A folder that the user has chosen for all of Numba's code comes first.
        settings.CACHE_DIR = before or str(cache_dir() / "kernels")
        dispatcher.enable_caching()
    except (RuntimeError, OSError):
        pass  # no place can be written to: compiled afresh by every process
    finally:
        settings.CACHE_DIR = before
    return cast(F, dispatcher)


_OPTIONS: Any = {"nogil": True, "error_model": "numpy", "fastmath": _FLAGS}
_inlined = numba.njit(inline="always", **_OPTIONS)
_called = numba.njit(**_OPTIONS)


@_compiled
def times(a, b, ptr, col, val, v, out):  # type: ignore[no-untyped-def]
    """Set out_i = x_i'v."""
    for i in range(np.uintp(a), np.uintp(b)):
        out[i] = _dot(ptr[i], ptr[i + np.uintp(1)], col, val, v, out.dtype.type(0))


@_compiled
def times_many(a, b, ptr, col, val, V, out):  # type: ignore[no-untyped-def]
    """Set out_i = x_i'V for V of several columns."""
    k = np.uintp(V.shape[1])
    for i in range(np.uintp(a), np.uintp(b)):
        _dots(ptr[i], ptr[i + np.uintp(1)], col, val, V, out[i], k)


@_compiled
def adjoint(a, b, ptr, col, val, u, out):  # type: ignore[no-untyped-def]
    """Add x_i u_i to out."""
    for i in range(np.uintp(a), np.uintp(b)):
        _add(ptr[i], ptr[i + np.uintp(1)], col, val, u[i], out)


@_compiled
def adjoint_many(a, b, ptr, col, val, U, out):  # type: ignore[no-untyped-def]
    """Add x_i u_i' to out for U of several columns."""
    k = np.uintp(U.shape[1])
    for i in range(np.uintp(a), np.uintp(b)):
        _add_many(ptr[i], ptr[i + np.uintp(1)], col, val, U[i], out, k)


@_compiled
def normal(a, b, ptr, col, val, h, v, out):  # type: ignore[no-untyped-def]
    """Add x_i h_i x_i'v to out: a row is read once for both."""
    for i in range(np.uintp(a), np.uintp(b)):
        begin, end = ptr[i], ptr[i + np.uintp(1)]
        s = h[i] * _dot(begin, end, col, val, v, out.dtype.type(0))
        _add(begin, end, col, val, s, out)


@_compiled
def normal_many(a, b, ptr, col, val, h, V, out):  # type: ignore[no-untyped-def]
    """Add x_i h_i x_i'V to out for V of several columns."""
    k = np.uintp(V.shape[1])
    t = np.empty(k, dtype=out.dtype)
    for i in range(np.uintp(a), np.uintp(b)):
        begin, end = ptr[i], ptr[i + np.uintp(1)]
        _dots(begin, end, col, val, V, t, k)
        for j in range(k):
            t[j] *= h[i]
        _add_many(begin, end, col, val, t, out, k)


@_compiled
def half_gram(a, b, every, ptr, col, val, h, out):  # type: ignore[no-untyped-def]
    """Add to out, (d, d), what gives the sum of x_i h_i x_i' when its transpose is added.

    Of the rows a, a + every, ... alone.
    """
    for i in range(np.uintp(a), np.uintp(b), np.uintp(every)):
        begin, end, s = ptr[i], ptr[i + np.uintp(1)], h[i]
        for k in range(np.uintp(begin), np.uintp(end)):
            row = out[col[k]]
            t = s if val is None else s * val[k]
            row[col[k]] += t / 2 if val is None else t * val[k] / 2
            for j in range(k + np.uintp(1), np.uintp(end)):
                row[col[j]] += t if val is None else t * val[j]


@_compiled
def squares(a, b, ptr, col, val, U, out):  # type: ignore[no-untyped-def]
    """Add x_i^2 u_i' to out, entry by entry, for U of several columns."""
    k = np.uintp(U.shape[1])
    for i in range(np.uintp(a), np.uintp(b)):
        for p in range(np.uintp(ptr[i]), np.uintp(ptr[i + np.uintp(1)])):
            row = out[col[p]]
            s = out.dtype.type(1) if val is None else val[p] * val[p]
            for j in range(k):
                row[j] += s * U[i, j]


@_compiled
def evaluate(a, b, ptr, col, val, loss, w, y, v, scale, z, h, losses, out):  # type: ignore[no-untyped-def]
    """Evaluate a loss in one reading of the rows.

    Sets the outputs z_i = x_i'w, and h_i to `scale` v_i times the loss's second derivative by z_i;
    adds `scale` v_i x_i times the first derivative to out; sets the entries of `losses`, one for
    every `BLOCK` rows of the whole matrix, to the sums of `scale` v_i times the losses. v is None
    where all are 1.
    """
    u = np.empty(BLOCK, dtype=out.dtype)
    for begin in range(a, b, BLOCK):
        end = min(b, begin + BLOCK)
        for i in range(np.uintp(begin), np.uintp(end)):
            z[i] = _dot(ptr[i], ptr[i + np.uintp(1)], col, val, w, out.dtype.type(0))
        zs, ys, hs = z[begin:end], y[begin:end], h[begin:end]
        vs = None if v is None else v[begin:end]
        if loss == 0:
            total = _logistic(zs, ys, vs, scale, u, hs)
        elif loss == 1:
            total = _squared_hinge(zs, ys, vs, scale, u, hs)
        else:
            total = _least_squares(zs, ys, vs, scale, u, hs)
        losses[begin // BLOCK] = total
        for i in range(np.uintp(begin), np.uintp(end)):
            _add(ptr[i], ptr[i + np.uintp(1)], col, val, u[i - np.uintp(begin)], out)


@_compiled
def copy_rows(first, every, ptr, col, part_ptr, part_col):  # type: ignore[no-untyped-def]
    """Copy the entries of the rows first, first + every, ... to where part_ptr wants them."""
    row = np.uintp(first)
    for i in range(np.uintp(part_ptr.shape[0]) - np.uintp(1)):
        begin, to = np.uintp(ptr[row]), np.uintp(part_ptr[i])
        for k in range(np.uintp(part_ptr[i + np.uintp(1)]) - to):
            part_col[to + k] = col[begin + k]
        row += np.uintp(every)


@_compiled
def descend(a, b, ptr, col, val, loss, w, y, v, ridge, tolerance, steps, memory, first_step):  # type: ignore[no-untyped-def]
    """Minimize a mean loss plus sum_j ridge_j w_j^2 / 2 by L-BFGS with Armijo's backtracking.

    From w, which is overwritten, until the gradient is at most `tolerance` or `steps` are made;
    returns their number, and that of evaluations. It makes the steps of `optimizers.lbfgs` with
    `line_search.armijo`, in one call for samples that are few: `first_step` is the share of the
    parameters' size, or of the loss's, that a step without known curvature is to change.
    """
    d, n, eps = w.shape[0], b - a, np.finfo(w.dtype).eps
    z, h = np.empty(n, w.dtype), np.empty(n, w.dtype)
    losses = np.zeros((n + BLOCK - 1) // BLOCK)
    # Of the last point, of the trial, and the direction:
    gradient, trial = np.zeros(d, w.dtype), np.zeros(d, w.dtype)
    g, p = np.zeros(d, w.dtype), np.zeros(d, w.dtype)
    S, Y = np.empty((memory, d), w.dtype), np.empty((memory, d), w.dtype)
    curvature, factors = np.empty(memory), np.empty(memory)
    oldest, known, stride, size = 0, 0, 0.0, 0.0
    made, evaluated, trials = -1, 0, 0
    f, slope, alpha = math.inf, 0.0, 0.0
    while True:
        for j in range(d):
            trial[j], g[j] = w[j] + alpha * p[j], 0.0
        evaluate(  # type: ignore[no-untyped-call]
            a, b, ptr, col, val, loss, trial, y, v, 1.0 / n, z, h, losses, g
        )
        value, evaluated = _penalized(losses, ridge, trial, g), evaluated + 1
        if made < 0 or value <= f + 1e-4 * alpha * slope + 10 * eps * abs(f):
            new = (oldest + known) % memory
            sy, stride, bend = _moved(trial, g, w, gradient, S[new], Y[new])
            if made >= 0 and sy > eps * stride * bend:
                curvature[new] = sy
                oldest = (oldest + (known == memory)) % memory
                known = min(known + 1, memory)
            f, size, made = value, math.sqrt(_inner(gradient, gradient)), made + 1
            if not size > tolerance or made == steps:
                return made, evaluated
        else:
            alpha, trials = alpha / 2, trials + 1
            if trials < 40:
                continue
            if known == 0:
                return made, evaluated
            known, stride = 0, 0.0
        scale = 2.0 * stride / size
        if made == 0 or not stride > 0.0:
            length = math.sqrt(_inner(w, w))
            scale = first_step * (length if length > 0.0 else abs(f) / size) / size
        if not 0.0 < scale * size < math.inf:
            scale = 1.0 / size
        _descent(gradient, S, Y, curvature, oldest, known, scale, factors, p)
        slope, alpha, trials = _inner(gradient, p), 1.0, 0


@_called
def _penalized(losses, ridge, w, g):  # type: ignore[no-untyped-def]
    """Return the losses' sum and the penalty; add the penalty's gradient to g."""
    value = 0.0
    for i in range(losses.shape[0]):
        value += losses[i]
    for j in range(w.shape[0]):
        value += ridge[j] * w[j] * w[j] / 2
        g[j] += ridge[j] * w[j]
    return value


@_called
def _moved(new_w, new_g, w, g, s, y):  # type: ignore[no-untyped-def]
    """Move to a new point: s and y become the differences; returns s'y, |s| and |y|."""
    for j in range(w.shape[0]):
        s[j], y[j] = new_w[j] - w[j], new_g[j] - g[j]
        w[j], g[j] = new_w[j], new_g[j]
    return _inner(s, y), math.sqrt(_inner(s, s)), math.sqrt(_inner(y, y))


@_called
def _descent(g, S, Y, curvature, oldest, known, scale, factors, p):  # type: ignore[no-untyped-def]
    """Set p to L-BFGS's direction; without known curvature to -scale g."""
    for j in range(g.shape[0]):
        p[j] = -g[j]
    memory = S.shape[0]
    for i in range(known - 1, -1, -1):
        k = (oldest + i) % memory
        factors[i] = _inner(S[k], p) / curvature[k]
        _add_vector(-factors[i], Y[k], p)
    if known > 0:
        k = (oldest + known - 1) % memory
        scale = curvature[k] / _inner(Y[k], Y[k])
    for j in range(g.shape[0]):
        p[j] *= scale
    for i in range(known):
        k = (oldest + i) % memory
        _add_vector(factors[i] - _inner(Y[k], p) / curvature[k], S[k], p)


@_called
def _inner(u, v):  # type: ignore[no-untyped-def]
    s = 0.0
    for j in range(u.shape[0]):
        s += u[j] * v[j]
    return s


@_called
def _add_vector(a, x, y):  # type: ignore[no-untyped-def]
    for j in range(x.shape[0]):
        y[j] += a * x[j]


@_inlined
def _dot(begin, end, col, val, v, zero):  # type: ignore[no-untyped-def]
    s = zero
    for k in range(np.uintp(begin), np.uintp(end)):
        s += v[col[k]] if val is None else val[k] * v[col[k]]
    return s


@_inlined
def _dots(begin, end, col, val, V, out, k):  # type: ignore[no-untyped-def]
    for j in range(k):
        out[j] = 0
    for p in range(np.uintp(begin), np.uintp(end)):
        row = V[col[p]]
        for j in range(k):
            out[j] += row[j] if val is None else val[p] * row[j]


@_inlined
def _add(begin, end, col, val, s, out):  # type: ignore[no-untyped-def]
    for k in range(np.uintp(begin), np.uintp(end)):
        out[col[k]] += s if val is None else s * val[k]


@_inlined
def _add_many(begin, end, col, val, s, out, k):  # type: ignore[no-untyped-def]
    for p in range(np.uintp(begin), np.uintp(end)):
        row = out[col[p]]
        for j in range(k):
            row[j] += s[j] if val is None else val[p] * s[j]


@_inlined
def _exp(x):  # type: ignore[no-untyped-def]
    """Return exp(x) for x <= 0, without a branch or a call, so that several are made at once.

    x = k log 2 + r with |r| <= log(2) / 2: the series of exp(r) ends at the rounding error after
    13 terms, and 2^k is written into a float's exponent. Below -708 it is nearly 0 all the same.
    """
    x = max(x, -708.0)
    k = math.floor(x * 1.4426950408889634 + 0.5)
    # log 2 in two parts, the first of which times k is exact (Cody and Waite, 1980).
    r = (x - k * 0.693145751953125) - k * 1.42860682030941723212e-6
    p = 1.0 + r * (1 / 13)
    p = 1.0 + r * p * (1 / 12)
    p = 1.0 + r * p * (1 / 11)
    p = 1.0 + r * p * (1 / 10)
    p = 1.0 + r * p * (1 / 9)
    p = 1.0 + r * p * (1 / 8)
    p = 1.0 + r * p * (1 / 7)
    p = 1.0 + r * p * (1 / 6)
    p = 1.0 + r * p * (1 / 5)
    p = 1.0 + r * p * (1 / 4)
    p = 1.0 + r * p * (1 / 3)
    p = 1.0 + r * p * (1 / 2)
    p = 1.0 + r * p
    return p * np.int64((np.int64(k) + np.int64(1023)) << np.int64(52)).view(np.float64)


@_inlined
def _log1p(e):  # type: ignore[no-untyped-def]
    """Return log(1 + e) for 0 <= e <= 1: twice the area tangent of e / (2 + e) <= 1/3."""
    s = e / (2.0 + e)
    q = s * s
    p = 1 / 31 + q / 33
    for n in (29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3):
        p = 1.0 / n + q * p
    return 2.0 * s + 2.0 * s * q * p


@_inlined
def _logistic(z, y, v, scale, u, h):  # type: ignore[no-untyped-def]
    """log(1 + exp(-m)) = max(-m, 0) + log(1 + exp(-|m|)), m = y z, y = -1 or 1.

    Without weights the second part's sum is the logarithm of a product, which is at most 2^512.
    """
    total, product = 0.0, 1.0
    n = np.uintp(z.shape[0])
    e = np.empty(BLOCK)
    for i in range(n):
        e[i] = _exp(-abs(np.float64(z[i])))
    if v is None:
        for i in range(n):
            m = np.float64(y[i]) * np.float64(z[i])
            total += (abs(m) - m) / 2
            product *= 1.0 + e[i]
        total += math.log(product)
    else:
        for i in range(n):
            m = np.float64(y[i]) * np.float64(z[i])
            total += v[i] * ((abs(m) - m) / 2 + _log1p(e[i]))
    for i in range(n):
        c = scale if v is None else scale * v[i]
        q = c / (1.0 + e[i])
        wrong = q if y[i] * z[i] <= 0 else q * e[i]
        u[i] = -y[i] * wrong
        h[i] = q * e[i] / (1.0 + e[i])
    return total * scale


@_inlined
def _squared_hinge(z, y, v, scale, u, h):  # type: ignore[no-untyped-def]
    """max(0, 1 - m)^2, m = y z, y = -1 or 1."""
    total = 0.0
    for i in range(np.uintp(z.shape[0])):
        c = scale if v is None else scale * v[i]
        short = 1.0 - np.float64(y[i]) * np.float64(z[i])
        inside = 0.0 if short <= 0.0 else 1.0
        total += c * (inside * short * short)
        u[i] = -2.0 * c * y[i] * (inside * short)
        h[i] = 2.0 * c * inside
    return total


@_inlined
def _least_squares(z, y, v, scale, u, h):  # type: ignore[no-untyped-def]
    """(z - y)^2 / 2."""
    total = 0.0
    for i in range(np.uintp(z.shape[0])):
        c = scale if v is None else scale * v[i]
        r = np.float64(z[i]) - np.float64(y[i])
        total += c * r * r / 2
        u[i] = c * r
        h[i] = c
    return total
