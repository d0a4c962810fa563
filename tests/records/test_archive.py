"""Archives: what is read is what was written, bit for bit; what is damaged is one sentence."""

import gzip
import json
import math
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import row, rows, write_run

from newton_krylov.errors import DataError
from newton_krylov.records import archive
from newton_krylov.records.archive import ArchivedRun, read_archive, write_archive
from newton_krylov.records.trace import Row
from newton_krylov.report.command import main
from newton_krylov.report.records import read_records

NUMBERS = st.floats(width=64)


def same(left: Row, right: Row) -> bool:
    pairs = zip(asdict(left).values(), asdict(right).values(), strict=True)
    return all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in pairs)


@given(loss=NUMBERS, gap=NUMBERS, note=st.text(), name=st.text(), value=st.text() | st.integers())
@settings(max_examples=50)
def test_what_is_read_is_what_was_written(tmp_path_factory, loss, gap, note, name, value):
    path = tmp_path_factory.mktemp("archive") / "study.jsonl.gz"
    trace = [row(0, gap, 0.0, loss=loss), row(1, gap, 0.5, notes=(note,) if note else ())]
    write_archive([ArchivedRun(name, {"key": value}, {"label": note}, {}, trace)], path)
    (back,) = read_archive(path)
    assert (back.name, back.config, back.summary) == (name, {"key": value}, {"label": note})
    assert all(same(a, b) for a, b in zip(back.rows, trace, strict=True))


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    run = ArchivedRun("a", {}, {}, {}, rows([1.0, 0.1]))
    for name in "ab":
        write_archive([run], tmp_path / f"{name}.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_a_column_that_is_newer_than_the_file_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl.gz"
    write_archive([ArchivedRun("a", {}, {}, {}, rows([1.0]))], path)
    line = json.loads(gzip.decompress(path.read_bytes()))
    del line["trace"]["test_loss"]
    path.write_bytes(gzip.compress(f"{json.dumps(line)}\n".encode()))
    (back,) = read_archive(path)
    assert math.isnan(back.rows[0].test_loss) and back.rows[0].suboptimality == 1.0


def test_pandas_reads_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "study.jsonl.gz"
    write_archive([ArchivedRun("a", {}, {}, {}, rows([1.0, math.nan, math.inf]))], path)
    frame = pandas.read_json(path, lines=True)
    assert frame.run.tolist() == ["a"]
    assert frame.trace[0]["suboptimality"] == [1.0, None, "inf"]


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"{}\n"), gzip.compress(b"[1]\n"), gzip.compress(b"\xff\n"),
     gzip.compress(b"{}\n")[:-4], gzip.compress(b"nonsense\n")],
    ids=["empty", "not gzip", "no run", "a list", "not text", "cut short", "not JSON"],
)  # fmt: skip
def test_a_damaged_file_is_one_sentence(content: bytes, tmp_path: Path, capsys) -> None:
    path = tmp_path / "study.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"study\.jsonl\.gz"):
        read_records([path])
    assert main([str(path)]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


def test_compare_reads_an_archive_as_it_reads_the_folders(tmp_path: Path) -> None:
    for label, end in (("Newton-CG", 1e-9), ("Newton-CR", 1e-8)):
        write_run(tmp_path / "runs" / label, rows([1.0, 1e-3, end]), label=label)
    records = read_records([tmp_path / "runs"])
    kept_file = tmp_path / "kept" / "study.jsonl.gz"
    write_archive(
        [ArchivedRun(r.label, r.config, r.summary, r.environment, r.rows) for r in records],
        kept_file,
    )
    for place, name in ((tmp_path / "runs", "a"), (kept_file, "b"), (kept_file.parent, "c")):
        assert main([str(place), "--out", str(tmp_path / name)]) == 0
    tables = [(tmp_path / name / "comparison.md").read_text() for name in "abc"]
    assert tables[0] == tables[1] == tables[2]
    assert len(read_records([kept_file, kept_file.parent])) == 2  # each run once


def kept(folder: Path, **changed: object) -> bytes:
    """Return the line of a run of an archive, with some of it changed."""
    path = folder / "whole.jsonl.gz"
    write_archive([ArchivedRun("a", {}, {"status": "finished"}, {}, rows([1.0]))], path)
    line = json.loads(gzip.decompress(path.read_bytes())) | changed
    path.unlink()
    return f"{json.dumps(line)}\n".encode()


def nested(depth: int) -> bytes:
    return b'{"run": "a", "config": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}\n"


HOSTILE = {
    "an endless line": lambda folder: b"1" * (archive.LARGEST + 2),
    "endless lines": lambda folder: kept(folder) * (archive.LARGEST // 500),
    "nested for ever": lambda folder: nested(100_000),
    "nested deeply": lambda folder: kept(folder, config=json.loads("[" * 90 + "]" * 90)),
    "many nodes": lambda folder: kept(folder, config={"a": [0] * 1_100_000}),
    "a number of 4,000 digits": lambda folder: kept(folder, summary={"loss": 10**4000}),
    "an iteration of infinity": lambda folder: kept(folder, trace={"iteration": [1e999]}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_named_and_the_good_run_is_shown(
    kind: str, tmp_path: Path, caplog, monkeypatch
) -> None:
    monkeypatch.setattr(archive, "LARGEST", 4 * 2**20)
    hostile = tmp_path / "runs" / "hostile.jsonl.gz"
    write_run(tmp_path / "runs" / "good", rows([1.0, 1e-3]), label="Newton-CG")
    hostile.write_bytes(gzip.compress(HOSTILE[kind](tmp_path)))
    with pytest.raises(DataError, match=r"hostile\.jsonl\.gz.* (line|expands)"):
        read_records([hostile])
    caplog.clear()
    (record,) = read_records([tmp_path / "runs"])
    assert record.label == "Newton-CG"
    (said,) = caplog.messages
    assert "hostile.jsonl.gz" in said and "\n" not in said


def test_compare_shows_the_good_run_beside_a_hostile_archive(tmp_path: Path) -> None:
    write_run(tmp_path / "good", rows([1.0, 1e-3]), label="Newton-CG")
    (tmp_path / "hostile.jsonl.gz").write_bytes(gzip.compress(nested(100_000)))
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "Newton-CG" in (tmp_path / "out" / "comparison.md").read_text()


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    write_run(tmp_path / "good", rows([1.0]), label="Newton-CG")
    os.mkfifo(tmp_path / "pipe.jsonl.gz")
    (tmp_path / "folder.jsonl.gz").mkdir()
    (record,) = read_records([tmp_path])
    assert record.label == "Newton-CG"
    with pytest.raises(DataError, match=r"pipe\.jsonl\.gz is not a regular file"):
        read_archive(tmp_path / "pipe.jsonl.gz")


def test_an_archived_run_is_held_to_the_bounds_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl.gz"
    summary = {"label": "x" * 10**5 + "\ud800", "iteration": 7, "status": "finished"}
    run = ArchivedRun("../\0" + "n" * 5000, {}, {}, {}, rows([1e307]))
    write_archive([run], path)
    line = json.loads(gzip.decompress(path.read_bytes())) | {"summary": summary}
    path.write_bytes(gzip.compress(f"{json.dumps(line)}\n".encode()))
    (record,) = read_records([path])
    assert len(record.label) < 500
    assert math.isinf(record.rows[0].suboptimality)
    assert any("the run came to step 7" in fault for fault in record.faults)
    assert main([str(path), "--out", str(tmp_path / "out")]) == 0
