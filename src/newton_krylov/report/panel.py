"""One panel: the curves of a study's methods, one quantity against another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from newton_krylov.records.trace import COLUMNS
from newton_krylov.report.study import Array, Curve, Entry, Study
from newton_krylov.report.style import BLACK, CROWD, FAINT_TEXT, GREY, LIGHT, LineStyle
from newton_krylov.report.tables import number_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STRETCH = 10.0
"""A run longer than this times the median of the runs does not stretch a linear axis."""
_SPREAD = 20.0
"""Where the longest run is this times as long as the shortest, a whole axis is logarithmic."""
_POINTS = 300
"""More points than this a panel cannot show."""
_FEW_TICKS, _MANY_TICKS = 3, 6
"""Fewer powers of ten than this on an axis are not enough, more labels than this collide."""
_MARKERS = 26
"""Up to so many points, each gets a marker."""
_LINE = 0.06
"""Height of a label at the edge, in panels."""
_LABEL_WIDTH, _CLEAR = 0.2, 0.012
"""Width of a label at the edge, and how far it keeps from curves, in panels."""
_ABOVE = 0.024
"""How far above its curve a label stands, in panels."""
_MOST_LABELS = 9
"""More labels than this at the edge would hide the curves."""


@dataclass(frozen=True)
class Quantity:
    """A column of the trace on an axis.

    Attributes
    ----------
    column : str
        Column of the trace.
    name : str
        Name for people.
    symbol : str
        Formula, for the axis.
    log : bool
        Whether its axis is logarithmic.
    rising : bool
        Whether more is better.
    """

    column: str
    name: str
    symbol: str = ""
    log: bool = False
    rising: bool = False

    @property
    def title(self) -> str:
        """Name and formula."""
        return f"{self.name}  {self.symbol}".rstrip()


@cache  # so that a quantity is one object
def quantity(name: str) -> Quantity:
    """Return a column of the trace as a quantity, by its name."""
    column = COLUMNS[name]
    return Quantity(name, column.title, column.symbol, log=column.log, rising=column.rising)


EPOCH, SECONDS, PASSES = map(quantity, ("iteration", "seconds", "data_passes"))
SUBOPTIMALITY, GRAD_NORM, LOSS = map(quantity, ("suboptimality", "grad_norm", "loss"))
TRAIN_ACCURACY, TEST_ACCURACY = map(quantity, ("train_accuracy", "test_accuracy"))
TEST_LOSS, PRODUCTS, L2_ERROR = map(quantity, ("test_loss", "hvp_count", "l2_error"))

_AXES = [column for column in COLUMNS.values() if "axis" in column.shown]
RESULTS = tuple(quantity(column.name) for column in _AXES if column.kind == "result")
# The steps, then the clock, then what depends on the machine less.
COSTS = (
    EPOCH,
    *(quantity(c.name) for c in reversed(_AXES) if c.kind != "result" and c.name != "iteration"),
)


def cost_name(study: Study, x: Quantity) -> str:
    """Return what a cost is called on an axis; of seconds, by which clock they were counted."""
    return seconds_name(study.clock) if x is SECONDS else x.name


def seconds_name(clock: str) -> str:
    """Return what seconds of a clock, an adjective, are called on an axis."""
    return f"{clock} time of the optimizer"


def draw_panel(
    ax: "Axes",
    study: Study,
    styles: Mapping[str, LineStyle],
    x: Quantity,
    y: Quantity,
    *,
    whole: bool = False,
) -> None:
    """Draw every method's curve of y against x.

    A linear axis ends where the ordinary runs do, and says how far a longer one goes. With
    `whole`, such an axis becomes logarithmic instead, and shows all of it.
    """
    extents = [extent for entry in study.entries if (extent := extent_of(entry, x)) > 0]
    if not extents:
        return
    floor = study.floor if y is SUBOPTIMALITY else None
    logarithmic = whole and max(extents) > _SPREAD * min(extents)
    limit = max(extents) if whole else _limit(extents)
    _scale_axes(ax, study, x, y, limit, logarithmic=logarithmic)
    crowd, longer = [], []
    for order, entry in enumerate(study.entries):
        curve = entry.curve(x.column, y.column)
        if curve is None or not curve.x[-1] > curve.x[0]:  # its steps do not cost this
            continue
        curve = _thinned(_raised(curve, floor), limit, logarithmic=logarithmic)
        if entry.label not in styles:
            crowd.append(np.column_stack([curve.x, curve.y]))
            continue
        _draw_curve(ax, curve, styles[entry.label], order, rising=y.rising)
        if entry.failures:
            _cross_out(ax, curve)
        if extent_of(entry, x) > 1.03 * limit:
            longer.append(_Longer(curve, styles[entry.label].color, extent_of(entry, x)))
    if crowd:
        _draw_crowd(ax, crowd)
    if floor is not None:
        _mark_floor(ax, floor, study.problem.dtype)
    _point_on(ax, longer, limit, x)
    finish_axes(ax, x, y, logarithmic=logarithmic)
    ax.set_xlabel(cost_name(study, x))


def extent_of(entry: Entry, x: Quantity) -> float:
    """Return how far a method's runs go along an axis."""
    ends = entry.last(x.column)
    ends = ends[np.isfinite(ends)]
    return float(np.median(ends)) if ends.size else 0.0


