"""`solver=gmres --help`: every key of a part, with its default and its meaning."""

import re
from pathlib import Path
from typing import Annotated

import pytest
import yaml
from command import CONF, ROOT
from pydantic import Field

from newton_krylov.cli.choices import part_help
from newton_krylov.cli.main import MISTAKE, main
from newton_krylov.cli.offers import parts_without_files
from newton_krylov.errors import ConfigError
from newton_krylov.registry import Entry, entry
from newton_krylov.runs.config import GROUPS

FILES = [path for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_key_is_there_with_its_default_and_a_meaning(path: Path) -> None:
    group, name = path.parent.name, path.stem
    head, _, *lines = part_help([CONF], group, name, {}).splitlines()
    assert head.startswith(f"{group}={name}  ")
    node = yaml.safe_load(path.read_text(encoding="utf-8"))
    node = {key: value for key, value in node.items() if key not in ("name", "defaults")}
    shown = {}
    for line in lines if node else ():
        typed, _, meaning = line.strip().partition("  ")
        key, _, value = typed.partition("=")
        assert meaning.strip(), f"{typed} is not explained"
        shown[key.removeprefix(f"{group}.")] = yaml.safe_load(value)
    assert shown == node


@pytest.mark.parametrize("name", ["w8a", "phishing", "iris", "nist_enso"])
def test_a_data_set_without_a_file_explains_its_keys_too(name: str) -> None:
    _, _, *lines = part_help([CONF], "dataset", name, parts_without_files(CONF)).splitlines()
    shown = {line.split("=")[0].strip().removeprefix("dataset.") for line in lines}
    assert shown == entry("dataset", name).parameters.keys()
    assert all(line.strip().partition("  ")[2].strip() for line in lines)


def test_several_choices_are_shown_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(CONF, ["solver=gmres,cr", "--help", "optimizer=sgd", "stop.epochs=3"]) == 0
    out = capsys.readouterr().out
    places = [out.index(text) for text in ("solver=gmres  ", "solver=cr  ", "optimizer=sgd  ")]
    assert places == sorted(places) and "solver.restart=30 " in out
    assert "stop.epochs" not in out


def test_a_study_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(CONF, ["experiment=paper_inner", "--help"]) == 0
    assert "solver.maxiter: 1,2,3,5,10,20,30" in capsys.readouterr().out


def test_a_third_party_s_part_is_explained_by_its_docstring() -> None:
    def mine(*, size: int = 3, rate: float = 0.5, other: str | None = None) -> None:
        """Do something.

        Parameters
        ----------
        size, rate : int
            How much
            of it.
        other : str
            Else.

        Returns
        -------
        None
        """

    text = part_help([CONF], "solver", "mine", {"solver": [Entry("solver", "mine", mine)]})
    assert text.splitlines() == [
        "solver=mine  Do something.",
        "",
        "  solver.size=3      How much of it.",
        "  solver.rate=0.5    How much of it.",
        "  solver.other=null  Else.",
    ]


def test_a_key_that_its_author_has_not_described_has_its_type() -> None:
    def mine(*, size: int = 3, other: str | None = None) -> None:
        """Do something."""

    text = part_help([CONF], "solver", "mine", {"solver": [Entry("solver", "mine", mine)]})
    assert text.splitlines()[2:] == [
        "  solver.size=3      int (not described by its author)",
        "  solver.other=null  str | None (not described by its author)",
    ]


def test_one_s_own_folder_comes_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "solver").mkdir()
    (tmp_path / "solver" / "cg.yaml").write_text("# my CG\nname: cg\nrtol: 0.1  # loose\n")
    assert main(CONF, ["--config-dir", str(tmp_path), "solver=cg", "--help"]) == 0
    assert "solver=cg  my CG\n\n  solver.rtol=0.1  loose" in capsys.readouterr().out


def test_an_unknown_name_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="solver=gmre is unknown; did you mean 'gmres'"):
        part_help([CONF], "solver", "gmre", {})
    assert main(CONF, ["solver=gmre", "--help"]) == MISTAKE
    assert capsys.readouterr().err.count("\n") == 1


def test_the_readme_s_promise() -> None:
    assert "solver=gmres --help" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["stop"], [r"stop  the first criterion that holds", r"  stop\.epochs=100 +outer iter"]),
        (["stop.epochs"], [r"  stop\.seconds=null +the optimizer's own time"]),
        (["spectrum"], [r"  spectrum\.rtol=1\.0e-3 +their residuals"]),
        (
            ["verdict"],
            [r"verdict=", r"  linear +linear models: each", r"The keys .*=auto --h"],
        ),
        (["solver"], [r"solver=", r"  gmres +\S+"]),
        (["dataset"], [r"  phishing +\S+", r"  table +\S+"]),
        (["start"], [r"start: auto +# w0: zeros", r" +#     previous: in a sweep"]),
        (["seed=3"], [r"seed: 0 +# of the start"]),
    ],
)
def test_a_group_a_section_and_a_key_have_help_of_their_own(words, lines, capsys) -> None:
    assert main(CONF, [*words, "--help"]) == 0
    out = capsys.readouterr().out.splitlines()
    for line in lines:
        assert any(re.match(line, each) for each in out), out
    assert "Examples" not in out


def test_help_on_what_is_not_there_names_the_closest(capsys) -> None:
    assert main(CONF, ["stp", "--help"]) == MISTAKE
    assert "stp is no group and no key; did you mean 'stop'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "section",
    [
        "Args:\n    size (int): How much\n        of it.\n    rate: Else.\n\nReturns:\n    None.",
        ":param size: How much\n    of it.\n:param float rate: Else.\n:returns: None.",
    ],
    ids=["Google", "Sphinx"],
)
def test_other_styles_of_docstrings_are_read(section: str) -> None:
    def mine(*, size: Annotated[int, Field(gt=0)] = 3, rate: float = 0.5) -> None: ...

    mine.__doc__ = f"Do something.\n\n{section}\n"
    text = part_help([CONF], "solver", "mine", {"solver": [Entry("solver", "mine", mine)]})
    assert text.splitlines()[2:] == [
        "  solver.size=3    How much of it.",
        "  solver.rate=0.5  Else.",
    ]


def test_a_docstring_without_parameters_is_shown_whole() -> None:
    def mine(*, size: Annotated[int, Field(gt=0)] = 3) -> None:
        """Do something.

        The size says how much.
        """

    text = part_help([CONF], "solver", "mine", {"solver": [Entry("solver", "mine", mine)]})
    assert "solver.size=3  int (not described by its author)" in text
    assert text.endswith("The size says how much.")
