"""What goes wrong around a run: full disks, damaged caches, no memory, a part that raises."""

import json
import math
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import PATIENCE, QUICK, ROOT, environment, inside, tracked

from newton_krylov.linear_solvers.cg import cg
from newton_krylov.records.trace import read_trace
from newton_krylov.registry import register

LONG = (
    "dataset=synthetic", "dataset.n=500", "dataset.d=20", "dataset.condition_number=1e6",
    "loss.l2=1e-6", "optimizer=gd", "stop.epochs=100000", "stop.grad_norm=1e-14",
)  # fmt: skip


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def limited(cwd: Path, size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run where no file can grow beyond a size: what a full disk does, but for the words."""
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=cwd,
        env=environment(cwd),
        text=True,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_what_was_computed(tmp_path):
    done = limited(tmp_path, 10_000, *LONG, "tracking=none", "hydra.run.dir=r")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "r/trace.csv cannot be written: File too large" in done.stdout
    record, rows = summary(tmp_path / "r"), read_trace(tmp_path / "r" / "trace.csv")
    assert record["status"] == "failed" and record["outcome"] == "error"
    assert "trace.csv cannot be written" in record["reason"]
    assert len(rows) > 10
    assert record["iteration"] - rows[-1].iteration in (0, 1)  # the row that did not fit
    assert np.isfinite(np.load(tmp_path / "r" / "weights.npy")).all()


@pytest.mark.slow
def test_a_full_disk_from_the_start_is_a_sentence(tmp_path):
    done = limited(tmp_path, 0, *QUICK, "tracking=none", "hydra.run.dir=r")
    assert done.returncode == 2
    assert "cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_no_space_left_for_the_trace_is_a_sentence(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "trace.csv").symlink_to("/dev/full")
    _, err = inside(*QUICK, "tracking=none", "hydra.run.dir=r", cwd=tmp_path, code=2)
    assert "trace.csv cannot be written: No space left on device" in err
    assert summary(tmp_path / "r")["status"] == "failed"


def test_a_database_that_cannot_be_written_costs_the_tracking_only(tmp_path):
    out, _ = inside(
        *QUICK, "tracking.uri=sqlite:////dev/null/x.db", "hydra.run.dir=r", cwd=tmp_path
    )
    assert "not tracked" in out and "stopped" in out
    assert summary(tmp_path / "r")["status"] == "finished"


@pytest.mark.parametrize("kind", ["optimum"])
def test_a_damaged_cache_is_made_anew(kind, tmp_path):
    inside(*QUICK, "tracking=none", "hydra.run.dir=a", cwd=tmp_path)
    (file,) = (tmp_path / ".cache" / kind).glob("*.npz")
    whole = file.read_bytes()
    for damage in (b"", whole[: len(whole) // 2], b"\0" * len(whole)):
        file.write_bytes(damage)
        folder = f"r{len(damage)}{damage[:1].hex()}"
        inside(*QUICK, "tracking=none", f"hydra.run.dir={folder}", cwd=tmp_path)
        assert summary(tmp_path / folder)["optimum"] == summary(tmp_path / "a")["optimum"]
    assert file.stat().st_size > 0


class Fault:
    """What a solver does at its third system, in every run again."""

    def __init__(self) -> None:
        self.systems, self.strike = 0, lambda: None


FAULT = Fault()


@register("solver", "fails_at_the_third")
def fails_at_the_third(A, b, *, rtol: float = 1e-5, M=None):
    """Conjugate gradients, but for one system."""
    FAULT.systems += 1
    if FAULT.systems == 3:
        FAULT.strike()
    return cg(A, b, rtol=rtol, M=M)


def raise_error() -> None:
    raise FloatingPointError("the pivot is zero")


def exhaust_memory() -> None:
    torch.empty(2**50)


@pytest.mark.parametrize(
    ("strike", "outcome", "reason"),
    [
        (raise_error, "error", "FloatingPointError: the pivot is zero"),
        (exhaust_memory, "out_of_memory", "out of memory: "),
    ],
)
def test_a_part_that_fails_leaves_what_there_was(strike, outcome, reason, tmp_path):
    inside(*QUICK, "tracking=none", "hydra.run.dir=whole", cwd=tmp_path)
    whole = read_trace(tmp_path / "whole" / "trace.csv")
    FAULT.systems, FAULT.strike = 0, strike
    run = [*QUICK, "solver=fails_at_the_third", "hydra.run.dir=r"]
    out, _ = inside(*run, cwd=tmp_path, code=1)
    record, rows = summary(tmp_path / "r"), read_trace(tmp_path / "r" / "trace.csv")
    assert record["status"] == "failed" and record["outcome"] == outcome
    assert record["reason"].startswith(reason) and reason in out
    assert [row.loss for row in rows] == [row.loss for row in whole[:3]]
    assert record["loss"] == rows[-1].loss
    assert np.load(tmp_path / "r" / "weights.npy").any()  # the last good point, not the start
    assert "Traceback" in (tmp_path / "r" / "run.log").read_text()  # for who has to mend it
    (tracked_run,) = tracked(tmp_path)
    assert tracked_run.info.status == "FAILED"
    assert tracked_run.data.tags["reason"].startswith(reason)
    assert tracked_run.data.metrics["loss"] == rows[-1].loss


def test_a_sweep_goes_on_after_a_part_that_fails(tmp_path):
    FAULT.systems, FAULT.strike = 0, raise_error
    run = ["-m", *QUICK, "solver=cg,fails_at_the_third,cr", "tracking=none", "hydra.sweep.dir=s"]
    out, _ = inside(*run, cwd=tmp_path, code=1)
    states = [summary(tmp_path / "s" / str(number))["status"] for number in range(3)]
    assert states == ["finished", "failed", "finished"]
    assert "1  failed: FloatingPointError: the pivot is zero" in out
    FAULT.strike = lambda: None
    inside(*run, "resume=true", cwd=tmp_path)
    assert summary(tmp_path / "s" / "1")["status"] == "finished"


def test_an_overflow_is_a_failure_with_the_last_finite_point(tmp_path):
    run = [*QUICK, "optimizer=gd", "optimizer.step_size=1e300", "hydra.run.dir=r"]
    inside(*run, "tracking=none", cwd=tmp_path, code=1)
    record, rows = summary(tmp_path / "r"), read_trace(tmp_path / "r" / "trace.csv")
    assert record["status"] == "failed" and record["outcome"] == "diverged"
    assert math.isinf(rows[-1].loss) and record["loss"] is None
    assert np.load(tmp_path / "r" / "weights.npy").tolist() == [0.0] * 8
