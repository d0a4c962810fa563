"""Runs the pages' Python blocks as tests."""

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["library.md", "extend.md", "residuals.md", "kronecker.md"],
).pytest()
