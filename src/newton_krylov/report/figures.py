"""Figures of one run, of a study, and of a study's growth with the problem's size."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from newton_krylov.report.panel import (
    EPOCH,
    GRAD_NORM,
    L2_ERROR,
    LOSS,
    RESULTS,
    SECONDS,
    SUBOPTIMALITY,
    TEST_ACCURACY,
    TEST_LOSS,
    TRAIN_ACCURACY,
    Quantity,
    draw_panel,
    finish_axes,
    seconds_name,
    seconds_text,
    shown_costs,
)
from newton_krylov.report.profiles import Profile
from newton_krylov.report.records import RunRecord, read_record
from newton_krylov.report.scaling import Scaling
from newton_krylov.report.sheet import FORMATS, Key, Sheet, sheet
from newton_krylov.report.study import Entry, Study, studies
from newton_krylov.report.style import BLACK, CROWD, DISTINCT, GREY, LineStyle, line_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_METHODS_ALONE = 12
"""With more methods than this, they are not drawn one by one."""

FEATURED = 24
"""With more methods than this, the best have a colour each, and the others are grey."""


def draw_run(folder: Path) -> list[Path]:
    """Draw one run: how far it came against its steps and its seconds, and its accuracy.

    How far: the error of an equation's solution, else the suboptimality, else the gradient norm.

    Parameters
    ----------
    folder : Path
        A run's folder.

    Returns
    -------
    list of Path
        The files, in `folder/figures`; none where the run made no step.
    """
    record = read_record(folder)
    if not record.rows:
        return []
    with _run_sheet(record) as page:
        return page.save(folder / "figures", "run", formats=("png",))


def run_figure(record: RunRecord) -> "Figure":
    """Return the figure of one run, as `draw_run` writes it.

    Parameters
    ----------
    record : RunRecord
        With at least one row.

    Returns
    -------
    Figure
        Matplotlib's.
    """
    with _run_sheet(record) as page:
        return page.finish()


@contextmanager
def _run_sheet(record: RunRecord) -> Iterator[Sheet]:
    (study,) = studies([record])
    label = study.entries[0].label
    styles = line_styles([label])
    y = L2_ERROR if study.solution_known else _measure(study)
    with sheet(1, 3, label, study.problem.title, dpi=110) as page:
        for ax, x in zip(page.axes[:2], (EPOCH, SECONDS), strict=True):
            draw_panel(ax, study, styles, x, y)
        page.axes[1].set_title("")
        _draw_fit(page.axes[2], record)
        yield page


def _draw_fit(ax: "Axes", record: RunRecord) -> None:
    """Draw training and test accuracy against the epochs; the losses where there is none."""
    known = [q for q in (TRAIN_ACCURACY, TEST_ACCURACY) if _has(record, q)]
    known = known or [q for q in (LOSS, TEST_LOSS) if _has(record, q)]
    for quantity, dash in zip(known, ("-", "--"), strict=False):
        values = record.column(quantity.column)
        ax.plot(record.column("iteration"), values, dash, color=BLACK, label=quantity.name)
    if len(known) > 1:
        ax.legend(loc="center right")
    if known:
        accuracy = known[0].rising
        finish_axes(ax, EPOCH, Quantity("accuracy", "accuracy") if accuracy else LOSS)


def _has(record: RunRecord, y: Quantity) -> bool:
    return bool(np.isfinite(record.column(y.column)).any())


_DRAWN_TOGETHER = (SUBOPTIMALITY, GRAD_NORM, LOSS, TRAIN_ACCURACY, TEST_ACCURACY, TEST_LOSS)
"""Results that have a place in the figures; each further one has a figure of its own."""


def draw_study(study: Study, folder: Path) -> list[Path]:
    """Draw all figures of a study.

    Where the study names a benchmark, a method whose final loss is a second benchmark of
    suboptimality (as gradient descent's is in the paper), every method has a figure of its own
    that shows both.
    """
    drawable = [entry for entry in study.entries if any(record.rows for record in entry.records)]
    if not drawable:
        return []
    files = draw_overview(study, folder)
    measure = _measure(study)
    for name, quantities in (
        (measure.name.replace(" ", "-"), (measure,)),
        ("loss", (LOSS,)),
        ("accuracy", (TRAIN_ACCURACY, TEST_ACCURACY)),
        *((slug(q.name), (q,)) for q in RESULTS if q not in _DRAWN_TOGETHER),
    ):
        files += draw_against_costs(study, quantities, folder, name)
    if study.benchmark is not None and len(drawable) <= _METHODS_ALONE:
        names = slugs([entry.label for entry in drawable])
        for entry, name in zip(drawable, names, strict=True):
            files += draw_method(study, entry, folder, f"method-{name}")
    return files


def draw_overview(
    study: Study, folder: Path, name: str = "overview", formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Draw suboptimality, loss and accuracy against the epoch and the clock, on one page."""
    with _overview_sheet(study) as page:
        return page.save(folder, name, formats)


def overview_figure(study: Study) -> "Figure":
    """Return the figure of a study's methods, as `draw_overview` writes it.

    Parameters
    ----------
    study : Study
        With a run that made a step.

    Returns
    -------
    Figure
        Matplotlib's.
    """
    with _overview_sheet(study) as page:
        return page.finish()


@contextmanager
def _overview_sheet(study: Study) -> Iterator[Sheet]:
    styles = study_styles(study)
    shown = (L2_ERROR, _measure(study), LOSS, TRAIN_ACCURACY)
    quantities = [q for q in shown if _known(study, q)]
    title = ", ".join(q.name for q in quantities).capitalize()
    with sheet(2, len(quantities), title, study.problem.title, key=_key(study)) as page:
        axes = iter(page.axes)
        for x in (EPOCH, SECONDS):
            for y in quantities:
                draw_panel(next(axes), study, styles, x, y)
        yield page


def draw_against_costs(
    study: Study,
    quantities: Sequence[Quantity],
    folder: Path,
    name: str,
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Draw quantities against every cost, the longest run shown to its end."""
    styles = study_styles(study)
    quantities = [q for q in quantities if _known(study, q)]
    costs = shown_costs(study)
    if not quantities or not costs:
        return []
    title = " and ".join(q.name for q in quantities).capitalize()
    with sheet(len(quantities), len(costs), title, study.problem.title, key=_key(study)) as page:
        axes = iter(page.axes)
        for y in quantities:
            row = [next(axes) for _ in costs]
            for ax in row[1:]:
                ax.sharey(row[0])
            for ax, x in zip(row, costs, strict=True):
                draw_panel(ax, study, styles, x, y, whole=True)
            for ax in row[1:]:
                ax.set_title("")
                ax.tick_params(labelleft=False)
        return page.save(folder, name, formats)


def draw_method(
    study: Study, entry: Entry, folder: Path, name: str, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Draw one method's suboptimality, as the paper's figures 1 to 3 do."""
    y = _measure(study)
    alone, styles = Study(study.problem, [entry]), study_styles(study)
    with sheet(1, 2, entry.label, study.problem.title) as page:
        for ax, x in zip(page.axes, (EPOCH, SECONDS), strict=True):
            draw_panel(ax, alone, styles, x, y)
        page.axes[1].set_title("")
        if study.benchmark not in (None, entry.label) and y is SUBOPTIMALITY:
            _add_benchmark(page.axes[0], study, entry, str(study.benchmark))
        return page.save(folder, name, formats)


def study_styles(study: Study) -> Mapping[str, LineStyle]:
    """Give the methods of a study their styles, the same in all figures that go together."""
    best = {entry.label for entry in study.ranked[:FEATURED]}
    shown = [entry.label for entry in study.entries if entry.label in best]
    return shared_styles(shown, study.family)


def shared_styles(labels: Iterable[str], family: Iterable[str]) -> dict[str, LineStyle]:
    """Give labels the styles that they have among all that are shown together."""
    labels, family = list(labels), list(family)
    styles = line_styles(labels + (family if len(family) <= DISTINCT else []))
    return {label: styles[label] for label in labels}


def _add_benchmark(ax: "Axes", study: Study, entry: Entry, benchmark: str) -> None:
    """Add the suboptimality against another method's final loss, where that is positive."""
    value, curve = study.final_loss(benchmark), entry.curve("iteration", "loss")
    if value is None or curve is None:
        return
    above = curve.y - value
    shown = above > 0
    ax.plot(
        curve.x[shown],
        above[shown],
        linestyle=(0, (2, 2)),
        marker="o",
        markersize=10,
        markerfacecolor="none",
        color=GREY,
        linewidth=1.0,
        zorder=1.5,
    )
    name = benchmark.lower()
    lines = [f"○  against {name}'s final loss"]
    if not shown.all():
        first = int(curve.x[np.flatnonzero(~shown)[0]])
        lines.append(f"     (epochs ≥ {first} lie below that)")
    ax.text(
        0.03, 0.2, "\n".join(lines), transform=ax.transAxes, va="bottom", fontsize=7.5, color=GREY
    )


def draw_scaling(
    scaling: Scaling, folder: Path, name: str = "scaling", formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Draw the time to a suboptimality against the problem's size, and the ratio to the fastest."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    styles = line_styles(scaling.seconds)
    key = [(_with_slope(label, scaling.slope(label)), styles[label]) for label in scaling.seconds]
    target = f"{scaling.target:.0e}".replace("e-0", "e-")
    title = f"Time to suboptimality {target} as the problem grows"
    with sheet(1, 2, title, scaling.title, key=key) as page:
        ratios = scaling.ratios()
        for ax, values in zip(page.axes, (scaling.seconds, ratios), strict=True):
            for order, (label, y) in enumerate(values.items()):
                style = styles[label]
                ax.plot(
                    scaling.sizes, y, color=style.color, marker=style.marker,
                    linestyle=style.dash, markerfacecolor="white", markersize=7.4 - 0.8 * order,
                )  # fmt: skip
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xlabel("number of features  d")
            ax.xaxis.set_major_locator(FixedLocator(list(scaling.sizes)))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_minor_locator(NullLocator())
        page.axes[0].set_title(seconds_name(scaling.clock))
        page.axes[0].yaxis.set_major_formatter(FuncFormatter(lambda v, _: seconds_text(v)))
        page.axes[1].set_title("times the fastest method's")
        page.axes[1].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}×"))
        return page.save(folder, name, formats)


def draw_profiles(
    made: Sequence[Profile], family: Sequence[str], folder: Path, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Draw performance profiles by seconds, a panel a target."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

    made = [profile for profile in made if profile.cost == SECONDS.column]
    if not made:
        return []
    labels = list(dict.fromkeys(label for profile in made for label in profile.ratios))
    styles = shared_styles(labels, family)
    title = f"Performance profiles over {made[0].problems} problems"
    subtitle = "Share of the problems that a method solves within a factor of the fastest method"
    key = [(label, styles[label]) for label in labels]
    with sheet(1, len(made), title, subtitle, key=key) as page:
        for ax, profile in zip(page.axes, made, strict=True):
            for label, ratios in profile.ratios.items():
                style, end = styles[label], 1.25 * profile.largest
                x = np.concatenate([[1.0], np.repeat(ratios, 2), [end]])
                y = np.repeat(np.arange(len(ratios) + 1), 2) / profile.problems
                ax.plot(x, y, color=style.color, linestyle=style.dash)
                ax.plot(ratios, y[2::2], style.marker, color=style.color, markerfacecolor="white")
            ax.set_xscale("log")
            ax.set_ylim(-0.03, 1.03)
            ax.set_title(f"to {profile.target}")
            ax.set_xlabel("times the fastest method's seconds")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}×"))
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if profile.largest < 50 else (1,)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_formatter(PercentFormatter(1.0))
        return page.save(folder, "profiles", formats)


def _with_slope(label: str, slope: float) -> str:
    return f"{label}  ∝ d^{slope:.2f}" if np.isfinite(slope) else label


def _measure(study: Study) -> Quantity:
    """Return the quantity that measures the distance from the optimum."""
    return SUBOPTIMALITY if _known(study, SUBOPTIMALITY) else GRAD_NORM


def _known(study: Study, y: Quantity) -> bool:
    return any(entry.curve("iteration", y.column) is not None for entry in study.entries)


def _key(study: Study) -> Key:
    styles = study_styles(study)

    def text(entry: Entry) -> str:
        return f"{entry.label} (✕ {entry.failures[0].status})" if entry.failures else entry.label

    key = [(text(entry), styles[entry.label]) for entry in study.entries if entry.label in styles]
    others = len(study.entries) - len(key)
    return key + ([(f"{others} others", LineStyle(CROWD, ""))] if others else [])


_LONGEST_NAME = 100  # letters; a file system takes some 255 bytes


def slug(label: str) -> str:
    """Turn a label into a file name: lower case, ASCII letters, digits and single hyphens."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in label.lower()).split()
    return "-".join(words)[:_LONGEST_NAME].strip("-")


def slugs(labels: Sequence[str]) -> list[str]:
    """Return file names as in `slug`, numbered where two are equal or one is empty."""
    names = [slug(label) for label in labels]
    found: list[str] = []
    for i, name in enumerate(names):
        mark = name if name and names.count(name) == 1 else f"{name}-{i}".lstrip("-")
        while mark in found or (mark != name and mark in names):  # another label ends in a number
            mark += f"-{i}"
        found.append(mark)
    return found
