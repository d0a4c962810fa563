"""The page holds what it should, and nothing in it comes from outside or runs from within data."""

import base64
import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_folders import row, rows, write_run

from newton_krylov.report.html.page import write_page
from newton_krylov.report.records import read_records
from newton_krylov.report.study import studies
from newton_krylov.report.style import _COLORS, _ON_DARK

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&amp;{{7*7}}"


class Reader(HTMLParser):
    """Elements with their attributes, and the text of each kind of element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            del self._open[len(self._open) - 1 - self._open[::-1].index(tag) :]

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script reads."""
        return dict(json.loads(self.texts["script"][0]))


def page_of(folder: Path) -> str:
    return write_page(studies(read_records([folder])))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for seed, step in enumerate([0.01, 0.02, 0.03]):
        trace = rows([1.0, 1e-3, 1e-7, 1e-13], step_seconds=step)
        write_run(tmp_path / f"cr{seed}", trace, label="Newton-CR", seed=seed)
    write_run(tmp_path / "gd", rows([0.9**k for k in range(2000)]), label="Gradient descent")
    broken = [row(0, 1.0, 0.0), row(1, float("inf"), 0.1)]
    write_run(tmp_path / "lbfgs", broken, label="LBFGS", status="failed", reason="the loss is inf")
    return tmp_path


def test_curves_are_medians_and_ranges_as_the_traces_have_them(sweep: Path) -> None:
    (study,) = Reader(page_of(sweep)).data["studies"]
    cr = study["entries"][0]
    assert cr["label"] == "Newton-CR" and not cr["failed"]
    assert cr["middle"]["suboptimality"] == [1.0, 1e-3, 1e-7, 1e-13]
    assert cr["middle"]["seconds"] == [0.0, 0.02, 0.04, 0.06]
    assert cr["low"] == {"seconds": [0.0, 0.01, 0.02, 0.03]}
    assert cr["high"] == {"seconds": [0.0, 0.03, 0.06, 0.09]}
    assert [cost["column"] for cost in study["costs"]] == [
        "iteration", "seconds", "data_passes", "hvp_count",
    ]  # fmt: skip
    names = {"suboptimality", "loss", "train_accuracy", "test_accuracy", "test_loss", "grad_norm"}
    assert {quantity["column"] for quantity in study["quantities"]} == names


def test_long_curves_are_thinned_to_what_a_panel_shows_with_both_ends(sweep: Path) -> None:
    (study,) = Reader(page_of(sweep)).data["studies"]
    steps = study["entries"][1]["middle"]["iteration"]
    assert (steps[0], steps[1], steps[-1]) == (0, 1, 1999)
    assert len(steps) <= 240 and np.all(np.diff(steps) > 0)


def test_what_is_not_finite_is_no_number_and_the_failure_is_told(sweep: Path) -> None:
    page = Reader(page_of(sweep))
    failed = page.data["studies"][0]["entries"][2]
    assert failed["failed"] and failed["middle"]["suboptimality"] == [1.0, None]
    assert "failed: the loss is inf" in page.texts["td"]
    assert "1 run, 1 failed" in page.texts["small"]


def test_the_tables_are_there_without_any_script(sweep: Path) -> None:
    page = Reader(page_of(sweep))
    heads = page.texts["h2"] + page.texts["h3"]
    for head in ("Time to f − f* ≤", "Where each method ended", "Settings that differ",
                 "Environment", "All runs"):  # fmt: skip
        assert head in heads
    assert {"40 ms", "1.00×"} <= {text.strip() for text in page.texts["span"] + page.texts["small"]}
    assert page.texts["title"] == ["a-study: 5 runs compared"]


def test_profiles_are_there_for_several_problems_only(sweep: Path, tmp_path: Path) -> None:
    assert Reader(page_of(sweep)).data["profiles"] is None
    for d in (30, 40):
        for label in ("Newton-CR", "LBFGS"):
            write_run(tmp_path / f"{label}{d}", rows([1.0, 1e-13]), label=label, n_features=d)
    page = Reader(page_of(tmp_path))
    assert page.data["profiles"]["profiles"][0]["problems"] == 3
    assert any("Performance profiles" in head for head in page.texts["h2"])


