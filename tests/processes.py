"""Run a function in several processes that form a group, as torchrun's would."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from command import PATIENCE

from newton_krylov.distributed.group import join, leave


def together(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `function(group, *arguments)` in `size` processes and return what each returned.

    The processes are forked, so that they share what is imported; tensors come back as they are.
    They meet, as torchrun's do, at a store of the launcher's, at a port that is taken already.
    """
    context = multiprocessing.get_context("fork")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pipes, processes = [], []
    for rank in range(size):
        here, there = context.Pipe(duplex=False)
        processes.append(
            context.Process(
                target=_member, args=(there, rank, size, store.port, function, arguments)
            )
        )
        pipes.append(here)
    for process in processes:
        process.start()
    answers = [pipe.recv() if pipe.poll(PATIENCE) else "no answer" for pipe in pipes]
    for process in processes:
        process.join(PATIENCE)
        process.kill()
    for answer in answers:
        if isinstance(answer, str):
            raise AssertionError(answer)
    return [answer[0] for answer in answers]


def _member(pipe, rank, size, port, function, arguments):
    torch.set_num_threads(1)  # the parent's threads are not there after a fork
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    try:
        result = function(join("gloo", 1), *arguments)
        leave()
        pipe.send((_plain(result),))
    except BaseException:
        pipe.send(f"process {rank}: {traceback.format_exc()}")


def _plain(value: Any) -> Any:
    """Turn tensors to arrays, which a pipe carries whole."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
