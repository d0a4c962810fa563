"""Newton-CG on data several times the memory that it may have, in a process held to it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import PATIENCE

ROOT = Path(__file__).parents[2]
CLEAR_REFS = Path("/proc/self/clear_refs")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.access(CLEAR_REFS, os.W_OK), reason="no peak of memory to reset"),
]


def test_newton_cg_streams_within_its_budget(tmp_path):
    """The system refuses private memory beyond 16 MiB; the data have more than four times that."""
    command = [sys.executable, ROOT / "benchmarks" / "out_of_core.py"]
    options = ["--budget", "16", "--times", "5", "--json", str(tmp_path / "figures.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *options], check=True, env=environment, timeout=PATIENCE)
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["facts"]["mib"] > 4 * 16
    streamed, limited, whole = found["figures"].values()
    assert streamed["outcome"] == whole["outcome"] == "finished"
    assert limited["outcome"].startswith("refused")
    assert streamed["losses"] == pytest.approx(whole["losses"], rel=1e-12)
    assert streamed["losses"][-1] < 0.5 * streamed["losses"][0]
    assert streamed["private_mib"] <= 16
    assert streamed["peak_mib"] < 32  # the mapped shard included
    assert whole["peak_mib"] > found["facts"]["mib"]


def test_the_command_streams(tmp_path):
    folder = str(tmp_path / "shards")
    convert = [sys.executable, "-m", "newton_krylov.data.shards", "synthetic", folder]
    size = ["--n", "3000", "--n-test", "500", "--d", "50", "--density", "0.1"]
    subprocess.run([*convert, *size], check=True, timeout=PATIENCE)
    run = [sys.executable, ROOT / "run.py", "dataset=shards", f"dataset.path={folder}"]
    done = subprocess.run(
        [*run, "tracking=none", f"hydra.run.dir={tmp_path / 'run'}"],
        check=True, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert "newton-cg on shards: 3,000 samples, 50 features" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["outcome"] == "converged"
    assert summary["suboptimality"] < 1e-12
    assert summary["dataset"]["nnz"] == pytest.approx(15_000, rel=0.05)
    assert summary["test_accuracy"] > 0.5
