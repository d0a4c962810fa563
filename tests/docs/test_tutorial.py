"""The tutorial, from its first line to its last: its Python and its commands, in its order."""

import re
from pathlib import Path

import pytest
from command import ROOT, command

PAGE = ROOT / "docs" / "tutorial.md"
PARTS = re.compile(
    r"^```python\n(?P<code>.*?)^```$|^    python run\.py (?P<line>[^\n]*)$",
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.slow
def test_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    screens = []
    for part in PARTS.finditer(PAGE.read_text(encoding="utf-8")):
        if part["code"]:
            exec(part["code"], {})
        else:
            screens.append(command(*part["line"].split(), "tracking=none", cwd=tmp_path)[0])
    first, sweep = screens
    for word in ("suboptimality", "certified", "stopped", "test accuracy"):
        assert word in first
    assert "newton-cg" in sweep.lower()
    for name in ("comparison.html", "comparison.md", "comparison.csv"):
        assert (tmp_path / "question" / name).stat().st_size > 0
    assert "Time to f − f* ≤" in (tmp_path / "question" / "comparison.md").read_text()
    answer = capsys.readouterr().out
    assert len(re.findall(r"^[\w. -]*(?:Newton|L-BFGS|descent)[\w. -]* \d", answer, re.M)) >= 5
