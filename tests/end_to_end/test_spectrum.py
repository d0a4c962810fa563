"""The spectrum as an observable of any run, from the command line to MLflow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import PATIENCE
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from newton_krylov.errors import ConfigError
from newton_krylov.records.spectrum import read_snapshots
from newton_krylov.records.trace import read_trace
from newton_krylov.runs.config import check

ROOT = Path(__file__).parents[2]
SMALL = ["dataset=breast_cancer", "solver=cr", "stop.epochs=5"]
NETWORK = [
    "dataset=digits_images", "dataset.limit=200", "loss=cross_entropy", "model=mlp",
    "model.hidden=[4]", "optimizer=sgd", "optimizer.batch_size=50", "stop.epochs=4",
]  # fmt: skip


def command(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *overrides, f"hydra.run.dir={folder}"],
        cwd=folder.parent, capture_output=True, text=True, timeout=PATIENCE, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_is_observed_recorded_drawn_and_tracked_and_takes_the_same_steps(tmp_path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    seen = command(
        tmp_path / "seen", *SMALL, "spectrum.every=2", "spectrum.top=3", "spectrum.density=true",
        f"tracking.uri={uri}",
    )  # fmt: skip
    plain = command(tmp_path / "plain", *SMALL, "tracking=none")
    assert (seen.returncode, plain.returncode) == (0, 0), seen.stderr + plain.stderr
    snapshots = read_snapshots(tmp_path / "seen")
    assert [s.iteration for s in snapshots] == [0, 2, 4, 5]
    # sigma'(0) = 1/4 and the columns are standardized: tr H(0) = d/4 + d l2.
    assert abs(snapshots[0].trace - 30 * (0.25 + 0.01)) <= 5 * snapshots[0].trace_error + 1e-9
    assert all(len(s.values) == 3 and s.nodes for s in snapshots)
    assert (tmp_path / "seen" / "figures" / "spectrum.png").stat().st_size > 5000
    assert not (tmp_path / "plain" / "spectrum.csv").exists()
    for ours, theirs in zip(
        read_trace(tmp_path / "seen" / "trace.csv"),
        read_trace(tmp_path / "plain" / "trace.csv"),
        strict=True,
    ):
        assert (ours.loss, ours.hvp_count, ours.data_passes) == (
            theirs.loss, theirs.hvp_count, theirs.data_passes,
        )  # fmt: skip
    client = MlflowClient(uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == "newton-krylov")
    (tracked,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(tracked.info.run_id, "eigenvalue_1")
    assert [(m.step, m.value) for m in history] == [(s.iteration, s.values[0]) for s in snapshots]
    assert tracked.data.metrics["hessian_trace"] == snapshots[-1].trace
    names = {file.path for file in client.list_artifacts(tracked.info.run_id)}
    assert {"spectrum.csv", "spectrum_density.csv"} <= names
    figures = {file.path for file in client.list_artifacts(tracked.info.run_id, "figures")}
    assert "figures/spectrum.png" in figures


@pytest.mark.slow
def test_one_layer_of_a_network_is_observed(tmp_path):
    done = command(
        tmp_path / "run", *NETWORK, "tracking=none", "spectrum.every=2", "spectrum.of=ggn",
        "spectrum.layers=[linear2]", "spectrum.samples=100",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    snapshots = read_snapshots(tmp_path / "run")
    assert [s.iteration for s in snapshots] == [0, 2, 4]
    assert all(value > 0 for s in snapshots for value in s.values)


@pytest.mark.slow
def test_what_the_objective_lacks_is_one_sentence(tmp_path):
    done = command(
        tmp_path / "run", *SMALL, "tracking=none", "spectrum.every=1", "spectrum.layers=[conv1]"
    )
    assert done.returncode != 0
    assert "spectrum.layers needs a network" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("spectrum.every=0", r"spectrum\.every=0 is not valid"),
        ("spectrum.of=hpv", "hessian_approx=hpv is unknown.*hvp"),
        ("spectrum.trace=1", r"spectrum\.trace=1 is not valid"),
        ("+spectrum.evry=1", r"spectrum\.evry is not a parameter.*every"),
    ],
)
def test_a_mistake_is_found_before_anything_is_loaded(override, message):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", [override])
    with pytest.raises(ConfigError, match=message):
        check(OmegaConf.to_container(composed, resolve=True))
