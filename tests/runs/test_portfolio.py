"""The plan of a verdict: every method gets the same number of settings and of seeds."""

from pathlib import Path

import pytest
import yaml
from command import CONF
from run_folders import rows, write_run

from newton_krylov.errors import ConfigError
from newton_krylov.runs.portfolio import Portfolio

NODE = {
    "trials": 3,
    "seeds": 2,
    "methods": {
        "gd": {"family": "first order", "settings": [["optimizer.step_size=1"], ["a=2"], ["a=3"]]},
        "newton_cg": {"family": "second order", "settings": [["forcing=fixed"], ["b=1"], ["b=2"]]},
    },
}


def test_budgets_are_equal_and_defaults_come_first() -> None:
    runs = Portfolio.of(NODE).tuning()
    by_method = {name: [r for r in runs if r.method == name] for name in ("gd", "newton_cg")}
    assert {len(each) for each in by_method.values()} == {3}
    assert all(each[0].setting == () for each in by_method.values())
    assert {run.seed for run in runs} == {0}


def test_the_best_setting_is_judged_beside_the_default_with_fresh_seeds(tmp_path: Path) -> None:
    portfolio = Portfolio.of(NODE)
    for run in portfolio.tuning():
        best = run.folder in ("gd-tuning-1", "newton_cg-tuning-0")
        write_run(tmp_path / run.folder, rows([(0.1 if best else 0.5) ** k for k in range(40)]))
    judged = portfolio.judged(tmp_path)
    found = [(run.method, run.stage, run.setting, run.seed) for run in judged]
    assert found == [
        ("gd", "default", (), 1),
        ("gd", "default", (), 2),
        ("gd", "tuned", ("optimizer.step_size=1",), 1),
        ("gd", "tuned", ("optimizer.step_size=1",), 2),
        ("newton_cg", "default", (), 1),  # its default is its best: not run twice
        ("newton_cg", "default", (), 2),
    ]
    assert len(judged) + len(portfolio.tuning()) <= portfolio.most_runs


def test_without_untuned_runs_each_method_is_judged_by_its_best_setting_alone(
    tmp_path: Path,
) -> None:
    portfolio = Portfolio.of(NODE | {"untuned": False})
    for run in portfolio.tuning():
        best = run.folder in ("gd-tuning-1", "newton_cg-tuning-0")
        write_run(tmp_path / run.folder, rows([(0.1 if best else 0.5) ** k for k in range(40)]))
    found = {(run.method, run.stage) for run in portfolio.judged(tmp_path)}
    assert found == {("gd", "tuned"), ("newton_cg", "default")}
    assert portfolio.most_runs == 2 * (3 + 2)


def test_a_method_that_does_not_apply_is_left_out_of_the_race(tmp_path: Path) -> None:
    portfolio = Portfolio.of(NODE)
    for run in portfolio.tuning():
        status = "skipped" if run.method == "gd" else "finished"
        write_run(tmp_path / run.folder, rows([1.0, 0.1]), status=status)
    assert {run.method for run in portfolio.judged(tmp_path)} == {"newton_cg"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 0}, "verdict.trials=0 should be a whole number of at least 1"),
        ({"seeds": "x"}, "verdict.seeds='x'"),
        ({"seeds": True}, "verdict.seeds=True should be a whole number"),
        ({"untuned": "no"}, "verdict.untuned='no' should be true or false"),
        ({"measure": "f1"}, "verdict.measure='f1' should be loss, train_accuracy or test_accuracy"),
        ({"cost": "hours"}, "verdict.cost='hours' should be seconds, iteration or data_passes"),
        ({"measuring": 2}, "verdict.measuring=2 should be a share, from 0 to 1"),
        ({"methods": {}}, "name at least one method"),
        ({"methods": {"gd": 3}}, "must have the keys family and settings"),
        ({"methods": {"gd": {"family": "best"}}}, "first order, quasi-Newton or second order"),
        (
            {"methods": {"gd": {"family": "first order", "settings": ["a=1"]}}},
            "settings should be lists of overrides",
        ),
    ],
)
def test_a_wrong_portfolio_is_one_sentence(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Portfolio.of(NODE | change)


@pytest.mark.parametrize("name", ["linear", "network", "race"])
def test_the_portfolios_have_all_families_and_known_methods(name: str) -> None:
    portfolio = Portfolio.of(yaml.safe_load((CONF / "verdict" / f"{name}.yaml").read_text()))
    families = {"first order", "second order"} | ({"quasi-Newton"} if name != "race" else set())
    assert {method.family for method in portfolio.methods} == families
    for method in portfolio.methods:
        assert (CONF / "method" / f"{method.name}.yaml").exists()
        assert len(method.settings) <= portfolio.trials
