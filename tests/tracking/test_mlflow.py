"""MLflow tracking: what is sent when, afterwards, again, and when the server is not there."""

import json
import math
import re
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from command import PATIENCE, QUICK, client, inside, module, tracked

from newton_krylov.records.record import Record, SweepRecord
from newton_krylov.records.trace import read_trace
from newton_krylov.tracking import mlflow_sender
from newton_krylov.tracking.afterwards import upload
from newton_krylov.tracking.mlflow_sender import Sender, wanted


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address at which nobody listens, and nobody else can begin to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def database(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def metrics(folder: Path, run: Any, name: str = "loss") -> dict[int, float]:
    history = client(folder).get_metric_history(run.info.run_id, name)
    assert len(history) == len({metric.step for metric in history})  # nothing twice
    return {metric.step: metric.value for metric in history}


def test_every_step_is_sent_of_a_short_run_and_a_selection_of_a_long_one():
    assert all(wanted(number, 128) for number in range(128))
    sent = [number for number in range(100_000) if wanted(number, 128)]
    assert len(sent) < 128 + 32 * (1 + math.log2(100_000 / 128))
    gaps = [b - a for a, b in pairwise(sent)]
    assert gaps == sorted(gaps)
    assert all(gap <= 0.032 * number + 1 for number, gap in zip(sent, gaps, strict=False))


def test_a_server_that_is_not_there_costs_a_sentence_and_nothing_else(nobody, tmp_path):
    out, err = inside(
        *QUICK, f"tracking.uri={nobody}", "tracking.timeout=2", "hydra.run.dir=r", cwd=tmp_path
    )
    assert err == ""
    assert "not tracked" in out and "python -m newton_krylov.tracking.upload r" in out
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["tracking_problem"]
    rows = read_trace(tmp_path / "r" / "trace.csv")

    (sent,) = upload([tmp_path / "r"], database(tmp_path))
    assert sent.what == "sent"
    (run,) = tracked(tmp_path)
    assert run.info.run_id == sent.run_id and run.info.status == "FINISHED"
    assert metrics(tmp_path, run) == {row.iteration: row.loss for row in rows}
    assert run.data.params["dataset.d"] == "8" and run.data.tags["outcome"] == "converged"

    (again,) = upload([tmp_path / "r"], database(tmp_path))  # idempotent
    assert again.what == "was there" and again.run_id == sent.run_id
    (run,) = tracked(tmp_path)
    assert metrics(tmp_path, run) == {row.iteration: row.loss for row in rows}


class Relay:
    """A server that takes a number of requests as MLflow's would, and then no more."""

    def __init__(self, answers: int) -> None:
        self.requests: list[str] = []
        self._left = answers
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            text = b""
            while b"\r\n\r\n" not in text:
                piece = connection.recv(65536)
                if not piece:
                    return
                text += piece
            path = text.split(b" ")[1].decode()
            self.requests.append(path)
            if self._left <= 0:
                time.sleep(PATIENCE)  # the connection is taken, and never answered
                return
            self._left -= 1
            experiment = {"experiment_id": "1", "name": "x", "lifecycle_stage": "active"}
            info = {"run_id": "abc", "experiment_id": "1", "status": "RUNNING"}
            answer = {"experiment": experiment, "experiments": [experiment]}
            body = json.dumps({**answer, "run": {"info": info, "data": {}}}).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode() + body)


def test_a_server_that_goes_away_in_the_middle_is_waited_for_once(tmp_path):
    relay = Relay(answers=3)  # enough to open the run
    began = time.monotonic()
    out, _ = inside(
        *QUICK, f"tracking.uri={relay.address}", "tracking.timeout=3", "hydra.run.dir=r",
        cwd=tmp_path,
    )  # fmt: skip
    assert time.monotonic() - began < PATIENCE / 2
    assert any("runs/create" in path for path in relay.requests)
    assert "not tracked" in out and "stopped" in out
    (sent,) = upload([tmp_path / "r"], database(tmp_path))
    assert sent.what == "sent"
    (run,) = tracked(tmp_path)
    assert len(metrics(tmp_path, run)) == len(read_trace(tmp_path / "r" / "trace.csv"))


def test_names_and_parameters_tell_a_sweep_from_its_members_and_these_apart(tmp_path):
    inside("-m", *QUICK, "solver=cg,cr", "seed=0,1", "hydra.sweep.dir=s", cwd=tmp_path)
    runs = {run.info.run_name: run for run in tracked(tmp_path)}
    members = {f"newton-{solver} · seed={seed}" for solver in ("cg", "cr") for seed in (0, 1)}
    assert runs.keys() == {*members, "sweep of solver and seed on synthetic"}
    parent = runs["sweep of solver and seed on synthetic"]
    assert parent.data.params["solver"] == "cg,cr" and parent.data.params["seed"] == "0,1"
    assert "solver.name" not in parent.data.params and parent.data.params["loss.l2"] == "0.01"
    assert parent.inputs.dataset_inputs[0].dataset.name == "synthetic"
    assert runs["newton-cr · seed=1"].data.tags["newton_krylov.label"] == "newton-cr"