def test_nothing_is_loaded_from_anywhere(sweep: Path) -> None:
    page = Reader(page_of(sweep))
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "img"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert "@import" not in page.texts["style"][0] and "url(" not in page.texts["style"][0]


def test_the_browser_may_run_the_page_s_own_scripts_only(sweep: Path) -> None:
    page = Reader(page_of(sweep))
    (policy,) = (
        attributes["content"]
        for tag, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy and "http" not in policy
    for script in page.texts["script"][1:]:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_labels_settings_and_reasons_stay_text(tmp_path: Path) -> None:
    folder = write_run(
        tmp_path / "0", rows([1.0, 0.1]), label=ATTACK, status="failed", reason=ATTACK,
        solver={"name": ATTACK, ATTACK: 1},
        summary={"dataset": {"name": ATTACK, "n_samples": 9, "n_features": 9, "checksum": "c"}},
    )  # fmt: skip
    (folder / "environment.json").write_text(
        json.dumps({ATTACK: ATTACK, "command": ["python", ATTACK, ATTACK]})
    )
    write_run(tmp_path / "1", rows([1.0]), label="other", name=ATTACK)
    text = page_of(tmp_path)
    harmless = Reader(page_of_harmless(tmp_path / "harmless"))
    page = Reader(text)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 3 and tags.count("img") == 0
    assert set(tags) <= {tag for tag, _ in harmless.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.data["studies"][0]["entries"][0]["label"].startswith("</script>")
    assert ATTACK in page.texts["td"] + page.texts["th"]


def page_of_harmless(folder: Path) -> str:
    write_run(folder / "0", rows([1.0, 0.1]), label="a", status="failed")
    write_run(folder / "1", rows([1.0]), label="b", n_features=3)
    (folder / "1" / "environment.json").write_text(json.dumps({"command": ["python", "run.py"]}))
    return page_of(folder)


def test_of_many_methods_the_best_have_colours_and_all_are_there(tmp_path: Path) -> None:
    for i in range(40):
        trace = rows([1.0, 1e-13], step_seconds=1.0 + i)
        write_run(tmp_path / str(i), trace, solver={"name": "cg", "rtol": i})
    page = Reader(page_of(tmp_path))
    entries = page.data["studies"][0]["entries"]
    assert len(entries) == 40
    assert [entry["style"]["crowd"] for entry in entries] == [False] * 24 + [True] * 16
    assert "16 others, in grey" in page.texts["summary"]


def test_runs_without_a_single_step_still_make_a_page(tmp_path: Path) -> None:
    write_run(tmp_path / "0", [], status="failed", reason="no data")
    page = Reader(page_of(tmp_path))
    assert "failed: no data" in page.texts["td"]


# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision
# deficiency", IEEE TVCG 15 (2009), severity 1.0: what people without one kind of cones see.
CONES = {
    "all": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "no long-wave": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no middle-wave": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no short-wave": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(color: str, cones: list[list[float]]) -> np.ndarray:
    """Return a colour as seen, in CIE L*a*b* (D65)."""
    srgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(cones) @ linear, 0, 1)
    xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ) @ seen / [0.9505, 1.0, 1.089]  # fmt: skip
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("cones", CONES)
@pytest.mark.parametrize("ground", ["light", "dark"])
def test_colours_are_told_apart_whatever_cones_an_eye_has(cones: str, ground: str) -> None:
    colors = _COLORS if ground == "light" else [_ON_DARK[color] for color in _COLORS]
    seen = [lab(color, CONES[cones]) for color in colors]
    nearest = min(float(np.linalg.norm(a - b)) for i, a in enumerate(seen) for b in seen[:i])
    assert nearest > 12  # some five just noticeable differences
