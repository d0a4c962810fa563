import math
from pathlib import Path

import numpy as np
import pytest
from run_folders import OPTIMUM, rows, write_run

from newton_krylov.report.context import differences_table
from newton_krylov.report.records import read_records
from newton_krylov.report.results import endings_table
from newton_krylov.report.scaling import Scaling, scaling
from newton_krylov.report.study import Study, studies


def read(folder: Path) -> list[Study]:
    return studies(read_records([folder]))


def test_repetitions_make_one_entry_and_different_settings_do_not(tmp_path: Path) -> None:
    for i in range(3):
        write_run(tmp_path / str(i), rows([1.0]), seed=i // 2, repeat=i)
    write_run(tmp_path / "3", rows([1.0]), solver={"name": "cg", "rtol": 0.1})
    write_run(tmp_path / "4", rows([1.0]), label="Newton-CR")
    (study,) = read(tmp_path)
    assert [len(entry.records) for entry in study.entries] == [3, 1, 1]
    assert [entry.label for entry in study.entries] == [
        "Newton-CG (rtol=1e-05)",
        "Newton-CG (rtol=0.1)",
        "Newton-CR",
    ]


def test_parts_are_called_by_their_group_and_what_follows_from_them_is_left_out(
    tmp_path: Path,
) -> None:
    searches = {"armijo": {"shrink": 0.5, "max_steps": 40}, "fixed": {"step_size": 1.0}}
    for name, keys in searches.items():
        for part in ("none", "jacobi"):
            write_run(
                tmp_path / f"{name}-{part}", rows([1.0]),
                line_search={"name": name} | keys, preconditioner={"name": part},
            )  # fmt: skip
    (study,) = read(tmp_path)
    assert {entry.label for entry in study.entries} == {
        f"Newton-CG (line_search={name}, preconditioner={part})"
        for name in searches
        for part in ("none", "jacobi")
    }


def test_an_intercept_that_the_loss_does_not_add_is_not_spoken_of(tmp_path: Path) -> None:
    for i, intercept in enumerate(("none", "free")):
        loss = {"name": "logistic", "l2": 0.01, "intercept": intercept}
        write_run(tmp_path / str(i), rows([1.0]), loss=loss)
    assert sorted(study.problem.title.partition("d = 20 · ")[2] for study in read(tmp_path)) == [
        "logistic loss, intercept = free, λ = 0.01",
        "logistic loss, λ = 0.01",
    ]


def test_problems_are_kept_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0]), n_features=20)
    write_run(tmp_path / "1", rows([1.0]), n_features=5)
    write_run(tmp_path / "2", rows([1.0]), loss={"name": "logistic", "l2": 0.1})
    assert sorted(study.problem.title for study in read(tmp_path)) == [
        "made-up · n = 1,000, d = 20 · logistic loss, λ = 0.01",
        "made-up · n = 1,000, d = 20 · logistic loss, λ = 0.1",
        "made-up · n = 1,000, d = 5 · logistic loss, λ = 0.01",
    ]


def test_networks_are_problems_of_their_own_and_how_they_are_computed_is_not(
    tmp_path: Path,
) -> None:
    loss = {"name": "cross_entropy", "l2": 0.0, "chunk": None, "memory": 4.0}
    for i, (model, memory) in enumerate([("mlp", 4.0), ("mlp", 8.0), ("paper_cnn", 4.0)]):
        changed = loss | {"memory": memory}
        write_run(tmp_path / str(i), rows([1.0]), model={"name": model, "width": 8}, loss=changed)
    assert [
        (s.problem.title.partition("d = 20 · ")[2], len(s.entries)) for s in read(tmp_path)
    ] == [
        ("mlp · cross entropy loss, λ = 0", 2),
        ("paper cnn · cross entropy loss, λ = 0", 1),
    ]


def test_a_folder_of_which_nothing_is_known_is_an_entry_of_its_own(tmp_path: Path) -> None:
    for i in range(2):
        folder = tmp_path / str(i)
        folder.mkdir()
        (folder / "summary.json").write_text("{")
    (study,) = read(tmp_path)
    assert [entry.label for entry in study.entries] == ["0", "1"]
    assert all(entry.failures for entry in study.entries)


