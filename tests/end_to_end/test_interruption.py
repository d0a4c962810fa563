"""Interrupted work: signals, kills at random moments, and going on with what was left undone."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command import (
    PATIENCE,
    QUICK,
    ROOT,
    command,
    end,
    environment,
    gone,
    inside,
    module,
    start,
    tracked,
    wait_until,
)

from newton_krylov.records.trace import Row, read_trace

pytestmark = pytest.mark.slow

# Gradient descent on an ill-conditioned problem: thousands of quick steps, each the same again.
LONG = (
    "dataset=synthetic", "dataset.n=2000", "dataset.d=50", "dataset.condition_number=1e6",
    "loss.l2=1e-6", "optimizer=gd", "stop.epochs=1000000", "stop.grad_norm=1e-14",
)  # fmt: skip


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def wait_for_rows(trace: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until a trace has so many rows, the start's among them, below its header."""
    wait_until(lambda: trace.exists() and trace.read_bytes().count(b"\n") > count, process)


def same_path(left: list[Row], right: list[Row]) -> bool:
    """Whether two traces are of the same iterates, whatever the clock said."""
    pairs = zip(left, right, strict=False)
    return all(a.iteration == b.iteration and a.loss == b.loss for a, b in pairs)


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "killed", 143)],
)
def test_a_signal_leaves_a_partial_result_that_says_so(number, status, code, tmp_path):
    process = start(*LONG, "hydra.run.dir=r", cwd=tmp_path)
    wait_for_rows(tmp_path / "r" / "trace.csv", 51, process)
    process.send_signal(number)
    out, _ = end(process, code)
    record, rows = summary(tmp_path / "r"), read_trace(tmp_path / "r" / "trace.csv")
    assert record["status"] == status and record["outcome"] == "interrupted"
    assert record["iteration"] == rows[-1].iteration >= 50
    assert record["loss"] == rows[-1].loss
    assert (tmp_path / "r" / "weights.npy").exists()
    assert (tmp_path / "r" / "figures").is_dir()
    assert "stopped" in out and "interrupted" in out
    (run,) = tracked(tmp_path)
    assert run.info.status == "KILLED"
    assert run.data.metrics["loss"] == rows[-1].loss
    assert run.data.tags["status"] == status


@pytest.mark.parametrize("after", [0.01, 0.1, 0.4, 1.0])
def test_a_second_ctrl_c_during_the_clean_end_leaves_a_whole_record(after, tmp_path):
    process = start(*LONG, "hydra.run.dir=r", "tracking=none", cwd=tmp_path)
    wait_for_rows(tmp_path / "r" / "trace.csv", 50, process)
    process.send_signal(signal.SIGINT)
    time.sleep(after)
    process.send_signal(signal.SIGINT)  # to a process that may have ended: nothing happens then
    _, err = process.communicate(timeout=PATIENCE)
    # While Python shuts down, it handles no signals: the system ends it, which a shell calls 130.
    assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in err, err
    assert summary(tmp_path / "r")["status"] == "interrupted"
    assert read_trace(tmp_path / "r" / "trace.csv")
    assert not list(tmp_path.rglob("*.part"))


def test_sigkill_loses_nothing_and_the_next_start_says_so(tmp_path):
    process = start(*LONG, "hydra.run.dir=r", cwd=tmp_path)
    wait_for_rows(tmp_path / "r" / "trace.csv", 50, process)
    process.kill()
    process.communicate()
    rows = read_trace(tmp_path / "r" / "trace.csv")
    assert len(rows) >= 50
    assert summary(tmp_path / "r")["status"] == "running"  # it had no time to say otherwise
    assert [run.info.status for run in tracked(tmp_path)] == ["RUNNING"]
    command(*QUICK, cwd=tmp_path)
    assert summary(tmp_path / "r")["status"] == "killed"
    dead, alive = tracked(tmp_path)
    assert dead.info.status == "KILLED" and alive.info.status == "FINISHED"
    assert dead.data.tags["steps"] == str(rows[-1].iteration)
    assert dead.data.metrics["loss"] == rows[-1].loss
    assert dead.data.tags["reason"] == "the process was killed"


