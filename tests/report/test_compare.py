import base64
import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
from run_folders import OPTIMUM, row, rows, write_run

from newton_krylov.errors import DataError
from newton_krylov.records.fields import Fields
from newton_krylov.report.command import main
from newton_krylov.report.compare import compare
from newton_krylov.report.records import read_records
from newton_krylov.report.results import tables
from newton_krylov.report.study import studies


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three methods, one of them three times over, and one that failed."""
    folder = tmp_path / "sweep"
    for i, step in enumerate([0.010, 0.020, 0.030]):
        trace = rows([1.0, 1e-3, 1e-7, 1e-13], step_seconds=step)
        write_run(folder / str(i), trace, label="Newton-CR", repeat=i, benchmark="GD")
    slow = rows([1.0, 0.5, 1e-4], step_seconds=0.1)
    write_run(folder / "3", slow, label="GD", benchmark="GD", reason="loss change <= 1e-16")
    broken = [row(0, 1.0, 0.0), row(1, float("inf"), 0.1)]
    write_run(
        folder / "4", broken, label="LBFGS", status="failed", reason="the loss is inf",
        benchmark="GD",
    )  # fmt: skip
    return folder


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes the time and is tested elsewhere."""
    monkeypatch.setattr("newton_krylov.report.compare.draw_study", lambda *_: [])


def cells(table: object) -> dict[str, list[str]]:
    return {line[0]: list(line[1:]) for line in table.rows}  # type: ignore[attr-defined]


def test_known_traces_give_the_known_table(sweep: Path) -> None:
    ends, times, wrong = tables(studies(read_records([sweep])))
    assert ends.title == "made-up · n = 1,000, d = 20 · logistic loss, λ = 0.01"
    row_of = cells(ends)
    head = list(ends.heads)[1:]
    cr = dict(zip(head, row_of["Newton-CR"], strict=True))
    assert cr == {
        "f": "0.25",
        "f − f*": "1.0e-13",
        "f − gd's": "-1.0e-04",
        "Train acc.": "80.00%",
        "Test acc.": "70.00%",
        "Steps": "3",
        "Inner": "9",
        "H products": "9",
        "Passes": "16",
        "Time": "60 [30 – 90] ms",
        "Ending": "10 epochs",
    }
    failed = dict(zip(head, row_of["LBFGS"], strict=True))
    assert failed["Ending"] == "failed: the loss is inf"
    assert cells(times) == {
        "Newton-CR": ["20 ms (1.00×)", "40 ms (1.00×)", "60 ms (1.00×)", "60 ms (1.00×)"],
        "GD": ["200 ms (10.00×)", "never", "never", "never"],
        "LBFGS": ["never", "never", "never", "never"],
    }
    assert wrong.rows == [("LBFGS (seed 0, repeat 0)", "failed: the loss is inf")]


