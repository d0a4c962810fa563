import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from run_folders import row, rows, write_run

from newton_krylov.report.figures import draw_run, draw_study, slug, slugs
from newton_krylov.report.html.data import study_data
from newton_krylov.report.panel import (
    EPOCH,
    LOSS,
    PRODUCTS,
    SECONDS,
    SUBOPTIMALITY,
    TRAIN_ACCURACY,
    Quantity,
    amount_text,
    draw_panel,
    power_of_ten,
    seconds_text,
    spread,
)
from newton_krylov.report.records import read_records
from newton_krylov.report.results import caution_text
from newton_krylov.report.sheet import sheet
from newton_krylov.report.study import Study, studies
from newton_krylov.report.style import DISTINCT, GREEN, line_styles


def panel(folder: Path, x: Quantity, y: Quantity, *, whole: bool = False) -> tuple[Axes, Study]:
    (study,) = studies(read_records([folder]))
    with sheet(1, 1, "title", "subtitle") as page:
        (ax,) = page.axes
        styles = line_styles(entry.label for entry in study.entries)
        draw_panel(ax, study, styles, x, y, whole=whole)
    return ax, study


def texts(ax: Axes) -> str:
    return "\n".join(text.get_text() for text in ax.texts)


def test_a_panel_shows_the_trace_itself_and_names_its_axes(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0, 0.1, 1e-5]), label="Newton-CR")
    ax, _ = panel(tmp_path, EPOCH, SUBOPTIMALITY)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[0, 1], [1, 0.1], [2, 1e-5]])
    assert ax.lines[0].get_color() == GREEN
    assert ax.get_yscale() == "log" and ax.get_xscale() == "linear"
    assert ax.get_xlabel() == "epoch (outer iteration)"
    assert ax.get_title(loc="left") == "suboptimality  f(w) − f*"


@pytest.mark.parametrize(
    ("clocks", "axis", "said"),
    [
        (["wall", "wall"], "wall-clock time of the optimizer", None),
        (["processor"] * 2, "processor time of the optimizer", "(clock=processor)"),
        (["wall", "processor"], "wall-clock or processor time of the optimizer", "two clocks"),
    ],
)
def test_an_axis_of_seconds_and_the_words_below_say_which_clock_they_are_of(
    tmp_path: Path, clocks: list[str], axis: str, said: str | None
) -> None:
    for label, clock in zip("AB", clocks, strict=True):
        write_run(tmp_path / label, rows([1.0, 0.1, 1e-5]), label=label, clock=clock)
    ax, study = panel(tmp_path, SECONDS, SUBOPTIMALITY)
    assert ax.get_xlabel() == axis
    assert {cost["column"]: cost["name"] for cost in study_data(study)["costs"]}["seconds"] == axis
    words = str(caution_text(study))
    assert ("clock" in words) == (said is not None) and (said or "") in words


def test_values_below_the_rounding_error_lie_on_the_floor_and_none_is_lost(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0, 1e-8, 1e-18, 0.0, -2e-17]))
    ax, study = panel(tmp_path, EPOCH, SUBOPTIMALITY)
    assert study.floor is not None
    np.testing.assert_allclose(
        ax.lines[0].get_ydata(), [1.0, 1e-8, study.floor, study.floor, study.floor]
    )
    assert ax.lines[1].get_ydata() == [study.floor, study.floor]  # the dashed line
    assert "rounding error" in texts(ax)
    assert ax.get_ylim()[0] < study.floor


def test_a_long_run_does_not_stretch_a_linear_axis_but_says_where_it_ends(tmp_path: Path) -> None:
    for i in range(2):
        trace = rows([10.0**-k for k in range(11)])
        write_run(tmp_path / f"n{i}", trace, label=f"Newton {i}")
    write_run(tmp_path / "gd", rows([0.99**k for k in range(1500)]), label="Gradient descent")
    ax, _ = panel(tmp_path, EPOCH, SUBOPTIMALITY)
    assert ax.get_xlim()[1] == pytest.approx(10.3)
    assert "to 1,499 ▸" in texts(ax)
    ax, _ = panel(tmp_path, EPOCH, SUBOPTIMALITY, whole=True)
    assert ax.get_xscale() == "symlog" and ax.get_xlim()[1] > 1499
    assert "▸" not in texts(ax)


