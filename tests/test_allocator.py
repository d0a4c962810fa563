"""Freed memory is kept or given back, as the map of the process's memory shows."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc")

PROGRAM = """
import sys, torch
from newton_krylov.allocator import keep_freed_memory

def heap():
    with open("/proc/self/maps") as maps:
        (line,) = (line for line in maps if line.rstrip().endswith("[heap]"))
    start, end = (int(part, 16) for part in line.split()[0].split("-"))
    return start, end

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
block = torch.ones(16 * 2**20)  # 64 MiB
start, end = heap()
inside = start <= block.data_ptr() < end
del block
print(kept, inside, heap()[1] == end)
"""


def one_block(mode: str, **environment: str) -> list[str]:
    """Return what the function said, whether a block is of the heap, and whether it stays."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode],
        check=True, capture_output=True, text=True, env=clean | environment,
    )  # fmt: skip
    return done.stdout.split()


def test_a_freed_block_stays_with_the_process() -> None:
    assert one_block("keep") == ["True", "True", "True"]
    _, inside, _ = one_block("leave")
    assert inside == "False"


def test_the_user_s_own_settings_of_the_allocator_stand() -> None:
    said, *_ = one_block("keep", MALLOC_ARENA_MAX="2")
    assert said == "False"


GIVEN_BACK = """
import torch
from newton_krylov.allocator import give_back_freed_memory

def resident():
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * 4 // 1024  # MiB

block, pin = torch.ones(16 * 2**20), torch.ones(2**10)  # 64 MiB, below what stays
before = resident()
del block
kept = resident()
give_back_freed_memory()
print(before - kept < 8, kept - resident() > 48)
"""


def test_what_has_been_freed_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GIVEN_BACK],
        check=True, capture_output=True, text=True,
        env=os.environ | {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**30)},
    )  # fmt: skip
    assert done.stdout.split() == ["True", "True"]
