"""Runs the pages' Python blocks as tests."""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from registrations import forgotten
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from newton_krylov.runs.parts import register_parts

_BEFORE = Path.cwd()


def _elsewhere(namespace: dict[str, Any]) -> None:
    """Begin a page in a folder of its own, where runs write; forget the parts that it registers.

    Ours are registered before: a module registers them only when it is imported first.
    """
    register_parts()
    with ExitStack() as entered:
        os.chdir(entered.enter_context(tempfile.TemporaryDirectory()))
        entered.callback(os.chdir, _BEFORE)
        entered.enter_context(forgotten())
        namespace["_page"] = entered.pop_all()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a page's warning be an error: a reader who copies an example sees none."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("error"))


def _back(namespace: dict[str, Any]) -> None:
    namespace["_page"].close()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=[
        "library.md",
        "extend.md",
        "residuals.md",
        "kronecker.md",
        "python.md",
        "glm.md",
        "minimize.md",
    ],
    setup=_elsewhere,
    teardown=_back,
).pytest()
