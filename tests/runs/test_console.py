"""What a terminal shows."""

import io
import math
import os
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from run_folders import row, rows

from newton_krylov.runs.console import (
    MemberLine,
    MemberProgress,
    MemberTable,
    Progress,
    columns_of,
    line,
    print_members,
    print_places,
    print_summary,
)
from newton_krylov.terminal import console, say, spoken


def out(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=120, force_terminal=terminal), text


SUMMARY = {
    "label": "newton-cr", "status": "finished", "outcome": "converged",
    "reason": "gradient norm <= 1e-10", "loss": 0.25, "suboptimality": 1e-16, "optimum": 0.25,
    "optimum_gap_bound": 1e-26, "grad_norm": 1e-11, "train_accuracy": 0.8, "test_accuracy": 0.7,
    "iteration": 8, "hvp_count": 45.0, "data_passes": 54.0, "seconds": 0.0123,
}  # fmt: skip


def test_a_line_has_a_cell_for_every_column_and_the_note():
    shown = line(replace(row(3, 1e-3, 0.5), notes=("negative curvature",)))
    assert shown.split()[:3] == ["3", "0.251", "1.00e-03"]
    assert shown.endswith("negative curvature")
    assert " - " in line(row(0, 1.0, 0.0))  # the start has no step size


@pytest.mark.parametrize("terminal", [False, True])
def test_few_steps_get_a_line_each_and_the_last_of_many_shows(terminal):
    console, text = out(terminal=terminal)
    with Progress(console) as progress:
        for each in rows([0.5] * 200):
            progress(each)
    plain = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]|\r", "\n", text.getvalue())  # without cursor movements
    numbers = [cells[0] for cells in map(str.split, plain.splitlines()) if cells]
    assert numbers[1:26] == [str(number) for number in range(25)]
    assert len(numbers) < 100 and numbers[-1] == "199"


def test_a_sweep_s_member_shows_ever_fewer_steps_each_in_a_line_of_its_own(capsys, monkeypatch):
    clock = iter([0.0, *(0.1 * k for k in range(1, 2001))])
    monkeypatch.setattr("newton_krylov.runs.console.time.monotonic", lambda: next(clock))
    with MemberProgress("7") as progress:
        for each in rows([0.5] * 2000):
            progress(each)
    lines = capsys.readouterr().out.splitlines()
    steps = [int(line.split()[2]) for line in lines]
    assert all(line.startswith("   7 step ") and "loss 0.75" in line for line in lines)
    assert steps[0] == 9 and steps[-1] > 1700  # after one second, and until the end of 200
    gaps = np.diff(steps)
    assert 20 < len(steps) < 60 and gaps.min() >= 10 and gaps[-1] > 100


def test_what_is_shown_goes_where_quiet_and_json_say(capsys):
    for quiet, json, expected in (
        (False, False, ("a line\n", "")),
        (True, False, ("", "")),
        (False, True, ("{}", "a line\n")),
        (True, True, ("{}", "")),
    ):
        with spoken(quiet=quiet, json=json) as write:
            say("a line")
            write("{}")
        assert tuple(capsys.readouterr()) == expected


def test_a_summary_shows_what_is_known():
    console, text = out()
    print_summary(console, "newton-cr", SUMMARY, [("record", "/a/very/long/path" * 12)])
    shown = text.getvalue()
    for part in ("0.25", "certified to 1.0e-26", "0.8000", "45", "converged: gradient norm"):
        assert part in shown
    assert "/a/very/long/path" * 12 in shown  # whole, to be copied
    for clock, word in (("wall", "optimizer seconds"), ("processor", "processor seconds")):
        console, text = out()
        print_summary(console, "x", SUMMARY, [], clock)
        assert word in text.getvalue()
    console, text = out()
    print_summary(console, "x", {"status": "killed", "reason": "interrupted"}, [])
    assert "killed: interrupted" in text.getvalue() and "loss" not in text.getvalue()


