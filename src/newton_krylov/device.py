"""Where a run computes: the processor or a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt

from newton_krylov.capabilities import ALL_SAMPLES
from newton_krylov.errors import UnsupportedError
from newton_krylov.registry import register

_DEFAULT_THREADS = torch.get_num_threads()

Threads = Annotated[int, Field(gt=0, le=4096)]
"""A number of threads that a machine may have."""


@register("device", "cpu", offers=(ALL_SAMPLES,))
def cpu(*, threads: Threads | None = None) -> torch.device:
    """Compute on the processor.

    Parameters
    ----------
    threads : int or None
        Number of threads torch's operations use; None restores torch's own choice.

    Returns
    -------
    torch.device
        The processor.
    """
    torch.set_num_threads(threads or _DEFAULT_THREADS)
    return torch.device("cpu")


@register("device", "cuda", offers=(ALL_SAMPLES,))
def cuda(*, index: NonNegativeInt = 0) -> torch.device:
    """Compute on an NVIDIA GPU.

    Parameters
    ----------
    index : int
        Index of the GPU.

    Returns
    -------
    torch.device
        The GPU.

    Raises
    ------
    UnsupportedError
        If there is no such GPU.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        raise UnsupportedError("device=cuda: torch finds no NVIDIA GPU here; choose device=cpu.")
    if index >= count:
        raise UnsupportedError(f"device.index={index}: there are {count} GPUs, 0 to {count - 1}.")
    return torch.device("cuda", index)


@register("device", "auto", offers=(ALL_SAMPLES,))
def auto(*, threads: Threads | None = None) -> torch.device:
    """Compute on a GPU if there is one, else on the processor.

    Parameters
    ----------
    threads : int or None
        Number of threads torch's operations use on the processor; None restores torch's own choice.

    Returns
    -------
    torch.device
        The first GPU, or the processor.
    """
    return cuda() if torch.cuda.is_available() else cpu(threads=threads)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Take numbers that are too small to be normal for zero, on the processor, meanwhile.

    Below 1e-38 in single precision a processor computes many times slower, and such numbers come
    by themselves: the momentum of a weight behind a dead unit is one after some hundred steps.
    What they add to a sum with any normal number is below its rounding error.

    The setting is that of the calling thread and, for good, of the threads that are started
    meanwhile: it has to come before torch's first computation to hold for all of them.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
