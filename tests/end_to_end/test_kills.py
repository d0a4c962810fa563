"""What is killed at a random moment and resumed is as if it had not been: a few of many kills.

`python tests/kills.py --count 200` makes as many as it is asked for, of every kind of command.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from command import PATIENCE, environment

KILLS = Path(__file__).parents[1] / "kills.py"


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(tmp_path):
    kinds = "first moments,sweep of networks"
    given = ["--count", "4", "--seed", "7", "--kinds", kinds, "--place", str(tmp_path / "kills")]
    done = subprocess.run(
        [sys.executable, str(KILLS), *given],
        env=environment(tmp_path), capture_output=True, text=True, check=False,
        timeout=8 * PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
