"""A sweep's parts: what a sweeper gets, what is shown, and which folder is gone on with."""

import json
import math
from pathlib import Path

import pytest
from command import QUICK, inside
from hydra.core.plugins import Plugins

from newton_krylov.cli.main import FAILED, MISTAKE
from newton_krylov.errors import UserError
from newton_krylov.records.record import Record, SweepRecord
from newton_krylov.runs.resume import latest, loaded, task_overrides
from newton_krylov.runs.sweep import metric_of


def record(folder: Path, metric: str, **summary: object) -> Record:
    made = Record.begin(folder, {"objective_metric": metric}, [], {}, "x")
    made.end(**({"status": "finished", "outcome": "converged"} | summary))
    return Record.load(folder)


@pytest.mark.parametrize(
    ("metric", "summary", "reported"),
    [
        ("loss", {"loss": 0.5}, 0.5),
        ("loss", {"loss": 0.5, "outcome": "limit"}, 0.5),
        ("loss", {"loss": 0.5, "status": "failed"}, math.inf),
        ("loss", {"loss": math.nan}, math.inf),
        ("loss", {}, math.inf),
        ("suboptimality", {"suboptimality": 1e-9, "outcome": "ended"}, 1e-9),
        ("seconds", {"seconds": 2.0}, 2.0),
        ("seconds", {"seconds": 2.0, "outcome": "limit"}, math.inf),  # the target was not reached
        ("hvp_count", {"hvp_count": 7.0, "outcome": "ended"}, math.inf),
        ("data_passes", {"data_passes": 7.0, "status": "skipped", "outcome": None}, math.inf),
    ],
)
def test_a_sweeper_is_told_the_metric_or_that_the_run_came_to_nothing(
    metric, summary, reported, tmp_path
):
    assert metric_of(record(tmp_path / "r", metric, **summary)) == reported


def test_hydra_s_own_keys_and_resume_do_not_tell_commands_apart():
    lines = ["solver=cr", "hydra.sweep.dir=x", "+hydra/launcher=joblib", "resume=true", "~stop"]
    assert task_overrides(lines) == ["solver=cr", "~stop"]


def test_the_newest_of_the_same_command_is_gone_on_with(tmp_path):
    for day, time, overrides in (
        ("2025-01-01", "10-00", ["seed=1,2", "solver=cr"]),
        ("2025-01-02", "09-00", ["solver=cr", "seed=1,2"]),
        ("2025-01-03", "11-00", ["solver=cr"]),
    ):
        folder = tmp_path / day / time
        SweepRecord.begin(folder, {"name": "x"}, overrides, {}, "s").end()
        Record.begin(folder / "0", {"name": "x"}, overrides, {}, "r").end()
    given = ["solver=cr", "resume=true", "seed=1,2", "hydra/launcher=joblib"]
    assert latest(tmp_path, given, sweep=True) == tmp_path / "2025-01-02" / "09-00"
    (tmp_path / "2025-01-02" / "09-00" / "sweep.json").write_text("{")  # damaged
    # An older one is not what was asked for: the damage is reported.
    assert latest(tmp_path, given, sweep=True) == tmp_path / "2025-01-02" / "09-00"
    with pytest.raises(UserError, match=r"sweep.json .* is damaged; restore the file"):
        loaded(SweepRecord, tmp_path / "2025-01-02" / "09-00")
    (tmp_path / "2025-01-02" / "09-00" / "overrides.yaml").write_text("{")
    with pytest.raises(UserError, match=r"newest sweep may be the one in .*2025-01-02"):
        latest(tmp_path, given, sweep=True)
    (tmp_path / "2025-01-02" / "09-00" / "overrides.yaml").write_text("[]")
    with pytest.raises(UserError, match="no earlier sweep of this command"):
        latest(tmp_path, ["solver=cg"], sweep=True)
    with pytest.raises(UserError, match="no earlier run of this command"):
        latest(tmp_path, given, sweep=False)


def test_a_launcher_that_breaks_is_a_sentence_and_what_was_computed_is_kept(tmp_path, monkeypatch):
    make = Plugins.instantiate_launcher

    def broken(self, **options):
        launcher = make(self, **options)
        launch = launcher.launch

        def one_only(job_overrides, initial_job_idx):
            launch(job_overrides[:1], initial_job_idx)
            raise ChildProcessError("a worker was killed")

        launcher.launch = one_only
        return launcher

    monkeypatch.setattr(Plugins, "instantiate_launcher", broken)
    run = ["-m", *QUICK, "solver=cg,cr", "tracking=none", "hydra.sweep.dir=s"]
    _, err = inside(*run, cwd=tmp_path, code=FAILED)
    assert "Error: the sweep broke off: ChildProcessError: a worker was killed" in err
    assert "resume=true" in err
    record = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert record["status"] == "failed" and "broke off" in record["reason"]
    assert [run["status"] for run in record["runs"]] == ["finished"]
    monkeypatch.undo()
    out, _ = inside(*run, "resume=true", cwd=tmp_path)
    assert out.count("finished before") == 1
    states = [
        run["status"] for run in json.loads((tmp_path / "s" / "sweep.json").read_text())["runs"]
    ]
    assert states == ["finished", "finished"]


def test_two_processes_cannot_write_one_sweep(tmp_path):
    run = ["-m", *QUICK, "solver=cg,cr", "tracking=none", "hydra.sweep.dir=s"]
    inside(*run, cwd=tmp_path)
    other = SweepRecord.load(tmp_path / "s")
    other._claim()
    _, err = inside(*run, "resume=true", cwd=tmp_path, code=MISTAKE)
    assert "Another process is writing to" in err