def shown_costs(study: Study) -> list[Quantity]:
    """Return the costs that any run of a study has."""
    return [x for x in COSTS if any(extent_of(entry, x) > 0 for entry in study.entries)]


def _limit(extents: Sequence[float]) -> float:
    """Return the end of a linear axis: the longest run that is not disproportionately long."""
    middle = float(np.median(extents))
    return max(extent for extent in extents if extent <= _STRETCH * middle)


def _scale_axes(
    ax: "Axes", study: Study, x: Quantity, y: Quantity, limit: float, *, logarithmic: bool
) -> None:
    if y.log:
        ax.set_yscale("log")
    if not logarithmic:
        ax.set_xlim(-0.02 * limit, 1.03 * limit)
        return
    columns = [record.column(x.column) for record in study.records]
    # What the start cost says nothing of the steps: it lies on the linear piece next to zero.
    steps = (c[1:][c[1:] > 0] for c in columns)
    first = min((float(c.min()) for c in steps if c.size), default=limit)
    high = 1.5 * limit
    if any(np.any(c < first) for c in columns):
        ax.set_xscale("symlog", linthresh=first, linscale=0.6)
        ax.set_xlim(0, high)
        ax.set_xticks([0.0, *_round_numbers(first, high)])
    else:
        low = 0.7 * first
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        ax.set_xticks(_round_numbers(low, high))


def _round_numbers(low: float, high: float) -> list[float]:
    """Return powers of ten between two numbers, not too many; of few, three times each too."""
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    if len(powers) < _FEW_TICKS:
        every = (m * 10.0**p for p in range(powers.start - 1, powers.stop) for m in (1, 3))
        return [value for value in every if low <= value <= high]
    stride = math.ceil(len(powers) / _MANY_TICKS)
    return [10.0**p for p in powers[::-stride][::-1]]


def _raised(curve: Curve, floor: float | None) -> Curve:
    """Lift suboptimalities below the rounding error to it: they are noise, some even negative."""
    if floor is None:
        return curve
    low, high = curve.y_range
    return Curve(
        curve.x,
        np.maximum(curve.y, floor),
        curve.x_range,
        (np.maximum(low, floor), np.maximum(high, floor)),
    )


def _thinned(curve: Curve, limit: float, *, logarithmic: bool) -> Curve:
    """Leave out what lies beyond the axis, and points closer than a panel can show."""
    visible = min(len(curve.x), int(np.searchsorted(curve.x, 1.05 * limit)) + 1)
    if visible > _POINTS:
        space = np.geomspace(1, visible, _POINTS) if logarithmic else np.linspace(
            1, visible, _POINTS
        )  # fmt: skip
        keep = np.unique(space.round().astype(int)) - 1
    else:
        keep = np.arange(visible)

    def both(pair: tuple[Array, Array]) -> tuple[Array, Array]:
        return pair[0][keep], pair[1][keep]

    return Curve(curve.x[keep], curve.y[keep], both(curve.x_range), both(curve.y_range))