def test_the_labels_of_curves_that_go_on_stand_apart_in_the_panel(tmp_path: Path) -> None:
    write_run(tmp_path / "n", rows([10.0**-k for k in range(11)]), label="Newton 0")
    for i in range(5):
        write_run(tmp_path / f"n{i + 1}", rows([10.0**-k for k in range(11)]), label=f"N {i}")
    for i in range(4):  # all but equal
        trace = rows([(0.99 - 1e-6 * i) ** k for k in range(1500 + i)])
        write_run(tmp_path / f"gd{i}", trace, label=f"Gradient descent {i}")
    ax, _ = panel(tmp_path, EPOCH, SUBOPTIMALITY)
    heights = sorted(t.get_position()[1] for t in ax.texts if "▸" in t.get_text())
    assert len(heights) == 4
    assert np.diff(heights).min() > 0.059 and heights[0] >= 0 and heights[-1] < 0.95
    assert "to 1,500 ▸" in texts(ax)


def test_a_label_stands_by_the_end_of_its_curve(tmp_path: Path) -> None:
    for i in range(2):
        write_run(tmp_path / f"n{i}", rows([0.5] * 11, train_accuracy=0.99), label=f"Newton {i}")
    long = rows([0.5] * 1500, train_accuracy=0.75)
    write_run(tmp_path / "gd", long, label="Gradient descent")
    ax, _ = panel(tmp_path, EPOCH, TRAIN_ACCURACY)
    (height,) = [t.get_position()[1] for t in ax.texts if "▸" in t.get_text()]
    end = ax.transAxes.inverted().transform(ax.transData.transform((0, 0.75)))[1]
    assert 0 < height - end < 0.05


@given(st.lists(st.floats(-0.5, 1.5), max_size=9))
def test_labels_move_apart_no_more_than_they_must(heights: list[float]) -> None:
    heights.sort()
    moved = spread(heights)
    assert np.all(np.diff(moved) >= 0.06 - 1e-9)
    assert np.all((moved >= 0) & (moved <= 0.94 + 1e-9))
    fits = [0 <= h <= 0.94 for h in heights]
    if all(fits) and np.all(np.diff(heights) >= 0.06):
        np.testing.assert_allclose(moved, heights)


def test_a_logarithmic_axis_begins_with_the_first_step_and_its_labels_stay_apart(
    tmp_path: Path,
) -> None:
    for i, seconds in enumerate([20.0, 900.0]):  # what the start cost is no step's time
        trace = [row(0, 1.0, 1e-4), row(1, 0.5, seconds), row(2, 0.1, 2 * seconds)]
        write_run(tmp_path / str(i), trace, label=f"Newton {i}")
    ax, _ = panel(tmp_path, SECONDS, SUBOPTIMALITY, whole=True)
    ticks = ax.get_xticks()
    np.testing.assert_allclose(ticks, [0, 30, 100, 300, 1000])
    places = ax.transData.transform(np.column_stack([ticks, np.ones(5)]))[:, 0]
    assert np.diff(places).min() > 0.1 * ax.bbox.width
    start = ax.transData.transform((1e-4, 1.0))[0]
    assert start - places[0] < 0.01 * ax.bbox.width


def test_runs_that_ended_at_their_start_are_drawn_all_the_same(tmp_path: Path) -> None:
    for i, seconds in enumerate([1e-4, 1e-2]):
        write_run(tmp_path / str(i), [row(0, 1.0, seconds)], label=f"Newton {i}")
    ax, _ = panel(tmp_path, SECONDS, SUBOPTIMALITY, whole=True)
    assert ax.get_xlim()[1] == pytest.approx(1.5e-2)


def test_many_decades_have_a_label_each_at_most(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0, 0.1], step_seconds=1e-4), label="quick")
    write_run(tmp_path / "1", rows([1.0, 0.1], step_seconds=1e5), label="slow")
    ax, _ = panel(tmp_path, SECONDS, SUBOPTIMALITY, whole=True)
    np.testing.assert_allclose(ax.get_xticks(), [0, 1e-3, 1e-1, 1e1, 1e3, 1e5])


def test_long_curves_are_thinned_but_keep_both_ends(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([0.99**k for k in range(1500)]))
    ax, _ = panel(tmp_path, EPOCH, SUBOPTIMALITY)
    x = np.asarray(ax.lines[0].get_xdata())
    assert (x[0], x[-1]) == (0, 1499)
    assert 200 < len(x) <= 300


