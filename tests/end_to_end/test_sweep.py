"""Sweeps by the command: parent and children, failures, skipped members, launchers, a search."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import QUICK, artifacts, command, tracked

from newton_krylov.records.trace import read_trace

pytestmark = pytest.mark.slow


def summaries(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("*/summary.json"), key=lambda path: int(path.parent.name))
    return [json.loads(path.read_text()) for path in paths]


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def shown(cwd: Path) -> str:
    # Of four members one converges, one overflows, and two do not go together.
    out, _ = command(
        "-m", *QUICK, "optimizer=gd", "optimizer.step_size=null,1e300",
        "loss=logistic,multinomial", "stop.grad_norm=1e-4", "stop.epochs=2000", "hydra.sweep.dir=s",
        cwd=cwd, code=1,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def runs(cwd: Path, shown: str) -> dict[str, Any]:
    parents = [run for run in tracked(cwd) if "mlflow.parentRunId" not in run.data.tags]
    (parent,) = parents
    children = [run for run in tracked(cwd) if run.info.run_id != parent.info.run_id]
    return {"parent": parent, "children": children}


def test_a_failed_member_does_not_stop_the_sweep(cwd, shown):
    members = summaries(cwd / "s")
    assert [member["status"] for member in members] == ["finished", "skipped", "failed", "skipped"]
    assert members[0]["outcome"] == "converged"
    assert members[2]["outcome"] == "diverged" and "the loss is" in members[2]["reason"]
    assert "loss=multinomial needs more than two classes" in members[1]["reason"]
    rows = read_trace(cwd / "s" / "2" / "trace.csv")
    assert len(rows) == 2  # what it had before it overflowed is there
    assert (cwd / "s" / "2" / "weights.npy").exists()


def test_the_end_shows_every_member_with_its_reason(cwd, shown):
    table = shown[shown.index("differs by") :]
    for number, (step, ending) in enumerate(
        [("null", "converged"), ("null", "skipped"), ("1e+300", "diverged"), ("1e+300", "skipped")]
    ):
        assert any(
            line.split()[0] == str(number) and f"step_size={step}" in line and ending in line
            for line in table.splitlines()
            if line.strip() and line.split()[0].isdigit()
        ), table
    assert "2  failed: the loss is" in table
    assert "1  skipped: loss=multinomial needs more than two classes" in table
    for place in ("s/comparison.html", "s/comparison.md", "s/figures"):
        assert place in table
        assert (cwd / place).exists()


def test_the_sweep_s_own_record(cwd, shown):
    record = json.loads((cwd / "s" / "sweep.json").read_text())
    assert record["status"] == "failed" and record["reason"] == "4 runs, 1 failed"
    assert (record["members"], record["failed_members"]) == (4, 1)
    assert [run["status"] for run in record["runs"]] == [m["status"] for m in summaries(cwd / "s")]
    overrides = yaml.safe_load((cwd / "s" / "overrides.yaml").read_text())
    assert "optimizer.step_size=null,1e300" in overrides


def test_the_children_are_nested_in_one_parent(runs, cwd):
    parent, children = runs["parent"], runs["children"]
    assert parent.info.status == "FAILED" and parent.data.tags["reason"] == "4 runs, 1 failed"
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert sorted(run.info.status for run in children) == ["FAILED", "FINISHED"]
    assert (parent.data.tags["members"], parent.data.tags["failed_members"]) == ("4", "1")
    assert not parent.data.metrics
    failed = next(run for run in children if run.info.status == "FAILED")
    assert failed.data.tags["outcome"] == "diverged"


def test_the_parent_carries_the_comparison(runs, cwd):
    run_id = runs["parent"].info.run_id
    assert artifacts(cwd, run_id) >= {
        "comparison.csv", "comparison.md", "comparison.html", "figures", "sweep.json",
        "sweep.yaml", "overrides.yaml",
    }  # fmt: skip
    for path in (cwd / "s" / "figures").rglob("*.png"):
        inside = path.relative_to(cwd / "s")
        assert str(inside) in artifacts(cwd, run_id, str(inside.parent))


def test_a_sweep_in_which_nothing_ran_is_a_failure(cwd):
    out, _ = command(
        "-m", *QUICK, "loss=multinomial", "seed=0,1", "tracking=none", cwd=cwd, code=1
    )  # fmt: skip
    assert "0  skipped" in out and "1  skipped" in out


def test_a_preset_that_is_a_sweep_needs_no_option(cwd):
    command(
        "experiment=solvers", *QUICK, "repeat=0", "method=newton_cr,exact_newton",
        "tracking=none", "hydra.sweep.dir=preset", cwd=cwd,
    )  # fmt: skip
    assert [m["label"] for m in summaries(cwd / "preset")] == ["Newton-CR", "Exact Newton"]


def test_parallel_processes_share_cores_caches_and_a_new_database(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    cores = len(os.sched_getaffinity(0))
    threads = os.environ.pop("OMP_NUM_THREADS")
    try:
        command(
            "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *QUICK, "seed=0,1,2,3",
            "start=normal", "solver=cg,cr", "hydra.sweep.dir=s", cwd=tmp_path,
        )  # fmt: skip
    finally:
        os.environ["OMP_NUM_THREADS"] = threads
    members = summaries(tmp_path / "s")
    assert [member["status"] for member in members] == ["finished"] * 8
    runs = tracked(tmp_path)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.info.run_id for run in runs} - {parents[0].info.run_id}
    assert len(parents) == 1
    assert children == {member["mlflow_run_id"] for member in members}  # none lost, none twice
    assert all(run.info.status == "FINISHED" for run in runs)
    for path in (tmp_path / "s").glob("*/environment.json"):
        assert json.loads(path.read_text())["threads"] == max(1, cores // 2)
    assert len(list((tmp_path / ".cache" / "optimum").glob("*.npz"))) == 1


@pytest.mark.parametrize(
    ("plugin", "launcher"),
    [
        ("submitit", ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=60"]),
        ("ray", ["hydra/launcher=ray"]),
    ],
)
def test_processes_of_a_cluster_s_launcher(plugin, launcher, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher")
    command("-m", *launcher, *QUICK, "solver=cg,cr", "hydra.sweep.dir=s", cwd=tmp_path)
    assert [m["label"] for m in summaries(tmp_path / "s")] == ["newton-cg", "newton-cr"]
    runs = tracked(tmp_path)
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert len([run for run in runs if "mlflow.parentRunId" in run.data.tags]) == 2


def test_optuna_searches_for_the_cheapest_and_survives_failures(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    out, _ = command(
        "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.sampler.seed=1", *QUICK, "objective_metric=hvp_count", "tracking=none",
        "loss=choice(logistic,multinomial)", "forcing.eta=interval(0.01,0.9)",
        "hydra.sweep.dir=s", cwd=tmp_path,
    )  # fmt: skip
    members = summaries(tmp_path / "s")
    ran = [member["hvp_count"] for member in members if member["status"] == "finished"]
    assert len(members) == 6 and 0 < len(ran) < 6
    found = yaml.safe_load((tmp_path / "s" / "optimization_results.yaml").read_text())
    assert found["best_value"] == min(ran)
    assert "best: loss=logistic forcing.eta=0." in out