def _draw_curve(ax: "Axes", curve: Curve, style: LineStyle, order: int, *, rising: bool) -> None:
    """Draw the medians and a band.

    Where less is better, the band lies between the run that is ahead at each step, in cost and in
    value, and the one that is behind; what the former has in the end it keeps until the latter
    ends. An accuracy rises and falls, so its band is of values only.
    """
    (early, late), (low, high) = curve.x_range, curve.y_range
    if rising and np.any(low < high):
        ax.fill_between(curve.x, low, high, color=style.color, alpha=0.14, linewidth=0)
    elif not rising and (np.any(early < late) or np.any(low < high)):
        ax.fill(
            np.concatenate([early, late[-1:], late[::-1]]),
            np.concatenate([low, low[-1:], high[::-1]]),
            color=style.color,
            alpha=0.14,
            linewidth=0,
        )
    n = len(curve.x)
    # Methods that coincide stay visible: each later one has smaller, hollow markers.
    ax.plot(
        curve.x,
        curve.y,
        color=style.color,
        linestyle=style.dash,
        marker=style.marker,
        markevery=1 if n <= _MARKERS else (n // 12, n // 6),
        markersize=max(7.4 - 1.1 * order, 3.4),
        markerfacecolor="white",
        zorder=2 + 0.01 * order,
    )


def _draw_crowd(ax: "Axes", curves: Sequence[Array]) -> None:
    """Draw the medians of methods that have no style of their own, as one thing."""
    from matplotlib.collections import LineCollection

    lines = LineCollection(curves, colors=CROWD, linewidths=0.7, zorder=1.4)
    ax.add_collection(lines, autolim=True)
    ax.autoscale_view(scalex=False)


def _cross_out(ax: "Axes", curve: Curve) -> None:
    """Cross the last finite point of a method that failed."""
    finite = np.flatnonzero(np.isfinite(curve.y))
    if finite.size:
        end = finite[-1]
        ax.plot(curve.x[end], curve.y[end], "X", markersize=8, color=BLACK, zorder=4)


@dataclass(frozen=True)
class _Longer:
    """A curve that goes beyond the axis, and how far."""

    curve: Curve
    color: str
    extent: float


def _point_on(ax: "Axes", longer: Sequence[_Longer], limit: float, x: Quantity) -> None:
    """Say at the right edge how far curves go beyond it, over no other text and no curve."""
    from matplotlib.patheffects import withStroke

    ends = [(float(np.interp(limit, each.curve.x, each.curve.y)), each) for each in longer]
    ax.get_ylim()  # settles the limits, which follow the curves
    to_panel = ax.transScale + ax.transLimits
    heights = [float(to_panel.transform((limit, y))[1]) + _ABOVE for y, _ in ends]
    shown = [
        (height, f"to {amount_text(x, each.extent)} ▸", each.color)
        for height, (_, each) in zip(heights, ends, strict=True)
        if math.isfinite(height)
    ]
    if len(shown) > _MOST_LABELS:
        farthest = amount_text(x, max(each.extent for each in longer))
        shown = [(1.0, f"{len(shown)} methods go on, to {farthest} at most ▸", FAINT_TEXT)]
    shown.sort(key=lambda label: label[0])
    places = _beside_curves(ax, [height for height, *_ in shown])
    for height, (_, text, color) in zip(places, shown, strict=True):
        ax.text(
            1.0, height, text, transform=ax.transAxes, ha="right", va="bottom", fontsize=7.5,
            color=color, zorder=5, path_effects=[withStroke(linewidth=2, foreground="white")],
        )  # fmt: skip


def _beside_curves(ax: "Axes", heights: Sequence[float]) -> Array:
    """Move labels at the right edge, in their order, to the nearest places that no curve crosses.

    Where there are not enough of these, they stand as near to their curves as they can.
    """
    from matplotlib.collections import LineCollection

    across = np.linspace(1 - _LABEL_WIDTH, 1.0, 24)
    drawn: list[tuple[Any, Any]] = [(line, line.get_xydata()) for line in ax.lines]
    crowds = [each for each in ax.collections if isinstance(each, LineCollection)]
    drawn += [(crowd, segment) for crowd in crowds for segment in crowd.get_segments()]
    crossed = []
    for artist, data in drawn:
        points = (artist.get_transform() - ax.transAxes).transform(data)
        points = points[np.isfinite(points).all(axis=1)]
        if len(points) > 1:
            xs, ys = points[:, 0], points[:, 1]
            crossed.append(np.interp(across, xs, ys, left=np.nan, right=np.nan))
    taken = np.concatenate([each[np.isfinite(each)] for each in crossed] or [np.empty(0)])
    slots = np.arange(0.0, 1.0 - _LINE, _LINE / 4)
    near = (slots[:, None] - _CLEAR < taken) & (taken < slots[:, None] + _LINE + _CLEAR)
    free = slots[~near.any(axis=1)]
    chosen: list[float] = []
    for height in heights:
        apart = [s for s in free if all(abs(s - other) >= _LINE for other in chosen)]
        if not apart:
            return spread(heights)
        chosen.append(min(apart, key=lambda slot: abs(slot - height)))
    return np.sort(chosen)


def spread(heights: Sequence[float]) -> Array:
    """Move labels apart so that none is over another, as little as possible in squares.

    Parameters
    ----------
    heights : sequence of float
        Rising, in panels from the bottom.

    Returns
    -------
    ndarray
        At least a line apart, within the panel.
    """
    from scipy.optimize import isotonic_regression

    if not len(heights):
        return np.empty(0)
    lines = _LINE * np.arange(len(heights))
    moved = isotonic_regression(np.asarray(heights) - lines).x
    return np.asarray(np.clip(moved, 0.0, 1.0 - _LINE - lines[-1]) + lines)


def _mark_floor(ax: "Axes", floor: float, dtype: str) -> None:
    """Shade what lies below the rounding error of the loss."""
    bottom = floor / 40
    if not bottom > 0:  # the optimal value is 0, and so is its rounding error
        return
    ax.axhspan(bottom, floor, color=LIGHT, linewidth=0, zorder=0.5)
    ax.axhline(floor, color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=0.6)
    ax.set_ylim(bottom=bottom)
    ax.text(
        0.02, floor / 7, f"below the rounding error of f ({dtype})",
        transform=ax.get_yaxis_transform(), va="center", fontsize=7, color=FAINT_TEXT,
    )  # fmt: skip


def finish_axes(ax: "Axes", x: Quantity, y: Quantity, *, logarithmic: bool = False) -> None:
    """Label the axes and choose the ticks' form."""
    from matplotlib.ticker import (
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullLocator,
        PercentFormatter,
    )

    ax.set_xlabel(x.name)
    ax.set_title(y.title)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount_text(x, value)))
    if not logarithmic:
        ax.xaxis.set_major_locator(MaxNLocator(5 if x is SECONDS else 6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_minor_locator(NullLocator())
    if y.column.endswith("accuracy"):
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        low, high = ax.get_ylim()
        ax.set_ylim(top=min(high, 1 + 0.03 * (1 - low)))  # no ticks beyond 100 %
    if y.log:
        low, high = ax.get_ylim()
        if high < 100 * low:
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(power_of_ten))


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(value: float, _position: Any = None) -> str:
    """Write a logarithmic tick in plain characters: mathematical text costs 10 ms a label."""
    if value <= 0:
        return "0"
    power = round(math.log10(value))
    if not math.isclose(value, 10.0**power, rel_tol=1e-9):
        return f"{value:g}"
    return f"10{str(power).translate(_SUPERSCRIPTS)}"


SECONDS_PER = {"s": 1.0, "ms": 1e-3, "µs": 1e-6}
"""Units of time, in seconds."""


def seconds_text(seconds: float) -> str:
    """Write a duration with three digits and its unit."""
    if not math.isfinite(seconds):
        return "never" if seconds > 0 else "–"
    if seconds == 0:
        return "0"
    if seconds >= 999.5:
        return f"{seconds:,.0f} s"
    unit, size = next((u for u in SECONDS_PER.items() if seconds >= 0.9995 * u[1]), ("µs", 1e-6))
    return f"{seconds / size:.3g} {unit}"


def amount_text(x: Quantity, value: float) -> str:
    """Write a cost in words: a duration with its unit, or a number."""
    return seconds_text(value) if x is SECONDS else number_text(value)
