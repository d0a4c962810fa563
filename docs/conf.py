"""The documentation site: `sphinx-build -W --keep-going docs build/site`.

Pages are the Markdown files of this folder; the API reference comes from the docstrings and the
gallery from the scripts in `gallery/`, which are run.
"""

import importlib
import pkgutil
import re
from importlib import metadata
from pathlib import Path
from typing import Any

project = "newton-krylov"
author = "the newton-krylov authors"
release = version = metadata.version("newton-krylov")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["gallery", "README.md"]
html_theme = "furo"
html_title = f"newton-krylov {release}"
suppress_warnings = ["ref.python"]  # short names of types, as in NumPy docstrings, may be ambiguous

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

toc_object_entries = False  # the sidebar lists modules; with all objects a build takes minutes
autodoc_typehints = "none"  # the docstrings give types, and shapes with them
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "ignore-module-all": True, "show-inheritance": True}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"\.py$",
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1e9,  # no computation times: pages are the same on every machine
    "show_signature": False,
    "abort_on_example_error": True,
}


def _write_api(app: Any) -> None:
    """Write a page for each package, with its modules one after the other."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    root = importlib.import_module("newton_krylov")
    found = list(pkgutil.walk_packages(root.__path__, "newton_krylov."))
    for package in ["newton_krylov", *(m.name for m in found if m.ispkg)]:
        modules = [m.name for m in found if not m.ispkg and m.name.rpartition(".")[0] == package]
        text = f"# {package}\n\n" + _automodule(package)
        for name in modules:
            if not name.endswith("__main__"):
                text += f"\n## {name.rpartition('.')[2]}\n\n" + _automodule(name)
        page = folder / f"{package}.md"
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def _automodule(name: str) -> str:
    return f"```{{eval-rst}}\n.. automodule:: {name}\n```\n"


def _markdown(line: str) -> str:
    """Turn a docstring's line from Markdown to reStructuredText.

    The docstrings write code in single backticks and norms as |x|, which are a role and a
    substitution to reStructuredText.
    """
    parts = re.split(r"(``?[^`]+``?)", line)
    for k, part in enumerate(parts):
        if k % 2:
            parts[k] = "``" + part.strip("`") + "``"
        else:
            parts[k] = re.sub(r"([\\|*]|_(?!\w))", r"\\\1", part)
    return "".join(parts)


def _convert(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    examples = (">>>", "...")
    lines[:] = [line if line.lstrip().startswith(examples) else _markdown(line) for line in lines]


def setup(app: Any) -> None:
    """Let docstrings pass through `_convert` before Napoleon reads their sections."""
    app.connect("builder-inited", _write_api)
    app.connect("autodoc-process-docstring", _convert, priority=100)
