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

_WRITTEN = 64
"""Rows of words that are written out at a time."""

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
_shared = numba.njit(**_OPTIONS)
"""For what several loops, or one of them twice, would else compile once more."""

_INVERSE_FACTORIALS = tuple(1.0 / math.factorial(k) for k in range(13, -1, -1))


@_compiled
def times(a, b, ptr, col, val, v, out):  # type: ignore[no-untyped-def]
    """Set out_i = x_i'v."""
    _outputs(np.uintp(a), np.uintp(b), ptr, col, val, v, out)


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
def upper_gram(a, every, ptr, col, val, words, columns, h, out):  # type: ignore[no-untyped-def]
    """Add the sum of x_i h_i x_i' to out, (d, d), at and above the diagonal.

    Of the rows a, a + every, ... alone, whose weights are h. Rows are sorted. Those of words are
    written out some at a time, as reading what was written just now would have to wait for it.
    """
    n = np.uintp(h.shape[0])
    begins, ends = np.empty(_WRITTEN, np.uintp), np.empty(_WRITTEN, np.uintp)
    written = np.empty(0 if words is None else _WRITTEN * out.shape[0], col.dtype)
    for first in range(np.uintp(0), n, np.uintp(_WRITTEN)):
        last, size = min(first + np.uintp(_WRITTEN), n), np.uintp(0)
        for m in range(first, last):
            i = np.uintp(a) + m * np.uintp(every)
            begin, end = np.uintp(ptr[i]), np.uintp(ptr[i + np.uintp(1)])
            if words is None:
                begins[m - first], ends[m - first] = begin, end
            else:
                begins[m - first] = size
                size = _written(begin, end, col, words, columns, size, written)
                ends[m - first] = size
        entries = col if words is None else written
        for m in range(first, last):
            end = ends[m - first]
            for k in range(begins[m - first], end):
                row, t = out[entries[k]], h[m] if val is None else h[m] * val[k]
                for j in range(k, end):
                    row[entries[j]] += t if val is None else t * val[j]


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
def logistic(a, b, ptr, col, val, words, columns, w, y, v, scale, ridge, z, out):  # type: ignore[no-untyped-def]
    """Evaluate log(1 + exp(-y_i z_i)), y_i = -1 or 1; see `_evaluated`."""
    return _evaluated(_logistic, a, b, ptr, col, val, words, columns, w, y, v, scale, ridge, z, out)


@_compiled
def squared_hinge(a, b, ptr, col, val, words, columns, w, y, v, scale, ridge, z, out):  # type: ignore[no-untyped-def]
    """Evaluate max(0, 1 - y_i z_i)^2, y_i = -1 or 1; see `_evaluated`."""
    return _evaluated(
        _squared_hinge, a, b, ptr, col, val, words, columns, w, y, v, scale, ridge, z, out
    )


@_compiled
def least_squares(a, b, ptr, col, val, words, columns, w, y, v, scale, ridge, z, out):  # type: ignore[no-untyped-def]
    """Evaluate (z_i - y_i)^2 / 2; see `_evaluated`."""
    return _evaluated(
        _least_squares, a, b, ptr, col, val, words, columns, w, y, v, scale, ridge, z, out
    )


@_inlined
def _evaluated(terms, a, b, ptr, col, val, words, columns, w, y, v, scale, ridge, z, out):  # type: ignore[no-untyped-def]
    """Evaluate a loss in one reading of the rows, all that is to be known of it in one call.

    Sets the outputs z_i = x_i'w, unless z is empty, and out to the gradient of the sum of `scale`
    v_i times the losses and ridge_j w_j^2 / 2; v is None where all are 1. Where the rows are of
    words, `words` and `columns` are those of the words' own rows. Returns the losses' sum, the
    penalty and the gradient's squared norm.
    """
    penalty = 0.0
    for j in range(out.shape[0]):
        out[j] = ridge[j] * w[j]
        penalty += out[j] * w[j] / 2
    if words is None:
        inner, sums = w, out
    else:
        inner = np.empty(words.shape[0] - 1, w.dtype)
        sums = np.zeros(words.shape[0] - 1, out.dtype)
        _outputs(np.uintp(0), np.uintp(inner.shape[0]), words, columns, None, w, inner)
    work, block = np.empty((2, BLOCK)), np.empty(BLOCK, z.dtype)
    whole, part, blocks = 0.0, 0.0, 0
    for begin in range(a, b, BLOCK):
        end = begin + BLOCK if begin + BLOCK < b else b
        zs = z[begin:end] if z.shape[0] > 0 else block[: end - begin]
        _outputs(np.uintp(0), np.uintp(end - begin), ptr[begin : end + 1], col, val, inner, zs)
        vs = None if v is None else v[begin:end]
        part += terms(zs, y[begin:end], vs, scale, work[0], work[1])
        blocks += 1
        if blocks == _BLOCKS:  # sums of sums, whose rounding errors are small
            whole, part, blocks = whole + part, 0.0, 0
        for i in range(np.uintp(begin), np.uintp(end)):
            _add(ptr[i], ptr[i + np.uintp(1)], col, val, work[0, i - np.uintp(begin)], sums)
    if words is not None:
        for j in range(np.uintp(inner.shape[0])):
            _add(words[j], words[j + np.uintp(1)], columns, None, sums[j], out)
    squares = 0.0
    for j in range(out.shape[0]):
        squares += np.float64(out[j]) * np.float64(out[j])
    return whole + part, penalty, squares


