"""One run by several processes: each has a part of the samples, and sums are taken over all."""

from newton_krylov.distributed.device import distributed
from newton_krylov.distributed.launch import check_launch, in_the_background, let_the_first_speak
from newton_krylov.distributed.objective import DataParallel, DataParallelNetwork, data_parallel
from newton_krylov.distributed.sharding import shard
from newton_krylov.distributed.team import Team, current, leave

__all__ = [
    "DataParallel",
    "DataParallelNetwork",
    "Team",
    "check_launch",
    "current",
    "data_parallel",
    "distributed",
    "in_the_background",
    "leave",
    "let_the_first_speak",
    "shard",
]
