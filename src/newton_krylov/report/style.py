"""How figures look: one colour, marker and dash for each method, everywhere.

Colours are Okabe and Ito's ("Color Universal Design", 2008), which people with any kind of colour
blindness can distinguish; marker and dash repeat the distinction for print in grey.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"
VERMILION, SKY, GREY, BLACK = "#D55E00", "#56B4E9", "#6B6B6B", "#222222"
LIGHT, CROWD, FAINT_TEXT = "#E4E4E4", "#BDBDBD", "#5A5A5A"


@dataclass(frozen=True)
class LineStyle:
    """What a method looks like.

    Attributes
    ----------
    color : str
        Colour in hexadecimal.
    marker : str
        Matplotlib's code.
    dash : str or tuple
        Matplotlib's line style.
    """

    color: str
    marker: str
    dash: Any = "-"

    @property
    def dark(self) -> str:
        """The colour on a dark ground: as far from its neighbours as the one on white."""
        return _ON_DARK[self.color]


_ON_DARK = {
    BLUE: "#3F8FE0",
    ORANGE: "#F2B035",
    GREEN: "#2BC497",
    PURPLE: "#E8A5CC",
    VERMILION: "#F4753A",
    SKY: "#8FD3F8",
    GREY: "#858585",
    BLACK: "#F0F0F0",
}

# The paper's own colours for its three methods (section 2.1), and fixed ones for their kin; by
# labels in lower case, since a run without a label is called by its parts, as `newton-cr`.
_FIXED = {
    "exact newton": LineStyle(BLUE, "o"),
    "newton-gmres": LineStyle(ORANGE, "s"),
    "newton-cr": LineStyle(GREEN, "^"),
    "newton-gcr": LineStyle(PURPLE, "D"),
    "newton-cg": LineStyle(VERMILION, "v"),
    "newton-minres": LineStyle(SKY, "P"),
    "gradient descent": LineStyle(GREY, "x"),
}
_SAME = {"newton-exact": "exact newton", "gd": "gradient descent"}
_COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, GREY)
_MARKERS = ("h", "*", "X", "<", ">", "d", "p", "8", "H")
_DASHES = ("-", "--", "-.", ":")


DISTINCT = len(_COLORS) * len(_DASHES)
"""How many methods can be distinguished."""


def line_styles(labels: Iterable[str]) -> dict[str, LineStyle]:
    """Give every label its style.

    Well-known methods have fixed ones; the others get what is left, in alphabetical order, so
    that the figures of one study agree whatever order its runs came in.
    """
    labels = sorted(set(labels))
    styles: dict[str, LineStyle] = {}
    for label in labels:
        name = label.lower()
        fixed = _FIXED.get(_SAME.get(name, name))
        if fixed is not None and fixed not in styles.values():
            styles[label] = fixed
    taken = {(style.color, style.dash) for style in styles.values()}
    free = [(c, dash) for dash in _DASHES for c in _COLORS if (c, dash) not in taken]
    for i, label in enumerate(label for label in labels if label not in styles):
        color, dash = free[i % len(free)]
        styles[label] = LineStyle(color, _marker(i, color, styles.values()), dash)
    return styles


def _marker(start: int, color: str, others: Collection[LineStyle]) -> str:
    """Return a marker that no other method of the colour has: the legend may be far away."""
    taken = {style.marker for style in others if style.color == color}
    turned = [_MARKERS[(start + k) % len(_MARKERS)] for k in range(len(_MARKERS))]
    return next((marker for marker in turned if marker not in taken), turned[0])


RC: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titley": 1.02,  # fixed: finding a place for it costs more than drawing the panel
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.labelcolor": BLACK,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.6,
    "lines.markeredgewidth": 1.1,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "path",
    "svg.hashsalt": "newton-krylov",  # the same figure gives the same file
}
"""Matplotlib's settings for every figure, for `rc_context`."""