def test_repetitions_draw_a_band_that_holds_every_run(tmp_path: Path) -> None:
    for i, step in enumerate([1.0, 2.0, 4.0]):
        write_run(tmp_path / str(i), rows([1.0, 0.1], step_seconds=step), repeat=i)
    ax, _ = panel(tmp_path, SECONDS, SUBOPTIMALITY)
    (band,) = ax.patches[:1]
    corners = band.get_xy()
    assert corners[:, 0].min() == 0 and corners[:, 0].max() == 4.0
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0, 2])


def test_a_band_ends_upright_where_the_slowest_run_ends(tmp_path: Path) -> None:
    """The fastest run keeps its last value until then: no slanting edge between the two ends."""
    for i, (last, step) in enumerate([(1e-3, 1.0), (1e-2, 2.0), (1e-1, 4.0)]):
        write_run(tmp_path / str(i), rows([1.0, last], step_seconds=step), repeat=i)
    ax, _ = panel(tmp_path, SECONDS, SUBOPTIMALITY)
    (band,) = ax.patches[:1]
    corners = band.get_xy()
    np.testing.assert_allclose(np.sort(corners[corners[:, 0] == 4.0, 1]), [1e-3, 1e-1])


def test_a_failed_run_ends_in_a_cross_at_its_last_finite_value(tmp_path: Path) -> None:
    trace = [row(0, 1.0, 0.0), row(1, 0.5, 1.0), row(2, math.inf, 2.0)]
    write_run(tmp_path / "0", trace, status="failed", reason="the loss is inf")
    ax, _ = panel(tmp_path, EPOCH, SUBOPTIMALITY)
    cross = next(line for line in ax.lines if line.get_marker() == "X")
    np.testing.assert_allclose(cross.get_xydata(), [[1, 0.5]])


def test_a_method_whose_steps_cost_nothing_of_the_kind_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0, 0.1]), label="Newton-CG")
    write_run(tmp_path / "1", rows([1.0, 0.1], hvp_count=7.0), label="Gradient descent")
    ax, _ = panel(tmp_path, PRODUCTS, TRAIN_ACCURACY)
    assert len(ax.lines) == 1


def test_a_run_is_drawn_into_its_own_folder_and_the_picture_is_not_empty(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "0", rows([1.0, 0.1, 1e-5]), label="Newton-CR")
    (file,) = draw_run(folder)
    assert file == folder / "figures" / "run.png"
    pixels = image.imread(file)[..., :3]
    assert pixels.shape[0] > 300 and pixels.shape[1] > 900
    green = np.abs(pixels - np.array(to_rgb(GREEN))).max(axis=2) < 0.02
    assert green.sum() > 300  # the curve, in its method's colour
    assert (pixels.mean(axis=2) < 0.5).any(axis=1).mean() > 0.5  # ink all over, not only a title


def test_a_letter_that_the_font_lacks_is_no_warning(tmp_path: Path, recwarn) -> None:
    write_run(tmp_path / "0", rows([1.0, 0.1]), label="\U00013000 \u0995\u09be \u5b57")
    draw_run(tmp_path / "0")
    (study,) = studies(read_records([tmp_path]))
    draw_study(study, tmp_path / "figures")
    assert not [str(each.message) for each in recwarn]


def test_a_run_without_a_step_has_no_figure(tmp_path: Path) -> None:
    assert draw_run(write_run(tmp_path / "0", [], status="failed")) == []


def test_a_regression_s_run_shows_losses_instead_of_accuracies(tmp_path: Path) -> None:
    nan = float("nan")
    trace = rows([1.0, 0.1], train_accuracy=nan, test_accuracy=nan)
    assert draw_run(write_run(tmp_path / "0", trace))[0].exists()


def test_ticks_of_a_large_loss_are_whole_and_accuracies_end_at_100_percent(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([4e10, 2e10, 1e10], train_accuracy=0.994))
    (study,) = studies(read_records([tmp_path]))
    with sheet(1, 2, "title", "subtitle") as page:
        for ax, y in zip(page.axes, (LOSS, TRAIN_ACCURACY), strict=True):
            draw_panel(ax, study, line_styles(["Newton-CG"]), EPOCH, y)
        page.finish()
    loss, accuracy = (texts(ax).splitlines() for ax in page.axes)
    assert {"1e+10", "4e+10"} <= set(loss)
    assert max(float(text[:-1]) for text in accuracy if text.endswith("%")) == 100