@_compiled
def logistic_curvature(z, y, v, scale, h):  # type: ignore[no-untyped-def]
    """Set h_i to `scale` v_i times the second derivative of log(1 + exp(-y_i z_i)) by z_i."""
    for i in range(np.uintp(z.shape[0])):
        c = scale if v is None else scale * v[i]
        e = _exp(-abs(np.float64(z[i])))
        larger = 1.0 / (1.0 + e)  # of the two classes' probabilities
        h[i] = c * larger * (e * larger)


@_compiled
def squared_hinge_curvature(z, y, v, scale, h):  # type: ignore[no-untyped-def]
    """Set h_i to `scale` v_i times the second derivative of max(0, 1 - y_i z_i)^2 by z_i."""
    for i in range(np.uintp(z.shape[0])):
        c = scale if v is None else scale * v[i]
        h[i] = 0.0 if np.float64(y[i]) * np.float64(z[i]) >= 1.0 else 2.0 * c


@_compiled
def least_squares_curvature(z, y, v, scale, h):  # type: ignore[no-untyped-def]
    """Set h_i to `scale` v_i, the second derivative of (z_i - y_i)^2 / 2 by z_i times them."""
    for i in range(np.uintp(z.shape[0])):
        h[i] = scale if v is None else scale * v[i]


@_compiled
def row_squares(a, b, ptr, col, val, out):  # type: ignore[no-untyped-def]
    """Set out_i to x_i'x_i."""
    for i in range(np.uintp(a), np.uintp(b)):
        s = out.dtype.type(0)
        for k in range(np.uintp(ptr[i]), np.uintp(ptr[i + np.uintp(1)])):
            s += val[k] * val[k]
        out[i] = s


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
def descent(g, w, S, Y, curvature, oldest, known, scale, R, factors, p, end):  # type: ignore[no-untyped-def]
    """Set p to L-BFGS's direction of descent from g, which begins from `scale` or (R'R)^-1.

    R is upper triangular, or of no rows. `factors` is working memory. Sets `end` to w + p, and
    returns the slope g'p.
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
    slope = 0.0
    for j in range(d):
        slope += g[j] * p[j]
        end[j] = w[j] + p[j]
    return slope


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
def _written(begin, end, col, words, columns, size, entries):  # type: ignore[no-untyped-def]
    """Write a row's words out to entries, from number `size` on; return where they end."""
    for k in range(begin, end):
        word = np.uintp(col[k])
        for p in range(np.uintp(words[word]), np.uintp(words[word + np.uintp(1)])):
            entries[size] = columns[p]
            size += np.uintp(1)
    return size


@_shared
def _outputs(a, b, ptr, col, val, v, out):  # type: ignore[no-untyped-def]
    """Set out_i = x_i'v; four rows at once where they are of one length.

    So the processor adds up four sums that do not wait for each other.
    """
    one, four, zero = np.uintp(1), np.uintp(4), out.dtype.type(0)
    i, end = a, b
    while i < end:
        p = np.uintp(ptr[i])
        m = np.uintp(ptr[i + one]) - p
        if i + four <= end and _is_of_four(i, ptr, p, m):
            s0, s1, s2, s3 = zero, zero, zero, zero
            q, r, t = p + m, p + m + m, p + m + m + m
            for k in range(m):
                s0 += v[col[p + k]] if val is None else val[p + k] * v[col[p + k]]
                s1 += v[col[q + k]] if val is None else val[q + k] * v[col[q + k]]
                s2 += v[col[r + k]] if val is None else val[r + k] * v[col[r + k]]
                s3 += v[col[t + k]] if val is None else val[t + k] * v[col[t + k]]
            out[i], out[i + one] = s0, s1
            out[i + np.uintp(2)], out[i + np.uintp(3)] = s2, s3
            i += four
        else:
            out[i] = _dot(p, p + m, col, val, v, zero)
            i += one


@_inlined
def _is_of_four(i, ptr, p, m):  # type: ignore[no-untyped-def]
    """Return whether row i, of m entries from p on, and the next three have as many."""
    of_two = np.uintp(ptr[i + np.uintp(2)]) - p == m + m
    of_three = np.uintp(ptr[i + np.uintp(3)]) - p == m + m + m
    return of_two and of_three and np.uintp(ptr[i + np.uintp(4)]) - p == m + m + m + m


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
def _logistic(z, y, v, scale, u, e):  # type: ignore[no-untyped-def]
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
        # The larger of the two classes' probabilities, or the smaller.
        u[i] = -y[i] * c * (1.0 if y[i] * z[i] <= 0 else e[i]) / (1.0 + e[i])
    return total * scale


@_inlined
def _squared_hinge(z, y, v, scale, u, e):  # type: ignore[no-untyped-def]
    """max(0, 1 - m)^2, m = y z, y = -1 or 1."""
    total = 0.0
    for i in range(np.uintp(z.shape[0])):
        c = scale if v is None else scale * v[i]
        short = 1.0 - np.float64(y[i]) * np.float64(z[i])
        inside = 0.0 if short <= 0.0 else 1.0
        total += c * (inside * short * short)
        u[i] = -2.0 * c * y[i] * (inside * short)
    return total


@_inlined
def _least_squares(z, y, v, scale, u, e):  # type: ignore[no-untyped-def]
    """(z - y)^2 / 2."""
    total = 0.0
    for i in range(np.uintp(z.shape[0])):
        c = scale if v is None else scale * v[i]
        r = np.float64(z[i]) - np.float64(y[i])
        total += c * r * r / 2
        u[i] = c * r
    return total
