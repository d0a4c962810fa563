"""The real command in a process of its own, and what it left on disk and in MLflow."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
QUICK = ("dataset=synthetic", "dataset.n=300", "dataset.n_test=100", "dataset.d=8")
"""A problem that is made and solved in milliseconds."""
PATIENCE = 900
"""Seconds to wait for what happens in a few: a machine may be slow, busy or at a stand."""


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for an event, which a process is to bring about."""
    end = time.monotonic() + PATIENCE
    while not happened():
        if process is not None and process.poll() is not None and not happened():
            raise AssertionError(f"the process has ended: {process.communicate()}")
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.02)


def gone(pid: int | str) -> bool:
    """Return whether a process has ended; whose child it is may be late to ask how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def environment(cwd: Path, **more: str) -> dict[str, str]:
    ours = {"NEWTON_KRYLOV_CACHE": str(cwd / ".cache"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    theirs = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return theirs | ours | more


def start(*arguments: str, cwd: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=cwd,
        env=environment(cwd, **more),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def end(process: subprocess.Popen[str], code: int) -> tuple[str, str]:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err, err
    return out, err


def command(*arguments: str, cwd: Path, code: int = 0, **more: str) -> tuple[str, str]:
    return end(start(*arguments, cwd=cwd, **more), code)


def inside(*arguments: str, cwd: Path, code: int = 0) -> tuple[str, str]:
    """The same in this process, which has imported everything already: ten times as quick."""
    from newton_krylov.cli.main import main

    out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
    tracking = f"tracking.uri=sqlite:///{cwd / 'mlflow.db'}"
    quiet = any(line in ("tracking=none", "--help") or "tracking.uri" in line for line in arguments)
    with (
        patch.dict(os.environ, {"NEWTON_KRYLOV_CACHE": str(cwd / ".cache")}),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        os.chdir(cwd)
        try:
            given = main(CONF, [*arguments, *([] if quiet else [tracking])])
        finally:
            os.chdir(before)
    assert given == code, f"exit code {given}\n{out.getvalue()}\n{err.getvalue()}"
    return out.getvalue(), err.getvalue()


def module(name: str, *arguments: str, cwd: Path, code: int = 0) -> tuple[str, str]:
    process = subprocess.Popen(
        [sys.executable, "-m", name, *arguments],
        cwd=cwd,
        env=environment(cwd),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return end(process, code)


def client(cwd: Path) -> Any:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{cwd / 'mlflow.db'}")


def tracked(cwd: Path) -> list[Any]:
    found = client(cwd)
    ids = [experiment.experiment_id for experiment in found.search_experiments()]
    runs: Sequence[Any] = found.search_runs(ids)
    return sorted(runs, key=lambda run: run.info.start_time)


def artifacts(cwd: Path, run_id: str, path: str | None = None) -> set[str]:
    return {file.path for file in client(cwd).list_artifacts(run_id, path)}
