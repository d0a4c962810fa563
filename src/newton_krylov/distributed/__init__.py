"""One run by several processes: each has a part of the samples, and sums are taken over all."""

from newton_krylov.distributed.device import distributed
from newton_krylov.distributed.objective import DataParallel, DataParallelNetwork, data_parallel
from newton_krylov.distributed.sharding import refuse, shard
from newton_krylov.distributed.team import Team, current, leave, other_ranks_overrides

__all__ = [
    "DataParallel",
    "DataParallelNetwork",
    "Team",
    "current",
    "data_parallel",
    "distributed",
    "leave",
    "other_ranks_overrides",
    "refuse",
    "shard",
]
