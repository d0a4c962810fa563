"""One run by several processes: each has a part of the samples, and sums are taken over all."""

from newton_krylov.distributed.device import distributed
from newton_krylov.distributed.group import ProcessGroup, current, leave
from newton_krylov.distributed.launch import check_launch, is_to_report, silence_other_ranks
from newton_krylov.distributed.objective import DataParallel, DataParallelNetwork, data_parallel
from newton_krylov.distributed.sharding import shard

__all__ = [
    "DataParallel",
    "DataParallelNetwork",
    "ProcessGroup",
    "check_launch",
    "current",
    "data_parallel",
    "distributed",
    "is_to_report",
    "leave",
    "shard",
    "silence_other_ranks",
]
