"""`experiment=verdict`: one command answers, on problems whose answer is known."""

import json
from pathlib import Path

import pytest
from command import command

pytestmark = pytest.mark.slow
SMALL = (
    "experiment=verdict", "verdict.trials=2", "verdict.seeds=2", "stop.seconds=1", "tracking=none",
    "hydra.sweep.dir=race",
)  # fmt: skip


def test_second_order_wins_on_an_ill_conditioned_problem_and_the_race_is_fair(
    tmp_path: Path,
) -> None:
    problem = (
        "dataset=synthetic", "dataset.n=2000", "dataset.n_test=0", "dataset.d=60",
        "dataset.condition_number=1e8", "dataset.task=regression", "loss.l2=1e-9",
    )  # fmt: skip
    out, _ = command(*SMALL, *problem, cwd=tmp_path)
    reported = json.loads((tmp_path / "race" / "verdict.json").read_text())
    assert reported["answer"] == "Yes", reported["verdict"]
    assert reported["verdict"] in out
    assert reported["facts"]["condition_number"] > 1e5
    for method in reported["methods"]:
        assert len(method["tuning"]) == 2  # the same number of settings for all
        assert all(len(times) == 2 for times in method["default_seconds"].values())
    assert (tmp_path / "race" / "comparison.html").exists()
    # The overall time is announced beforehand, and what was finished is not run again.
    assert any("at most" in line for line in out.splitlines()[:8])  # before the first run
    again, _ = command(*SMALL, *problem, "resume=true", cwd=tmp_path)
    summaries = (json.loads(p.read_text()) for p in (tmp_path / "race").glob("*/summary.json"))
    finished = [each for each in summaries if each["status"] == "finished"]
    assert again.count("finished before") == len(finished) >= 30
    assert json.loads((tmp_path / "race" / "verdict.json").read_text())["answer"] == "Yes"


def test_a_loss_that_fits_the_data_is_chosen(tmp_path: Path) -> None:
    out, _ = command(
        *SMALL, "dataset=iris", "verdict.trials=1", "verdict.seeds=1", "stop.seconds=0.3",
        cwd=tmp_path,
    )  # fmt: skip
    assert "\nverdict on iris (multinomial): " in out
    assert json.loads((tmp_path / "race" / "verdict.json").read_text())["verdict"]


def test_a_verdict_without_a_time_is_refused(tmp_path: Path) -> None:
    _, err = command(*SMALL, "stop.seconds=null", cwd=tmp_path, code=2)
    assert "set stop.seconds" in err
