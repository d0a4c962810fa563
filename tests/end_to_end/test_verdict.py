"""`experiment=verdict`: one command answers, on problems whose answer is known."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command import CONF, QUICK, command, inside, start, wait_until

from newton_krylov.data.synthetic import synthetic
from newton_krylov.records.record import SweepRecord
from newton_krylov.tracking.mlflow_sender import note

RACE = (CONF / "verdict" / "race.yaml").read_text()
pytestmark = pytest.mark.slow
SMALL = (
    "experiment=verdict", "verdict.trials=2", "verdict.seeds=2", "stop.seconds=1", "tracking=none",
    "clock=processor", "hydra.sweep.dir=race",
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
    assert same_for_all(tmp_path / "race") == {"seconds": 1, "epochs": None}
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
    found = json.loads((tmp_path / "race" / "verdict.json").read_text())
    assert not [
        m["name"] for m in found["methods"] if m["tuning"][0]["ending"].startswith("failed")
    ]
    assert f"\n\n{found['verdict']}\n\n" in note(SweepRecord.load(tmp_path / "race"))


def test_a_verdict_without_a_time_is_refused(tmp_path: Path) -> None:
    _, err = command(*SMALL, "stop.seconds=null", cwd=tmp_path, code=2)
    assert "set stop.seconds" in err


PAIR = """
name: pair
trials: {trials}
seeds: 2
untuned: false
measure: loss
cost: {cost}
methods:
  {first}
  {second}
"""
ONE_STEP = {
    "trials": 1, "cost": "iteration", "first": "gd: {family: first order}",
    "second": "newton_cg: {family: second order, overrides: [forcing=fixed, forcing.eta=1e-10]}",
}  # fmt: skip


def same_for_all(race: Path) -> dict[str, Any]:
    """Return the limits of all runs of a race, which had one start on one problem."""
    configs = [yaml.safe_load(path.read_text()) for path in race.glob("*/config.yaml")]
    keys = ("stop", "dataset", "loss", "model", "start", "dtype", "device")
    (common,) = {json.dumps([config[key] for key in keys], sort_keys=True) for config in configs}
    stop = json.loads(common)[0]
    return {key: stop[key] for key in ("seconds", "epochs")}


def counted(value: Any) -> Any:
    """Leave out of a verdict what the clock has measured."""
    clocks = {"seconds", "tuning_seconds", "product_in_gradients"}
    if isinstance(value, dict):
        return {key: counted(each) for key, each in value.items() if key not in clocks}
    if isinstance(value, list):
        timed = re.compile("A curvature product costs|The machine was busy")
        return [
            counted(each) for each in value if not (isinstance(each, str) and timed.match(each))
        ]
    return value


def asked(folder: Path, pair: dict, *overrides: str) -> dict:
    """Ask for the verdict of a pair of methods."""
    (folder / "own" / "verdict").mkdir(parents=True)
    (folder / "own" / "verdict" / "pair.yaml").write_text(PAIR.format(**pair))
    command(
        "--config-dir", "own", "experiment=verdict", "verdict=pair", "tracking=none",
        "hydra.sweep.dir=race", "dataset=synthetic", "dataset.n_test=0", *overrides, cwd=folder,
    )  # fmt: skip
    return json.loads((folder / "race" / "verdict.json").read_text())


@pytest.mark.parametrize("condition", [1.0, 30.0])
def test_on_a_quadratic_the_ratio_is_what_the_spectrum_says(
    tmp_path: Path, condition: float
) -> None:
    """Newton takes one step; gradient descent as many as f(w_k) from its eigenvalues says."""
    found = asked(
        tmp_path, ONE_STEP, "dataset.n=200", "dataset.d=8", "dataset.task=regression", "loss.l2=0",
        f"dataset.condition_number={condition}", "start=zeros", "optimum=none",
    )  # fmt: skip
    data = synthetic(n=200, n_test=0, d=8, task="regression", condition_number=condition).train
    X, y = data.X.double(), data.y.double()
    values, Q = torch.linalg.eigh(X.T @ X / len(X))
    optimum = torch.linalg.lstsq(X, y[:, None]).solution[:, 0]
    lowest = float((X @ optimum - y).square().mean() / 2)
    c = Q.T @ optimum  # in the eigenvectors' basis, from zeros
    tight = found["targets"][-1]["value"]
    steps = 0
    while (
        lowest + float((values * (1 - values / values[-1]) ** (2 * steps) * c**2).sum()) / 2 > tight
    ):
        steps += 1
    comparison = found["comparisons"][-1]
    by_name = {method["name"]: method["iteration"]["tight"] for method in found["methods"]}
    assert by_name["newton_cg"] == [1, 1]
    assert all(abs(k - steps) <= 1 for k in by_name["gd"])  # the step's length is Lanczos's
    assert found["answer"] == ("No difference" if condition == 1 else "Yes")
    assert comparison["ratio"] == by_name["gd"][0]


def test_counted_budgets_give_the_same_verdict_again_and_after_a_kill(tmp_path: Path) -> None:
    """By steps instead of seconds nothing but the clock's own figures may differ."""
    words = (
        "experiment=verdict", "verdict=race", "verdict.trials=2", "verdict.seeds=2",
        "verdict.cost=iteration", "verdict.measure=loss", "stop.seconds=null", "stop.epochs=2",
        "dataset=iris", "model=mlp", "model.hidden=[4]", "loss=cross_entropy", "tracking=none",
        "checkpoint_seconds=0", "hydra.sweep.dir=race",
        *(f"verdict.methods.{name}=null" for name in yaml.safe_load(RACE)["methods"] if name not in
          ("adamw", "kfac", "adahessian")),
    )  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    process = start(*words, cwd=killed)
    wait_until((killed / "race" / "kfac-tuning-0" / "summary.json").exists, process)
    process.kill()
    process.communicate()
    inside(*words, cwd=whole)
    out, _ = inside(*words, "resume=true", cwd=killed)
    assert "finished before" in out
    first, second = (
        json.loads((each / "race/verdict.json").read_text()) for each in (whole, killed)
    )
    assert first["complete"] and first["comparisons"]
    assert counted(first) == counted(second)
    assert same_for_all(whole / "race") == {"seconds": None, "epochs": 2}
    for method in first["methods"]:
        assert len(method["tuning"]) == 2
        assert all(len(costs) == 2 for costs in method["iteration"].values())


