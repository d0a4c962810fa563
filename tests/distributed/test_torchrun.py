"""`torchrun --nproc-per-node=2 run.py device=distributed`: the record of one process, once."""

import csv
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from command import PATIENCE, environment, wait_until

pytestmark = pytest.mark.slow
RUN = Path(__file__).parents[2] / "run.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def command(folder, *overrides, processes=2):
    start = [*TORCHRUN, str(RUN), "device=distributed"] if processes > 1 else [sys.executable, RUN]
    return [*map(str, start), f"hydra.run.dir={folder}", *overrides]


def run(where, folder, *overrides, processes=2):
    where.mkdir(exist_ok=True)
    return subprocess.run(
        command(folder, *overrides, processes=processes),
        cwd=where, env=environment(where), capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip


def rows(folder):
    with (folder / "trace.csv").open() as stream:
        return list(csv.DictReader(stream))


SAME = (
    *("iteration", "loss", "suboptimality", "grad_norm", "train_accuracy", "test_accuracy"),
    *("test_loss", "step_size", "inner_iterations", "hvp_count", "data_passes"),
)
RUNS = {
    "logistic": (["stop.epochs=6", "start=uniform"], 1e-9),
    "network": (
        [
            *("dataset=digits_images", "loss=cross_entropy", "optimizer=layerwise_newton"),
            *("hessian_approx=rank1", "solver=exact", "stop.epochs=2"),
            *("optimizer.batch_size=200", "dataset.augmentation=flip_crop"),
        ],
        1e-4,  # in float32
    ),
}


@pytest.mark.parametrize("kind", RUNS)
def test_two_processes_leave_the_record_of_one(kind, tmp_path):
    overrides, tolerance = RUNS[kind]
    for processes in (1, 2):
        folder = tmp_path / f"of-{processes}"
        done = run(tmp_path / "here", folder, *overrides, "tracking=none", processes=processes)
        assert done.returncode == 0, done.stderr
    one, two = rows(tmp_path / "of-1"), rows(tmp_path / "of-2")
    assert len(one) == len(two) > 2
    for a, b in zip(one, two, strict=True):
        for key in SAME:
            x, y = float(a[key] or "nan"), float(b[key] or "nan")
            assert math.isnan(x) == math.isnan(y)
            assert math.isnan(x) or abs(x - y) <= tolerance * (1 + abs(x)), f"{key}: {x}, {y}"
    w1, w2 = (np.load(tmp_path / f"of-{n}" / "weights.npy") for n in (1, 2))
    assert np.linalg.norm(w1 - w2) <= tolerance * np.linalg.norm(w1)


def test_only_the_first_process_shows_and_tracks(tmp_path):
    done = run(tmp_path, tmp_path / "outputs" / "run", "stop.epochs=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stopped") == 1
    assert done.stdout.count("newton-cg on a9a: 32,561 samples") == 1
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["run"]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select status from runs").fetchall() == [("FINISHED",)]
        names = database.execute("select count(*) from metrics where key = 'loss'").fetchall()
    assert names == [(3,)]


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["device=cpu"], "Error: torchrun started 2 processes, which with device=cpu would all"),
        (["-m", "optimizer=svrg"], "Error: A sweep is not for torchrun"),
        (["optimizer=svrg"], "Error: optimizer=svrg needs all samples in one process"),
    ],
)
def test_a_mistake_is_told_once(tmp_path, overrides, sentence):
    done = run(tmp_path, tmp_path / "run", *overrides, "tracking=none")
    assert done.returncode != 0
    assert done.stderr.count("\nError: ") + done.stderr.startswith("Error: ") == 1
    assert sentence in done.stderr


@contextmanager
def endless(tmp_path):
    """Start two processes that never come to an end, and wait for twenty steps."""
    folder = tmp_path / "run"
    overrides = ["optimizer=gd", "stop.epochs=null", "stop.grad_norm=0", "tracking=none"]
    with subprocess.Popen(
        command(folder, *overrides, "stop.seconds=1000"),
        cwd=tmp_path, env=environment(tmp_path),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        wait_until(lambda: (folder / "trace.csv").exists() and len(rows(folder)) > 20, process)
        yield process
        process.wait(PATIENCE)
    assert len(rows(folder)) > 20


def summary(tmp_path):
    return json.loads((tmp_path / "run" / "summary.json").read_text())


def test_an_interrupted_run_keeps_what_it_had(tmp_path):
    with endless(tmp_path) as process:
        process.send_signal(signal.SIGINT)
    assert summary(tmp_path)["status"] in ("interrupted", "killed", "failed")


def test_a_run_that_loses_a_process_says_so(tmp_path):
    with endless(tmp_path) as process:
        os.kill(member(process.pid, 1), signal.SIGKILL)
    found = summary(tmp_path)
    assert found["status"] in ("failed", "killed")
    assert found["loss"] < 0.69
    if found["status"] == "failed":
        assert found["reason"].startswith("Another process of the run has ended")


def member(parent, rank):
    """Return the pid of one of torchrun's processes."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"PPid:\t{parent}\n" in (path / "status").read_text()
            if ours and f"RANK={rank}" in (path / "environ").read_text().split("\0"):
                return int(path.name)
        except OSError:
            continue
    raise AssertionError("no such process")
