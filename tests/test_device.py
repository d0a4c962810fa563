"""Where a run computes."""

import subprocess
import sys

import pytest

from newton_krylov.errors import ConfigError
from newton_krylov.registry import entry

PROGRAM = """
import torch
from newton_krylov.device import cpu, denormals_flushed
with denormals_flushed():
    cpu(threads=2)
    tiny = torch.full((1_000_000,), 700_000, dtype=torch.int32).view(torch.float32)
    small = torch.full((1_000_000,), 1e-30)
    print(int((tiny * 0.5).count_nonzero()), int((small * 1e-10).count_nonzero()))
    print(int((small * 0.5).count_nonzero()))
print(int((tiny[:9] * 0.5).count_nonzero()))  # by this thread alone
"""


def test_denormal_numbers_are_zero_in_every_thread():
    """In a process of its own: threads have the setting of the thread that started them."""
    out = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True).stdout
    assert out.split() == [b"0", b"0", b"1000000", b"9"]


@pytest.mark.parametrize("name", ["cpu", "auto", "distributed"])
@pytest.mark.parametrize("threads", [0, -1, 4097, 10**33])
def test_numbers_of_threads_that_no_machine_has_are_a_sentence(name, threads):
    with pytest.raises(ConfigError, match=f"threads={threads} is not valid"):
        entry("device", name).validate({"threads": threads})
