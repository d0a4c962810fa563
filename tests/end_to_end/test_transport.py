"""Optimal transport through the whole pipeline: its presets compose, its sweep runs and records."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import PATIENCE
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from newton_krylov.records.trace import read_trace
from newton_krylov.runs.config import check

ROOT = Path(__file__).parents[2]
STUDIES = ["sns_2024", "sns_2024_l1", "sns_2024_large"]
METHODS = ["sns", "sns_700", "sinkhorn_newton", "sinkhorn"]


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return check(OmegaConf.to_container(compose("config", list(overrides)), resolve=True))


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_composes_in_every_study(study, method):
    config = composed(f"experiment={study}", f"method={method}")
    assert config.settings.name == study
    assert config.name_of("dataset") == "transport"
    assert config.name_of("loss") == "entropic_transport"
    sparse = config.name_of("hessian_approx") == "thresholded_sparse"
    assert sparse == method.startswith("sns")


def test_the_study_of_kept_entries_is_of_the_sparse_method():
    config = composed("experiment=sns_2024_kept", "hessian_approx.kept=5")
    assert config.name_of("optimizer") == "sinkhorn_newton_sparse"
    assert config.options_of("hessian_approx") == {"kept": 5}


@pytest.mark.slow
def test_the_study_runs_from_the_command_line_and_meets_its_claim(tmp_path):
    command = [
        sys.executable, str(ROOT / "run.py"), "experiment=sns_2024", "method=sns,sinkhorn",
        "dataset.source=random_assignment", "dataset.n=100", "loss.eta=240", "tracking=none",
        f"hydra.sweep.dir={tmp_path}",
    ]  # fmt: skip
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True, timeout=PATIENCE)
    runs = {}
    for path in tmp_path.glob("*/summary.json"):
        summary = json.loads(path.read_text())
        runs[summary["label"]] = summary
        assert summary["outcome"] == "converged"
        assert summary["dataset"]["task"] == "transport"
        assert 0 <= summary["optimum_gap_bound"] < 1e-15
        assert summary["train_accuracy"] is None
        rows = read_trace(path.parent / "trace.csv")
        assert rows[-1].iteration == summary["iteration"]
        assert rows[-1].suboptimality < 1e-15
    sns, sinkhorn = runs["Sinkhorn-Newton-Sparse"], runs["Sinkhorn"]
    assert sinkhorn["iteration"] > 10 * sns["iteration"]
