"""One run by its one command, in a process of its own: what it shows, leaves and tracks."""

import csv
import json
import math
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from command import (
    PATIENCE,
    ROOT,
    artifacts,
    client,
    command,
    environment,
    inside,
    tracked,
    wait_until,
)

from newton_krylov.data import load_dataset
from newton_krylov.records.trace import Row, read_trace

pytestmark = pytest.mark.slow

OPTIMUM = 0.3727237468639262  # of a9a without a bias column, lambda = 0.01
ASKED_FOR = {
    "loss", "suboptimality", "grad_norm", "train_accuracy", "test_accuracy", "step_size",
    "inner_iterations", "hvp_count", "data_passes", "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def shown(cwd: Path) -> str:
    out, err = command("solver=cr", "dataset=a9a", cwd=cwd)
    assert err == ""
    return out


@pytest.fixture(scope="module")
def folder(cwd: Path, shown: str) -> Path:
    (found,) = cwd.glob("outputs/*/*")
    return found


@pytest.fixture(scope="module")
def run(cwd: Path, shown: str) -> Any:
    (found,) = tracked(cwd)
    return found


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Row]:
    return read_trace(folder / "trace.csv")


def test_it_shows_a_line_a_step_and_a_summary(shown, rows, folder, run):
    steps = re.findall(r"^ +(\d+) +0\.\d+ ", shown, re.MULTILINE)
    assert [int(step) for step in steps] == [row.iteration for row in rows]
    for title in (
        "loss", "suboptimality", "train accuracy", "test accuracy", "steps", "Hessian products",
        "optimizer seconds",
    ):  # fmt: skip
        assert re.search(rf"│ {title} +│ [-\d.]+", shown), title
    assert re.search(r"stopped +│ converged: gradient norm <= 1e-10", shown)
    assert f"outputs/{folder.parent.name}/{folder.name}/figures" in shown
    assert f"{run.info.run_id} (mlflow ui)" in shown
    place = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert f"http://127.0.0.1:5000/{place}" in "".join(shown.split())


def test_the_trace_is_of_newton_s_method(rows):
    assert rows[0].loss == pytest.approx(math.log(2), abs=1e-15)
    assert rows[-1].loss == pytest.approx(OPTIMUM, abs=2e-16)
    assert abs(rows[-1].suboptimality) < 1e-15
    assert rows[-1].grad_norm < 1e-10
    assert all(a.loss > b.loss for a, b in pairwise(rows) if a.loss - OPTIMUM > 1e-14)
    assert rows[-1].hvp_count == sum(row.inner_iterations for row in rows)
    assert 0.84 < rows[-1].train_accuracy < 0.85 and 0.84 < rows[-1].test_accuracy < 0.85


def test_the_record_on_disk_is_whole(folder, rows):
    names = {path.name for path in folder.iterdir()} - {".lock", "run.log"}
    assert names == {
        "config.yaml", "environment.json", "figures", "overrides.yaml", "summary.json",
        "trace.csv", "weights.npy",
    }  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["outcome"] == "converged"
    assert summary["optimum"] == pytest.approx(OPTIMUM, abs=2e-16)
    assert summary["iteration"] == rows[-1].iteration
    assert summary["seconds"] == rows[-1].seconds
    assert summary["wall_seconds"] > summary["seconds"]
    assert summary["dataset"]["n_samples"] == 32561 and summary["dataset"]["nnz"] == 451592
    assert yaml.safe_load((folder / "overrides.yaml").read_text()) == ["solver=cr", "dataset=a9a"]
    assert np.load(folder / "weights.npy").shape == (123,)
    with (folder / "trace.csv").open() as file:
        assert set(next(csv.reader(file))) >= ASKED_FOR


