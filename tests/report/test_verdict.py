"""The verdict is what the records say: targets, best settings, ties, scores, words."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import rows, write_run

from newton_krylov.errors import UserError
from newton_krylov.records.record import write_json
from newton_krylov.report.records import read_record
from newton_krylov.report.verdict import (
    PLAN,
    VERDICT,
    Contestant,
    best_setting,
    read_race,
    targets_of,
    tied,
    write_verdict,
)

FAMILIES = {"gd": "first order", "lbfgs": "quasi-Newton", "newton_cg": "second order"}


def decay(rate: float, steps: int = 60) -> list[float]:
    """Suboptimalities of a linearly converging method from 1."""
    return [rate**k for k in range(steps)]


def race(
    folder: Path,
    times: dict[str, Sequence[float]],
    rates: dict[str, float],
    *,
    tuned: dict[str, float] | None = None,
    optimum: float | None = 0.25,
    facts: dict | None = None,
) -> Path:
    """Write a race: a method to seconds a step, one for each seed, and to its rate."""
    runs = []
    for name, per_step in times.items():
        trials: list[tuple[list[str], float]] = [([], rates[name])]
        if tuned is not None and name in tuned:
            trials.append((["optimizer.step_size=3"], tuned[name]))
        stages = [("tuning", i, *trial, 0, per_step[0]) for i, trial in enumerate(trials)]
        stages += [("default", s + 1, *trials[0], s + 1, t) for s, t in enumerate(per_step)]
        if len(trials) > 1:
            stages += [("tuned", s + 1, *trials[1], s + 1, t) for s, t in enumerate(per_step)]
        for stage, number, setting, rate, seed, seconds in stages:
            place = f"{name}-{stage}-{number}"
            write_run(
                folder / place,
                rows(decay(rate), step_seconds=seconds),
                label=name.upper(),
                optimum=optimum,
                seed=seed,
                optimizer={"name": name, "setting": " ".join(setting)},
            )
            run = {"folder": place, "method": name, "stage": stage, "setting": setting}
            runs.append({**run, "seed": seed})
    write_json(folder / PLAN, {"families": FAMILIES, "runs": runs})
    if facts is not None:
        write_json(folder / "diagnosis.json", facts)
    return folder


def test_targets_are_shares_of_the_start_where_the_optimum_is_known(tmp_path: Path) -> None:
    write_run(tmp_path / "gd", rows(decay(0.5)))
    targets = targets_of([read_record(tmp_path / "gd")])
    assert [(t.name, t.column) for t in targets] == [
        ("loose", "suboptimality"),
        ("medium", "suboptimality"),
        ("tight", "suboptimality"),
    ]
    assert [t.value for t in targets] == pytest.approx([1e-2, 1e-4, 1e-8])


def test_targets_are_of_the_first_order_runs_where_it_is_not(tmp_path: Path) -> None:
    trace = rows([1.0, 0.5, 0.2])  # losses 1.25, 0.75, 0.45
    write_run(tmp_path / "sgd", trace, optimum=None)
    targets = targets_of([read_record(tmp_path / "sgd")])
    assert [t.value for t in targets] == pytest.approx([0.45 + 0.08, 0.45 + 0.008, 0.45])
    write_run(tmp_path / "stuck", rows([1.0, 1.0]), optimum=None)
    assert targets_of([read_record(tmp_path / "stuck")]) == []
    assert targets_of([]) == []


def test_the_best_setting_is_the_fastest_to_the_hardest_target(tmp_path: Path) -> None:
    write_run(tmp_path / "a", rows(decay(0.5)))
    write_run(tmp_path / "b", rows(decay(0.1)))
    write_run(tmp_path / "c", rows([1.0, 1e-6, 1e-6]))  # quick, and stuck above the tight target
    records = [read_record(tmp_path / name) for name in "abc"]
    targets = targets_of(records[:1])
    assert best_setting(records, targets) == 1
    assert best_setting([records[0], records[0]], targets) == 0  # the default wins a tie
    assert best_setting([records[2], records[0]], targets) == 1


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ([1.0, 1.2, 1.4], [1.3, 1.5, 1.7], True),  # the ranges overlap
        ([1.0, 1.0, 1.0], [1.09, 1.09, 1.09], True),  # within ten percent
        ([1.0, 1.1, 1.2], [2.0, 2.1, 2.2], False),
        ([2.0, 2.1, 2.2], [1.0, 1.1, 1.2], False),
    ],
)
def test_what_is_within_noise_is_a_tie(a: list[float], b: list[float], same: bool) -> None:
    assert tied(a, b) is same


def test_second_order_wins_by_a_known_factor(tmp_path: Path) -> None:
    # To 1e-8: 27 steps of rate 1/2 and 8 of rate 0.09.
    times = {"gd": [0.01] * 3, "lbfgs": [0.1] * 3, "newton_cg": [0.01] * 3}
    rates = {"gd": 0.5, "lbfgs": 0.5, "newton_cg": 0.09}
    found = read_race(race(tmp_path, times, rates))
    tight = found.comparisons[-1]
    assert tight.winner == "second order" and tight.ratio == pytest.approx(27 / 8)
    assert found.answer == "Yes"
    assert "NEWTON_CG is 3.4 times faster than GD (80 ms against 270 ms)" in found.paragraph


def test_first_order_wins(tmp_path: Path) -> None:
    times = {"gd": [0.001] * 3, "lbfgs": [0.1] * 3, "newton_cg": [0.1] * 3}
    found = read_race(race(tmp_path, times, dict.fromkeys(times, 0.5)))
    assert found.answer == "No"
    assert {c.winner for c in found.comparisons} == {"others"}


def test_a_tie_is_called_one(tmp_path: Path) -> None:
    times = {"gd": [0.01, 0.02, 0.03], "lbfgs": [1.0] * 3, "newton_cg": [0.02, 0.03, 0.04]}
    found = read_race(race(tmp_path, times, dict.fromkeys(times, 0.5)))
    assert found.answer == "No difference"
    assert " tie (" in found.paragraph


@pytest.mark.parametrize(("steps", "answer"), [(1.2, "No difference"), (2.0, "Yes")])
def test_one_run_each_needs_a_larger_ratio(tmp_path: Path, steps: float, answer: str) -> None:
    times = {"gd": [0.01 * steps], "lbfgs": [1.0], "newton_cg": [0.01]}
    found = read_race(race(tmp_path, times, dict.fromkeys(times, 0.5)))
    assert found.answer == answer
    assert any(reason.startswith("One run each") for reason in found.reasons)
    more = {name: each * 2 for name, each in times.items()}
    found = read_race(race(tmp_path / "more", more, dict.fromkeys(times, 0.5)))
    assert found.answer == "Yes"
    assert not any(reason.startswith("One run each") for reason in found.reasons)


def test_a_target_that_nobody_reaches_decides_nothing(tmp_path: Path) -> None:
    times = {"gd": [0.01] * 2, "lbfgs": [0.01] * 2, "newton_cg": [0.001] * 2}
    found = read_race(race(tmp_path, times, dict.fromkeys(times, 0.9)))  # 0.9^59 is 2e-3
    assert [c.winner for c in found.comparisons] == ["second order", "nobody", "nobody"]
    assert found.answer == "Yes"
    assert "nobody reaches f − f* ≤ 1e-8 in the time given" in found.paragraph


def test_what_only_one_kind_of_method_reaches_is_said(tmp_path: Path) -> None:
    times = {"gd": [0.01] * 2, "lbfgs": [0.01] * 2, "newton_cg": [0.01] * 2}
    found = read_race(race(tmp_path, times, {"gd": 0.8, "lbfgs": 0.8, "newton_cg": 0.09}))
    reported = "only second-order methods reach f − f* ≤ 1e-8, NEWTON_CG after 80 ms"
    assert reported in found.paragraph and found.comparisons[-1].ratio == float("inf")
    found = read_race(race(tmp_path / "b", times, {"gd": 0.8, "lbfgs": 0.09, "newton_cg": 0.8}))
    reported = "No: no second-order method reaches f − f* ≤ 1e-8, LBFGS does after 80 ms"
    assert found.paragraph.startswith(reported)


def test_tuned_runs_are_judged_and_untuned_ones_shown(tmp_path: Path) -> None:
    times = {"gd": [0.01] * 2, "lbfgs": [0.01] * 2, "newton_cg": [0.01] * 2}
    folder = race(tmp_path, times, dict.fromkeys(times, 0.5), tuned={"gd": 0.01})
    write_verdict(folder)
    reported = json.loads((folder / VERDICT).read_text())
    gd = next(method for method in reported["methods"] if method["name"] == "gd")
    assert gd["setting"] == ["optimizer.step_size=3"]
    assert gd["seconds"]["tight"] == pytest.approx([0.04, 0.04])
    assert gd["default_seconds"]["tight"] == pytest.approx([0.27, 0.27])
    assert [trial["setting"] for trial in gd["tuning"]] == [[], ["optimizer.step_size=3"]]
    assert gd["tuning_seconds"] == pytest.approx(2 * 0.59)
    assert reported["answer"] == "No"


@pytest.mark.parametrize(
    ("rates", "end"),
    [
        ([0.5, 0.6, 0.7], "GD (step_size=1)"),
        ([0.5, 0.4, 0.3], "GD (step_size=4)"),
        ([0.5, 0.3, 0.4], None),
        ([0.5, 0.3], None),
    ],
)
def test_a_best_setting_at_the_end_of_those_tried_is_named(
    tmp_path: Path, rates: list[float], end: str | None
) -> None:
    sizes = {0: 1.0, 1: 2.0, 2: 4.0}
    best = min(range(len(rates)), key=rates.__getitem__)
    trials = [("tuning", i, 0) for i in range(len(rates))]
    runs = []
    for stage, number, seed in [*trials, ("tuned" if best else "default", best, 1)]:
        setting = [f"optimizer.step_size={sizes[number]:g}"] if number else []
        run = {"folder": f"gd-{stage}-{number}", "method": "gd", "stage": stage}
        runs.append({**run, "setting": setting, "seed": seed})
        trace = rows(decay(rates[number]), step_seconds=0.01)
        optimizer = {"name": "gd", "step_size": sizes[number]}
        write_run(tmp_path / f"gd-{stage}-{number}", trace, label="GD", optimizer=optimizer)
    write_json(tmp_path / PLAN, {"families": {"gd": "first order"}, "runs": runs})
    said = [r for r in read_race(tmp_path).reasons if "the values tried" in r]
    assert [reason.rpartition(": ")[2] for reason in said] == ([] if end is None else [f"{end}."])


def test_a_key_that_the_best_setting_leaves_without_a_value_is_not_set() -> None:
    best = Contestant("gd", "Descent", "first order", [], [], [], ["optimizer.step_size=null"])
    assert best.title == "Descent (step_size not set)"


@pytest.mark.parametrize("stopped", ["in the tuning", "in the race", "within a run"])
def test_a_race_that_was_stopped_early_decides_nothing(tmp_path: Path, stopped: str) -> None:
    times = {"gd": [0.01] * 2, "lbfgs": [0.01] * 2, "newton_cg": [0.001] * 2}
    folder = race(tmp_path, times, dict.fromkeys(times, 0.5))
    if stopped == "in the tuning":
        plan = json.loads((folder / PLAN).read_text())
        plan["runs"] = [run for run in plan["runs"] if run["stage"] == "tuning"]
        write_json(folder / PLAN, plan)
        shutil.rmtree(folder / "newton_cg-tuning-0")
        count = "2 of 3 tuning runs, the race itself not begun"
    elif stopped == "in the race":
        for seed in (1, 2):
            shutil.rmtree(folder / f"newton_cg-default-{seed}")
        count = "7 of 9 runs"
    else:
        summary = folder / "newton_cg-default-2" / "summary.json"
        summary.write_text(summary.read_text().replace("finished", "killed"))
        count = "8 of 9 runs"
    files = write_verdict(folder)
    told = json.loads((folder / VERDICT).read_text())
    words = f"Not decided: the race is not complete ({count}). Go on by resume=true."
    assert (told["answer"], told["verdict"], told["complete"]) == ("Not decided", words, False)
    assert told["comparisons"] == []
    page = next(file for file in files if file.suffix == ".html").read_text()
    assert words in page
    (newton,) = (
        row for row in read_race(folder).table().rows if row[0].upper().startswith("NEWTON")
    )
    assert newton[2:6] == ["not run"] * 4


def test_a_race_by_epochs_and_test_accuracy_takes_no_notice_of_the_clock(tmp_path: Path) -> None:
    curves = {"gd": [0.1, 0.3, 0.5, 0.6], "lbfgs": [0.1] * 4, "newton_cg": [0.1, 0.55, 0.6, 0.7]}
    folder = race(tmp_path, {name: [1.0, 9.0] for name in curves}, dict.fromkeys(curves, 0.5))
    plan = json.loads((folder / PLAN).read_text())
    for run in plan["runs"]:
        trace = [
            replace(row, test_accuracy=share)
            for row, share in zip(rows(decay(0.5, 4)), curves[run["method"]], strict=True)
        ]
        slow = 100.0 if run["method"] == "newton_cg" else 1.0
        trace = [replace(row, seconds=slow * row.iteration) for row in trace]
        shutil.rmtree(folder / run["folder"])
        write_run(folder / run["folder"], trace, label=run["method"], seed=run["seed"])
    write_json(folder / PLAN, plan | {"measure": "test_accuracy", "cost": "iteration"})
    found = read_race(folder)
    # 20, 10 and 2 % of the way from 10 to 60 % are left.
    assert [target.value for target in found.targets] == pytest.approx([0.5, 0.55, 0.59])
    by_name = {c.name: c for c in found.contestants}
    assert [by_name["gd"].time(t) for t in found.targets] == [2, 3, 3]
    assert [by_name["newton_cg"].time(t) for t in found.targets] == [1, 1, 2]
    assert found.answer == "Yes"
    assert "newton_cg is 1.5 times cheaper than gd (2 steps against 3 steps)" in found.paragraph
    plain = found.plain()["methods"][0]
    assert plain["iteration"]["tight"] == [2, 2] and plain["last"]["test_accuracy"] == [0.7, 0.7]


def test_a_problem_without_accuracies_is_judged_by_its_loss(tmp_path: Path) -> None:
    trace = [replace(row, test_accuracy=float("nan")) for row in rows([1.0, 0.5])]
    write_run(tmp_path / "sgd", trace, optimum=None)
    targets = targets_of([read_record(tmp_path / "sgd")], "test_accuracy", "iteration")
    assert {(t.column, t.cost) for t in targets} == {("loss", "iteration")}


def test_the_score_is_the_profile_s_area(tmp_path: Path) -> None:
    times = {"gd": [0.01] * 2, "lbfgs": [0.02] * 2, "newton_cg": [0.1] * 2}
    found = read_race(race(tmp_path, times, dict.fromkeys(times, 0.5)))
    # Twice the fastest everywhere: the profile is 1 from 2 to 4, two thirds of the range.
    scores = {c.name: found.score(c) for c in found.contestants}
    assert scores == pytest.approx({"gd": 1.0, "lbfgs": 2 / 3, "newton_cg": 0.0})


def test_the_page_begins_with_the_verdict_and_its_reasons(tmp_path: Path) -> None:
    times = {"gd": [0.01] * 2, "lbfgs": [0.01] * 2, "newton_cg": [0.001] * 2}
    facts = {
        "parameters": 20, "samples": 100, "dtype": "float64", "condition_number": 158.0,
        "smallest_eigenvalue": 0.01, "largest_eigenvalue": 1.58, "product_in_gradients": 0.7,
    }  # fmt: skip
    folder = race(tmp_path, times, dict.fromkeys(times, 0.5), facts=facts)
    found = read_race(folder)
    files = write_verdict(folder)
    page = next(file for file in files if file.suffix == ".html").read_text()
    assert page.index("Yes: to f") < page.index("<h1")
    assert "Condition number of the Hessian at the solution 1.6e+02" in page
    assert "A curvature product costs 0.70 gradients." in found.reasons


@pytest.mark.parametrize("text", ["{", "{}", '{"runs": [{"folder": 1}], "families": {}}'])
def test_a_damaged_plan_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / PLAN).write_text(text)
    with pytest.raises(UserError, match=r"plan\.json"):
        read_race(tmp_path)


def test_nobody_wins_where_the_loss_has_no_minimum(tmp_path: Path) -> None:
    folder = race(tmp_path, dict.fromkeys(FAMILIES, (1.0,)), dict.fromkeys(FAMILIES, 0.5))
    for name in ("gd-tuning-0", "gd-default-1"):
        shutil.rmtree(folder / name)
        write_run(folder / name, rows([1.0, -1e20, -1e300]), optimum=None)
    found = read_race(folder)
    assert (found.answer, found.comparisons) == ("Not decided", [])
    assert "unbounded below" in found.paragraph and "-1e+300" in found.paragraph
    assert all(len(target.text) < 40 for target in found.targets)


def test_without_a_target_it_is_said_how_the_first_order_runs_ended(tmp_path: Path) -> None:
    folder = race(tmp_path, dict.fromkeys(FAMILIES, (1.0,)), dict.fromkeys(FAMILIES, 0.5))
    shutil.rmtree(folder / "gd-tuning-0")
    write_run(folder / "gd-tuning-0", rows([1.0, 1.0]), optimum=None)
    found = read_race(folder)
    ending = read_record(folder / "gd-tuning-0").ending
    assert found.answer == "Not decided" and found.targets == []
    assert f"there is no target (Newton-CG: {ending})" in found.paragraph
