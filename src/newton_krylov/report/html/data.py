"""What the page's script draws: curves, styles and profiles as plain values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from newton_krylov.report.figures import study_styles
from newton_krylov.report.panel import (
    COSTS,
    L2_ERROR,
    RESULTS,
    SUBOPTIMALITY,
    Quantity,
    cost_name,
    shown_costs,
)
from newton_krylov.report.profiles import Profile
from newton_krylov.report.scaling import Scaling
from newton_krylov.report.study import Array, Entry, Study
from newton_krylov.report.style import CROWD, LineStyle

_FIRST = (L2_ERROR, SUBOPTIMALITY)
# The distance to the solution first; the gradient norm, which stands for it elsewhere, last.
QUANTITIES = tuple(sorted(RESULTS, key=lambda q: (q not in _FIRST, q.column == "grad_norm")))

_POINTS = 240
"""More points of a curve than this a panel cannot show."""

_SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "x": "x-thin",
    "h": "hexagon",
    "*": "star",
    "X": "x",
    "<": "triangle-left",
    ">": "triangle-right",
    "d": "diamond-tall",
    "p": "pentagon",
    "8": "octagon",
    "H": "hexagon2",
}
_DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}

CROWD_STYLE = {"color": CROWD, "dark": "#5B5B5B", "symbol": None, "dash": "solid", "crowd": True}
"""The style of methods without one of their own."""


def plain_style(style: LineStyle | None) -> dict[str, Any]:
    """Return a style in the words of the page's script."""
    if style is None:
        return CROWD_STYLE
    return {
        "color": style.color,
        "dark": style.dark,
        "symbol": _SYMBOLS[style.marker],
        "dash": _DASHES[style.dash],
        "crowd": False,
    }


def study_data(study: Study) -> dict[str, Any]:
    """Return the curves of a study."""
    styles = study_styles(study)
    return {
        "floor": study.floor,
        "costs": [_axis(x) | {"name": cost_name(study, x)} for x in shown_costs(study)],
        "quantities": [_axis(y) for y in shown_quantities(study)],
        "entries": [_entry_data(entry, styles) for entry in study.entries],
    }


def shown_quantities(study: Study) -> list[Quantity]:
    """Return the quantities of which any run of a study has a value."""
    return [q for q in QUANTITIES if any(e.band(q.column) is not None for e in study.entries)]


def _axis(quantity: Quantity) -> dict[str, Any]:
    return {"column": quantity.column, "name": quantity.name, "log": quantity.log}


def _entry_data(entry: Entry, styles: Mapping[str, LineStyle]) -> dict[str, Any]:
    bands = {q.column: entry.band(q.column) for q in (*COSTS, *QUANTITIES)}
    known = {column: band for column, band in bands.items() if band is not None}
    keep = _kept(max((len(band.middle) for band in known.values()), default=0))
    several = {c: b for c, b in known.items() if np.any(b.low < b.high)}
    return {
        "label": entry.label,
        "failed": bool(entry.failures),
        "style": plain_style(styles.get(entry.label)),
        "middle": {column: _plain(band.middle[keep]) for column, band in known.items()},
        "low": {column: _plain(band.low[keep]) for column, band in several.items()},
        "high": {column: _plain(band.high[keep]) for column, band in several.items()},
    }


def _kept(length: int) -> Array | slice:
    """Return which rows of a long trace are shown: dense at its start, and evenly spread."""
    if length <= _POINTS:
        return slice(None)
    half = _POINTS // 2
    rows = np.concatenate([np.linspace(1, length, half), np.geomspace(1, length, half)])
    return np.unique(rows.round().astype(int)) - 1


def _plain(values: Array) -> list[float | None]:
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in values.tolist()]


def scaling_data(growth: Scaling, styles: Mapping[str, LineStyle]) -> dict[str, Any]:
    """Return times by the problem's size."""
    return {
        "sizes": _plain(growth.sizes),
        "entries": [
            {"label": label, "style": plain_style(styles[label]), "seconds": _plain(seconds)}
            for label, seconds in growth.seconds.items()
        ],
    }


def profiles_data(made: Sequence[Profile], styles: Mapping[str, LineStyle]) -> dict[str, Any]:
    """Return performance profiles."""
    return {
        "entries": [
            {"label": label, "style": plain_style(style)} for label, style in styles.items()
        ],
        "profiles": [
            {
                "target": profile.target,
                "cost": profile.cost,
                "problems": profile.problems,
                "largest": profile.largest,
                "ratios": {k: _plain(ratios) for k, ratios in profile.ratios.items()},
            }
            for profile in made
        ],
    }
