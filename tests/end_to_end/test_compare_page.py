"""The report in a browser: it draws itself, obeys its controls, and talks to nobody."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Page, browser, find_browser
from matplotlib import image
from matplotlib.colors import to_rgb
from run_folders import row, rows, write_run

from newton_krylov.report.html.page import write_page
from newton_krylov.report.records import read_records
from newton_krylov.report.study import studies
from newton_krylov.report.style import GREEN, VERMILION

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium here"),
]

HOSTILE = "<b>bold</b><img src=x onerror=document.title='taken'>%{x}"
DRAWN = """document.querySelectorAll('#problem-1 .panel .scatterlayer .trace').length >= 12
    && [...document.querySelectorAll('#problem-1 .panel')].every(panel => panel.data)"""
LINES = """[...document.querySelectorAll('#problem-1 .panel')].map(
    panel => panel.data.filter(trace => trace.mode !== 'lines' || trace.hovertemplate).length)"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods on two problems, one of them failed, one with a hostile name."""
    folder = tmp_path_factory.mktemp("report")
    for d, pace in ((20, 0.01), (40, 0.03)):
        for seed in range(3):
            steps = [10.0 ** -(k * k / 4) for k in range(8)]
            trace = rows(steps, step_seconds=pace * (1 + 0.2 * seed))
            write_run(folder / f"cr{d}{seed}", trace, label="Newton-CR", seed=seed, n_features=d)
        long = rows([0.97**k for k in range(900)], step_seconds=pace / 10)
        write_run(folder / f"cg{d}", long, label="Newton-CG", n_features=d)
        broken = [row(0, 1.0, 0.0), row(1, 0.4, pace), row(2, float("inf"), 2 * pace)]
        write_run(
            folder / f"bad{d}", broken, label=HOSTILE, n_features=d, status="failed",
            reason="the loss is inf",
        )  # fmt: skip
    file = folder / "comparison.html"
    file.write_text(write_page(studies(read_records([folder]))))
    return file