def test_a_study_s_figures_are_there_in_both_formats(tmp_path: Path) -> None:
    for i, label in enumerate(["Exact Newton", "Newton-CR"]):
        write_run(tmp_path / str(i), rows([1.0, 0.1, 1e-5]), label=label)
    (study,) = studies(read_records([tmp_path]))
    names = {file.name for file in draw_study(study, tmp_path / "figures")}
    stems = {"overview", "suboptimality", "loss", "accuracy"}
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")}
    assert all((tmp_path / "figures" / name).stat().st_size > 5000 for name in names)


def test_styles_are_distinct_fixed_and_the_same_in_any_order() -> None:
    labels = ["Newton-CR", "Gradient descent", *(f"method {i}" for i in range(12))]
    styles = line_styles(labels)
    assert styles == line_styles(reversed(labels))
    assert styles["Newton-CR"].color == GREEN
    assert len({(s.color, s.dash) for s in styles.values()}) == len(labels)


def test_drawing_leaves_matplotlib_s_settings_alone(tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    draw_run(write_run(tmp_path / "0", rows([1.0, 0.1])))
    assert dict(mpl.rcParams) == before
    assert isinstance(Figure(), Figure)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0"),
        (3.2e-6, "3.2 µs"),
        (0.0123, "12.3 ms"),
        (0.9999, "1 s"),
        (1.5, "1.5 s"),
        (2345.0, "2,345 s"),
        (math.inf, "never"),
        (math.nan, "–"),
    ],
)
def test_durations_are_written_with_their_unit(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (0.05, "0.05"), (1712.0, "1,712")])
def test_costs_that_count_parts_of_the_samples_are_not_rounded_to_zero(
    value: float, text: str
) -> None:
    assert amount_text(PRODUCTS, value) == text


def test_ticks_and_file_names() -> None:
    assert power_of_ten(1e-12) == "10⁻¹²"
    assert (power_of_ten(1.0), power_of_ten(0.2), power_of_ten(0.0)) == ("10⁰", "0.2", "0")
    assert slugs(["a b", "a-b", "c", "\u5b9e\u9a8c"]) == ["a-b-0", "a-b-1", "c", "3"]
    assert len(set(slugs(["a", "A", "a-0", "a 1", "a-0-0", "0", "!", "?"]))) == 8
    assert slug("a9a · n = 32,561, λ = 0.01") == "a9a-n-32-561-0-01"


def test_methods_of_one_colour_differ_by_dash_and_by_marker() -> None:
    known = ["Newton-CG", "Newton-CR", "Exact Newton", "Gradient descent"]
    for taken in range(5):
        styles = line_styles([*known[:taken], *(f"method {i}" for i in range(DISTINCT - taken))])
        assert len({(s.color, s.dash) for s in styles.values()}) == DISTINCT
        assert len({(s.color, s.marker) for s in styles.values()}) == DISTINCT


def test_labels_at_the_edge_are_over_no_curve_where_there_is_room(tmp_path: Path) -> None:
    for i in range(6):  # they end one below the other, at the right edge
        trace = rows([10.0 ** (-k * (i + 1) / 10) for k in range(11)])
        write_run(tmp_path / f"n{i}", trace, label=f"Newton {i}")
    for i in range(3):
        trace = rows([10.0 ** (-k * (2 * i + 1) / 1500) for k in range(1500)])
        write_run(tmp_path / f"gd{i}", trace, label=f"Gradient descent {i}")
    ax, _ = panel(tmp_path, EPOCH, SUBOPTIMALITY)
    heights = [t.get_position()[1] for t in ax.texts if "▸" in t.get_text()]
    assert len(heights) == 3
    for line in ax.lines:
        points = (line.get_transform() - ax.transAxes).transform(line.get_xydata())
        across = np.linspace(0.82, 1.0, 40)
        curve = np.interp(across, *points.T, left=np.nan, right=np.nan)
        for height in heights:
            assert not np.any((height < curve) & (curve < height + 0.055))


def test_labels_of_a_horizontal_axis_stand_apart(tmp_path: Path) -> None:
    with sheet(1, 1, "title", "subtitle") as made:
        (ax,) = made.axes
        ax.set_xlim(0, 9_000_000)
        ax.set_xticks([1e6 * k for k in range(10)])
        ax.xaxis.set_major_formatter("{x:,.0f} passes")
        made.finish()
        made.figure.canvas.draw()
        boxes = [t.get_window_extent() for t in ax.texts if "passes" in t.get_text()]
    boxes.sort(key=lambda box: box.x0)
    assert len(boxes) > 2 and all(a.x1 < b.x0 for a, b in pairwise(boxes))
