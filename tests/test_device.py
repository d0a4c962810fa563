"""Where a run computes."""

import subprocess
import sys

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
