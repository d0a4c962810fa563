"""Runs the pages' Python blocks as tests."""

import os
import tempfile
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

_BEFORE = Path.cwd()


def _elsewhere(namespace: dict[str, Any]) -> None:
    """Begin a page in a folder of its own: runs write to the working directory."""
    namespace["_place"] = tempfile.TemporaryDirectory()
    os.chdir(namespace["_place"].name)


def _back(namespace: dict[str, Any]) -> None:
    os.chdir(_BEFORE)
    namespace["_place"].cleanup()


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
