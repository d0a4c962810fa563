"""Freed memory is kept: told by the page faults of tensors that come and go."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="for glibc")

PROGRAM = """
import resource, sys, torch
from newton_krylov.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    before = faults()
    block = torch.ones(16 * 2**20)  # 64 MiB
    del block
print(kept, faults() - before)
"""


def third_block(mode: str, **environment: str) -> tuple[str, int]:
    """Return what the function said and the faults of the third block of 16,384 pages."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode],
        check=True, capture_output=True, text=True, env=clean | environment,
    )  # fmt: skip
    said, faults = done.stdout.split()
    return said, int(faults)


def test_a_block_of_a_known_size_costs_no_page_faults() -> None:
    said, kept = third_block("keep")
    assert said == "True"
    _, plain = third_block("leave")
    assert kept < 100
    assert kept < plain or plain < 100  # huge pages hide the difference


def test_the_user_s_own_settings_of_the_allocator_stand() -> None:
    said, _ = third_block("keep", MALLOC_ARENA_MAX="2")
    assert said == "False"