def test_mlflow_has_the_metrics_of_every_step(run, rows, cwd):
    assert run.info.status == "FINISHED"
    assert run.data.metrics.keys() >= ASKED_FOR
    assert run.data.tags.keys() >= {"wall_seconds", "optimum", "steps"}
    # A metric of a single point would be drawn as a chart.
    histories = {
        name: len(client(cwd).get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }
    assert min(histories.values()) >= len(rows) - 1, histories
    for name in ASKED_FOR:
        history = client(cwd).get_metric_history(run.info.run_id, name)
        want = {r.iteration: getattr(r, name) for r in rows if math.isfinite(getattr(r, name))}
        assert {metric.step: metric.value for metric in history} == want, name
        assert len(history) == len(want)


def test_mlflow_has_the_parameters_tags_and_files(run, folder, cwd):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    params = run.data.params
    assert params["solver.name"] == "cr" and params["loss.l2"] == "0.01"
    assert params["seed"] == str(config["seed"]) and params["stop.epochs"] == "100"
    tags = run.data.tags
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    assert tags["git_commit"] == commit.stdout.strip()
    assert tags["git_dirty"] in ("True", "False")
    assert tags["hostname"] == socket.gethostname()
    assert tags["device"] == "cpu" and tags["version.torch"] and tags["version.hydra-core"]
    assert tags["outcome"] == "converged" and tags["reason"] == "gradient norm <= 1e-10"
    names = artifacts(cwd, run.info.run_id)
    assert names >= {
        "config.yaml", "overrides.yaml", "trace.csv", "weights.npy", "summary.json", "figures",
    }  # fmt: skip
    assert any(path.endswith(".png") for path in artifacts(cwd, run.info.run_id, "figures"))
    assert (cwd / "mlruns").is_dir() and (cwd / "mlflow.db").is_file()


def post(url: str, **query: Any) -> Any:
    request = urllib.request.Request(
        url, json.dumps(query).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return json.load(answer)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=60).close()
    except OSError:
        return False
    return True


@contextmanager
def served(cwd: Path) -> Iterator[str]:
    """Start a server; another program may be quicker to take the port that was free."""
    for _ in range(5):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"],
            cwd=cwd, env=environment(cwd), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        base = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda url=f"{base}/health", of=server: of.poll() or answers(url))
            if server.poll() is None:
                yield base
                return
        finally:
            server.terminate()
            server.wait(timeout=PATIENCE)
    raise AssertionError("the server has ended five times")


def test_a_plain_mlflow_server_shows_the_run(cwd, run, rows):
    with served(cwd) as base:
        api = f"{base}/api/2.0/mlflow"
        found = post(f"{api}/runs/search", experiment_ids=[run.info.experiment_id])["runs"]
        assert [one["info"]["run_id"] for one in found] == [run.info.run_id]
        metrics = {m["key"]: m["value"] for m in found[0]["data"]["metrics"]}
        assert metrics["loss"] == rows[-1].loss
        figure = f"run_uuid={run.info.run_id}&path=figures%2Frun.png"
        with urllib.request.urlopen(f"{base}/get-artifact?{figure}", timeout=PATIENCE) as answer:
            assert answer.read(8) == b"\x89PNG\r\n\x1a\n"
        with urllib.request.urlopen(base, timeout=PATIENCE) as answer:
            assert b"<title>MLflow</title>" in answer.read()


@pytest.mark.slow
def test_a_relative_path_is_from_where_the_command_was_typed_whatever_hydra_does(tmp_path):
    (tmp_path / "d.svm").write_text("+1 1:0.5 3:1.5\n-1 2:0.25\n+1 1:1 2:2\n-1 3:1\n")
    go = ("dataset=libsvm", "dataset.path=d.svm", "dataset.test_fraction=0", "tracking=none")
    command(*go, "hydra.job.chdir=true", "hydra.run.dir=r", cwd=tmp_path)
    assert (tmp_path / "r" / "trace.csv").exists()
    sweep = ("-m", "solver=cg,cr", "hydra.job.chdir=true", "hydra.sweep.dir=s")
    command(*go, *sweep, cwd=tmp_path)
    assert (tmp_path / "s" / "1" / "trace.csv").exists()


@pytest.mark.slow
def test_weights_and_a_free_intercept_in_a_run(tmp_path):
    """Repeated rows in a file give the loss that a file of weights gives, its optimum too."""
    rows = [f"{1 if k % 4 else -1} 1:{(7 * k) % 11} 2:{k % 4 + 1}" for k in range(30)]
    (tmp_path / "once.svm").write_text("\n".join(rows))
    (tmp_path / "weights").write_text("\n".join(str(k % 3) for k in range(30)))
    copies = [row for k, row in enumerate(rows) for _ in range(k % 3)]
    (tmp_path / "copies.svm").write_text("\n".join(copies))
    common = ("dataset=libsvm", "dataset.test_fraction=0", "loss.intercept=free", "tracking=none")
    ends = []
    for name, more in (("once.svm", ["dataset.weights_path=weights"]), ("copies.svm", [])):
        command(*common, f"dataset.path={name}", *more, f"hydra.run.dir={name}.d", cwd=tmp_path)
        ends.append(json.loads((tmp_path / f"{name}.d" / "summary.json").read_text()))
    for key in ("loss", "optimum", "train_accuracy"):
        assert ends[0][key] == pytest.approx(ends[1][key], rel=1e-12)
    assert ends[0]["optimum_gap_bound"] < 1e-11


