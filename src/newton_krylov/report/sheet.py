"""A figure's layout: panels, title, legend, placed by inches.

Matplotlib's layout engines measure every text twice over and cost more than the drawing itself;
a fixed layout also keeps the figures of a study congruent.
"""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from newton_krylov.report.style import FAINT_TEXT, RC, LineStyle

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_WIDTH, _PANEL_HEIGHT = 3.05, 2.3
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.6, 0.2, 0.8, 0.5
_GAP_X, _GAP_Y = 0.6, 0.72
_TITLE_AT, _SUBTITLE_AT = 0.16, 0.36
_TICK_GAP, _AXIS_TITLE_GAP = 0.06, 0.22
_LEGEND_ROW = 0.21
_LEGEND_CHARACTER, _LEGEND_HANDLE = 0.068, 0.62

_PNG: dict[str, Any] = {"pil_kwargs": {"compress_level": 3}, "metadata": {"Software": None}}

FORMATS = ("png", "svg")
"""Suffixes of the files that a figure is written to."""

Key = Sequence[tuple[str, LineStyle]]
"""What a legend says: label and style."""


@dataclass(frozen=True)
class Sheet:
    """A figure with its panels.

    Attributes
    ----------
    figure : Figure
        Matplotlib's object, with no window and nothing global behind it.
    axes : list of Axes
        Row by row.
    """

    figure: "Figure"
    axes: Sequence["Axes"]

    def save(self, folder: Path, name: str, formats: Sequence[str] = FORMATS) -> list[Path]:
        """Write the figure in each format.

        Parameters
        ----------
        folder : Path
            Made if need be.
        name : str
            File name without suffix.
        formats : sequence of str
            Suffixes.

        Returns
        -------
        list of Path
            The files; equal figures give equal files.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.finish()
        files = [folder / f"{name}.{suffix}" for suffix in formats]
        for file in files:
            options = _PNG if file.suffix == ".png" else {"metadata": {"Date": None}}
            self.figure.savefig(file, **options)
        return files

    def png(self) -> bytes:
        """Return the figure as a PNG picture; equal figures give equal bytes."""
        self.finish()
        stream = io.BytesIO()
        self.figure.savefig(stream, format="png", **_PNG)
        return stream.getvalue()

    def finish(self) -> "Figure":
        """Return the figure, everything on it in its place.

        Returns
        -------
        Figure
            Matplotlib's object.
        """
        from matplotlib.text import Text

        for ax in self.axes:
            _bundle_ticks(ax)
        for text in self.figure.findobj(Text):
            # A label is no mathematics, whatever dollars it holds; a logarithmic tick is.
            if "\\mathdefault" not in text.get_text():
                text.set_parse_math(not text.get_text())
        return self.figure


def _bundle_ticks(ax: "Axes") -> None:
    """Replace the ticks of both axes by one bundle of grid lines each, and by plain texts.

    Matplotlib makes five artists a tick and measures them all, twice a file: half of the time
    that a figure of many panels takes.
    """
    from matplotlib import rcParams
    from matplotlib.collections import LineCollection
    from matplotlib.transforms import ScaledTranslation

    inch = ax.figure.dpi_scale_trans
    style = {"color": rcParams["xtick.color"], "fontsize": rcParams["xtick.labelsize"]}
    for axis, limits, upright in (
        (ax.xaxis, ax.get_xlim(), True),
        (ax.yaxis, ax.get_ylim(), False),
    ):
        places = [place for place in axis.get_majorticklocs() if limits[0] <= place <= limits[1]]
        formatter = axis.get_major_formatter()
        texts = formatter.format_ticks(places)
        if formatter.get_offset():  # the texts leave out what they are to be multiplied by
            texts = [f"{place:.8g}" for place in places]
        across = ax.get_xaxis_transform() if upright else ax.get_yaxis_transform()
        ends = [((p, 0), (p, 1)) if upright else ((0, p), (1, p)) for p in places]
        grid = LineCollection(
            ends, transform=across, colors=rcParams["grid.color"], zorder=0.4,
            linewidths=rcParams["grid.linewidth"],
        )  # fmt: skip
        ax.add_collection(grid, autolim=False)
        axis.set_visible(False)
        if upright:
            below = across + ScaledTranslation(0, -_TICK_GAP, inch)
            for place, text in _apart(ax, places, texts):
                ax.text(place, 0, text, transform=below, ha="center", va="top", **style)
            title = ax.transAxes + ScaledTranslation(0, -_AXIS_TITLE_GAP, inch)
            ax.text(0.5, 0, ax.get_xlabel(), transform=title, ha="center", va="top")
        elif axis.get_tick_params(which="major").get("labelleft", True):
            beside = across + ScaledTranslation(-_TICK_GAP, 0, inch)
            for place, text in zip(places, texts, strict=True):
                ax.text(0, place, text, transform=beside, ha="right", va="center", **style)


def _apart(
    ax: "Axes", places: Sequence[float], texts: Sequence[str]
) -> Iterator[tuple[float, str]]:
    """Yield the labels of a horizontal axis that are not over the one before."""
    end = -math.inf
    width = float(ax.bbox.transformed(ax.figure.dpi_scale_trans.inverted()).width)
    for place, text in zip(places, texts, strict=True):
        at = width * float((ax.transData - ax.transAxes).transform((place, ax.get_ylim()[0]))[0])
        half = len(text) * _LEGEND_CHARACTER / 2
        if at - half > end:
            end = at + half + _TICK_GAP
            yield place, text


@contextmanager
def sheet(
    rows: int,
    columns: int,
    title: str,
    subtitle: str,
    *,
    key: Key = (),
    dpi: int = 140,
) -> Iterator[Sheet]:
    """Lay out a figure; drawing and saving go inside the context, which sets the style.

    Parameters
    ----------
    rows, columns : int
        Rows and columns of panels.
    title, subtitle : str
        Above them.
    key : sequence of (str, LineStyle)
        The legend, below them.
    dpi : int
        Pixels per inch.

    Yields
    ------
    Sheet
        With empty panels.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    width = _LEFT + columns * _PANEL_WIDTH + (columns - 1) * _GAP_X + _RIGHT
    key_rows, key_columns = _key_shape(key, width)
    bottom = _BOTTOM + (key_rows * _LEGEND_ROW + 0.1 if key else 0.0)
    height = _TOP + rows * _PANEL_HEIGHT + (rows - 1) * _GAP_Y + bottom
    # A run that diverges has numbers whose differences no float holds; the axes end before them.
    with rc_context(RC), np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
        # A letter that the font lacks is a box; tables and pages have it.
        warnings.filterwarnings("ignore", "Glyph|Matplotlib currently does not support")
        figure = Figure(figsize=(width, height), dpi=dpi)
        axes = figure.subplots(
            rows,
            columns,
            squeeze=False,
            gridspec_kw={
                "left": _LEFT / width,
                "right": 1 - _RIGHT / width,
                "top": 1 - _TOP / height,
                "bottom": bottom / height,
                "wspace": _GAP_X / _PANEL_WIDTH,
                "hspace": _GAP_Y / _PANEL_HEIGHT,
            },
        )
        left, top, below = _LEFT / width, 1 - _TITLE_AT / height, 1 - _SUBTITLE_AT / height
        figure.text(left, top, title, va="center", fontsize=11.5, weight="bold")
        figure.text(left, below, subtitle, va="center", fontsize=8.5, color=FAINT_TEXT)
        if key:
            _draw_key(figure, key, key_columns)
        yield Sheet(figure, list(axes.flat))


def _key_shape(key: Key, width: float) -> tuple[int, int]:
    """Return how many rows and columns the legend needs."""
    if not key:
        return 0, 0
    longest = max(len(label) for label, _ in key)
    columns = max(1, int(width / (_LEGEND_HANDLE + longest * _LEGEND_CHARACTER)))
    columns = min(columns, len(key))
    return math.ceil(len(key) / columns), columns


def _draw_key(figure: "Figure", key: Key, columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=s.color, marker=s.marker, linestyle=s.dash, markerfacecolor="white")
        for _, s in key
    ]
    figure.legend(
        handles,
        [label for label, _ in key],
        loc="lower center",
        ncols=columns,
        borderaxespad=0.3,
        columnspacing=1.6,
        handlelength=2.6,
        labelspacing=0.35,
    )