def test_a_curve_is_the_median_step_by_step_with_the_range(tmp_path: Path) -> None:
    for i, scale in enumerate([1.0, 2.0, 10.0]):
        trace = rows([scale, 0.1 * scale], step_seconds=scale)
        write_run(tmp_path / str(i), trace[: 2 - i // 2], seed=i)  # the last one ends early
    (study,) = read(tmp_path)
    curve = study.entries[0].curve("seconds", "suboptimality")
    assert curve is not None
    np.testing.assert_allclose(curve.x, [0, 1])
    np.testing.assert_allclose(curve.y, [2, 0.2])
    np.testing.assert_allclose(curve.x_range, [[0, 0], [0, 2]])
    np.testing.assert_allclose(curve.y_range, [[1, 0.1], [10, 10]])


def test_a_curve_ends_where_half_of_the_runs_have_ended(tmp_path: Path) -> None:
    for i, length in enumerate([3, 4, 9]):
        write_run(tmp_path / str(i), rows([0.1**k for k in range(length)]), seed=i)
    (study,) = read(tmp_path)
    curve = study.entries[0].curve("iteration", "suboptimality")
    assert curve is not None
    np.testing.assert_array_equal(curve.x, [0, 1, 2, 3])
    np.testing.assert_allclose(curve.y, [1, 0.1, 0.01, 0.001])
    np.testing.assert_allclose(curve.y_range[1], [1, 0.1, 0.01, 0.01])  # the shortest run's last


def test_a_column_without_values_has_no_curve(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0, 0.1], test_accuracy=math.nan))
    assert read(tmp_path)[0].entries[0].curve("iteration", "test_accuracy") is None


def test_the_fastest_is_the_least_median_and_a_target_nobody_meets_has_none(
    tmp_path: Path,
) -> None:
    for i, step in enumerate([1.0, 3.0, 8.0]):
        write_run(tmp_path / f"a{i}", rows([1.0, 1e-4], step_seconds=step), repeat=i)
    write_run(tmp_path / "b", rows([1.0, 1e-4], step_seconds=4.0), label="Newton-CR")
    (study,) = read(tmp_path)
    assert study.fastest(1e-3) == 3.0
    assert study.fastest(1e-9) == math.inf


def test_optimum_floor_and_benchmark_come_from_the_records(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0, 0.5]), label="GD", benchmark="GD", repeat=1)
    write_run(tmp_path / "1", rows([1.0, 0.25]), label="GD", benchmark="GD")
    (study,) = read(tmp_path)
    assert study.optimum == OPTIMUM
    assert study.floor == pytest.approx(OPTIMUM * 2.0**-52)
    assert study.benchmark == "GD"
    assert study.final_loss("GD") == OPTIMUM + 0.25
    assert study.final_loss("nobody") is None


def test_float32_runs_have_the_floor_of_their_arithmetic(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0]), summary={"dtype": "float32"})
    assert read(tmp_path)[0].floor == pytest.approx(OPTIMUM * 2.0**-23)


def test_power_laws_have_their_exponents_as_slopes(tmp_path: Path) -> None:
    sizes = [100, 300, 1000, 3000]
    for i, d in enumerate(sizes):
        fast, slow = rows([1.0, 1e-7], step_seconds=d), rows([1.0, 1e-7], step_seconds=d**3 / 1e4)
        write_run(tmp_path / f"fast{i}", fast, n_features=d)
        write_run(tmp_path / f"slow{i}", slow, n_features=d, label="Exact Newton")
    growth = scaling(read(tmp_path))
    assert growth is not None
    assert list(growth.sizes) == sizes
    assert growth.slope("Newton-CG") == pytest.approx(1.0)
    assert growth.slope("Exact Newton") == pytest.approx(3.0)
    ratios = growth.ratios()
    np.testing.assert_allclose(ratios["Exact Newton"], [1, 9, 100, 900])
    np.testing.assert_allclose(ratios["Newton-CG"], [1, 1, 1, 1])


