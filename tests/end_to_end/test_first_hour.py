"""What a new user sees in the first hour: the real command, piped and on a terminal."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import PATIENCE, QUICK, ROOT, command, environment, inside

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
SWEEP = ("-m", *QUICK, "solver=cg,cr", "optimizer=newton,lbfgs", "seed=0,1", "hydra.sweep.dir=s")


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hour")


@pytest.fixture(scope="module")
def shown(cwd: Path) -> str:
    out, _ = command(*SWEEP, cwd=cwd)
    return out


def test_something_stands_on_a_terminal_at_once_and_each_wait_has_its_line(tmp_path: Path) -> None:
    """On a terminal, which also shows what has been imported when."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", str(ROOT / "run.py"), *QUICK, "solver=cr"],
        cwd=tmp_path, env=environment(tmp_path, TERM="xterm"), stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    written = b""
    while True:
        try:
            read = os.read(ours, 4096)
        except OSError:  # the terminal's end
            break
        if not read:
            break
        written += read
    os.close(ours)
    assert process.wait(timeout=PATIENCE) == 0
    before = written[: written.index(b"newton-krylov ")].decode()
    imported = {line.rpartition("|")[2].strip() for line in before.splitlines()}
    assert "newton_krylov.terminal" in imported  # it is a list of modules
    heavy = {"torch", "numpy", "scipy", "pandas", "matplotlib", "mlflow", "hydra", "rich"}
    assert len(imported) < 400 and not imported & heavy
    text = re.sub(rb"import time:[^\n]*\n", b"", written)
    waits = [
        "newton-krylov", "opening the run", "generating the data", "newton-cr on synthetic",
        "certifying the optimum", "step", "drawing the figures", "sending the run", "record",
    ]  # fmt: skip
    places = [text.decode().find(wait) for wait in waits]
    assert min(places) >= 0 and places == sorted(places), text.decode()


def test_a_sweep_says_how_far_it_has_come_in_plain_whole_lines(shown: str) -> None:
    assert CONTROL.search(shown) is None
    lines = shown.splitlines()
    assert lines[0].startswith("newton-krylov") and lines[1].startswith("8 runs of ")
    for number in range(8):
        assert any(line.startswith(f"   {number} ") and " on synthetic (" in line for line in lines)
        assert f"[{number + 1} of 8 done" in shown
    assert re.search(r"\[3 of 8 done, about \d+ (s|min) left\]", shown)
    assert "comparing 8 runs" in shown and "sending the comparison" in shown


def test_the_table_has_a_row_for_each_method_the_fastest_first(shown: str) -> None:
    table = shown[shown.index("differs by") :]
    rows = [line.split() for line in table.splitlines() if re.match(r" *\d+, ", line)]
    methods = [
        row[next(i for i, c in enumerate(row) if not c.strip(",").isdigit())] for row in rows
    ]
    assert sorted(methods) == ["lbfgs", "newton-cg", "newton-cr"]  # lbfgs once: it has no solver
    row = next(line for line in table.splitlines() if "lbfgs" in line)
    assert "2, 3, 6, 7" in row and "solver" not in row
    first, second = methods[:2]
    assert f"{first} is the first at" in table or f"{first} and {second} tie at" in table
    assert "Medians of 2–4 runs each." in table


def test_what_a_resume_did_is_no_difference_between_rows(cwd: Path, shown: str) -> None:
    for number in ("1", "4"):
        shutil.rmtree(cwd / "s" / number)
    out, _ = command(*SWEEP, "resume=true", cwd=cwd)
    assert out.count("finished before") == 6 and "[8 of 8 done]" in out
    table = out[out.index("differs by") :]
    assert "resume" not in table.partition("sweep ")[0]
    assert "0, 1 " in table and "4, 5 " in table and "2, 3, 6, 7" in table


def test_quiet_shows_errors_only(tmp_path: Path) -> None:
    assert command(*QUICK, "solver=cr", "optimizer=lbfgs", "quiet=true", cwd=tmp_path) == ("", "")
    out, err = inside(
        "-m", *QUICK, "optimizer=gd", "optimizer.step_size=null,1e300", "tracking=none",
        "quiet=true", "stop.epochs=20", cwd=tmp_path, code=1,
    )  # fmt: skip
    assert out == "" and re.fullmatch(r"1  failed: the loss is \S+ at iteration 1\n", err)
    out, err = inside(*QUICK, "solver=crr", "quiet=true", "tracking=none", cwd=tmp_path, code=2)
    assert out == "" and err.startswith("Error: solver=crr is unknown")


def test_the_result_as_json_has_standard_output_for_itself(tmp_path: Path) -> None:
    out, err = inside(*QUICK, "solver=cr", "json=true", "tracking=none", cwd=tmp_path)
    run = json.loads(out)
    assert run["status"] == "finished" and run["label"] == "newton-cr"
    assert json.loads((Path(run["folder"]) / "summary.json").read_text())["loss"] == run["loss"]
    assert "newton-cr on synthetic" in err
    config = (Path(run["folder"]) / "config.yaml").read_text()
    assert "json" not in config and "quiet" not in config  # no part of what was run


def test_processes_side_by_side_write_whole_lines(tmp_path: Path) -> None:
    """And their result as JSON has standard output for itself, though each process has one."""
    out, err = command(
        "-m", *QUICK, "solver=cg,cr,minres,gmres", "tracking=none", "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2", "json=true", cwd=tmp_path,
    )  # fmt: skip
    sweep = json.loads(out)
    assert (sweep["members"], sweep["failed_members"]) == (4, 0)
    assert [run["label"] for run in sweep["runs"]] == [
        "newton-cg", "newton-cr", "newton-minres", "newton-gmres",
    ]  # fmt: skip
    before = err[: err.index("comparing 4 runs")].splitlines()[2:]
    assert before.pop(0).startswith("starting processes for the runs")
    kind = re.compile(
        r"(generating the data: synthetic|certifying the optimum: .*"
        r"|   \d newton-\w+ on synthetic \(solver=\w+\)"
        r"|   \d step \d+  .*"  # of one that takes longer than a second
        r"|   \d newton-\w+ +finished .*\[\d of 4 done(, about \d+ \w+ left)?\])"
    )
    assert all(kind.fullmatch(line) for line in before), err
    assert sum("4 of 4 done" in line for line in before) >= 1
