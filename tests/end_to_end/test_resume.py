"""What a run that is continued stands on is what it stood on, and a search goes on where it was."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from command import PATIENCE, QUICK, ROOT, environment, gone, inside, start, wait_until
from PIL import Image

SGD = ("loss=cross_entropy", "model=mlp", "optimizer=sgd", "checkpoint_seconds=0", "tracking=none")


def summary(folder: Path, name: str = "summary.json") -> dict:
    return json.loads((folder / name).read_text())


def mark(folder: Path, status: str) -> None:
    (folder / "summary.json").write_text(json.dumps(summary(folder) | {"status": status}))


def images(folder: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    shutil.rmtree(folder, ignore_errors=True)
    for kind in range(2):
        place = folder / "train" / f"c{kind}"
        place.mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 255, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")


def test_a_run_does_not_go_on_with_other_data(tmp_path):
    images(tmp_path / "img", seed=0)
    run = ("dataset=image_folder", "dataset.path=img", "dataset.color=gray", *SGD)
    process = start(*run, "stop.epochs=10000000", "hydra.run.dir=r", cwd=tmp_path)
    wait_until((tmp_path / "r" / "checkpoint.pt").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = (tmp_path / "r" / "trace.csv").read_bytes()
    images(tmp_path / "img", seed=1)
    again = [*run, "stop.epochs=10000000", "hydra.run.dir=r", "resume=true"]
    _, err = inside(*again, cwd=tmp_path, code=2)
    assert "The data has changed since the run in r began" in err
    assert (tmp_path / "r" / "trace.csv").read_bytes() == before


@pytest.mark.parametrize("name", ["summary.json", "config.yaml", "overrides.yaml", "weights.npy"])
def test_a_damaged_record_is_not_run_over(name, tmp_path):
    inside(*QUICK, "tracking=none", "hydra.run.dir=r", cwd=tmp_path)
    (tmp_path / "r" / name).write_bytes(b"")
    before = (tmp_path / "r" / "trace.csv").stat().st_mtime_ns
    given = [*QUICK, "tracking=none", "hydra.run.dir=r", "resume=true"]
    _, err = inside(*given, cwd=tmp_path, code=2)
    assert name in err and "damaged" in err
    assert (tmp_path / "r" / "trace.csv").stat().st_mtime_ns == before


def test_members_with_one_folder_are_named(tmp_path):
    sweep = ["-m", *QUICK, "tracking=none", "seed=0,1", "hydra.sweep.dir=s"]
    out, _ = inside(*sweep, "hydra.sweep.subdir=one", cwd=tmp_path, code=1)
    assert "holds a run already" in out
    assert summary(tmp_path / "s" / "one")["status"] == "finished"
    assert summary(tmp_path / "s" / "one-2")["status"] == "failed"
    assert summary(tmp_path / "s", "sweep.json")["failed_members"] == 1


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "summary.json"])
def test_a_sweep_names_its_damaged_member(name, tmp_path):
    sweep = ["-m", *QUICK, "tracking=none", "seed=0,1", "hydra.sweep.dir=s"]
    inside(*sweep, cwd=tmp_path)
    (tmp_path / "s" / "0" / name).write_bytes(bytes(range(256)))
    out, _ = inside(*sweep, "resume=true", cwd=tmp_path, code=1)
    assert "0  damaged: " in out and name in out
    assert summary(tmp_path / "s", "sweep.json")["failed_members"] == 1


SEARCH = (
    "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", "forcing=fixed", *QUICK,
    "forcing.eta=interval(0.01,0.9)", "solver=cg,cr", "tracking=none", "hydra.sweep.dir=s",
)  # fmt: skip


def test_a_search_goes_on_with_the_trials_it_made(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    sweep = tmp_path / "s"
    inside(*SEARCH, "hydra.sweeper.n_trials=3", cwd=tmp_path)
    results = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    inside(*SEARCH, "hydra.sweeper.n_trials=3", "resume=true", cwd=tmp_path)
    assert yaml.safe_load((sweep / "optimization_results.yaml").read_text()) == results
    assert sorted(path.parent.name for path in sweep.glob("*/summary.json")) == ["0", "1", "2"]
    # Killed in the last trial, and two more are wanted.
    mark(sweep / "2", "running")
    times = [(sweep / str(k) / "trace.csv").stat().st_mtime_ns for k in (0, 1)]
    inside(*SEARCH, "hydra.sweeper.n_trials=5", "resume=true", cwd=tmp_path)
    assert [(sweep / str(k) / "trace.csv").stat().st_mtime_ns for k in (0, 1)] == times
    members = [summary(sweep / str(k)) for k in range(5)]
    assert {member["status"] for member in members} == {"finished"}
    results = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    assert results["best_value"] == min(member["loss"] for member in members)
    # Killed before a trial's first file: it is drawn again.
    for path in (sweep / "3").rglob("*"):
        if path.is_file():
            path.unlink()
    inside(*SEARCH, "hydra.sweeper.n_trials=5", "resume=true", cwd=tmp_path)
    assert summary(sweep / "3")["loss"] == pytest.approx(members[3]["loss"], rel=1e-14)


PLUGIN = """
import os, numpy as np
from newton_krylov.data import source
from newton_krylov.data.prepare import RawData, Samples

