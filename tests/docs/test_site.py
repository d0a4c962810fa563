"""The documentation site builds without a warning; its gallery runs, its API is all there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT

import newton_krylov


def test_every_page_is_in_the_index_once_in_a_reader_s_order() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(\w+)$", "".join(re.findall(r"(?s)```{toctree}(.*?)```", index)), re.M)
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert sorted(listed) == sorted(pages)
    order = ["start", "tutorial", "library", "extend", "api", "reproduction"]
    assert [page for page in listed if page in order] == order


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    docs, site = tmp_path / "docs", tmp_path / "site"
    shutil.copytree(ROOT / "docs", docs, ignore=shutil.ignore_patterns("api", "auto_gallery"))
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(docs), str(site)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    pages = {path.stem for path in docs.glob("*.md")}
    assert pages <= {path.stem for path in site.glob("*.html")}
    home = (site / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{page}.html"' in home for page in pages - {"index"})
    drawn = {path.stem.removeprefix("plot_") for path in (docs / "gallery").glob("plot_*.py")}
    figures = {path.name for path in (site / "_images").glob("*_001.png")}
    assert {f"sphx_glr_plot_{name}_001.png" for name in drawn} <= figures
    terms = (site / "searchindex.js").read_text(encoding="utf-8")
    for word in ("panda", "class_weight"):  # Sphinx searches by stems
        assert re.search(rf'"?{word}"?:', terms), word
    for page in site.rglob("*.html"):  # no path of the machine in what was executed
        text = page.read_text(encoding="utf-8")
        assert str(tmp_path) not in text and str(ROOT) not in text, page
    api = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    for name, module in newton_krylov._HOME.items():
        assert f'id="newton_krylov.{module}.{name}"' in api
