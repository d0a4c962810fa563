import csv
import json
import os
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from run_folders import row, rows, write_run

from newton_krylov.errors import DataError
from newton_krylov.records.record import Record
from newton_krylov.report.command import main
from newton_krylov.report.compare import compare
from newton_krylov.report.html.page import write_page
from newton_krylov.report.records import (
    RunRecord,
    differences,
    find_runs,
    read_record,
    read_records,
)
from newton_krylov.report.results import tables
from newton_krylov.report.spreadsheet import write_csv
from newton_krylov.report.study import studies


def test_a_complete_folder_reads_back_without_faults(tmp_path: Path) -> None:
    trace = rows([1.0, 0.1, 1e-7])
    record = read_record(write_run(tmp_path / "0", trace, label="Newton-CR"))
    assert record.faults == []
    # assert_equal takes nan for equal to nan: quantities that this run does not have.
    np.testing.assert_equal([asdict(row) for row in record.rows], [asdict(row) for row in trace])
    assert (record.label, record.status, record.ending) == ("Newton-CR", "finished", "10 epochs")
    assert record.problem.title == "made-up · n = 1,000, d = 20 · logistic loss, λ = 0.01"
    np.testing.assert_array_equal(record.column("data_passes"), [1, 6, 11])


@pytest.mark.parametrize("cut", range(3, 140, 7))
def test_a_trace_cut_short_anywhere_keeps_the_rows_before_the_cut(tmp_path: Path, cut: int) -> None:
    folder = write_run(tmp_path / "0", rows([1.0, 0.1, 0.01]))
    trace = folder / "trace.csv"
    text = trace.read_bytes()
    last, middle = (len(line) for line in text.splitlines(keepends=True)[:1:-1])
    trace.write_bytes(text[:-cut])
    record = read_record(folder)
    assert [r.loss for r in record.rows] == [1.25, 0.35][: 2 if cut <= last else 1]
    assert record.faults == [] and cut < last + middle


@pytest.mark.parametrize("name", ["trace.csv", "config.yaml", "summary.json", "environment.json"])
@pytest.mark.parametrize("damage", [None, b"", b"\xff\xfe{", b"[1, 2", b"- 1\n- 2\n"])
def test_each_missing_or_damaged_file_is_one_sentence_and_the_rest_is_kept(
    tmp_path: Path, name: str, damage: bytes | None
) -> None:
    folder = write_run(tmp_path / "0", rows([1.0, 0.1]))
    if damage is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(damage)
    record = read_record(folder)
    (fault,) = record.faults
    assert str(folder / name) in fault
    assert fault.endswith(".") and "\n" not in fault
    assert bool(record.rows) == (name != "trace.csv")
    assert bool(record.config) == (name != "config.yaml")
    assert bool(record.summary) == (name != "summary.json")


def test_a_config_is_data_and_makes_no_objects(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "0", rows([1.0]))
    flag = tmp_path / "flag"
    (folder / "config.yaml").write_text(f"!!python/object/apply:os.mkdir ['{flag}']\n")
    assert "config.yaml" in read_record(folder).faults[0]
    assert not flag.exists()


def test_running_is_told_from_killed_by_the_folder_s_lock(tmp_path: Path) -> None:
    live = Record.begin(tmp_path / "0", {"name": "s"}, [], {}, "live")
    assert read_record(tmp_path / "0").status == "running"
    live._lock.release(force=True)  # as the system does when the process dies
    assert read_record(tmp_path / "0").status == "killed"
    assert read_record(tmp_path / "0").failed


def test_a_run_without_a_step_keeps_its_reason(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "0", [], status="failed", reason="out of memory")
    record = read_record(folder)
    assert record.ending == "failed: out of memory"
    assert record.seconds_to(1e-3) == float("inf")


def test_runs_are_found_at_any_depth_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 0, 2):
        write_run(tmp_path / "sweep" / str(number), rows([1.0]))
    found = find_runs([tmp_path, tmp_path / "sweep" / "2"])
    assert [folder.name for folder in found] == ["0", "2", "9", "10"]


def test_a_job_that_left_nothing_in_its_sweep_is_found_and_told(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0]))
    (tmp_path / "1").mkdir()
    (tmp_path / "figures").mkdir()
    (tmp_path / "multirun.yaml").write_text("hydra: {}\n")
    records = read_records([tmp_path])
    assert [record.folder.name for record in records] == ["0", "1"]
    assert records[1].ending == "no summary"
    assert len(records[1].faults) == 4


