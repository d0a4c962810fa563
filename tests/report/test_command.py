"""`compare.py --help` answers at once."""

import resource
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from command import ROOT

HEAVY = ("torch", "numpy", "matplotlib", "yaml", "rich")


def test_help_answers_in_half_a_second() -> None:
    def spent() -> float:  # of the processor, which another program may have
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    times = []
    for _ in range(3):
        before = spent()
        done = subprocess.run(
            [sys.executable, "-X", "importtime", str(ROOT / "compare.py"), "--help"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        times.append(spent() - before)
    assert "usage: python compare.py" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & set(HEAVY)
    assert min(times) < 0.5


def test_studies_whose_names_have_other_letters_get_folders_of_their_own():

    from newton_krylov.report.request import _default_place

    names = ["\u5b9e\u9a8c", "\u6d4b\u8bd5", "\u00e9tude", "\u00e8tude", "study", "filter"]
    places = [_default_place(Namespace(folders=[], experiment=n, parent=None)) for n in names]
    assert len(set(places)) == len(names)
    assert places[4].name == "comparison-study"


def test_studies_whose_names_differ_in_punctuation_or_case_get_folders_of_their_own():

    from newton_krylov.report.request import _default_place

    names = ["a b", "A-b", "a-b", "a_b", "A b", "a  b", "a.b", "a/b", "a b!", "filter", "../a b"]
    asked = [{"experiment": name} for name in names]
    asked += [{"experiment": "a b", "filter": "x < 1"}, {"filter": "x < 1"}, {"filter": "X < 1"}]
    nothing = {"folders": [], "experiment": None, "parent": None, "filter": None}
    places = [_default_place(Namespace(**(nothing | one))) for one in asked]
    # A file system may take capitals for small letters.
    assert len({str(place).lower() for place in places}) == len(asked)
    assert all(place.parent.name == "outputs" for place in places)
    assert places[0].name == "comparison-a-b"


def test_archives_of_one_name_in_two_folders_have_comparisons_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from newton_krylov.report.request import _default_place

    monkeypatch.chdir(tmp_path)
    files = [Path("a/runs.jsonl.gz"), Path("b/runs.jsonl.gz"), Path("runs.jsonl.gz")]
    places = [_default_place(Namespace(folders=[file])) for file in files]
    assert len(set(places)) == 3
    assert places[2] == Path("outputs/comparison-runs")
    assert _default_place(Namespace(folders=[tmp_path / files[0]])) == places[0]
