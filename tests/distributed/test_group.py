"""The processes' sums, what they cost, and what is said to who starts them in another way."""

import pytest
import torch
from processes import together

from newton_krylov.distributed import current, is_to_report, launch, leave
from newton_krylov.distributed.group import join
from newton_krylov.errors import UnsupportedError, UserError
from newton_krylov.registry import entry


def sums(group):
    x = torch.full((5,), float(group.rank + 1))
    assert group.sum(x) is x
    assert current() is group
    assert join("gloo", None) is group
    return [
        x,
        group.sums(0.1 * (group.rank + 1), 1),
        group.largest(-1.0 - group.rank),
        group.broadcast(7.0 + group.rank),
        (group.rank, group.size, group.traffic.calls, group.traffic.bytes),
    ]


def test_sums_and_their_cost():
    for rank, (x, two, largest, first, facts) in enumerate(together(3, sums)):
        assert x.tolist() == [6] * 5
        assert two == pytest.approx([0.6, 3])
        assert largest == -1
        assert first == 7
        assert facts == [rank, 3, 3, 5 * 4 + 2 * 8 + 8]


def lonely(group):
    group.sums(1)  # both are there
    if group.rank == 1:
        leave()
        return "left"
    with pytest.raises(UserError, match="Another process of the run has ended or cannot be rea"):
        group.sum(torch.ones(3))
    return "alone"


def test_a_process_that_ends_is_told_of():
    assert together(2, lonely) == ["alone", "left"]


def test_without_torchrun_there_is_no_team(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UnsupportedError, match=r"needs to be started by torchrun.*no RANK"):
        entry("device", "distributed").build({})()
    assert current() is None
    leave()  # does nothing


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs here")
def test_nccl_needs_a_gpu_for_each_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UnsupportedError, match=r"2 processes on this machine need a GPU each"):
        join("nccl", None)


def test_of_all_processes_one_reports_a_mistake(monkeypatch):
    monkeypatch.setattr(launch, "_PATIENCE", 0.5)
    assert sorted(together(3, lambda group: is_to_report())) == [False, False, True]