def test_members_are_told_apart_by_what_is_not_shared():
    members = [
        MemberLine("0", "newton-cr", ["solver=cr"], SUMMARY, "12 ms"),
        MemberLine("1", "a name of many words " * 4, ["solver=cg"], SUMMARY),
        MemberLine("2", "gd", ["optimizer=gd"], {"status": "failed", "reason": "[nan]"}),
    ]
    console, text = out()
    table = MemberTable("a problem", members, "1e-9", ["newton-cr is the first."])
    print_members(console, [table], ["2  failed: [nan]"], "loss.l2=1: loss 0.5")
    shown = text.getvalue()
    assert "solver=cr" in shown and "dataset=a9a" not in shown
    assert "2  failed: [nan]" in shown and "best: loss.l2=1: loss 0.5" in shown
    assert shown.count("converged") == 2
    assert "to 1e-9" in shown and "12 ms" in shown and "newton-cr is the first." in shown
    many = [MemberLine(str(n), "gd", [f"seed={n}"], SUMMARY) for n in range(50)]
    console, text = out()
    print_members(console, [MemberTable("", many)], [], None)
    assert "... and 10 more, in comparison.csv" in text.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_where_a_class_is_rare_its_measures_are_shown_and_a_narrow_table_ends_whole(width):
    summary = SUMMARY | {"test_balanced_accuracy": 0.73, "test_auc": 0.89}
    names = ["newton-cg with a name that must be folded", "newton-cr"]
    members = [MemberLine(str(i), n, [f"x={i}" * 12], summary) for i, n in enumerate(names)]
    text = io.StringIO()
    print_members(Console(file=text, width=width), [MemberTable("a9a", members)], [], None)
    shown = text.getvalue()
    assert shown.count("converged") == 2 and all(len(s) <= width for s in shown.splitlines())
    assert ("AUC" in shown, "test acc." in shown) == (width > 80, width > 120)
    without = io.StringIO()
    plain = [MemberLine("0", "newton-cg", [], SUMMARY)]
    print_members(Console(file=without, width=160), [MemberTable("", plain)], [], None)
    assert "AUC" not in without.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_setting_too_wide_for_its_column_is_broken_between_its_words(width):
    settings = ["solver.rtol=0.123456789", "line_search.sufficient_decrease=0.0001,x"]
    members = [MemberLine(str(n), "newton-cg", settings, SUMMARY) for n in range(2)]
    text = io.StringIO()
    print_members(Console(file=text, width=width), [MemberTable("", members, "1e-9")], [], None)
    shown = text.getvalue()
    for part in ("0.123456789", "sufficient_", "decrease=", "0.0001,", "rtol=", "search."):
        assert shown.count(part) == 2


def test_places_are_aligned():
    console, text = out()
    print_places(console, [("a", "x"), ("longer", "[y]")])
    assert text.getvalue() == "a       x\nlonger  [y]\n"


def test_an_optional_column_is_shown_only_where_it_is_known():
    """Problems without a known solution have no column for the error of theirs."""
    from newton_krylov.records.trace import COLUMNS, shown

    optional = [column.name for column in COLUMNS.values() if column.optional]
    assert "l2_error" in optional and "loss" not in optional
    assert "l2_error" in [column.name for column in shown("line")]
    assert "l2_error" not in [column.name for column in shown("line", lambda name: False)]
    assert "loss" in [column.name for column in shown("line", lambda name: False)]


def test_results_that_a_problem_does_not_have_are_no_columns():
    unknown = ("suboptimality", "train_accuracy", "test_accuracy")
    start = replace(row(0, 1e-3, 0.5), **dict.fromkeys((*unknown, "step_size"), math.nan))
    names = {column.name for column in columns_of(start)}
    assert {"step_size", "loss"} <= names and not names.intersection(unknown)
    stream, text = out()
    print_summary(stream, "x", {**SUMMARY, **dict.fromkeys(unknown, math.nan)}, [])
    assert "nan" not in text.getvalue()


def test_a_reader_that_goes_ends_a_run_by_a_sentence(monkeypatch):
    """Rich's own console would end the program by `SystemExit: 1`."""
    reader, writer = os.pipe()
    os.close(reader)
    for show in (lambda: console().print("x"), lambda: say("x")):
        with os.fdopen(os.dup(writer), "w", buffering=1) as gone:
            monkeypatch.setattr(sys, "stdout", gone)
            with pytest.raises(BrokenPipeError, match=r"^the reader of the output"):
                show()
            os.dup2(os.open(os.devnull, os.O_WRONLY), gone.fileno())
    os.close(writer)
