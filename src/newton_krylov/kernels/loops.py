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
from newton_krylov.kernels.sweep import sweep as plain_sweep

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

_INVERSE_FACTORIALS = tuple(1.0 / math.factorial(k) for k in range(13, -1, -1))


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
def logistic(a, b, ptr, col, val, w, y, v, scale, z, h, work, out):  # type: ignore[no-untyped-def]
    """Evaluate log(1 + exp(-y_i z_i)), y_i = -1 or 1; see `_evaluated`."""
    return _evaluated(_logistic, a, b, ptr, col, val, w, y, v, scale, z, h, work, out)


@_compiled
def squared_hinge(a, b, ptr, col, val, w, y, v, scale, z, h, work, out):  # type: ignore[no-untyped-def]
    """Evaluate max(0, 1 - y_i z_i)^2, y_i = -1 or 1; see `_evaluated`."""
    return _evaluated(_squared_hinge, a, b, ptr, col, val, w, y, v, scale, z, h, work, out)


@_compiled
def least_squares(a, b, ptr, col, val, w, y, v, scale, z, h, work, out):  # type: ignore[no-untyped-def]
    """Evaluate (z_i - y_i)^2 / 2; see `_evaluated`."""
    return _evaluated(_least_squares, a, b, ptr, col, val, w, y, v, scale, z, h, work, out)


@_inlined
def _evaluated(terms, a, b, ptr, col, val, w, y, v, scale, z, h, work, out):  # type: ignore[no-untyped-def]
    """Evaluate a loss in one reading of the rows; return the sum of `scale` v_i times the losses.

    Sets the outputs z_i = x_i'w, and h_i to `scale` v_i times the loss's second derivative by z_i;
    adds `scale` v_i x_i times the first derivative to out. v is None where all are 1. `work` is
    of shape (2, BLOCK).
    """
    whole, part, blocks = 0.0, 0.0, 0
    for begin in range(a, b, BLOCK):
        end = begin + BLOCK if begin + BLOCK < b else b
        for i in range(np.uintp(begin), np.uintp(end)):
            z[i] = _dot(ptr[i], ptr[i + np.uintp(1)], col, val, w, out.dtype.type(0))
        vs = None if v is None else v[begin:end]
        part += terms(z[begin:end], y[begin:end], vs, scale, work[0], h[begin:end], work[1])
        blocks += 1
        if blocks == _BLOCKS:  # sums of sums, whose rounding errors are small
            whole, part, blocks = whole + part, 0.0, 0
        for i in range(np.uintp(begin), np.uintp(end)):
            _add(ptr[i], ptr[i + np.uintp(1)], col, val, work[0, i - np.uintp(begin)], out)
    return whole + part


@_compiled
def gather(parts, words, columns, ridge, w, g):  # type: ignore[no-untyped-def]
    """Set g to the sum of the parts' rows plus ridge_j w_j; return the penalty and g'g.

    The parts are of the words where there are any.
    """
    penalty, squares = 0.0, 0.0
    for j in range(g.shape[0]):
        g[j] = ridge[j] * w[j]
        penalty += g[j] * w[j] / 2
    for t in range(parts.shape[0]):
        for j in range(parts.shape[1]):
            if words is None:
                g[j] += parts[t, j]
            else:
                for k in range(words[j], words[j + 1]):
                    g[columns[k]] += parts[t, j]
    for j in range(g.shape[0]):
        squares += np.float64(g[j]) * np.float64(g[j])
    return penalty, squares


@_compiled
def copy_rows(index, ptr, col, part_ptr, part_col):  # type: ignore[no-untyped-def]
    """Copy the entries of some rows to where part_ptr wants them."""
    for i in range(np.uintp(index.shape[0])):
        begin, to = np.uintp(ptr[index[i]]), np.uintp(part_ptr[i])
        for k in range(np.uintp(part_ptr[i + np.uintp(1)]) - to):
            part_col[to + k] = col[begin + k]


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
def descent(g, S, Y, curvature, oldest, known, scale, R, factors, p):  # type: ignore[no-untyped-def]
    """Set p to L-BFGS's direction of descent from g, which begins from `scale` or (R'R)^-1.

    R is upper triangular, or of no rows. `factors` is working memory.
    """
    d, places = np.uintp(g.shape[0]), S.shape[0]
    for j in range(d):
        p[j] = -g[j]
    for i in range(known - 1, -1, -1):
        k = (oldest + i) % places
        s = 0.0
        for j in range(d):
            s += S[k, j] * p[j]
        factors[i] = s / curvature[k]
        for j in range(d):
            p[j] -= factors[i] * Y[k, j]
    if R.shape[0] > 0:
        _solve(R, p)
    else:
        for j in range(d):
            p[j] *= scale
    for i in range(known):
        k = (oldest + i) % places
        s = 0.0
        for j in range(d):
            s += Y[k, j] * p[j]
        s = factors[i] - s / curvature[k]
        for j in range(d):
            p[j] += s * S[k, j]


sweep = _compiled(plain_sweep)


@_inlined
def _solve(R, p):  # type: ignore[no-untyped-def]
    """Overwrite p with the solution x of R'R x = p, R upper triangular."""
    d = np.uintp(p.shape[0])
    for i in range(d):
        x = p[i] / R[i, i]
        p[i] = x
        for j in range(i + np.uintp(1), d):
            p[j] -= x * R[i, j]
    for done in range(d):
        row = d - np.uintp(1) - done
        x = p[row]
        for j in range(row + np.uintp(1), d):
            x -= R[row, j] * p[j]
        p[row] = x / R[row, row]


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
    x = x if x > -708.0 else -708.0
    k = math.floor(x * 1.4426950408889634 + 0.5)
    # log 2 in two parts, the first of which times k is exact (Cody and Waite, 1980).
    r = (x - k * 0.693145751953125) - k * 1.42860682030941723212e-6
    p = _INVERSE_FACTORIALS[0]
    for c in _INVERSE_FACTORIALS[1:]:
        p = p * r + c
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
def _squared_hinge(z, y, v, scale, u, h, e):  # type: ignore[no-untyped-def]
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
def _least_squares(z, y, v, scale, u, h, e):  # type: ignore[no-untyped-def]
    """(z - y)^2 / 2."""
    total = 0.0
    for i in range(np.uintp(z.shape[0])):
        c = scale if v is None else scale * v[i]
        r = np.float64(z[i]) - np.float64(y[i])
        total += c * r * r / 2
        u[i] = c * r
        h[i] = c
    return total
