"""The cache: transparent, safe for concurrent processes, and never in the way."""

import logging
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
from command import PATIENCE
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newton_krylov.data import cache as cache_module
from newton_krylov.data.cache import cached


class Computation:
    """Arrays, and how often they were computed."""

    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1
        return {"a": np.arange(1000.0), "b": np.array([[1, 2]], dtype=np.int32)}

    def check(self, arrays):
        expected = Computation()()
        assert arrays.keys() == expected.keys()
        for name, array in arrays.items():
            assert array.dtype == expected[name].dtype
            assert np.array_equal(array, expected[name])


@pytest.fixture
def compute():
    return Computation()


def test_computed_once_and_then_read(cache, compute):
    for _ in range(3):
        compute.check(cached("kind", "key", compute))
    assert compute.count == 1
    assert (cache / "kind" / "key.npz").exists()


def test_another_key_or_kind_is_another_file(compute):
    for kind, key in (("a", "1"), ("a", "2"), ("b", "1")):
        cached(kind, key, compute)
    assert compute.count == 3


def test_arrays_are_the_callers_own(compute):
    cached("kind", "key", compute)
    arrays = cached("kind", "key", compute)
    arrays["a"][:] = 0
    compute.check(cached("kind", "key", compute))


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: b"not a zip file",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-1],
        lambda whole: whole[:200] + bytes(50) + whole[250:],
        lambda whole: whole.replace(b"'<f8'", b"'|O8'"),
        lambda whole: whole.replace(b"(1000,)", b"(10**9,)"[:7]),
    ],
)
def test_a_damaged_file_is_made_anew_with_a_warning(cache, compute, caplog, damage):
    cached("kind", "key", compute)
    path = cache / "kind" / "key.npz"
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        compute.check(cached("kind", "key", compute))
    assert compute.count == 2
    assert "cannot be read and is computed again" in caplog.text
    compute.check(cached("kind", "key", compute))
    assert compute.count == 2


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(
    max_examples=100, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_no_flipped_byte_passes_for_the_data(cache, place, change):
    """What the cache returns is what was computed, whatever happened to its file."""
    compute = Computation()
    cached("kind", "key", compute)
    path = cache / "kind" / "key.npz"
    whole = bytearray(path.read_bytes())
    whole[place % len(whole)] ^= change
    path.write_bytes(whole)
    compute.check(cached("kind", "key", compute))


def test_nothing_in_a_cache_file_executes(cache, tmp_path, compute):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    (cache / "kind").mkdir(parents=True)
    np.savez(cache / "kind" / "key.npz", a=np.array([Evil()], dtype=object))
    compute.check(cached("kind", "key", compute))
    assert not (tmp_path / "evil").exists()


def test_a_full_disk_costs_a_warning(cache, compute, caplog, full_disk):
    with full_disk, caplog.at_level(logging.WARNING):
        compute.check(cached("kind", "key", compute))
    assert "cannot be written; going on without it" in caplog.text
    assert [path.suffix for path in (cache / "kind").iterdir()] == [".lock"]
    cached("kind", "key", compute)
    assert (cache / "kind" / "key.npz").exists()


def test_a_folder_that_cannot_be_made(cache, compute, caplog):
    cache.write_text("a file, where the folder should be")
    with caplog.at_level(logging.WARNING):
        compute.check(cached("kind", "key", compute))
    assert compute.count == 1
    assert "going on without it" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_may_not_be_written(cache, compute):
    cache.mkdir(mode=0o500)
    compute.check(cached("kind", "key", compute))


def _ask(folder, counter):
    def compute():
        with counter.get_lock():
            counter.value += 1
        time.sleep(0.2)  # long enough for the others to ask
        return Computation()()

    arrays = cached("kind", "key", compute)
    Computation().check(arrays)


def test_of_processes_that_ask_at_the_same_time_one_computes(cache):
    context = multiprocessing.get_context("fork")
    counter = context.Value("i", 0)
    processes = [context.Process(target=_ask, args=(cache, counter)) for _ in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    assert [process.exitcode for process in processes] == [0] * 5
    assert counter.value == 1


def _hold(path, ready):
    with FileLock(path):
        ready.set()
        time.sleep(PATIENCE)


def test_a_process_that_is_killed_while_it_computes_blocks_nobody(cache, compute):
    (cache / "kind").mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(cache / "kind" / "key.lock", ready))
    holder.start()
    assert ready.wait(PATIENCE)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(PATIENCE)
    compute.check(cached("kind", "key", compute))
    assert (cache / "kind" / "key.npz").exists()


def test_a_process_that_hangs_is_waited_for_only_so_long(cache, compute, monkeypatch):
    monkeypatch.setattr(cache_module, "_PATIENCE", 0.1)
    (cache / "kind").mkdir(parents=True)
    held = FileLock(cache / "kind" / "key.lock")
    held.acquire()
    try:
        compute.check(cached("kind", "key", compute))
    finally:
        held.release()
    assert compute.count == 1


def test_an_error_of_the_computation_lets_the_next_one_try(cache, compute):
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cached("kind", "key", fail)
    compute.check(cached("kind", "key", compute))


def test_a_reader_never_sees_a_part(cache, compute):
    """While one writer replaces the file over and over, each read is whole."""
    cached("kind", "key", compute)
    path = cache / "kind" / "key.npz"
    stop = threading.Event()

    def rewrite():
        while not stop.is_set():
            cache_module._write(path, Computation()())

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(200):
            compute.check(cached("kind", "key", compute))
    finally:
        stop.set()
        writer.join()
    assert compute.count == 1
