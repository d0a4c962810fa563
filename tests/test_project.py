"""The project's own files agree with one another."""

import re
from pathlib import Path

import yaml
from command import ROOT

import newton_krylov


def commands_of_ci() -> list[str]:
    """The checks at the end of .ci/run, behind everything that sets up."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()
    return lines[next(i for i, line in enumerate(lines) if line.startswith("ruff")) :]


def test_the_hooks_are_the_checks_of_ci() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    (repository,) = yaml.safe_load(text)["repos"]
    assert repository["repo"] == "local"  # nothing is fetched from anywhere
    assert [hook["entry"] for hook in repository["hooks"]] == commands_of_ci()
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert str(citation["version"]) == newton_krylov.__version__


def test_the_guide_s_links_and_paths_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    named = re.findall(r"`((?:src|tests|docs|studies|conf)/[\w/.]+)`", text)
    assert links and named
    for path in {*links, *named}:
        assert (ROOT / path).exists(), path


def test_the_quick_selection_has_a_test_of_every_room() -> None:
    """`python -m pytest @tests/quick.txt`: a first look at all of it."""
    chosen = (ROOT / "tests" / "quick.txt").read_text(encoding="utf-8").split()
    assert all((ROOT / line.partition("::")[0]).is_file() for line in chosen)
    parts = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    rooms = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))}
    packages = {path.parent.name for path in (ROOT / "src/newton_krylov").glob("*/__init__.py")}
    assert packages <= rooms
    for room in packages | {"end_to_end"}:
        assert any(line.startswith(f"tests/{room}/") for line in chosen), room
    assert {"walls", "registry", "capabilities", "device", "files", "norms"} <= parts & {
        Path(line).stem.removeprefix("test_") for line in chosen
    }


def test_every_tool_that_the_guide_uses_is_pinned() -> None:
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for tool in ("ruff", "mypy", "pytest", "pytest-xdist", "pre-commit", "hatchling"):
        assert re.search(rf"^{tool}==", pinned, re.MULTILINE), tool