def test_no_folder_and_no_runs_are_errors_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        read_records([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="No runs in"):
        read_records([tmp_path])


def test_the_first_step_at_or_below_a_target_counts_and_nothing_is_interpolated() -> None:
    record = RunRecord(Path(), rows([1.0, 1e-3, 5e-3, 1e-6], step_seconds=2.0))
    assert record.seconds_to(1e-3) == 2.0  # at the target is reached, leaving it again is allowed
    assert record.seconds_to(0.9e-3) == 6.0  # not between steps 2 and 3, but at step 3
    assert record.seconds_to(2.0) == 0.0
    assert record.seconds_to(1e-9) == float("inf")


@given(
    st.lists(st.floats(1e-16, 10), min_size=1, max_size=20),
    st.floats(1e-16, 10),
    st.floats(1, 100),
)
def test_a_looser_target_is_never_reached_later(
    values: list[float], target: float, factor: float
) -> None:
    record = RunRecord(Path(), [row(i, value, float(i)) for i, value in enumerate(values)])
    tight, loose = record.seconds_to(target), record.seconds_to(target * factor)
    assert loose <= tight
    brute = [i for i, value in enumerate(values) if value <= target]
    assert tight == (brute[0] if brute else float("inf"))


def test_differences_are_the_keys_that_differ_and_no_others(tmp_path: Path) -> None:
    one = write_run(tmp_path / "0", [], seed=1, solver={"name": "cg", "rtol": 0.1})
    two = write_run(tmp_path / "1", [], seed=2, solver={"name": "gmres", "restart": 5})
    assert differences([read_record(one), read_record(two)]) == {
        "seed": [1, 2],
        "solver.name": ["cg", "gmres"],
        "solver.rtol": [0.1, None],
        "solver.restart": [None, 5],
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trace.csv", b"iteration,loss\n"),
        ("trace.csv", b"\x00\xff\n" * 3),
        ("trace.csv", b"a" * 200_000),
        ("summary.json", b"[" * 100_000),
        ("config.yaml", b"[" * 5_000),
        ("config.yaml", b"!!python/object/apply:os.system ['echo']\n"),
        ("environment.json", b"\xff\xfe"),
    ],
)
def test_a_hostile_file_is_a_fault(tmp_path: Path, name: str, content: bytes) -> None:
    folder = write_run(tmp_path / "0", rows([1.0]))
    (folder / name).write_bytes(content)
    (fault,) = read_record(folder).faults
    assert name in fault


numbers = st.integers(-3, 10**400) | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)


def some(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys), values)


@given(
    summary=some("label", "status", "reason", "outcome", "optimum", "dtype", "device", "dataset"),
    dataset=some("name", "n_samples", "n_features", "checksum"),
    config=some("name", "seed", "loss", "dataset", "benchmark", "solver"),
    environment=some("command", "packages", "cpu"),
)
@settings(
    max_examples=40,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_whatever_the_files_hold_the_comparison_is_made(
    tmp_path: Path, summary: Any, dataset: Any, config: Any, environment: Any
) -> None:
    """A folder may come from anywhere: what is not of its kind is a fault, not a traceback."""
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    write_run(folder / "0", rows([1.0, 0.1]))
    write_run(folder / "1", rows([1.0, 0.1]), label="odd")
    for name, changed in (("summary", summary), ("environment", environment)):
        path = folder / "1" / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    path = folder / "1" / "summary.json"
    reported = json.loads(path.read_text())
    if isinstance(reported["dataset"], dict):
        reported["dataset"] |= dataset
        path.write_text(json.dumps(reported))
    path = folder / "1" / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | config))
    groups = studies(read_records([folder]))
    assert sum(len(study.records) for study in groups) == 2
    for table in tables(groups):
        table.markdown()
    write_page(groups)
    write_csv(groups, folder / "x.csv")