@source("stale")
def stale() -> RawData:
    "Different in each process."
    rank = int(os.environ.get("RANK", 0))
    X = np.random.default_rng(rank).standard_normal((400, 5))
    y = (X[:, 0] > 0).astype(np.int64)
    return RawData(Samples(X, y), None, "binary", 2, "x", fingerprint=str(rank))
"""


def torchrun(*arguments: str, cwd: Path, **more: str) -> subprocess.Popen[str]:
    launcher = str(Path(sys.executable).parent / "torchrun")
    return subprocess.Popen(
        [launcher, "--standalone", "--nproc-per-node=2", str(ROOT / "run.py"),
         "device=distributed", "tracking=none", "optimum=none", *arguments],
        cwd=cwd, env=environment(cwd, **more), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.slow
def test_processes_with_different_data_are_refused(tmp_path):
    (tmp_path / "plug.py").write_text(PLUGIN)
    path = f"{ROOT / 'src'}:{tmp_path}"
    more = {"NEWTON_KRYLOV_PLUGINS": "plug", "PYTHONPATH": path}
    process = torchrun("dataset=stale", "hydra.run.dir=r", cwd=tmp_path, **more)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert "do not have the same data" in out
    assert summary(tmp_path / "r")["status"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["launcher", "first", "stopped"])
def test_no_process_stays_where_one_of_them_is_gone(whom, tmp_path):
    long = ("optimizer=gd", "stop.epochs=null", "stop.grad_norm=null", "stop.seconds=600")
    # It bounds the start as well, at which one of them may be late.
    short = ["device.timeout=30"] if whom == "stopped" else []
    process = torchrun(*QUICK, *long, "hydra.run.dir=r", *short, cwd=tmp_path)
    trace = tmp_path / "r" / "trace.csv"
    wait_until(lambda: trace.exists() and trace.read_bytes().count(b"\n") > 5, process)
    workers = children(process.pid)
    assert len(workers) == 2
    if whom == "launcher":
        process.kill()
    else:
        first = next(pid for pid in workers if rank(pid) == "0")
        other = next(pid for pid in workers if pid != first)
        kill(first if whom == "first" else other, "KILL" if whom == "first" else "STOP")
    wait_until(lambda: all(map(gone, workers)))
    process.communicate(timeout=PATIENCE)
    inside(*QUICK, "tracking=none", "hydra.run.dir=next", cwd=tmp_path)
    assert summary(tmp_path / "r")["status"] in ("killed", "failed")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank(pid: int) -> str:
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(v.partition("=")[::2] for v in variables)["RANK"]


def kill(pid: int, name: str) -> None:
    subprocess.run(["kill", f"-{name}", str(pid)], check=True)
