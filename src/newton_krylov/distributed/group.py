"""The processes of a run: their ranks, and the sums over all of them."""

import atexit
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from newton_krylov.errors import UnsupportedError, UserError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The variables that torchrun sets in each process."""


@dataclass
class Traffic:
    """What a process has handed over to the others.

    Attributes
    ----------
    calls : int
        Sums taken.
    bytes : int
        Size of what was summed. An all-reduce among p processes sends and receives about
        2 (p - 1) / p times that for each process.
    """

    calls: int = 0
    bytes: int = 0


class ProcessGroup:
    """A process's view of the run's processes.

    Every process calls the same methods in the same order with the same arguments, but for the
    summands. What a method returns is the same number, bit for bit, in every process: so all
    decide alike.

    Parameters
    ----------
    device : torch.device
        Where this process computes.

    Attributes
    ----------
    rank, size : int
        This process's number, and how many there are.
    traffic : Traffic
        Traffic so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.traffic = Traffic()

    def sum(self, x: Tensor) -> Tensor:
        """Sum a tensor over the processes.

        Parameters
        ----------
        x : Tensor
            This process's summand, of the same shape everywhere; becomes the sum.

        Returns
        -------
        Tensor
            x itself.
        """
        self.traffic.calls += 1
        self.traffic.bytes += x.nbytes
        with _connection_errors():
            dist.all_reduce(x)
        return x

    def sums(self, *values: float) -> list[float]:
        """Sum some numbers over the processes, in float64.

        Parameters
        ----------
        *values : float
            This process's summands.

        Returns
        -------
        list of float
            The sums.
        """
        x = torch.tensor(values, dtype=torch.float64, device=self.device)
        return list(self.sum(x).tolist())

    def largest(self, value: float) -> float:
        """Return the largest of the processes' numbers.

        Parameters
        ----------
        value : float
            This process's value.

        Returns
        -------
        float
            The same in every process.
        """
        x = torch.tensor(value, dtype=torch.float64, device=self.device)
        self.traffic.calls += 1
        self.traffic.bytes += x.nbytes
        with _connection_errors():
            dist.all_reduce(x, op=dist.ReduceOp.MAX)
        return float(x)

    def broadcast(self, value: float) -> float:
        """Return the first process's number to all.

        Parameters
        ----------
        value : float
            This process's value.

        Returns
        -------
        float
            The same in every process.
        """
        x = torch.tensor(value, dtype=torch.float64, device=self.device)
        with _connection_errors():
            dist.broadcast(x, 0)
        return float(x)

    def agree(self, text: str) -> bool:
        """Return whether all processes have the same text.

        Parameters
        ----------
        text : str
            This process's text.

        Returns
        -------
        bool
            The same in every process.
        """
        digest = hashlib.sha256(text.encode()).digest()
        numbers = [int.from_bytes(digest[i : i + 6]) for i in range(0, 30, 6)]  # exact in float64
        differs = [self.broadcast(float(number)) != number for number in numbers]
        return self.largest(float(any(differs))) == 0.0


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Say what a broken connection means."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("] ")[2].partition(". ")[0] or str(error)
        raise UserError(
            f"Another process of the run has ended or cannot be reached ({reason})."
        ) from error


_group: ProcessGroup | None = None


def join(backend: str, threads: int | None, timeout: int = 120) -> ProcessGroup:
    """Join the processes that `torchrun` started.

    Parameters
    ----------
    backend : {"auto", "gloo", "nccl"}
        What carries the sums; `auto` is NCCL where each process of this machine has a GPU of its
        own, else gloo.
    threads : int or None
        Number of threads torch's operations use in each process; None leaves torch's own choice.
    timeout : int
        Seconds to wait for a process that does not answer, since it is stopped or cut off.

    Returns
    -------
    ProcessGroup
        Also what `current` returns from now on.

    Raises
    ------
    UnsupportedError
        If this process was not started by `torchrun`, or there are not enough GPUs.
    """
    global _group  # noqa: PLW0603 - torch's process group, too, is one for the process
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise UnsupportedError(
            "device=distributed needs to be started by torchrun, for example "
            "`torchrun --nproc-per-node=2 run.py device=distributed` (the environment has no "
            f"{missing[0]})."
        )
    if _group is not None:
        return _group
    if threads is not None:
        torch.set_num_threads(threads)
    device = _device(backend)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout)
    )
    atexit.register(leave)  # a process that ends in another way must leave, too
    _group = ProcessGroup(device)
    return _group


def _device(backend: str) -> torch.device:
    local, wanted = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if backend == "nccl" and found < wanted:
        raise UnsupportedError(
            f"device.backend=nccl: {wanted} processes on this machine need a GPU each, and torch "
            f"finds {found}; choose device.backend=gloo."
        )
    if backend == "gloo" or found < wanted:
        return torch.device("cpu")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def current() -> ProcessGroup | None:
    """Return the group that this process has joined, if it has."""
    return _group


def leave() -> None:
    """Leave the group; the next run may join another."""
    global _group  # noqa: PLW0603
    if _group is not None:
        _group = None
        dist.destroy_process_group()