def test_methods_of_one_s_own_race_and_those_that_nobody_has_are_refused(tmp_path: Path) -> None:
    """Two names for one method tie, whatever families they are said to be of."""
    pair = {"trials": 1, "cost": "iteration", "first": "one: {family: first order}",
            "second": "two: {family: second order}"}  # fmt: skip
    (tmp_path / "own" / "verdict").mkdir(parents=True)
    (tmp_path / "own" / "verdict" / "pair.yaml").write_text(PAIR.format(**pair))
    words = (
        "--config-dir", "own", "experiment=verdict", "verdict=pair", "tracking=none", *QUICK,
        "stop.seconds=null", "stop.epochs=6", "hydra.sweep.dir=race",
    )  # fmt: skip
    _, err = inside(*words, cwd=tmp_path, code=2)
    assert "verdict.methods: method=one is unknown" in err
    (tmp_path / "own" / "method").mkdir()
    for name in ("one", "two"):
        text = (CONF / "method" / "newton_cg.yaml").read_text()
        (tmp_path / "own" / "method" / f"{name}.yaml").write_text(text)
    inside(*words, cwd=tmp_path)
    found = json.loads((tmp_path / "race" / "verdict.json").read_text())
    assert found["answer"] == "No difference", found["verdict"]
    assert {c["winner"] for c in found["comparisons"]} <= {"tie", "nobody"}


def test_where_noise_rules_stochastic_gradients_win(tmp_path: Path) -> None:
    """Isotropic inputs, half of the labels random, batches of 16: curvature says nothing.

    K-FAC's factors of every batch cost a second pass an epoch, so it is behind by at most two.
    """
    always = "optimizer.batch_size=16, schedule=linear, schedule.epochs=4"
    pair = {
        "trials": 2,
        "cost": "data_passes",
        "first": f"sgd: {{family: first order, overrides: [{always}], "
        f"settings: [['optimizer.learning_rate=0.02']]}}",
        "second": f"kfac: {{family: second order, "
        f"overrides: [{always}, optimizer.factors_every=1], "
        f"settings: [['optimizer.learning_rate=0.01']]}}",
    }
    found = asked(
        tmp_path, pair, "dataset.n=2000", "dataset.d=10", "dataset.condition_number=1",
        "dataset.label_noise=0.5", "dataset.task=multiclass", "dataset.n_classes=3", "model=mlp",
        "model.hidden=[4]", "stop.seconds=null", "stop.epochs=4",
    )  # fmt: skip
    assert found["answer"] == "No", found["verdict"]
    assert {c["winner"] for c in found["comparisons"]} <= {"others", "nobody"}
    loose = found["comparisons"][0]
    assert loose["other"] == "sgd" and 1.1 < loose["ratio"] <= 2.0
    budgets = {m["name"]: len(m["tuning"]) for m in found["methods"]}
    assert budgets == {"sgd": 2, "kfac": 2}
    epochs = [
        json.loads(path.read_text())["outcome"]
        for path in (tmp_path / "race").glob("*/summary.json")
    ]
    assert len(epochs) == 8 and set(epochs) == {"limit"}
    traces = [path.read_text().splitlines() for path in (tmp_path / "race").glob("*/trace.csv")]
    assert {len(lines) for lines in traces} == {1 + 5}  # each run had the same epochs
