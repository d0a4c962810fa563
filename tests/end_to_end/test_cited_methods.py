"""The studies of Ye and Zhang and of DynaNewton by their commands, with a part of their methods."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import PATIENCE

from newton_krylov.report.records import read_records
from newton_krylov.report.study import Study, studies
from studies.reproduction.generate import generate

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PLAIN, ACCELERATED = "Sub-sampled Newton", "Accelerated sub-sampled Newton"


def sweep(folder: Path, *overrides: str) -> Study:
    subprocess.run(
        [sys.executable, "run.py", *overrides, "tracking=none", f"hydra.sweep.dir={folder}"],
        cwd=ROOT, check=True, timeout=PATIENCE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    (study,) = studies(read_records([folder]))
    assert not any(record.faults or record.failed for record in study.records)
    return study


def steps(study: Study, label: str) -> float:
    entry = study.entry(label)
    assert entry is not None, [entry.label for entry in study.entries]
    return entry.records[0].cost_to(1e-6, "iteration")


def test_acceleration_wins_where_the_hessian_is_poor_and_the_page_says_so(tmp_path: Path) -> None:
    grid = sweep(
        tmp_path / "grid", "experiment=ye_zhang_2017_grid", "seed=0",
        "hessian_approx.fraction=0.005,0.05", "hessian_approx.alpha=0.01,0.1",
    )  # fmt: skip
    sweep(tmp_path / "rivals", "experiment=ye_zhang_2017", "seed=0", "method=newton_cg,nesterov")
    assert steps(grid, f"{ACCELERATED} (alpha=0.1, fraction=0.005)") < 0.4 * steps(
        grid, f"{PLAIN} (alpha=0.1, fraction=0.005)"
    )
    assert steps(grid, f"{ACCELERATED} (alpha=0.01, fraction=0.05)") < 0.8 * steps(
        grid, f"{PLAIN} (alpha=0.01, fraction=0.05)"
    )
    page = generate([tmp_path / "grid", tmp_path / "rivals"], tmp_path / "docs").read_text()
    assert "## Accelerated approximate Newton" in page
    assert "With 4 of 4 settings it takes fewer steps" in page


def test_dynanewton_is_at_statistical_accuracy_within_two_effective_passes(tmp_path: Path) -> None:
    study = sweep(
        tmp_path / "sweep", "experiment=dynanewton_2016", "seed=0",
        "method=dynanewton,exact_newton,dynanewton_2016/saga", "stop.seconds=5", "clock=processor",
    )  # fmt: skip
    accuracy = 124 / (2 * 32561)
    cost = {
        entry.label: entry.records[0].cost_to(accuracy, "data_passes") for entry in study.entries
    }
    assert cost["DynaNewton"] < 0.5 * cost["Exact Newton"]
    page = generate([tmp_path / "sweep"], tmp_path / "docs").read_text()
    assert "## DynaNewton" in page
    assert "within about one to two passes | **holds**" in page
