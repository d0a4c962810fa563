"""A column is one line of the trace's table: with it, every place shows the column."""

import csv
import shutil
import subprocess
import sys

import pytest
import yaml
from command import QUICK, ROOT, environment

pytestmark = pytest.mark.slow

PACKAGE = ROOT / "src" / "newton_krylov"
BEFORE = "    step_size: Annotated["
LINE = '    luck: Annotated[float, Column("sheer luck", brief="luck", form=".3f")] = 0.625\n'


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The package with a line more, and what a sweep and its comparison by it made."""
    folder = tmp_path_factory.mktemp("columns")
    shutil.copytree(PACKAGE, folder / "src" / "newton_krylov")
    trace = folder / "src" / "newton_krylov" / "records" / "trace.py"
    trace.write_text(trace.read_text().replace(BEFORE, LINE + BEFORE, 1))
    variables = {**environment(folder), "PYTHONPATH": str(folder / "src")}

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=variables,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    single = run(
        str(ROOT / "run.py"),
        *QUICK,
        "hydra.run.dir=single",
        f"tracking.uri=sqlite:///{folder}/m.db",
    )
    sweep = run(
        str(ROOT / "run.py"), "-m", *QUICK, "solver=cg,cr", "tracking=none",
        "hydra.sweep.dir=sweep", "objective_metric=luck",
    )  # fmt: skip
    run(str(ROOT / "compare.py"), "sweep", "--out", "report")
    return folder, single, sweep


def test_the_terminal_shows_it(place):
    _, single, sweep = place
    shown = single.splitlines()
    head, *lines = shown[next(i for i, line in enumerate(shown) if line.startswith("  step")) :]
    assert "luck" in head.split() and "0.625" in lines[0]
    assert "sheer luck" in single
    assert "luck" in sweep and "0.625" in sweep


def test_the_trace_and_the_summary_have_it(place):
    folder, *_ = place
    with (folder / "single" / "trace.csv").open() as file:
        assert {row["luck"] for row in csv.DictReader(file)} == {"0.625"}
    assert '"luck": 0.625' in (folder / "single" / "summary.json").read_text()


def test_mlflow_has_it(place):
    from mlflow.tracking import MlflowClient

    folder, *_ = place
    client = MlflowClient(f"sqlite:///{folder}/m.db")
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["luck"] == 0.625


def test_report_and_comparison_have_it(place):
    folder, *_ = place
    (comparison,) = folder.glob("report/**/*.csv")
    with comparison.open() as file:
        assert {row["luck"] for row in csv.DictReader(file)} == {"0.625"}
    page = next(folder.glob("report/*.html")).read_text()
    assert "<th" in page and "Luck" in page and "sheer luck" in page
    assert [*folder.glob("report/**/sheer-luck.png")]


def test_a_sweeper_can_minimize_it(place):
    folder, *_ = place
    config = yaml.safe_load((folder / "sweep" / "0" / "config.yaml").read_text())
    assert config["objective_metric"] == "luck"
