"""The project's own files agree with one another."""

import re

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


def test_every_tool_that_the_guide_uses_is_pinned() -> None:
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for tool in ("ruff", "mypy", "pytest", "pytest-xdist", "pre-commit", "hatchling"):
        assert re.search(rf"^{tool}==", pinned, re.MULTILINE), tool
