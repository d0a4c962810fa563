"""`device=distributed`: the processes that torchrun started, each with its own processor or GPU."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from newton_krylov.capabilities import SAMPLES
from newton_krylov.distributed.group import join
from newton_krylov.registry import register


@register("device", "distributed", needs=(SAMPLES,), offers=())
def distributed(
    *,
    backend: Literal["auto", "gloo", "nccl"] = "auto",
    threads: Annotated[int, Field(gt=0, le=4096)] | None = None,
    timeout: Annotated[int, Field(gt=0, le=86_400)] = 120,
) -> torch.device:
    """Compute in the processes of `torchrun`, each on a part of the samples.

    Parameters
    ----------
    backend : {"auto", "gloo", "nccl"}
        gloo sums on processors, nccl on NVIDIA GPUs; auto takes nccl where each process of this
        machine has a GPU of its own.
    threads : int or None
        Number of threads torch's operations use in each process; None leaves torch's own choice.
    timeout : int
        Seconds after which the run ends where one of its processes does not answer.

    Returns
    -------
    torch.device
        This process's.
    """
    return join(backend, threads, timeout).device
