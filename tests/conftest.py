"""Fixtures that every room's tests share."""

import atexit
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# One thread a process, the commands that tests start included: tests run side by side (-n), and
# OpenMP threads that spin for each other on shared cores are many times slower than none. Set
# before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiled once for all, where commands in folders of their own would each do it again.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / "newton-krylov-numba"))

# Nothing counts that an earlier session's killed runs have left.
if "NEWTON_KRYLOV_CACHE" not in os.environ:
    os.environ["NEWTON_KRYLOV_CACHE"] = tempfile.mkdtemp(prefix="newton-krylov-cache-")
    atexit.register(shutil.rmtree, os.environ["NEWTON_KRYLOV_CACHE"], ignore_errors=True)

import numpy as np
import pytest
import torch
from command import CONF
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from registrations import forgotten

from newton_krylov.cli.offers import offer

# A busy machine is no fault of a test's, and what passes once passes again: the same examples each
# time. For others: pytest --hypothesis-profile=search
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", settings.get_profile("search"), derandomize=True, database=None)
settings.load_profile("same")

# Where the tests are a script's background, Ctrl-C is ignored, and would be by the commands that
# tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

offer(CONF)  # imports all parts, and lets Hydra find those without a file


@pytest.hookimpl(trylast=True)
def pytest_sessionstart() -> None:
    """Keep the constants that Hypothesis takes out of the imported modules.

    Those that the tests import which happened to run before in the same process add none.
    """
    providers._get_local_constants = cache(providers._get_local_constants)
    providers._get_local_constants()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the test of random kills be run with more of them: `--kills 100`."""
    parser.addoption("--kills", type=int, default=10, help="runs to kill at random moments")


@pytest.fixture(autouse=True)
def _registry_as_it_was() -> Iterator[None]:
    """Forget the parts that a test registers."""
    with forgotten():
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let what draws without a seed of its own draw the same, whatever ran before."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Run a test on the CPU and, where there is one, on an NVIDIA GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    return torch.device(request.param)
