import json
from pathlib import Path

import pytest
from run_folders import rows, write_run

from newton_krylov.report.context import command, differences_table, environments_table
from newton_krylov.report.records import RunRecord, read_records
from newton_krylov.report.study import Study, studies


def read(folder: Path) -> list[Study]:
    return studies(read_records([folder]))


def test_only_settings_that_differ_are_shown_and_repetitions_side_by_side(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", rows([1.0]), label="A", seed=seed)
    write_run(tmp_path / "b", rows([1.0]), label="B", solver={"name": "cg", "rtol": 0.1})
    table = differences_table(read(tmp_path))
    assert table is not None
    assert list(table.heads) == ["Method", "seed", "solver.rtol"]
    assert table.rows == [["A", "0, 1, 2", "1e-05"], ["B", "0", "0.1"]]


def test_a_key_that_only_another_part_has_is_left_to_that_part_s_name(tmp_path: Path) -> None:
    newton = {"name": "newton", "damping": 0.0}
    write_run(tmp_path / "a", rows([1.0]), label="A", optimizer=newton)
    write_run(tmp_path / "b", rows([1.0]), label="B", optimizer={"name": "gd"})
    table = differences_table(read(tmp_path))
    assert table is not None and list(table.heads) == ["Method", "optimizer.name"]
    # of two runs with one optimizer, one of which lacks the key, it is shown
    write_run(tmp_path / "c", rows([1.0]), label="C", optimizer=newton | {"damping": 1.0})
    table = differences_table(read(tmp_path))
    assert table is not None
    assert list(table.heads) == ["Method", "optimizer.damping", "optimizer.name"]


def test_runs_on_several_problems_say_which(tmp_path: Path) -> None:
    for d in (10, 20):
        write_run(tmp_path / str(d), rows([1.0]), n_features=d)
    table = differences_table(read(tmp_path))
    assert table is not None
    assert list(table.heads) == ["Method", "Problem", "dataset.n_features"]


def test_many_values_are_counted(tmp_path: Path) -> None:
    for seed in range(20):
        write_run(tmp_path / f"{seed}", rows([1.0]), seed=seed)
    table = differences_table(read(tmp_path))
    assert table is not None and table.rows == [["Newton-CG", "20 values, 0 to 19"]]


def test_equal_settings_have_no_table(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0]))
    assert differences_table(read(tmp_path)) is None


def test_environments_are_told_once_each_and_their_differences_first(tmp_path: Path) -> None:
    common = {"packages": {"torch": "2.14.1", "numpy": "2.4.6"}, "cpu_count": 2}
    for i, python in enumerate(["3.11", "3.12", "3.12"]):
        folder = write_run(tmp_path / str(i), rows([1.0]), label=f"run {i}")
        environment = {"python": python, "command": ["python", f"{i}"], **common}
        (folder / "environment.json").write_text(json.dumps(environment))
    table = environments_table(read(tmp_path))
    assert list(table.heads) == ["Property", "1 run: run 0", "2 runs: run 1, run 2"]
    assert table.rows == [
        ["python", "3.11", "3.12"],
        ["cpu_count", "2", "2"],
        ["packages", *["torch 2.14.1, numpy 2.4.6"] * 2],
    ]


def test_a_run_without_an_environment_says_so(tmp_path: Path) -> None:
    (write_run(tmp_path / "0", rows([1.0])) / "environment.json").unlink()
    assert environments_table(read(tmp_path)).rows == [["environment", "not recorded"]]


@pytest.mark.parametrize(
    ("recorded", "typed"),
    [
        (["/usr/bin/python3", "/home/me/run.py", "solver=cr"], "python run.py solver=cr"),
        (["/v/bin/python", "/v/bin/newton-krylov", "run", "-m"], "newton-krylov run -m"),
        (["newton-krylov", "run", "-m"], "newton-krylov run -m"),  # as an archive has it
        (["python", "run.py", "tracking=none", "a=1"], "python run.py a=1"),
        (["python"], ""),
    ],
)
def test_a_run_s_command_is_as_one_would_type_it(recorded: list[str], typed: str) -> None:
    assert " ".join(command(RunRecord(Path(), environment={"command": recorded}))) == typed
