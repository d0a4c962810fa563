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

_BLOCKS = 32
"""Blocks whose sums are added up by themselves."""

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
def half_gram(a, b, every, ptr, col, val, h, scale, out):  # type: ignore[no-untyped-def]
    """Add to out, (d, d), what gives the sum of x_i scale h_i x_i' when its transpose is added.

    Of the rows a, a + every, ... alone.
    """
    for i in range(np.uintp(a), np.uintp(b), np.uintp(every)):
        begin, end, s = ptr[i], ptr[i + np.uintp(1)], scale * h[i]
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
def evaluate(a, b, ptr, col, val, loss, w, y, v, scale, z, h, out):  # type: ignore[no-untyped-def]
    """Evaluate a loss in one reading of the rows; return the sum of `scale` v_i times the losses.

    Sets the outputs z_i = x_i'w, and h_i to `scale` v_i times the loss's second derivative by z_i;
    adds `scale` v_i x_i times the first derivative to out. v is None where all are 1.
    """
    u, e = np.empty(BLOCK, dtype=out.dtype), np.empty(BLOCK)
    whole, part, blocks = 0.0, 0.0, 0
    for begin in range(a, b, BLOCK):
        end = min(b, begin + BLOCK)
        for i in range(np.uintp(begin), np.uintp(end)):
            z[i] = _dot(ptr[i], ptr[i + np.uintp(1)], col, val, w, out.dtype.type(0))
        zs, ys, hs = z[begin:end], y[begin:end], h[begin:end]
        vs = None if v is None else v[begin:end]
        if loss == 0:
            part += _logistic(zs, ys, vs, scale, u, hs, e)
        elif loss == 1:
            part += _squared_hinge(zs, ys, vs, scale, u, hs)
        else:
            part += _least_squares(zs, ys, vs, scale, u, hs)
        blocks += 1
        if blocks == _BLOCKS:  # sums of sums, whose rounding errors are small
            whole, part, blocks = whole + part, 0.0, 0
        for i in range(np.uintp(begin), np.uintp(end)):
            _add(ptr[i], ptr[i + np.uintp(1)], col, val, u[i - np.uintp(begin)], out)
    return whole + part


@_compiled
def penalize(parts, ridge, w, g):  # type: ignore[no-untyped-def]
    """Set g to the sum of the parts' rows plus ridge_j w_j; return the penalty and g'g."""
    penalty, squares = 0.0, 0.0
    for j in range(g.shape[0]):
        s = ridge[j] * w[j]
        penalty += s * w[j] / 2
        for t in range(parts.shape[0]):
            s += parts[t, j]
        g[j] = s
        squares += np.float64(s) * np.float64(s)
    return penalty, squares


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
    # Of the last point, of the trial, and the direction:
    gradient, trial = np.zeros(d, w.dtype), np.zeros(d, w.dtype)
    of_data, g, p = np.zeros((1, d), w.dtype), np.zeros(d, w.dtype), np.zeros(d, w.dtype)
    # One more than are kept: a new pair is looked at before the oldest one goes.
    S, Y = np.empty((memory + 1, d), w.dtype), np.empty((memory + 1, d), w.dtype)
    curvature, factors = np.empty(memory + 1), np.empty(memory)
    oldest, known, stride, size = 0, 0, 0.0, 0.0
    made, evaluated, trials = -1, 0, 0
    f, slope, alpha, length = math.inf, 0.0, 0.0, 0.0
    while True:
        for j in range(d):
            trial[j], of_data[0, j] = w[j] + alpha * p[j], 0.0
        value = evaluate(  # type: ignore[no-untyped-call]
            a, b, ptr, col, val, loss, trial, y, v, 1.0 / n, z, h, of_data[0]
        )
        penalty, squares = penalize(of_data, ridge, trial, g)  # type: ignore[no-untyped-call]
        value, evaluated = value + penalty, evaluated + 1
        if made < 0 or value <= f + 1e-4 * alpha * slope + 10 * eps * abs(f):
            new = (oldest + known) % (memory + 1)
            sy, stride, bend = secant(trial, g, w, gradient, S, Y, new)  # type: ignore[no-untyped-call]
            length = 0.0
            for j in range(d):
                w[j], gradient[j] = trial[j], g[j]
                length += w[j] * w[j]
            if made >= 0 and sy > eps * stride * bend:
                curvature[new] = sy
                oldest = (oldest + (known == memory)) % (memory + 1)
                known = min(known + 1, memory)
            f, size, made = value, math.sqrt(squares), made + 1
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
            share = math.sqrt(length) if length > 0.0 else abs(f) / size
            scale = first_step * share / size
        if not 0.0 < scale * size < math.inf:
            scale = 1.0 / size
        _descent(gradient, S, Y, curvature, oldest, known, scale, None, factors, p)
        slope, alpha, trials = 0.0, 1.0, 0
        for j in range(d):
            slope += gradient[j] * p[j]