def test_a_sweep_is_sent_afterwards_as_parent_and_children(tmp_path):
    inside("-m", *QUICK, "solver=cg,cr", "tracking=none", "hydra.sweep.dir=outputs/s", cwd=tmp_path)
    out, _ = module(
        "newton_krylov.tracking.upload", "outputs", "--uri", database(tmp_path), cwd=tmp_path
    )
    assert out.count(": sent as run ") == 3
    parent, *children = sorted(tracked(tmp_path), key=lambda run: len(run.data.tags["folder"]))
    assert "mlflow.parentRunId" not in parent.data.tags
    nested = [run.data.tags["mlflow.parentRunId"] for run in children]
    assert nested == [parent.info.run_id] * 2
    assert {run.info.run_name for run in children} == {"newton-cg", "newton-cr"}
    names = {file.path for file in client(tmp_path).list_artifacts(parent.info.run_id)}
    assert {"sweep.json", "comparison.csv", "comparison.md", "figures"} <= names


def test_the_part_that_a_killed_run_did_not_send_is_sent(tmp_path):
    inside(*QUICK, "hydra.run.dir=r", cwd=tmp_path)
    (whole,) = tracked(tmp_path)
    record = Record.load(tmp_path / "r")
    other = tmp_path / "other"
    other.mkdir()
    # As a process leaves it that is killed after it has sent four rows: three more on disk.
    rows = read_trace(tmp_path / "r" / "trace.csv")
    record.update(status="running")
    sender = mlflow_sender.Sender(database(other), 10)
    run_id = mlflow_sender.start(sender, record, None)
    sender.log(run_id, rows=rows[:4], started=record.summary["started"])
    (sent,) = upload([tmp_path / "r"], database(other))
    assert sent.what == "completed" and sent.run_id == run_id
    (run,) = tracked(other)
    assert run.info.status == "KILLED"
    assert metrics(other, run) == metrics(tmp_path, whole)
    assert Record.load(tmp_path / "r").summary["status"] == "killed"


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        ("nowhere", "nowhere is not a folder"),
        ("empty", "No records in .*empty"),
        ("x" * 5000, "x{5000} cannot be read or written: File name too long"),
    ],
)
def test_upload_of_nothing_is_a_sentence(folder, sentence, tmp_path, capsys):
    from newton_krylov.tracking.upload import main

    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / folder)]) == 2
    assert re.search(sentence, capsys.readouterr().err.replace("\n", " "))


def test_what_a_database_says_is_said_without_its_statements():
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import OperationalError

    with create_engine("sqlite://").connect() as connection:
        connection.execute(text("PRAGMA max_page_count=2"))
        connection.execute(text("CREATE TABLE t (x)"))
        with pytest.raises(OperationalError) as full:
            connection.execute(text("INSERT INTO t VALUES (:x)"), {"x": "hunter2" * 9999})
    assert "hunter2" in str(full.value)
    said = mlflow_sender.log_failure(full.value)
    assert said == "the database says: database or disk is full"


def test_a_living_record_is_left_alone(tmp_path):
    record = Record.begin(tmp_path / "r", {"name": "x"}, [], {}, "alive")
    (sent,) = upload([tmp_path], database(tmp_path))
    assert sent.what == "still running" and sent.run_id is None
    assert Record.load(tmp_path / "r").summary["status"] == "running"
    record.end()


def test_a_sweep_s_record_is_told_from_a_run_s(tmp_path):
    SweepRecord.begin(tmp_path / "s", {"name": "x"}, ["a=1,2"], {}, "sweep").end(status="finished")
    assert {path.name for path in (tmp_path / "s").iterdir()} == {
        ".lock", "sweep.json", "sweep.yaml", "overrides.yaml", "environment.json",
    }  # fmt: skip
    assert SweepRecord.load(tmp_path / "s").overrides == ["a=1,2"]


def test_a_run_is_described_and_its_data_set_is_mlflows_own_input(tmp_path: Path) -> None:
    inside(*QUICK, "solver=cr", cwd=tmp_path)
    (run,) = tracked(tmp_path)
    description = run.data.tags["mlflow.note.content"]
    assert description.startswith("**newton-cr** on synthetic (300 samples, 8 features)")
    assert "converged: gradient norm" in description
    assert "solver=cr" in description
    (used,) = run.inputs.dataset_inputs
    record = Record.load(next((tmp_path / "outputs").glob("*/*")))
    assert used.dataset.name == "synthetic"
    assert record.summary["dataset"]["checksum"].startswith(used.dataset.digest)
    assert json.loads(used.dataset.profile)["n_samples"] == 300
    assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": "training"}


def test_what_mlflow_s_libraries_warn_of_is_no_error_though_warnings_are_errors():
    def warn():
        warnings.warn("theirs", DeprecationWarning, stacklevel=1)
        return "sent"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Sender("http://127.0.0.1:9", 1).attempt(warn) == "sent"
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", stacklevel=1)
