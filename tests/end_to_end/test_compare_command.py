"""A sweep compares itself; `compare.py` compares the same runs from MLflow alone."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from command import PATIENCE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def python(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE, check=False
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a sweep of two solvers and two seeds."""
    folder = tmp_path_factory.mktemp("place")
    python(
        "run.py", "-m", "solver=cg,cr", "seed=0,1", "start=normal", "dataset=breast_cancer",
        "name=small", "hydra.sweep.dir=sweep", cwd=folder,
    )  # fmt: skip
    return folder


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "comparison.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_sweep_s_folder_holds_its_comparison(place: Path) -> None:
    names = {file.name for file in (place / "sweep").iterdir()}
    assert {"comparison.html", "comparison.csv", "comparison.md", "figures"} <= names
    assert {line["status"] for line in lines(place / "sweep")} == {"finished"}


def test_mlflow_has_the_page_at_the_sweep_s_run(place: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"comparison.html", "comparison.csv", "figures"} <= names


def test_runs_from_mlflow_give_the_numbers_of_their_folders(place: Path) -> None:
    done = python("compare.py", "--experiment", "small", "--out", "again", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "newton-cg" in done.stdout and "again/comparison.html" in done.stdout
    here, there = lines(place / "sweep"), lines(place / "again")
    for line in here + there:
        line.pop("folder")
    assert here == there
    assert len(here) == 4


def test_an_unknown_experiment_is_one_sentence(place: Path) -> None:
    done = python("compare.py", "--experiment", "smal", cwd=place)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "did you mean 'small'?" in done.stderr
