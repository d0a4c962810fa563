"""Fixtures that every room's tests share."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

# One thread a process, the commands that tests start included: tests run side by side (-n), and
# OpenMP threads that spin for each other on shared cores are many times slower than none. Set
# before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiled once for all, where commands in folders of their own would each do it again.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / "newton-krylov-numba"))

import pytest
import torch
from command import CONF
from hypothesis import settings
from registrations import forgotten

from newton_krylov.cli.offers import offer

# A busy machine is no fault of a test's.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# Where the tests are a script's background, Ctrl-C is ignored, and would be by the commands that
# tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

offer(CONF)  # imports all parts, and lets Hydra find those without a file


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the test of random kills be run with more of them: `--kills 100`."""
    parser.addoption("--kills", type=int, default=10, help="runs to kill at random moments")


@pytest.fixture(autouse=True)
def _registry_as_it_was() -> Iterator[None]:
    """Forget the parts that a test registers."""
    with forgotten():
        yield


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Run a test on the CPU and, where there is one, on an NVIDIA GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    return torch.device(request.param)