def test_a_method_that_fails_at_a_size_has_no_time_there_and_its_slope_is_of_the_rest() -> None:
    sizes = np.array([1.0, 10.0, 100.0])
    growth = Scaling("", 1e-6, sizes, {"a": np.array([1.0, 100.0, np.inf]), "b": sizes})
    assert growth.slope("a") == pytest.approx(2.0)
    assert growth.ratios()["a"][2] == np.inf
    assert math.isnan(Scaling("", 1e-6, sizes, {"a": np.full(3, np.inf)}).slope("a"))


def test_only_a_growing_problem_has_a_scaling(tmp_path: Path) -> None:
    for i, d in enumerate([10, 20]):
        write_run(tmp_path / str(i), rows([1.0]), n_features=d)
    assert scaling(read(tmp_path)) is None  # two sizes are no trend
    write_run(tmp_path / "2", rows([1.0]), n_features=40, loss={"name": "squared_hinge"})
    assert scaling(read(tmp_path)) is None  # another problem


def test_a_choice_that_a_method_does_not_use_makes_no_second_method(tmp_path: Path) -> None:
    """A sweep over solvers runs L-BFGS several times over: the same run, repeated."""
    idle = {"summary": {"idle": ["solver"]}, "label": "lbfgs"}
    for name in ("cg", "cr"):
        write_run(tmp_path / f"lbfgs-{name}", rows([1.0]), solver={"name": name}, **idle)
        write_run(tmp_path / f"newton-{name}", rows([1.0]), solver={"name": name}, resume=True)
    write_run(tmp_path / "continued", rows([1.0]), solver={"name": "cr"})  # after resume=true
    (study,) = read(tmp_path)
    assert {entry.label: len(entry.records) for entry in study.entries} == {
        "lbfgs": 2, "Newton-CG (solver=cg)": 1, "Newton-CG (solver=cr)": 2,
    }  # fmt: skip
    settings = differences_table([study])
    assert settings is not None
    shown = {row[0]: row[settings.heads.index("solver.name")] for row in settings.rows}
    assert shown["lbfgs"] == "–" and shown["Newton-CG (solver=cr)"] == "cr"


def test_a_value_of_null_is_a_label_s_text_and_no_folder_s_name(tmp_path: Path) -> None:
    for name, rate in (("default-1", None), ("default-2", 0.1)):
        optimizer = {"name": "nesterov", "learning_rate": rate}
        write_run(tmp_path / name, rows([1.0]), optimizer=optimizer, label="Nesterov")
    (study,) = read(tmp_path)
    assert [entry.label for entry in study.entries] == [
        "Nesterov (learning_rate not set)",
        "Nesterov (learning_rate=0.1)",
    ]


def test_networks_that_differ_in_dropout_are_one_problem_and_others_have_other_titles(
    tmp_path: Path,
) -> None:
    """What is recorded is the loss without dropout, whatever a method trains with."""
    for name, model in (
        ("sgd", {"hidden": 64, "dropout": [0.25, 0.5]}),
        ("newton", {"hidden": 64, "dropout": [0.0, 0.0]}),
        ("larger", {"hidden": 128, "dropout": [0.0, 0.0]}),
    ):
        write_run(
            tmp_path / name, rows([1.0]), label=name, optimum=None,
            model={"name": "paper_cnn"} | model, loss={"name": "cross_entropy"},
        )  # fmt: skip
    found = {tuple(e.label for e in study.entries): study for study in read(tmp_path)}
    assert set(found) == {("newton", "sgd"), ("larger",)}
    assert found["newton", "sgd"].problem.title.endswith("cross entropy loss · hidden = 64")
    assert found["larger",].problem.title.endswith("cross entropy loss · hidden = 128")
    remarks = " ".join(endings_table(found["newton", "sgd"]).remarks)
    assert "differ in dropout" in remarks
    assert "dropout" not in " ".join(endings_table(found["larger",]).remarks)
