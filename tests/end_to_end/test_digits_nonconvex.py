"""The study of a network by its one command, on the embedded digits."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import PATIENCE

from newton_krylov.report.records import RunRecord, read_records
from studies.reproduction.nonconvex import OURS, PAPERS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
METHODS = "sgd,paper_newton_1,layerwise_1,layerwise_4,layerwise_124,newton_network"
LAYERS = {"conv1": 72, "conv2": 1152, "linear1": 16384, "linear2": 640}  # weights, in order


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "sweep"
    subprocess.run(
        [
            sys.executable, "run.py", "experiment=digits_nonconvex", f"method={METHODS}",
            "stop.epochs=4", "tracking=none", f"hydra.sweep.dir={folder}",
        ],
        cwd=ROOT, check=True, timeout=PATIENCE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def runs(sweep: Path) -> dict[str, RunRecord]:
    return {record.label: record for record in read_records([sweep])}


def accuracy(run: RunRecord) -> float:
    return float(run.column("train_accuracy")[-1])


def weights(run: RunRecord) -> dict[str, np.ndarray]:
    flat = np.load(run.folder / "weights.npy")
    parts = np.split(flat, np.cumsum(list(LAYERS.values()))[:-1])
    assert len(flat) == sum(LAYERS.values())
    return dict(zip(LAYERS, parts, strict=True))


def test_every_method_ran_to_its_end(runs: dict[str, RunRecord]) -> None:
    expected = {"SGD", PAPERS["1"], OURS["1"], OURS["4"], OURS["124"], "Newton, all layers"}
    assert set(runs) == expected
    for run in runs.values():
        assert (run.ending, run.faults) == ("4 epochs", [])
        assert len(run.rows) == 5


def test_all_start_at_one_point_which_the_seed_draws(runs: dict[str, RunRecord]) -> None:
    starts = {(run.column("loss")[0], run.column("test_accuracy")[0]) for run in runs.values()}
    assert len(starts) == 1


def test_only_the_chosen_layers_have_moved(runs: dict[str, RunRecord]) -> None:
    first, fourth = weights(runs[OURS["1"]]), weights(runs[OURS["4"]])
    several = weights(runs[OURS["124"]])
    assert np.array_equal(first["linear1"], fourth["linear1"])
    assert np.array_equal(first["conv2"], fourth["conv2"])
    assert np.array_equal(several["linear1"], first["linear1"])
    assert not np.array_equal(first["conv1"], fourth["conv1"])
    assert not np.array_equal(several["conv2"], first["conv2"])
    assert np.array_equal(weights(runs[PAPERS["1"]])["linear2"], first["linear2"])


def test_second_order_methods_learn(runs: dict[str, RunRecord]) -> None:
    assert accuracy(runs[OURS["4"]]) > 0.9
    assert accuracy(runs[OURS["124"]]) > 0.6
    losses = runs[OURS["1"]].column("loss")  # twelve checked steps on 72 weights
    assert np.all(np.diff(losses) < 0)
    assert accuracy(runs["Newton, all layers"]) > 0.5


def test_several_layers_beat_one_where_steps_are_checked(runs: dict[str, RunRecord]) -> None:
    """The paper found the contrary; its steps are not checked."""
    assert accuracy(runs[OURS["124"]]) > accuracy(runs[OURS["1"]])
    assert accuracy(runs[OURS["1"]]) > accuracy(runs[PAPERS["1"]])


def test_what_was_spent_is_counted(runs: dict[str, RunRecord]) -> None:
    assert runs["SGD"].column("data_passes")[-1] == pytest.approx(4.0)
    assert runs["SGD"].column("hvp_count")[-1] == 0.0
    assert runs[OURS["124"]].column("hvp_count")[-1] > 0.0
    assert "damping" in runs[OURS["124"]].rows[-1].note