def test_joblib_s_processes_end_with_the_command_that_is_killed(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    # The third has no work.
    parallel = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=3", "hydra.sweep.dir=s")
    process = start(*parallel, *LONG, "seed=0,1", "tracking=none", cwd=tmp_path)
    for number in range(2):
        wait_for_rows(tmp_path / "s" / str(number) / "trace.csv", 20, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate()  # to the end of its output, which the children share
    wait_until(lambda: all(map(gone, children)))
    assert [summary(tmp_path / "s" / str(k))["status"] for k in range(2)] == ["killed"] * 2


def test_a_terminal_s_ctrl_c_while_joblib_s_processes_start_is_no_traceback(tmp_path):
    """It goes to all processes: those that are starting have imports to do."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    parallel = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=s")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *parallel, *LONG, "seed=0,1", "tracking=none"],
        cwd=tmp_path, env=environment(tmp_path), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: len(children.read_text().split()) >= 3, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = end(process, 130)
    assert "KeyboardInterrupt" not in err
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["status"] == "interrupted"


def test_upload_marks_the_killed_too_and_leaves_the_living_alone(tmp_path):
    killed = start(*LONG, "hydra.run.dir=outputs/killed", cwd=tmp_path)
    living = start(*LONG, "hydra.run.dir=outputs/living", cwd=tmp_path)
    wait_for_rows(tmp_path / "outputs" / "killed" / "trace.csv", 5, killed)
    wait_for_rows(tmp_path / "outputs" / "living" / "trace.csv", 5, living)
    killed.kill()
    killed.communicate()
    out, _ = module("newton_krylov.tracking.upload", "outputs", cwd=tmp_path)
    assert "outputs/killed: completed as run " in out
    assert "outputs/living: still running" in out
    assert sorted(run.info.status for run in tracked(tmp_path)) == ["KILLED", "RUNNING"]
    living.send_signal(signal.SIGINT)
    end(living, 130)
    assert [run.info.status for run in tracked(tmp_path)] == ["KILLED", "KILLED"]


SGD = (
    "dataset=digits_images", "loss=cross_entropy", "model=mlp", "optimizer=sgd",
    "checkpoint_seconds=0",
)  # fmt: skip


def test_a_killed_run_goes_on_from_its_checkpoint_to_the_same_trace(tmp_path):
    command(*SGD, "stop.epochs=25", "hydra.run.dir=whole", "tracking=none", cwd=tmp_path)
    whole = read_trace(tmp_path / "whole" / "trace.csv")
    process = start(*SGD, "stop.epochs=25", "hydra.run.dir=r", cwd=tmp_path)
    wait_for_rows(tmp_path / "r" / "trace.csv", 6, process)
    process.kill()
    process.communicate()
    before = read_trace(tmp_path / "r" / "trace.csv")
    again = [*SGD, "stop.epochs=25", "hydra.run.dir=r", "resume=true"]
    command(*again, cwd=tmp_path)
    after = read_trace(tmp_path / "r" / "trace.csv")
    assert len(after) == len(whole) == 26 and same_path(after, whole)
    # It did not start over. The last row may be newer than the last checkpoint.
    assert after[4].seconds == before[4].seconds
    assert not (tmp_path / "r" / "checkpoint.pt").exists()
    (run,) = tracked(tmp_path)  # one run, not two
    assert run.info.status == "FINISHED" and run.data.tags["steps"] == "25"
    left = tmp_path / "r" / ".summary.json.0123456789abcdef.part"  # by a kill while it was sent
    left.touch()
    out, _ = command(*again, cwd=tmp_path)
    assert "r: finished before" in out and not left.exists()


def test_a_run_without_a_checkpoint_starts_over_as_one_run(tmp_path):
    run = [*QUICK, "hydra.run.dir=r"]
    inside(*run, cwd=tmp_path)
    first = summary(tmp_path / "r")
    mark(tmp_path / "r", "running")  # as a killed process leaves it
    _, err = inside(*run, "resume=true", "stop.epochs=20", cwd=tmp_path, code=2)
    assert "holds a run with stop.epochs=100, not 20" in err
    inside(*run, "resume=true", cwd=tmp_path)
    again = summary(tmp_path / "r")
    assert again["status"] == "finished" and again["loss"] == first["loss"]
    (run,) = tracked(tmp_path)
    assert run.info.run_id == again["mlflow_run_id"] != first["mlflow_run_id"]
    assert run.info.status == "FINISHED"


def mark(folder: Path, status: str) -> None:
    (folder / "summary.json").write_text(json.dumps(summary(folder) | {"status": status}))


def test_a_damaged_checkpoint_is_told_and_the_run_starts_over(tmp_path):
    run = [*SGD, "stop.epochs=3", "tracking=none"]
    inside(*run, "hydra.run.dir=r", cwd=tmp_path)
    whole = read_trace(tmp_path / "r" / "trace.csv")
    mark(tmp_path / "r", "killed")
    (tmp_path / "r" / "checkpoint.pt").write_bytes(b"PK\x03\x04 not whole")
    out, _ = inside(*run, "hydra.run.dir=r", "resume=true", cwd=tmp_path)
    assert "checkpoint.pt is not a whole checkpoint of a run. The run starts over." in out
    assert same_path(read_trace(tmp_path / "r" / "trace.csv"), whole)


SWEEP = ("-m", *QUICK, "solver=cg,cr,exact", "seed=0,1", "start=normal")


def kinds(folder: Path) -> list[str]:
    return [summary(folder / str(number))["status"] for number in range(6)]


def test_resume_runs_what_is_missing_or_failed_only(tmp_path):
    inside(*SWEEP, cwd=tmp_path)
    (sweep,) = tmp_path.glob("outputs/*/*")
    assert kinds(sweep) == ["finished"] * 6
    shutil.rmtree(sweep / "1")  # never ran
    for number, status in (("3", "failed"), ("4", "running")):  # failed; killed
        mark(sweep / number, status)
    times = {number: (sweep / str(number) / "trace.csv").stat().st_mtime for number in (0, 2, 5)}
    out, _ = inside(*SWEEP, "resume=true", cwd=tmp_path)
    assert out.count("finished before") == 3
    assert kinds(sweep) == ["finished"] * 6
    for number, before in times.items():
        assert (sweep / str(number) / "trace.csv").stat().st_mtime == before
    assert list(tmp_path.glob("outputs/*/*")) == [sweep]  # it found the folder by itself
    runs = tracked(tmp_path)
    ids = {summary(sweep / str(number))["mlflow_run_id"] for number in range(6)}
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1 and parents[0].info.status == "FINISHED"
    assert ids <= {run.info.run_id for run in runs}
    _, err = inside(*SWEEP, "stop.epochs=3", "resume=true", cwd=tmp_path, code=2)
    assert "there is no earlier sweep of this command" in err
    named = [*SWEEP, "stop.epochs=3", "resume=true", f"hydra.sweep.dir={sweep}"]
    _, err = inside(*named, cwd=tmp_path, code=2)
    assert "holds the sweep" in err and "choose another folder" in err


WAITING = """
import os, time
from newton_krylov.linear_solvers.cg import cg
from newton_krylov.registry import register

@register("solver", "waiting")
def waiting(A, b, *, rtol: float = 1e-5, M=None):
    "Conjugate gradients, which wait for a signal first."
    while "WAIT" in os.environ:
        time.sleep(0.01)
    return cg(A, b, rtol=rtol, M=M)
"""


def test_ctrl_c_ends_a_sweep_and_resume_goes_on_with_it(tmp_path):
    (tmp_path / "plug.py").write_text(WAITING)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    more = {"NEWTON_KRYLOV_PLUGINS": "plug", "PYTHONPATH": path}
    args = ["-m", *QUICK, "seed=0,1", "solver=cg,waiting", "hydra.sweep.dir=s", "start=normal"]
    process = start(*args, cwd=tmp_path, **more, WAIT="1")
    wait_for_rows(tmp_path / "s" / "1" / "trace.csv", 1, process)
    process.send_signal(signal.SIGINT)
    out, _ = end(process, 130)
    assert "repeat the command with resume=true" in out
    assert summary(tmp_path / "s" / "0")["status"] == "finished"
    assert summary(tmp_path / "s" / "1")["status"] == "interrupted"
    assert not (tmp_path / "s" / "2").exists()
    assert json.loads((tmp_path / "s" / "sweep.json").read_text())["status"] == "interrupted"
    assert {run.info.status for run in tracked(tmp_path)} == {"FINISHED", "KILLED"}
    command(*args, "resume=true", cwd=tmp_path, **more)
    states = [summary(tmp_path / "s" / str(number))["status"] for number in range(4)]
    assert states == ["finished"] * 4


def test_no_run_is_lost_in_kills_at_random_moments(tmp_path, pytestconfig):
    """However and whenever it is killed: the record is there, whole, and says so afterwards."""
    kills, seed = pytestconfig.getoption("--kills"), 20240711
    dice, args = random.Random(seed), [*LONG, "stop.epochs=400"]
    command(*args, "hydra.run.dir=outputs/whole", cwd=tmp_path)
    whole = read_trace(tmp_path / "outputs" / "whole" / "trace.csv")
    for number in range(kills):
        folder = tmp_path / "outputs" / str(number)
        process = start(*args, f"hydra.run.dir={folder}", cwd=tmp_path)
        # The first moment at which there is something to lose.
        wait_until((folder / "summary.json").exists, process)
        time.sleep(dice.uniform(0, 3))
        process.send_signal(dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        process.communicate()
    module("newton_krylov.tracking.upload", "outputs", cwd=tmp_path)
    runs = {run.data.tags["newton_krylov.record"]: run for run in tracked(tmp_path)}
    assert len(runs) == kills + 1
    for number in range(kills):
        folder = tmp_path / "outputs" / str(number)
        record = summary(folder)
        assert record["status"] in ("killed", "finished")
        run = runs[record["id"]]
        assert run.info.status == {"killed": "KILLED", "finished": "FINISHED"}[record["status"]]
        rows = read_trace(folder / "trace.csv") if (folder / "trace.csv").exists() else []
        assert same_path(rows, whole)
        assert int(run.data.tags.get("steps", -1)) == (rows[-1].iteration if rows else -1)
    assert not list((tmp_path / ".cache" / "unfinished").glob("*.json"))
