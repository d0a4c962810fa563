import math
from pathlib import Path

import numpy as np
import pytest
from run_folders import row, rows, write_run

from newton_krylov.report.records import read_records
from newton_krylov.report.results import (
    caution_text,
    endings_table,
    failures,
    fastest_text,
    tables,
    times,
)
from newton_krylov.report.study import Study, studies


def read(folder: Path) -> Study:
    (study,) = studies(read_records([folder]))
    return study


def test_a_method_that_half_of_its_runs_bring_to_a_target_has_no_time_but_a_count(
    tmp_path: Path,
) -> None:
    for i, last in enumerate([1e-7, 1e-2, 1e-2]):
        write_run(tmp_path / str(i), rows([1.0, last]), seed=i)
    found = times(read(tmp_path))
    (at_1e6,) = (each for target, (each,) in found.items() if target.name == "1e-6")
    assert (at_1e6.text, at_1e6.reached, at_1e6.runs) == ("1 of 3 runs", 1, 3)


def test_without_an_optimum_the_targets_are_shares_of_the_way_to_the_lowest_loss(
    tmp_path: Path,
) -> None:
    nan = float("nan")
    for i, (label, losses) in enumerate({"A": [5.0, 3.0, 1.0], "B": [5.0, 1.3, 1.2]}.items()):
        trace = [row(k, nan, 0.01 * k, loss=loss) for k, loss in enumerate(losses)]
        write_run(tmp_path / str(i), trace, label=label, optimum=None)
    study = read(tmp_path)
    assert [(t.name, t.value) for t in study.targets] == [
        ("50% of the way", pytest.approx(3.0)),
        ("90% of the way", pytest.approx(1.4)),
        ("99% of the way", pytest.approx(1.04)),
        ("99.9% of the way", pytest.approx(1.004)),
    ]
    table = tables([study])[1]
    assert table.heads[:2] == ["Time to f ≤", "3 (50% of the way)"]
    assert {line[0]: line[1:] for line in table.rows} == {
        "A": ["10 ms (1.00×)", "20 ms (2.00×)", "20 ms (1.00×)", "20 ms (1.00×)"],
        "B": ["10 ms (1.00×)", "10 ms (1.00×)", "never", "never"],
    }
    assert "no optimum is known" in table.remarks[0]


def test_where_the_solution_is_known_methods_are_ranked_by_the_time_to_its_errors(
    tmp_path: Path,
) -> None:
    for label, loss, errors in (
        ("overfits", 1e-9, [1.0, 0.5, 0.05, 0.04]),
        ("slow", 1e-3, [1.0, 0.09, 0.05, 0.002]),
        ("fast", 1e-2, [1.0, 0.009, 0.008, 0.007]),
    ):
        trace = [row(i, loss, 0.1 * i, l2_error=error) for i, error in enumerate(errors)]
        write_run(tmp_path / label, trace, label=label, optimum=None)
    (study,) = studies(read_records([tmp_path]))
    assert [entry.label for entry in study.ranked] == ["fast", "slow", "overfits"]
    assert study.headline is not None and study.headline.name == "error 1e-2"
    text = fastest_text(study)
    assert text is not None
    assert text.startswith("fast is the first at ‖u − u*‖ / ‖u*‖ ≤ 1e-2, after")


def test_methods_are_ranked_at_the_hardest_target_that_two_of_them_reach(tmp_path: Path) -> None:
    slow = rows([1.0, 1e-4, 1e-7, 1e-13], step_seconds=1.0)
    write_run(tmp_path / "0", slow, label="slow but sure")
    write_run(tmp_path / "1", rows([1.0, 1e-4, 1e-8]), label="quick")
    write_run(tmp_path / "2", rows([1.0, 1e-4], step_seconds=0.001), label="shallow")
    study = read(tmp_path)
    assert [entry.label for entry in study.ranked] == ["quick", "slow but sure", "shallow"]
    assert fastest_text(study) == (
        "quick is the first at f − f* ≤ 1e-6, after 20 ms; slow but sure follows, 100.00 times as "
        "long. Only slow but sure gets to 1e-12, after 3 s."
    )


def test_a_start_that_is_good_enough_costs_nothing_and_divides_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([0.0]), label="A")
    write_run(tmp_path / "1", [row(0, 0.0, 0.5)], label="B")
    found = times(read(tmp_path))
    assert {(each.seconds, each.ratio) for pair in found.values() for each in pair} == {
        (0.0, 1.0),
        (0.5, np.inf),
    }


