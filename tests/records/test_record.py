"""A run's folder: whole files, one writer, and what a killed process leaves."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from newton_krylov.errors import UserError
from newton_krylov.records.record import (
    Record,
    SweepRecord,
    flatten,
    read_json,
    read_yaml,
    write_json,
)
from newton_krylov.records.unfinished import mark_killed


def begin(folder: Path, **config: object) -> Record:
    return Record.begin(folder, {"name": "x", **config}, ["seed=1"], {"python": "3"}, "a run")


def test_it_is_read_back_as_it_was_written(tmp_path):
    record = begin(tmp_path / "r", seed=1, stop={"epochs": 3, "seconds": None})
    record.update(loss=0.5, suboptimality=math.nan, steps=[1, math.inf])
    record.write_weights(torch.tensor([1.0, 2.0], dtype=torch.float64))
    record.end(status="finished")
    found = Record.load(tmp_path / "r")
    assert found.config == {"name": "x", "seed": 1, "stop": {"epochs": 3, "seconds": None}}
    assert found.overrides == ["seed=1"] and found.environment == {"python": "3"}
    assert found.summary["loss"] == 0.5 and found.summary["status"] == "finished"
    assert found.summary["suboptimality"] is None and found.summary["steps"] == [1, None]
    assert np.load(tmp_path / "r" / "weights.npy", allow_pickle=False).tolist() == [1.0, 2.0]


def test_one_process_at_a_time_writes_it(tmp_path):
    record = begin(tmp_path / "r")
    assert Record.load(tmp_path / "r").alive
    with pytest.raises(UserError, match=r"Another process is writing to .*/r\."):
        begin(tmp_path / "r")
    record.end(status="finished")
    assert not Record.load(tmp_path / "r").alive
    assert not record.mark_killed()  # it has ended


def test_a_folder_without_a_lock_has_no_writer(tmp_path):
    begin(tmp_path / "r").end(status="running")
    (tmp_path / "r" / ".lock").unlink(missing_ok=True)
    assert not Record.load(tmp_path / "r").alive
    assert [path.name for path in (tmp_path / "r").glob(".lock")] == []  # looking leaves nothing


def test_a_continued_run_keeps_its_identity(tmp_path):
    first = begin(tmp_path / "r")
    first.update(mlflow_run_id="abc")
    first.end(status="killed")
    previous = Record.load(tmp_path / "r")
    again = Record.begin(tmp_path / "r", {"name": "x"}, [], {}, "a run", previous)
    assert again.continued and again.summary["id"] == previous.summary["id"]
    assert again.summary["mlflow_run_id"] == "abc"
    assert again.summary["started"] == previous.summary["started"]
    again.end()
    fresh = begin(tmp_path / "other")
    assert not fresh.continued and fresh.summary["id"] != previous.summary["id"]
    fresh.end()


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "environment.json"])
@pytest.mark.parametrize("content", ["", "[1, 2", "\0\0", "- 1", "42", "\xff"])
def test_a_damaged_file_is_a_sentence(name, content, tmp_path):
    begin(tmp_path / "r").end(status="finished")
    (tmp_path / "r" / name).write_bytes(content.encode("latin1"))
    with pytest.raises(UserError, match=name):
        Record.load(tmp_path / "r")


def test_nothing_in_a_configuration_executes(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("x: !!python/object/apply:os.system ['touch executed']")
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(path)
    assert not Path("executed").exists()


def test_json_has_no_numbers_that_are_none(tmp_path):
    write_json(tmp_path / "x.json", {"a": math.nan, "b": {"c": (1.0, -math.inf)}, "d": "NaN"})
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert read_json(tmp_path / "x.json") == {"a": None, "b": {"c": [1.0, None]}, "d": "NaN"}


def test_flatten_gives_dotted_keys():
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": [1]}) == {
        "a.b": 1,
        "a.c.d": None,
        "e": [1],
    }


KILLED = """
import os, signal, sys
from pathlib import Path
from newton_krylov.records.record import {kind}
record = {kind}.begin(Path(sys.argv[1]), {{"name": "x"}}, [], {{}}, "killed")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", [Record, SweepRecord])
def test_what_a_killed_process_leaves_is_found_and_marked(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("NEWTON_KRYLOV_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "r"
    code = KILLED.format(kind=kind.__name__)
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == -9
    found = kind.load(folder)
    assert found.summary["status"] == "running" and not found.alive
    living = begin(tmp_path / "living")
    (dead,) = mark_killed()
    assert dead.folder == folder and isinstance(dead, kind)
    assert kind.load(folder).summary["status"] == "killed"
    assert kind.load(folder).summary["reason"] == "the process was killed"
    assert mark_killed() == []  # once is enough, and the living are left alone
    assert Record.load(tmp_path / "living").summary["status"] == "running"
    living.end()


def test_notes_of_another_machine_and_damaged_ones_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("NEWTON_KRYLOV_CACHE", str(tmp_path / "cache"))
    notes = tmp_path / "cache" / "unfinished"
    notes.mkdir(parents=True)
    (notes / "a.json").write_text(json.dumps({"folder": str(tmp_path), "host": "elsewhere"}))
    (notes / "b.json").write_text("{")
    (notes / "c.json").write_text("[]")
    assert mark_killed() == []
    assert len(list(notes.iterdir())) == 3
