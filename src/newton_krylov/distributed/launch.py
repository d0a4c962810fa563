"""What the command does in the processes of torchrun: all compute, and the first alone reports."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from newton_krylov.distributed.group import VARIABLES
from newton_krylov.errors import ConfigError

_PATIENCE = 5.0  # seconds
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def is_to_report() -> bool:
    """Return whether this process is the one to report a mistake.

    All have one configuration, so the first has most probably the same to report, and the others
    wait for it; if it has not, one of them reports it after all.
    """
    if not _is_rank_zero():
        time.sleep(_PATIENCE)
    return _is_first_to_ask()


def _is_first_to_ask() -> bool:
    """Ask torchrun's store, which all processes share; with another launcher there may be none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    import torch.distributed as dist

    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, is_master=False, timeout=timedelta(seconds=_PATIENCE)
        )
        return bool(store.add("newton-krylov/reported", 1) == 1)
    except (RuntimeError, ValueError):  # the launcher has ended
        return True


@contextmanager
def silence_other_ranks() -> Iterator[list[str]]:
    """Let every process but the first leave no trace of the run.

    Yields
    ------
    list of str
        Overrides of the configuration: a temporary folder, and no tracking. None in the first
        process, and where there is only one.
    """
    _end_with_the_launcher()
    if _is_rank_zero():
        yield []
        return
    with (
        TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield [f"hydra.run.dir={folder}/run", "tracking=none"]


def check_launch(device: str, *, sweep: bool, resume: bool) -> None:
    """Refuse what cannot be combined with torchrun.

    Parameters
    ----------
    device : str
        As configured.
    sweep : bool
        Whether many runs are to be made.
    resume : bool
        Whether an earlier run is to be continued.

    Raises
    ------
    ConfigError
        In every process alike, before anything is loaded.
    """
    if any(name not in os.environ for name in VARIABLES):
        return
    if device != "distributed":
        raise ConfigError(
            f"torchrun started {os.environ['WORLD_SIZE']} processes, which with device={device} "
            "would all do the same: choose device=distributed, or start without torchrun."
        )
    if sweep:
        raise ConfigError("A sweep is not for torchrun: start each of its runs by one of its own.")
    if resume:
        raise ConfigError(
            "resume=true is not for device=distributed, where a checkpoint holds the state of one "
            "process and not of each: start the run again."
        )


def _is_rank_zero() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _end_with_the_launcher() -> None:
    """Let Linux send this process SIGTERM when torchrun dies, or it would keep running."""
    if all(name in os.environ for name in VARIABLES) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