def test_nothing_is_said_of_who_is_first_where_nobody_gets_anywhere(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0, 0.9]), label="A")
    write_run(tmp_path / "1", rows([1.0, 0.8]), label="B")
    assert fastest_text(read(tmp_path)) is None


def test_every_failure_and_fault_is_told_by_run(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0]), status="failed", reason="out of memory", seed=3)
    broken = write_run(tmp_path / "1", rows([1.0]), seed=4)
    (broken / "environment.json").write_text("[]")
    (first, second) = failures(read(tmp_path))
    assert first == ("Newton-CG (seed 3, repeat 0)", "failed: out of memory")
    assert second[0] == "Newton-CG (seed 4, repeat 0)"
    assert second[1].endswith("environment.json does not hold a mapping of keys to values.")


def test_a_run_that_failed_before_it_read_its_data_stays_with_its_problem(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0, 0.1]))
    early = write_run(tmp_path / "1", [], label="LBFGS", status="failed", reason="no such solver")
    (early / "summary.json").write_text('{"label": "LBFGS", "status": "failed", "reason": "x"}')
    (tmp_path / "2").mkdir()
    (tmp_path / "multirun.yaml").touch()  # a sweep whose third job left nothing
    study = read(tmp_path)
    assert [entry.label for entry in study.entries] == ["Newton-CG", "LBFGS", "2"]


@pytest.mark.parametrize(
    ("second", "repeats", "load", "said", "caution"),
    [
        (1.05, 1, 0.5, "A and B tie at", "Each method ran once"),
        (1.6, 1, 0.5, "B follows, 1.60 times as long", "Each method ran once"),
        (1.6, 2, 0.5, "B follows, 1.60 times as long", None),
        (9.0, 1, 0.5, "B follows, 9.00 times as long", None),
        (9.0, 1, 6.0, "B follows, 9.00 times as long", "load average 6.0 on 2 cores"),
    ],
)
def test_a_difference_within_noise_is_a_tie_and_doubtful_times_are_called_so(
    tmp_path: Path, second: float, repeats: int, load: float, said: str, caution: str | None
) -> None:
    for label, pace in (("A", 0.01), ("B", 0.01 * second)):
        for k in range(repeats):
            folder = tmp_path / f"{label}{k}"
            trace = rows([1.0, 1e-4, 1e-7], step_seconds=pace * (1 + 0.02 * k))
            summary = {"load_average": [0.1, load]}
            write_run(folder, trace, label=label, repeat=k, summary=summary)
            (folder / "environment.json").write_text('{"cpu_count": 2}')
    study = read(tmp_path)
    assert said in str(fastest_text(study))
    found = caution_text(study)
    assert found is None if caution is None else caution in str(found)


def test_a_table_has_the_measures_that_say_something(tmp_path):
    """Beside accuracy where classes are unequal the test loss; none of it for a regression."""
    nan = math.nan
    none = {"train_accuracy": nan, "test_accuracy": nan}
    kinds = {
        "unequal": {"test_balanced_accuracy": 0.5, "test_auc": 0.6},
        "regression": {**none, "test_d2": 0.9},
    }
    heads = {}
    for kind, columns in kinds.items():
        majority = {"class": "'no'", "share": 0.98, "test_share": 0.97}
        write_run(
            tmp_path / kind, rows([1e-1, 1e-9], **columns),
            summary={"dataset": {"name": "d", "majority": majority}} if kind == "unequal" else {},
        )  # fmt: skip
        table = endings_table(read(tmp_path / kind))
        heads[kind] = table.heads
        said = "always answering 'no' is right for 98.0% of the samples (97.0% of the test samples)"
        assert any(said in remark for remark in table.remarks) == (kind == "unequal")
    assert {"Test acc.", "Test loss", "AUC"} <= {*heads["unequal"]}
    assert "D2" in heads["regression"]
    assert not {"Train acc.", "Test acc.", "Test loss", "AUC"} & {*heads["regression"]}


def test_what_was_made_of_a_table_s_columns_is_shown(tmp_path):
    described = {"name": "shop.csv", "n_samples": 9, "n_features": 2, "checksum": "c"}
    remarks = ["categories: 'city' 3", "x" * 9000, 7]
    write_run(
        tmp_path / "a", rows([1.0, 0.1]), summary={"dataset": described | {"remarks": remarks}}
    )
    text = "".join(table.markdown() for table in tables(studies(read_records([tmp_path]))))
    assert "categories: 'city' 3." in text and len(text) < 2000