@_compiled
def secant(new_w, new_g, w, g, S, Y, k):  # type: ignore[no-untyped-def]
    """Set the rows s and y, number k of S and Y, to the differences; return s'y, |s| and |y|."""
    sy, ss, yy = 0.0, 0.0, 0.0
    for j in range(w.shape[0]):
        s, y = new_w[j] - w[j], new_g[j] - g[j]
        S[k, j], Y[k, j] = s, y
        sy += s * y
        ss += s * s
        yy += y * y
    return sy, math.sqrt(ss), math.sqrt(yy)


@_compiled
def descent(g, S, Y, curvature, oldest, known, factor, p):  # type: ignore[no-untyped-def]
    """Set p to the secants' direction of descent from g, beginning from a factorized matrix."""
    _descent(g, S, Y, curvature, oldest, known, 1.0, factor, np.empty(known), p)


@_called
def _descent(g, S, Y, curvature, oldest, known, scale, factor, factors, p):  # type: ignore[no-untyped-def]
    """Set p to L-BFGS's direction; without known curvature and without a factor to -scale g."""
    for j in range(g.shape[0]):
        p[j] = -g[j]
    places = S.shape[0]
    for i in range(known - 1, -1, -1):
        k = (oldest + i) % places
        factors[i] = _inner(S, k, p) / curvature[k]
        _add_row(-factors[i], Y, k, p)
    if factor is not None:
        _solve(factor, p)
    else:
        if known > 0:
            k = (oldest + known - 1) % places
            scale = curvature[k] / _squares(Y, k)
        for j in range(g.shape[0]):
            p[j] *= scale
    for i in range(known):
        k = (oldest + i) % places
        _add_row(factors[i] - _inner(Y, k, p) / curvature[k], S, k, p)


@_called
def _solve(R, p):  # type: ignore[no-untyped-def]
    """Overwrite p with the solution x of R'R x = p, R upper triangular."""
    d = p.shape[0]
    for i in range(d):
        x = p[i] / R[i, i]
        p[i] = x
        for j in range(i + 1, d):
            p[j] -= x * R[i, j]
    for i in range(d - 1, -1, -1):
        x = p[i]
        for j in range(i + 1, d):
            x -= R[i, j] * p[j]
        p[i] = x / R[i, i]


@_called
def _inner(A, k, p):  # type: ignore[no-untyped-def]
    s = 0.0
    for j in range(p.shape[0]):
        s += A[k, j] * p[j]
    return s


@_called
def _squares(A, k):  # type: ignore[no-untyped-def]
    s = 0.0
    for j in range(A.shape[1]):
        s += A[k, j] * A[k, j]
    return s


@_called
def _add_row(a, A, k, p):  # type: ignore[no-untyped-def]
    for j in range(p.shape[0]):
        p[j] += a * A[k, j]


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
def _logistic(z, y, v, scale, u, h, e):  # type: ignore[no-untyped-def]
    """log(1 + exp(-m)) = max(-m, 0) + log(1 + exp(-|m|)), m = y z, y = -1 or 1.

    Without weights the second part's sum is the logarithm of a product, which is at most 2^512.
    `e` is working memory.
    """
    total, product = 0.0, 1.0
    n = np.uintp(z.shape[0])
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
        larger = 1.0 / (1.0 + e[i])  # of the two classes' probabilities
        smaller = e[i] * larger
        u[i] = -y[i] * c * (larger if y[i] * z[i] <= 0 else smaller)
        h[i] = c * larger * smaller
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
