"""Products that threads share: the same sums in a fixed order, whoever does a part."""

import multiprocessing
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
from command import PATIENCE

from newton_krylov.kernels.rows import Rows
from newton_krylov.kernels.threads import together


@pytest.fixture
def threads_for_little(monkeypatch):
    monkeypatch.setattr("newton_krylov.kernels.rows._LEAST_OF_A_THREAD", 1)


@pytest.mark.parametrize("columns", [None, 9])
def test_two_and_three_threads_compute_what_one_does(threads_for_little, columns):
    rng = np.random.default_rng(0)
    X = scipy.sparse.random(2600, 40, 0.2, "csr", random_state=rng)
    X = X[np.argsort(np.diff(X.indptr), kind="stable")]
    shape = () if columns is None else (columns,)
    v, u = rng.standard_normal((40, *shape)), rng.standard_normal((2600, *shape))
    h, y = rng.random(2600), np.sign(rng.standard_normal(2600))

    def products(rows):
        yield from (rows.times(v), rows.adjoint(u), rows.normal(h, v), rows.column_square_sums(u))
        if columns is None:
            found = rows.evaluate("logistic", v, y, h, np.full(40, 0.3))
            yield from (np.array(part) for part in found)

    one = list(products(Rows(X)))
    for threads in (2, 3):
        rows = Rows(X, threads=threads)
        shared = list(products(rows))
        for ours, expected in zip(shared, one, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
        for ours, again in zip(shared, products(rows), strict=True):
            assert (ours == again).all()


def test_parts_cover_all_rows_with_about_equal_work(threads_for_little):
    lengths = np.sort(np.random.default_rng(0).integers(0, 30, 6000))
    ptr = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    columns = np.concatenate([np.arange(length) for length in lengths])
    X = scipy.sparse.csr_matrix((np.ones(ptr[-1]), columns, ptr), (6000, 30))
    parts = Rows(X, threads=3)._parts
    assert parts[0][0] == 0 and parts[-1][1] == 6000
    assert all(a[1] == b[0] for a, b in pairwise(parts))
    work = [lengths[a:b].sum() + 4 * (b - a) for a, b in parts]
    assert max(work) - min(work) <= 2 * 512 * (29 + 4)  # cuts are between blocks
    assert len(Rows(X[:100], threads=8)._parts) == 1  # less than a block


def test_an_error_is_raised_where_the_result_is_waited_for():
    def fails():
        raise ValueError("of a part")

    for works in ([fails, int], [int, fails]):
        with pytest.raises(ValueError, match="of a part"):
            together(works)
    assert together([lambda: 1, lambda: 2]) == [1, 2]


def test_several_callers_at_once_get_their_own_results():
    found = {}

    def caller(k):
        found[k] = [together([lambda i=i: (k, i) for i in range(3)]) for _ in range(50)]

    callers = [threading.Thread(target=caller, args=(k,)) for k in range(4)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    for k in range(4):
        assert found[k] == [[(k, 0), (k, 1), (k, 2)]] * 50


def _in_child(queue):
    queue.put(together([lambda: 1, lambda: 2]))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
def test_a_forked_process_has_helpers_of_its_own():
    together([int, int])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=PATIENCE) == [1, 2]
    child.join()