@pytest.fixture(scope="module")
def page(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def shown(page: Page, report: Path) -> Page:
    page.problems.clear()
    page.requests.clear()
    page.resize(1280, 1600)
    page.open(report, DRAWN)
    return page


def ink(file: Path, color: str) -> int:
    """Count the pixels of a colour."""
    pixels = image.imread(file)[..., :3]
    return int((np.abs(pixels - np.array(to_rgb(color))).max(axis=2) < 0.02).sum())


def test_half_an_epoch_is_written_as_a_half(page: Page, tmp_path: Path) -> None:
    for label in ("one", "two"):
        write_run(tmp_path / label, rows([1.0, 0.5, 0.2]), label=label)
    file = tmp_path / "comparison.html"
    file.write_text(write_page(studies(read_records([tmp_path]))))
    page.resize(1280, 1600)
    ticks = "[...document.querySelectorAll('[data-cost=iteration] .xtick text')]"
    page.open(file, f"{ticks}.length > 0")
    assert page.value(f"{ticks}.map(tick => tick.textContent)") == ["0", "0.5", "1", "1.5", "2"]


def test_it_draws_every_panel_and_has_nothing_to_complain_of(shown: Page, tmp_path: Path) -> None:
    picture = shown.screenshot(tmp_path / "report.png")
    assert image.imread(picture).shape[:2] == (1600, 1280)
    assert ink(picture, GREEN) > 400 and ink(picture, VERMILION) > 400
    assert shown.value(LINES) == [4, 4, 4, 4]  # three curves and the cross of the one that failed
    assert shown.problems == []


def test_it_asks_for_nothing_but_itself(shown: Page, report: Path) -> None:
    addresses = [url for url in shown.requests if not url.startswith("data:")]
    assert addresses == [report.as_uri()]


def test_a_click_hides_a_method_in_all_panels_and_shift_all_others(shown: Page) -> None:
    chips = "[...document.querySelectorAll('#problem-1 .chip')]"
    chip = f"{chips}.find(each => each.textContent.includes('Newton-CR'))"
    shown.value(f"{chip}.click()")
    assert shown.value(LINES) == [3, 3, 3, 3]
    assert shown.value(f"{chip}.getAttribute('aria-pressed')") == "false"
    shown.value(f"{chip}.click()")
    assert shown.value(LINES) == [4, 4, 4, 4]
    shown.value(f"{chip}.dispatchEvent(new MouseEvent('click', {{shiftKey: true}}))")
    assert shown.value(LINES) == [1, 1, 1, 1]
    shown.value("document.querySelector('#problem-1 [data-all=show]').click()")
    assert shown.value(LINES) == [4, 4, 4, 4]


def test_the_choices_change_what_is_shown_and_how(shown: Page) -> None:
    layout = "document.querySelector('#problem-1 .panel').layout"
    assert shown.value(f"[{layout}.xaxis.type, {layout}.yaxis.type]") == ["log", "log"]
    shown.value("document.querySelector('#problem-1 [data-quantity=train_accuracy]').click()")
    assert shown.value(f"{layout}.yaxis.title.text") == "training accuracy"
    shown.value("document.querySelector('#problem-1 [data-xscale=linear]').click()")
    assert shown.value(f"[{layout}.xaxis.type, {layout}.yaxis.type]") == ["linear", "linear"]


def test_bands_reach_from_the_least_to_the_greatest_value(shown: Page) -> None:
    band = """document.querySelector('#problem-1 .panel[data-cost=seconds]').data.find(
        trace => trace.fill === 'toself')"""
    x = np.array(shown.value(f"{band}.x"))
    np.testing.assert_allclose((x.min(), x.max()), (0, 0.07 * 1.4))
    np.testing.assert_allclose(x[:8], 0.01 * np.arange(8))  # the fastest run, then the slowest
    np.testing.assert_allclose(x[8:], [0.098, *0.014 * np.arange(8)[::-1]])  # its end is upright
    low = np.array(shown.value(f"{band}.y"))[7:9]
    assert low[0] == low[1]  # what the fastest had in the end it keeps until the slowest ends


def test_a_hostile_name_is_shown_as_it_is_written(shown: Page) -> None:
    chips = "[...document.querySelectorAll('#problem-1 .chip span')].map(s => s.textContent)"
    assert HOSTILE in shown.value(chips)
    assert shown.value("document.querySelectorAll('img, b b').length") == 0
    names = "document.querySelector('#problem-1 .panel').data.map(trace => trace.name || '')"
    assert not any("<" in name for name in shown.value(names))
    assert "taken" not in shown.value("document.title")


def test_the_user_s_preference_and_the_button_choose_light_or_dark(
    shown: Page, report: Path, tmp_path: Path
) -> None:
    def brightness() -> float:
        pixels = image.imread(shown.screenshot(tmp_path / "x.png"))[..., :3]
        return float(np.median(pixels))

    assert brightness() > 0.9
    shown.resize(1280, 1600, scheme="dark")
    shown.wait("getComputedStyle(document.body).backgroundColor !== 'rgb(246, 247, 249)'")
    assert brightness() < 0.2
    shown.value("document.getElementById('theme').click()")
    assert brightness() > 0.9
    assert shown.problems == []


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits_any_width(shown: Page, report: Path, width: int) -> None:
    shown.resize(width, 900)
    shown.open(report, "document.querySelectorAll('.main-svg').length > 0")
    assert shown.value("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('.panel')].every(p => p.clientWidth <= innerWidth)"
    assert shown.value(wide)


def test_profiles_follow_their_target(shown: Page) -> None:
    shown.value("document.getElementById('profiles').scrollIntoView()")
    shown.wait("document.querySelectorAll('#profiles .scatterlayer .trace').length === 3")
    shown.value("document.querySelector('#profiles [data-target=\"1e-12\"]').click()")
    shares = "document.querySelector('#profiles .panel').data.map(t => [t.name, Math.max(...t.y)])"
    assert [name for name, share in shown.value(shares) if share == 1] == ["Newton-CR"]


def test_a_click_on_a_head_sorts_its_table_numbers_as_numbers(shown: Page) -> None:
    """Of the second problem, where 2.7 s is more than 252 ms and 899 steps are more than 7."""
    times = "document.querySelectorAll('#problem-2 table.times')"
    endings = "document.querySelectorAll('#problem-2 table.numbers')"

    def click(table: str, head: str) -> tuple[list[str], list[list[str | None]]]:
        """Return the methods in order, and each sorted head's text and order."""
        shown.value(
            f"[...{table}[0].tHead.querySelectorAll('th button')]"
            f".find(button => button.textContent === '{head}').click()"
        )
        names = shown.value(
            f"[...{table}[0].tBodies[0].rows].map(row => row.cells[0].textContent.trim())"
        )
        marked = shown.value(
            f"[...{table}[0].tHead.querySelectorAll('[aria-sort]')]"
            f".map(head => [head.textContent, head.getAttribute('aria-sort')])"
        )
        return names, marked

    cr, cg, bad = "Newton-CR", "Newton-CG", HOSTILE
    assert click(endings, "Time") == ([bad, cr, cg], [["Time", "ascending"]])
    assert click(endings, "Steps") == ([bad, cr, cg], [["Steps", "ascending"]])
    assert click(endings, "Steps") == ([cg, cr, bad], [["Steps", "descending"]])
    assert click(endings, "Steps") == ([cr, cg, bad], [])  # as it was
    assert click(endings, "Method")[0] == [bad, cg, cr]
    assert click(times, "1e-6") == ([cr, cg, bad], [["1e-6", "ascending"]])
    assert click(times, "1e-6") == ([cg, cr, bad], [["1e-6", "descending"]])  # never stays last
    assert shown.problems == []


def test_every_control_can_be_reached_and_named(shown: Page) -> None:
    nameless = """[...document.querySelectorAll('button, a[href]')].filter(
        e => !(e.textContent.trim() || e.getAttribute('aria-label'))).length"""
    assert shown.value(nameless) == 0
    assert shown.value("document.documentElement.lang") == "en"
    order = "[...document.querySelectorAll('h1, h2, h3')].map(h => Number(h.tagName[1]))"
    levels = shown.value(order)
    assert levels[0] == 1 and all(b <= a + 1 for a, b in itertools.pairwise(levels))


def test_the_answer_is_the_largest_and_a_phone_shows_every_value(shown: Page) -> None:
    sizes = (
        "[...document.querySelectorAll('{}')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    answer = shown.value(sizes.format(".verdict, .answers li"))
    assert answer
    assert min(answer) > max(shown.value(sizes.format("h1, h2, h3, p:not(.verdict), td")))
    shown.resize(375, 812)
    outside = """[...document.querySelectorAll('details')].forEach(d => d.open = true),
        [...document.querySelectorAll('tbody :is(td, th)')].filter(e => {
            const box = e.getBoundingClientRect();
            return box.width && (box.left < 0 || box.right > 375);
        }).map(e => e.textContent)"""
    assert shown.value(outside) == []
    heads = "getComputedStyle(document.querySelector('.times td'), '::before').content"
    assert shown.value(heads) == '"1e-3"'


def test_a_logarithmic_time_axis_begins_at_the_first_step(shown: Page) -> None:
    axis = """(() => { const p = document.querySelector('#problem-1 .panel[data-cost=seconds]');
        const l = p._fullLayout.xaxis; return [l.type, l.range[0]]; })()"""
    shown.value("document.querySelector('#problem-1 [data-xscale=log]').click()")
    shown.wait(f"{axis}[0] === 'log'")
    assert shown.value(axis)[1] == pytest.approx(np.log10(0.7 * 0.001), abs=1e-6)