@pytest.mark.usefixtures("no_figures")
def test_the_csv_has_a_line_for_every_run(sweep: Path, tmp_path: Path) -> None:
    compare([sweep], tmp_path / "out")
    with (tmp_path / "out" / "comparison.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["method"] for line in lines] == ["Newton-CR"] * 3 + ["GD", "LBFGS"]
    assert [line["repeat"] for line in lines[:3]] == ["0", "1", "2"]
    assert float(lines[0]["seconds_to_1e-6"]) == pytest.approx(0.02)
    assert lines[3]["seconds_to_1e-6"] == ""
    assert float(lines[3]["loss"]) == OPTIMUM + 1e-4
    assert float(lines[0]["suboptimality_to_benchmark"]) == pytest.approx(1e-13 - 1e-4)
    assert (lines[4]["status"], lines[4]["ending"]) == ("failed", "failed: the loss is inf")


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1+1", "\n@x", "-", "--x"])
def test_no_cell_of_the_csv_is_a_formula(tmp_path: Path, text: str) -> None:
    write_run(
        tmp_path / "runs" / "0", rows([-1.0, -2.0]), label=text, status="failed", reason=text,
        summary={"dataset": {"name": text, "n_samples": 9, "n_features": 9, "checksum": "c"}},
    )  # fmt: skip
    compare([tmp_path / "runs"], tmp_path / "out")
    with (tmp_path / "out" / "comparison.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["method"] == line["dataset"] == f"'{text}"
    assert line["loss"] == repr(OPTIMUM - 2)
    for cell in line.values():
        assert cell.lstrip()[:1] not in ("=", "+", "@")
        assert not cell.startswith("-") or float(cell) < 0


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("number", ["-1", "+1.5", "-2e-3", "-inf"])
def test_a_number_stays_one_in_the_csv_even_where_it_is_a_name(tmp_path: Path, number: str) -> None:
    write_run(tmp_path / "runs" / "0", rows([-1.0, -2.0]), label=number)
    compare([tmp_path / "runs"], tmp_path / "out")
    table = pandas.read_csv(tmp_path / "out" / "comparison.csv")
    assert table["method"].tolist() == [float(number)]
    assert table["loss"].tolist() == [OPTIMUM - 2]
    (study,) = studies(read_records([tmp_path / "runs"]))
    assert [entry.label for entry in study.entries] == [number]


def test_a_damaged_folder_is_in_every_table_with_a_sentence(sweep: Path, tmp_path: Path) -> None:
    (sweep / "3" / "trace.csv").unlink()
    files = compare([sweep], tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| GD | nan |" not in text
    assert f"{sweep / '3' / 'trace.csv'} is missing" in text
    assert "GD" in (tmp_path / "out" / "comparison.csv").read_text()
    assert not any("method-gd" in file.name for file in files)


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(sweep: Path, tmp_path: Path) -> None:
    first, second = compare([sweep], tmp_path / "a"), compare([sweep], tmp_path / "b")
    assert len(first) == len(second) == 3 + 2 * (4 + 3)
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


@pytest.mark.slow
def test_each_problem_has_its_own_tables_and_figures(tmp_path: Path) -> None:
    for i, d in enumerate([10, 100, 1000]):
        write_run(tmp_path / f"{i}", rows([1.0, 1e-7], step_seconds=d), n_features=d)
        exact = rows([1.0, 1e-7], step_seconds=d**2)
        write_run(tmp_path / f"e{i}", exact, n_features=d, label="Exact Newton")
    files = compare([tmp_path], tmp_path / "out")
    folders = {file.parent.name for file in files if file.suffix == ".png"}
    assert len(folders) == 4  # three problems, and the figure of all three
    assert (tmp_path / "out" / "figures" / "scaling.png").exists()
    assert (tmp_path / "out" / "comparison.md").read_text().count("Time to f − f* ≤") == 3


def test_without_an_optimum_no_suboptimality_is_told(tmp_path: Path) -> None:
    trace = rows([float("nan")] * 2, loss=1.0, grad_norm=0.1)
    write_run(tmp_path / "0", trace, optimum=None)
    (table,) = tables(studies(read_records([tmp_path])))
    assert cells(table)["Newton-CG"][1] == "–"
    assert "No certified optimum" in table.remarks[0]
    names = {file.name for file in compare([tmp_path], tmp_path / "out")}
    assert "suboptimality.png" not in names and "gradient-norm.png" in names


def test_markdown_keeps_one_line_a_row_whatever_a_reason_says(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0]), status="failed", reason="a | b\nc")
    text = tables(studies(read_records([tmp_path])))[0].markdown()
    assert "failed: a \\| b c |" in text


@pytest.mark.usefixtures("no_figures")
def test_the_command_prints_the_tables_and_says_what_is_wrong(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sweep), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "Newton-CR" in printed and "LBFGS" in printed
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main([])
    assert "give either folders, or --experiment" in capsys.readouterr().err


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No runs"):
        compare([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_methods_for_an_equation_are_told_apart_by_the_solution_s_error(tmp_path: Path) -> None:
    """Not by the loss; the fields of the most accurate run are on the page."""
    points = np.random.default_rng(0).random((30, 2))
    for label, errors, losses in (
        ("A", [1.0, 5e-2, 5e-4], [1.0, 1e-1, 1e-2]),
        ("B", [1.0, 5e-1, 2e-1], [1.0, 1e-3, 1e-6]),
    ):
        trace = [
            replace(each, l2_error=error, loss=loss, suboptimality=math.nan)
            for each, error, loss in zip(rows([1.0] * 3), errors, losses, strict=True)
        ]
        folder = write_run(tmp_path / label, trace, label=label, optimum=None)
        Fields(points, *(points.T * errors[-1]), points.sum(1)).write(folder)
    compare([tmp_path], tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "Time to ‖u − u*‖ / ‖u*‖ ≤ | 1e-1 | 1e-2 |" in text
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "A is the first at ‖u − u*‖ / ‖u*‖ ≤ 1e-3" in page
    picture = (tmp_path / "out" / "figures" / "fields.png").read_bytes()
    assert base64.b64encode(picture).decode() in page