def test_what_is_written_in_a_record_leads_nowhere(tmp_path, capfd, caplog):
    """No control character, no formula, no script, whatever names and texts hold; nor in logs."""
    runs = tmp_path / "runs"
    caplog.set_level("INFO")
    marks = "\x1b[2J \x9b31m \u202egnp\u202c \r\0"
    for number, label in enumerate(
        [
            f"{marks}<script>alert(1)</script>",
            "x;=1+1",
            "\ufeff=1+1",
            "\uff1d1+1",
            "\u2060=1+1",
            "\ufe661",
            "good",
        ]
    ):
        write_run(runs / f"{number}", rows([1.0, 0.1]), label=label, reason=f"{marks}=1+1",
                  loss={"name": "logistic", "x\r=1+1": number, "=1+1": number})  # fmt: skip
    write_run(runs / "=cmd()\r\x1b[2J", rows([1.0, 0.1]), label="named")
    write_run(Path(os.fsdecode(os.fsencode(runs) + b"/\xff")), rows([1.0, 0.1]), label="no text")
    wide = write_run(
        runs / "wide", rows([1.0, 0.1]), label="wide", **{f"k{i}": i for i in range(9000)}
    )
    (runs / "kernel").mkdir()
    (runs / "kernel" / "summary.json").symlink_to("/proc/kmsg")
    (runs / "\x1b[2J.jsonl.gz").write_bytes(b"no archive")
    assert main([str(runs), "--out", str(tmp_path / "out")]) == 0
    shown = "".join(capfd.readouterr()) + caplog.text
    page, text, table = (
        (tmp_path / "out" / f"comparison.{kind}").read_bytes().decode()
        for kind in ("html", "md", "csv")
    )
    for written in (shown, page, text, table):
        assert not set("\x1b\x9b\u202e\r\0") & set(written)
    assert "<script>alert" not in page and len(page) < 10_000_000
    with (tmp_path / "out" / "comparison.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [
        cell for cell in cells if re.search("(^|;)[\\s\ufeff\u2060]*[=@\uff1d\ufe66]", cell)
    ]
    assert "too many to be shown" in table and str(wide) in table


ENORMOUS = "9" * 400
HOSTILE = {
    "aliases": ("config.yaml", "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )),
    "a circle": ("config.yaml", "a: &a [*a]\n"),
    "a long number": ("summary.json", f'{{"status": "finished", "optimum": {ENORMOUS}}}'),
    "a long count": ("config.yaml", f"seed: {ENORMOUS}\n"),
    "depth": ("environment.json", "[" * 5000 + "]" * 5000),
    "half a trace": ("trace.csv", None),
    "a long step": ("trace.csv", ENORMOUS),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_one_bad_record_is_named_and_does_not_blind_the_rest(name, tmp_path):
    file, content = HOSTILE[name]
    for place in ("bad", "good"):
        write_run(tmp_path / place, rows([1.0, 0.1, 0.01]), summary={"iteration": 2})
    trace = (tmp_path / "bad" / "trace.csv").read_text().splitlines(keepends=True)
    if content is None:
        content = "".join(trace[:2])
    elif file == "trace.csv":
        content = trace[0] + trace[1].replace("0", content, 1)
    (tmp_path / "bad" / file).write_text(content)
    bad, good = read_records([tmp_path])
    assert any(file in fault for fault in bad.faults) and not good.faults
    assert len(compare([tmp_path], tmp_path / "out")) > 3


@pytest.mark.parametrize("label", ["$x_$ and $\\frac{$", "x" * 1_000_000, "a\nb\rc", "$\\bogus$"])
def test_a_label_is_a_text_whatever_it_holds(label, tmp_path):
    write_run(tmp_path / "bad", rows([1.0, 0.1]), label=label)
    write_run(tmp_path / "good", rows([1.0, 0.2]), label="other")
    files = compare([tmp_path], tmp_path / "out")
    assert any(file.suffix == ".png" for file in files)
    assert (tmp_path / "out" / "comparison.html").stat().st_size < 10_000_000


def test_numbers_near_the_largest_are_taken_as_infinite(tmp_path):
    write_run(tmp_path / "bad", rows([1e308, -1e308, 1e305], grad_norm=1e308))
    write_run(tmp_path / "good", rows([1.0, 0.2]))
    bad, _ = read_records([tmp_path])
    assert any("numbers beyond 1e+300" in fault for fault in bad.faults)
    assert any(file.suffix == ".png" for file in compare([tmp_path], tmp_path / "out"))


@pytest.mark.parametrize("file", ["trace.csv", "config.yaml", "summary.json", "spectrum.csv"])
def test_a_pipe_is_not_waited_for(file, tmp_path):
    write_run(tmp_path / "bad", rows([1.0, 0.1]))
    write_run(tmp_path / "good", rows([1.0, 0.2]))
    (tmp_path / "bad" / file).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "bad" / file)
    assert len(compare([tmp_path], tmp_path / "out")) > 3