def test_a_table_without_an_intercept_is_told_of(tmp_path):
    rows = [f"{1 if k % 9 == 0 else -1} 1:{(7 * k) % 11 + 1} 2:{k % 4 + 1}" for k in range(40)]
    (tmp_path / "d.svm").write_text("\n".join(rows))
    go = ("dataset=libsvm", f"dataset.path={tmp_path / 'd.svm'}", "tracking=none", "stop.epochs=20")
    out, _ = inside(*go, "hydra.run.dir=free", cwd=tmp_path)
    assert "There is an intercept without a penalty: loss.intercept=none leaves it out." in out
    w = np.load(tmp_path / "free" / "weights.npy")
    train = load_dataset("libsvm", {"path": str(tmp_path / "d.svm"), "format": "dense"}).train
    shares = 1 / (1 + np.exp(-(train.X.numpy() @ w[:-1] + w[-1])))
    mean = float(train.y.double().mean())
    assert shares.mean() == pytest.approx(mean, abs=1e-8)  # the intercept's derivative is 0
    go, said = (*go, "loss.intercept=none"), "There is no intercept"
    out, _ = inside(*go, "hydra.run.dir=a", cwd=tmp_path)
    assert f"{said}: loss.intercept=free adds one" in out
    out, _ = inside(*go, "dataset.scaling=standardize", "hydra.run.dir=b", cwd=tmp_path)
    assert f"{said}, and the columns are centred: loss.intercept=free" in out
    for name, enough in enumerate(("loss.intercept=free", "dataset.bias=true")):
        out, _ = inside(*go, enough, f"hydra.run.dir=c{name}", cwd=tmp_path)
        assert said not in out


OWN_LOSS = """
from newton_krylov.capabilities import TABLE
from newton_krylov.objectives.linear_model import SingleOutputModel, SingleOutputTerms
from newton_krylov.registry import register


class Terms(SingleOutputTerms):
    value = property(lambda self: self.mean((self.Z - self.targets).square() / 2))
    gradient = property(lambda self: self.averaged(self.Z - self.targets))
    weights = property(lambda self: self.averaged(0 * self.Z + 1))


@register("loss", "own_squares", needs=(TABLE,))
class Own(SingleOutputModel):
    name, task, terms, convex = "own_squares", "regression", Terms, True

    def __init__(self, dataset, l2: float = 0.1):
        super().__init__(dataset, l2)

    def _encode(self, y):
        return y.to(self.dtype)
"""


def test_a_loss_of_the_user_s_own_without_an_intercept_is_told_of_too(tmp_path):
    (tmp_path / "own.py").write_text(OWN_LOSS)
    go = ("loss=own_squares", "dataset=diabetes", "dataset.scaling=standardize", "tracking=none")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    out, _ = command(*go, cwd=tmp_path, NEWTON_KRYLOV_PLUGINS="own", PYTHONPATH=path)
    assert "and the columns are centred: dataset.bias=true adds one." in out
    assert "accuracy" not in out and "train acc." not in out


def test_the_automatic_method_s_run_and_what_it_spares(tmp_path):
    """Compiled or torch's, products lead to the same optimum; with the former, matrices pay."""
    go = ("method=newton_auto", "dataset=a9a", "tracking=none", "stop.suboptimality=1e-12")
    ends = []
    for kernels in ("auto", "off"):
        command(*go, f"hydra.run.dir={kernels}", cwd=tmp_path, NEWTON_KRYLOV_KERNELS=kernels)
        ends.append(read_trace(tmp_path / kernels / "trace.csv"))
    for rows in ends:
        assert rows[-1].loss == pytest.approx(OPTIMUM, abs=2e-12)
        assert rows[0].data_passes == 0 and "samples" in rows[1].notes[0]
    assert ends[0][-1].data_passes < 16  # plain CG takes 38
