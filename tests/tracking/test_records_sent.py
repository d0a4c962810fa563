"""Which records are sent, with which files, and where they belong."""

import json
import os
import shutil
import signal
import socket
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import PATIENCE, QUICK, artifacts, command, inside, start, tracked, wait_until
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from newton_krylov.records.record import SweepRecord
from newton_krylov.report.command import main as compare
from newton_krylov.runs import sweep
from newton_krylov.runs.experiment import run_experiment
from newton_krylov.tracking import deadline
from newton_krylov.tracking.afterwards import upload
from newton_krylov.tracking.mlflow_sender import Sender, parameters
from newton_krylov.tracking.upload import main as upload_command

NETWORK = ("dataset=digits_images", "loss=cross_entropy", "model=mlp", "optimizer=sgd")


def database(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def test_a_network_s_lists_are_one_text_now_and_later(tmp_path):
    inside(*NETWORK, "stop.epochs=1", "hydra.run.dir=r", cwd=tmp_path)
    (sent,) = upload([tmp_path / "r"], database(tmp_path))
    assert (sent.what, sent.problem) == ("was there", None)
    (run,) = tracked(tmp_path)
    assert run.data.params["model.hidden"] == "[32, 32]"


DAMAGE = {
    "trace.csv": b"iteration,loss\n",
    "summary.json": b'{"status": "finished"}',
    "config.yaml": b"",
    "environment.json": b"[",
    "overrides.yaml": b"",
}


def test_a_damaged_record_is_named_and_the_others_are_sent(tmp_path):
    inside(*QUICK, "tracking=none", "hydra.run.dir=x/sound", cwd=tmp_path)
    for name, content in DAMAGE.items():
        shutil.copytree(tmp_path / "x" / "sound", tmp_path / "x" / f"a-{name}")
        (tmp_path / "x" / f"a-{name}" / name).write_bytes(content)
    shutil.copytree(tmp_path / "x" / "sound", tmp_path / "x" / "a-half")
    trace = tmp_path / "x" / "a-half" / "trace.csv"
    trace.write_bytes(trace.read_bytes()[:400])
    found = {sent.folder.name: sent for sent in upload([tmp_path / "x"], database(tmp_path))}
    assert found.pop("sound").what == "sent"
    assert {sent.what for sent in found.values()} == {"left out"}
    assert len(found) == len(DAMAGE) + 1
    for name in ("trace.csv", "config.yaml", "environment.json", "overrides.yaml"):
        assert name in str(found[f"a-{name}"].problem)
    assert "the run came to step" in str(found["a-half"].problem)
    assert len(tracked(tmp_path)) == 1


def test_a_record_s_server_is_not_shown_your_token(tmp_path, monkeypatch):
    """MLflow sends the one that it finds in the environment to any server."""
    inside(*QUICK, "tracking=none", "hydra.run.dir=r", cwd=tmp_path)
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    summary["tracking_uri"] = "http://127.0.0.1:9"
    (tmp_path / "r" / "summary.json").write_text(json.dumps(summary))
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2")
    (left,) = upload([tmp_path / "r"])
    assert left.what == "left out" and "127.0.0.1:9" in str(left.problem)
    assert "--uri" in str(left.problem)
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")  # a database's client knows others, as .pgpass
    summary["tracking_uri"] = "postgresql://127.0.0.1:9/runs"
    (tmp_path / "r" / "summary.json").write_text(json.dumps(summary))
    (left,) = upload([tmp_path / "r"])
    assert left.what == "left out" and "--uri" in str(left.problem)
    (sent,) = upload([tmp_path / "r"], database(tmp_path))
    assert sent.what == "sent"


def test_members_whose_parent_comes_later_are_nested(tmp_path):
    inside("-m", *QUICK, "seed=0,1", "tracking=none", "hydra.sweep.dir=s", cwd=tmp_path)
    (tmp_path / "s" / "sweep.json").rename(tmp_path / "kept")
    list(upload([tmp_path / "s"], database(tmp_path)))
    assert all("mlflow.parentRunId" not in run.data.tags for run in tracked(tmp_path))
    (tmp_path / "kept").rename(tmp_path / "s" / "sweep.json")
    list(upload([tmp_path / "s"], database(tmp_path)))
    parents = [run.data.tags.get("mlflow.parentRunId") for run in tracked(tmp_path)]
    assert parents.count(None) == 1 and len(set(parents)) == 2


def test_what_is_not_the_run_s_is_not_sent(tmp_path):
    home = tmp_path / "home"
    (home / "figures").mkdir(parents=True)
    for name in ("id_rsa.pem", ".env", "notes.csv", "figures/mine.png", "comparison.html"):
        (home / name).write_text("PRIVATE")
    (home / "weights").symlink_to("/etc/passwd")
    (home / "run.log").symlink_to("/etc/passwd")
    inside(*QUICK, "hydra.run.dir=home", cwd=tmp_path)
    (run,) = tracked(tmp_path)
    sent = artifacts(tmp_path, run.info.run_id) | artifacts(tmp_path, run.info.run_id, "figures")
    drawn = {name for name in sent if name.startswith("figures/")}
    assert sent - drawn - {"figures"} == {
        "config.yaml", "overrides.yaml", "environment.json", "summary.json", "trace.csv",
        "weights.npy",
    }  # fmt: skip
    assert drawn and "figures/mine.png" not in drawn


def leave_dead(folder: Path, cwd: Path, **summary) -> None:
    """As SIGKILL leaves a run: it says running, nobody holds its lock, and it has a note."""
    inside(*QUICK, f"hydra.run.dir={folder}", "tracking=none", cwd=cwd)
    path = cwd / folder / "summary.json"
    content = json.loads(path.read_text()) | {"status": "running", **summary}
    path.write_text(json.dumps(content))
    note = {"folder": str(cwd / folder), "host": os.uname().nodename}
    (cwd / ".cache" / "unfinished" / f"{content['id']}.json").write_text(json.dumps(note))


def test_a_dead_record_that_cannot_be_sent_is_nobody_else_s_trouble(tmp_path):
    leave_dead(Path("dead"), tmp_path, tracking_uri="http://127.0.0.1:9")
    inside("-m", *QUICK, "seed=0,1", "hydra.sweep.dir=s", cwd=tmp_path)
    for place in ("s/sweep.json", "s/0/summary.json", "s/1/summary.json"):
        assert json.loads((tmp_path / place).read_text())["tracking_problem"] is None
    assert json.loads((tmp_path / "dead" / "summary.json").read_text())["status"] == "killed"
    assert list((tmp_path / ".cache" / "unfinished").glob("*.json"))  # for a later try


@pytest.mark.parametrize("by", ["run", "compare"])
def test_the_next_command_of_any_kind_marks_the_dead(by, tmp_path, monkeypatch):
    leave_dead(Path("r"), tmp_path, tracking_uri=database(tmp_path))
    if by == "run":
        inside(*QUICK, "tracking=none", "hydra.run.dir=other", cwd=tmp_path)
    else:
        monkeypatch.setenv("NEWTON_KRYLOV_CACHE", str(tmp_path / ".cache"))
        assert compare([str(tmp_path / "r")]) == 0
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "killed"
    (run,) = tracked(tmp_path)
    assert run.info.status == "KILLED"


@pytest.mark.slow
def test_a_password_is_in_no_file_and_on_no_screen(tmp_path):
    address = "http://bob:PW1secret@127.0.0.1:9"
    env = {"MLFLOW_TRACKING_URI": "http://eve:PW2secret@127.0.0.1:9"}
    reported = command(*QUICK, f"tracking.uri={address}", "hydra.run.dir=a", cwd=tmp_path)
    reported += end_of(start(*QUICK, "hydra.run.dir=b", cwd=tmp_path, **env))
    sweep = ("-m", *QUICK, "seed=0", f"tracking.uri={address}", "hydra.sweep.dir=s")
    reported += command(*sweep, "hydra.output_subdir=.hydra", cwd=tmp_path)
    assert "PW1secret" not in "".join(reported) and "PW2secret" not in "".join(reported)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"secret" not in path.read_bytes(), path


def end_of(process):
    return process.communicate(timeout=PATIENCE)


@pytest.mark.slow
def test_a_run_killed_in_its_first_moments_is_in_mlflow_after_the_next_command(tmp_path):
    process = start(*QUICK, "hydra.run.dir=r", cwd=tmp_path)
    wait_until((tmp_path / "r" / "summary.json").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    command(*QUICK, "hydra.run.dir=next", cwd=tmp_path)
    states = sorted(run.info.status for run in tracked(tmp_path))
    assert states in (["FINISHED", "KILLED"], ["FINISHED", "FINISHED"])


def test_without_tracking_no_connection_is_opened(tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection is opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    inside(*QUICK, "tracking=none", "hydra.run.dir=r", cwd=tmp_path)


def test_mlflow_s_telemetry_is_switched_off(monkeypatch):
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    Sender("sqlite:///x.db", 1)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_locked_database_is_waited_for_and_what_it_refused_is_sent_by_the_next_command(
    tmp_path, monkeypatch
):
    """SQLite refuses one of two that read both and want to write; MLflow repeats that to us."""
    refusals = Counter()

    def refuse(patch, name, times):
        method = getattr(MlflowClient, name)

        def call(*args, **options):
            refusals[name] += 1
            if refusals[name] <= times:
                raise MlflowException("(sqlite3.OperationalError) database is locked")
            return method(*args, **options)

        patch.setattr(MlflowClient, name, call)

    with monkeypatch.context() as patch:
        for name in ("create_experiment", "create_run", "log_batch", "set_terminated"):
            refuse(patch, name, 2)
        inside(*QUICK, "hydra.run.dir=waits", cwd=tmp_path)
    assert min(refusals.values()) >= 3 and problem_of(tmp_path / "waits") is None
    with monkeypatch.context() as patch:
        refuse(patch, "set_terminated", 10**6)
        hours = SimpleNamespace(monotonic=lambda: 3600 * refusals["set_terminated"], sleep=int)
        patch.setattr(deadline, "time", hours)
        out, _ = inside(*QUICK, "hydra.run.dir=late", cwd=tmp_path)
    assert "not tracked the database is locked" in " ".join(out.split())
    assert [run.info.status for run in tracked(tmp_path)] == ["FINISHED", "RUNNING"]
    inside(*QUICK, "tracking=none", "hydra.run.dir=next", cwd=tmp_path)
    assert [run.info.status for run in tracked(tmp_path)] == ["FINISHED"] * 2
    assert problem_of(tmp_path / "late") is None
    assert not list((tmp_path / ".cache" / "unfinished").glob("*.json"))


def problem_of(folder: Path) -> str | None:
    found: str | None = json.loads((folder / "summary.json").read_text())["tracking_problem"]
    return found


def test_a_sweep_that_goes_on_has_its_parameters_at_its_end(tmp_path, monkeypatch):
    """MLflow's never change, and what its first members have in common is not what all have."""
    swept = ("-m", *QUICK, "seed=0,1")
    begun = Counter()

    def one_then_ctrl_c(*given):
        begun["runs"] += 1
        if begun["runs"] == 2:
            signal.raise_signal(signal.SIGINT)
        return run_experiment(*given)

    inside(*swept, "hydra.sweep.dir=whole", cwd=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "run_experiment", one_then_ctrl_c)
        inside(*swept, "hydra.sweep.dir=s", cwd=tmp_path, code=130)
    list(upload([tmp_path / "s"], database(tmp_path)))
    assert parameters_of(tmp_path / "s") == {}
    inside(*swept, "resume=true", "hydra.sweep.dir=s", cwd=tmp_path)
    assert parameters_of(tmp_path / "s") == parameters_of(tmp_path / "whole")
    assert parameters_of(tmp_path / "whole")
    killed = SweepRecord.load(tmp_path / "whole")
    killed.update(parameters=None)  # its members were done, and it was killed while it drew them
    assert parameters(killed) == {}


def parameters_of(folder: Path) -> dict[str, str]:
    (run,) = (run for run in tracked(folder.parent) if run.data.tags["folder"] == str(folder))
    found: dict[str, str] = run.data.params
    return found


def test_ctrl_c_of_an_upload_leaves_no_half_of_a_file(tmp_path, monkeypatch, capsys):
    inside(*QUICK, "tracking=none", "hydra.run.dir=r", cwd=tmp_path)
    before = (tmp_path / "r" / "summary.json").read_text()
    replace = Path.replace

    def interrupted(path, target):
        if path.suffix == ".part" and path.parent == tmp_path / "r":
            signal.raise_signal(signal.SIGINT)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    # As `python -m newton_krylov.tracking.upload` has it: without a word, and without tidying up.
    handler = signal.signal(signal.SIGINT, lambda *_: pytest.fail("it ended at once"))
    try:
        assert upload_command(["--uri", database(tmp_path), str(tmp_path / "r")]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "Interrupted." in capsys.readouterr().err
    assert not list((tmp_path / "r").rglob("*.part"))
    assert (tmp_path / "r" / "summary.json").read_text() == before
