"""The files of a run's spectrum: what is written is read back, whatever ended the process."""

import math

import pytest

from newton_krylov.records.spectrum import (
    DENSITY,
    SPECTRUM,
    Snapshot,
    SnapshotWriter,
    read_snapshots,
)

ONE = Snapshot(
    0, 0.25, [3.0, -1.5], [1e-3, 0.1], 7.5, 0.5, 40, 0.1, [-1.5, 0.0, 3.0], [0.1, 0.8, 0.1]
)
TWO = Snapshot(5, 1 / 3, [2.0, 1.0], [1e-9, 1e-17], math.nan, math.nan, 12, 0.2)


def write(folder, *snapshots, top=2):
    writer = SnapshotWriter(folder, top)
    for snapshot in snapshots:
        writer(snapshot)
    writer.close()


def same(one, other):
    return repr(one).replace("()", "[]") == repr(other).replace("()", "[]")


def test_what_is_written_is_read_back_to_the_last_digit(tmp_path):
    write(tmp_path, ONE, TWO)
    assert all(same(a, b) for a, b in zip(read_snapshots(tmp_path), [ONE, TWO], strict=True))


def test_a_folder_without_them_has_none_and_one_just_begun_has_none_yet(tmp_path):
    assert read_snapshots(tmp_path) == []
    write(tmp_path)
    assert read_snapshots(tmp_path) == []


@pytest.mark.parametrize("cut", [0, 1, 2, 5, 10])
@pytest.mark.parametrize("file", [SPECTRUM, DENSITY])
def test_a_killed_run_keeps_all_but_the_line_that_was_cut(tmp_path, file, cut):
    write(tmp_path, TWO, ONE)
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text[: len(text) - cut])
    found = read_snapshots(tmp_path)
    assert same(found[0], TWO)
    assert len(found) == (1 if file == SPECTRUM and cut else 2)
    if len(found) == 2:
        assert len(found[1].nodes) == (2 if cut else 3)


def test_a_run_killed_at_its_beginning_has_none(tmp_path):
    write(tmp_path, ONE)
    (tmp_path / SPECTRUM).write_text("iteration,sec")
    assert read_snapshots(tmp_path) == []


def test_a_continued_run_keeps_its_snapshots_whatever_their_number_of_values(tmp_path):
    write(tmp_path, ONE)
    before = read_snapshots(tmp_path)
    writer = SnapshotWriter(tmp_path, 3, before)
    writer(Snapshot(9, 1.0, [1.0, 2.0, 3.0], [0.0] * 3, 1.0, 0.0, 1, 0.0))
    writer.close()
    first, second = read_snapshots(tmp_path)
    assert [*first.values[:2], *first.nodes] == [*ONE.values, *ONE.nodes]
    assert math.isnan(first.values[2])
    assert second.values == [1.0, 2.0, 3.0]


def test_metrics_are_named_for_people():
    assert ONE.metrics() == {
        "eigenvalue_1": 3.0, "eigenvalue_2": -1.5,
        "ritz_residual_1": 1e-3, "ritz_residual_2": 0.1,
        "hessian_trace": 7.5, "hessian_trace_error": 0.5,
    }  # fmt: skip


def test_another_file_is_refused(tmp_path):
    (tmp_path / SPECTRUM).write_text("a,b\n1,2\n")
    (tmp_path / DENSITY).write_text("iteration,eigenvalue,share\n")
    with pytest.raises(ValueError, match=r"spectrum\.csv is not the record of a spectrum"):
        read_snapshots(tmp_path)
