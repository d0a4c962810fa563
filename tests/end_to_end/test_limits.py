"""What there is not enough of ends in a sentence: memory, room on a disk, patience."""

import json
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from command import CONF, PATIENCE, QUICK, ROOT, environment, inside, start, tracked
from mlflow import MlflowClient

from newton_krylov import files
from newton_krylov.cli.main import main
from newton_krylov.errors import DataError


def test_a_container_s_limit_counts(tmp_path, monkeypatch):
    whole = files.usable_memory()
    (tmp_path / "limit").write_text(f"{2**20}\n")
    (tmp_path / "none").write_text("max\n")
    found = [tmp_path / "none", tmp_path / "limit", tmp_path / "absent"]
    monkeypatch.setattr(files, "_limits", lambda: iter(found))
    assert files.usable_memory() == 2**20 < whole
    with pytest.raises(DataError, match=r"A matrix takes .* GiB of memory for it"):
        files.require_memory(2**21, "A matrix")


@pytest.mark.parametrize(
    ("groups", "file"),
    [
        ("0::/\n", "memory.max"),
        ("0::/a.slice/b\n", "a.slice/memory.high"),
        ("0::/../..\n", "memory.max"),
        ("12:cpu,cpuacct:/x\n5:memory:/docker/1f\n0::/\n", "memory/memory.limit_in_bytes"),
        ("5:hugetlb,memory:/job:1/step\n", "memory/job:1/memory.limit_in_bytes"),
        ("5:cpu:/x\nnonsense\n", None),
    ],
)
def test_the_limit_is_found_in_both_versions_of_control_groups(groups, file, tmp_path):
    (tmp_path / "own").write_text(groups)
    found = set(files._limits(tmp_path / "cgroup", tmp_path / "own"))
    assert (tmp_path / "cgroup" / file in found) if file else not found


@pytest.mark.parametrize("width", [10**6, 10**18])
def test_a_network_larger_than_memory_is_a_sentence(width, tmp_path):
    given = ["dataset=digits_images", "loss=cross_entropy", "model=mlp", "optimizer=sgd"]
    large = [f"model.hidden=[{width},{width}]", "tracking=none", "hydra.run.dir=r"]
    _, err = inside(*given, *large, cwd=tmp_path, code=2)
    assert err.startswith("Error: out of memory")
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["outcome"] == "out_of_memory"


def test_standard_output_on_a_full_disk_is_a_sentence_whoever_writes_to_it(tmp_path, capfd):
    for given in (["--version"], ["--cfg", "job", *QUICK]):
        with Path("/dev/full").open("w") as full, redirect_stdout(full):
            assert main(CONF, given) == 1
        err = capfd.readouterr().err
        assert err == "The standard output cannot be written: No space left on device.\n"


@pytest.mark.slow
def test_standard_output_on_a_full_disk_loses_no_run(tmp_path):
    command = [sys.executable, str(ROOT / "run.py"), *QUICK, "tracking=none", "hydra.run.dir=r"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(tmp_path), stdout=full,
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert "Traceback" not in done.stderr and "cannot be written" in done.stderr
    assert done.returncode == 1
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("given", [("hydra.run.dir=r",), ("-m", "seed=0", "hydra.sweep.dir=r")])
def test_ctrl_c_while_a_run_or_a_sweep_is_opened_is_in_its_record(given, tmp_path, monkeypatch):
    """What MLflow has not heard of it then, the next command says."""
    create_run = MlflowClient.create_run

    def interrupted(*args, **options):
        signal.raise_signal(signal.SIGINT)
        return create_run(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", interrupted)
        inside(*QUICK, *given, cwd=tmp_path, code=130)
    name = "sweep.json" if "-m" in given else "summary.json"
    assert json.loads((tmp_path / "r" / name).read_text())["status"] == "interrupted"
    inside(*QUICK, "tracking=none", "hydra.run.dir=next", cwd=tmp_path)
    assert not [run for run in tracked(tmp_path) if run.info.status == "RUNNING"]


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.3, 1.5])
@pytest.mark.parametrize("given", [("hydra.run.dir=r",), ("-m", "seed=0", "hydra.sweep.dir=r")])
def test_a_ctrl_c_that_is_ignored_from_the_start_ends_nothing(given, after, tmp_path):
    """A script's background, and nohup's: the shell has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(*QUICK, "tracking=none", *given, cwd=tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 0.5, 1.2])
def test_ctrl_c_among_the_imports_is_one_line(after, tmp_path):
    process = start(*QUICK, "tracking=none", "optimum=none", "stop.seconds=60",
                    "stop.epochs=null", "stop.grad_norm=null", cwd=tmp_path)  # fmt: skip
    assert process.stdout is not None and "starting" in process.stdout.readline()
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "Traceback" not in err
    assert not list(tmp_path.rglob("*.part"))
