"""The trace: what is written is read back, whenever the writing stopped."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import row

from newton_krylov.records.trace import Row, TraceWriter, read_trace

floats = st.floats(allow_nan=False)


@given(
    st.lists(
        st.builds(
            lambda loss, norm, note, k: replace(
                row(k, 0.0, 0.0), loss=loss, grad_norm=norm, notes=(note,) if note else ()
            ),
            floats,
            floats,
            st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=20),
            st.integers(0, 10**6),
        ),
        max_size=5,
    )
)
def test_rows_are_read_back_to_the_last_bit(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("trace") / "trace.csv"
    writer = TraceWriter(path)
    for each in rows:
        writer(each)
    writer.close()
    read = read_trace(path)
    unknown = ("step_size", "l2_error", "fresh_loss", "test_balanced_accuracy", "test_auc",
               "test_d2", "test_mean_absolute_error")  # fmt: skip
    zeros = dict.fromkeys(unknown, 0.0)  # nan is not equal to itself
    assert [replace(r, **zeros) for r in read] == [replace(r, **zeros) for r in rows]


def test_every_row_is_on_disk_as_soon_as_it_is_written(tmp_path):
    writer = TraceWriter(tmp_path / "trace.csv")
    for number in range(3):
        writer(row(number, 0.1, 0.0))
        assert len(read_trace(tmp_path / "trace.csv")) == number + 1
    writer.close()


def test_a_file_cut_anywhere_gives_the_rows_before_the_cut(tmp_path):
    path = tmp_path / "trace.csv"
    rows = [row(number, 0.1**number, 0.01 * number) for number in range(4)]
    writer = TraceWriter(path)
    for each in rows:
        writer(each)
    writer.close()
    whole = path.read_bytes()
    head = whole.index(b"\n") + 1
    for cut in range(head, len(whole) + 1):
        path.write_bytes(whole[:cut])
        read = read_trace(path)
        complete = whole[head:cut].count(b"\n")
        assert len(read) in (complete, complete + 1)
        for got, want in zip(read, rows, strict=False):
            assert (got.iteration, got.loss, got.seconds) == (
                want.iteration,
                want.loss,
                want.seconds,
            )


def test_a_continued_trace_begins_with_its_old_rows(tmp_path):
    old = [row(number, 0.1, 0.0) for number in range(3)]
    writer = TraceWriter(tmp_path / "trace.csv", old)
    writer(row(3, 0.05, 0.0))
    writer.close()
    assert [each.iteration for each in read_trace(tmp_path / "trace.csv")] == [0, 1, 2, 3]


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "iteration\n0\n"])
def test_another_file_is_no_trace(content, tmp_path):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(ValueError, match=r"x\.csv is not a trace"):
        read_trace(tmp_path / "x.csv")


def test_the_columns_are_those_that_a_trace_must_have():
    assert Row.columns()[0] == "iteration" and Row.columns()[-1] == "note"
    metrics = row(0, 0.1, 0.0).metrics()
    assert {"iteration", "note"}.isdisjoint(metrics)
    assert math.isnan(metrics["step_size"])
    assert set(metrics) >= {
        "loss", "suboptimality", "grad_norm", "train_accuracy", "test_accuracy", "step_size",
        "inner_iterations", "hvp_count", "data_passes", "seconds",
    }  # fmt: skip


def test_the_writer_fails_where_the_disk_is_full():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="No space left on device"):
        TraceWriter(Path("/dev/full"))


def test_a_trace_from_before_an_optional_column_is_read(tmp_path):
    """A column that came later has a default; one that is required may not be missing."""
    writer = TraceWriter(tmp_path / "t.csv", [row(0, 0.1, 0.0)])
    writer.close()
    lines = (tmp_path / "t.csv").read_text().splitlines()
    (tmp_path / "t.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    assert read_trace(tmp_path / "t.csv")[0].note == ""
    (tmp_path / "t.csv").write_text("\n".join(line.partition(",")[2] for line in lines) + "\n")
    with pytest.raises(ValueError, match="is not a trace"):
        read_trace(tmp_path / "t.csv")
