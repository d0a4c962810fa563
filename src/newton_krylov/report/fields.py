"""Figures of an equation's solution: u, its error, the residual, and the error by seconds."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from newton_krylov.records.fields import Fields, read_fields
from newton_krylov.report.records import RunRecord, read_record
from newton_krylov.report.sheet import sheet
from newton_krylov.report.study import Array, Entry, Study, studies
from newton_krylov.report.style import BLUE
from newton_krylov.terminal import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_log = logging.getLogger(__name__)

_METHODS = 4
"""The fields of so many methods are shown beside each other, of the most accurate ones."""

_DECADES = 4
"""How far below its greatest value the size of a residual is shown."""


def draw_fields(folder: Path) -> list[Path]:
    """Draw the solution that a run of an equation in the plane left; nothing for other runs."""
    found = read_fields(folder)
    if found is None:
        return []
    record = read_record(folder)
    (study,) = studies([record])
    with sheet(1, 4, study.entries[0].label, study.problem.title, dpi=110) as page:
        _draw_row(page.axes, found, record)
        return page.save(folder / "figures", "fields", formats=("png",))


def study_fields(study: Study) -> bytes | None:
    """Draw the solutions of a study's most accurate methods, a row each.

    Parameters
    ----------
    study : Study
        Of runs of an equation in the plane; of each method the most accurate run is shown.

    Returns
    -------
    bytes or None
        A PNG picture; None where no run left its fields.
    """
    best = sorted(filter(None, map(_most_accurate, study.entries)), key=lambda each: each[0])
    if not best:
        return None
    several = "" if len(best) <= _METHODS else f" of the {_METHODS} most accurate methods"
    title = f"Solution, error and residual{several}"
    shown = best[:_METHODS]
    with sheet(len(shown), 4, title, study.problem.title, dpi=90) as page:
        for k, (_, label, found, record) in enumerate(shown):
            axes = page.axes[4 * k : 4 * k + 4]
            _draw_row(axes, found, record)
            axes[0].set_title(f"{label}:  u")
        return page.png()


def _most_accurate(entry: Entry) -> tuple[float, str, Fields, RunRecord] | None:
    """Return error, method, fields and record of its most accurate run that left its fields."""
    for error, record in sorted(_errors(entry), key=lambda each: each[0]):
        try:
            found = read_fields(record.folder)
        except ValueError as problem:
            _log.warning("%s", one_line(str(problem)))
            continue
        if found is not None:
            return error, entry.label, found, record
    return None


def _errors(entry: Entry) -> list[tuple[float, RunRecord]]:
    last = zip(entry.last("l2_error").tolist(), entry.records, strict=True)
    return [(error, record) for error, record in last if math.isfinite(error)]


def _draw_row(axes: Sequence["Axes"], found: Fields, record: RunRecord) -> None:
    """Draw u, its error, the residual, and the relative error by seconds, a panel each."""
    _draw_plane(axes[0], found, found.solution, "solution  u", "viridis")
    power = _power(found.error)
    title = f"error  u − u*,  in 1e{power}"
    _draw_plane(axes[1], found, found.error * 10.0**-power, title, "RdBu_r")
    _draw_plane(axes[2], found, _decades(found.residual), "log₁₀ |residual|", "magma")
    _draw_error(axes[3], record)


def _power(values: Array) -> int:
    """Return the power of ten below the greatest of the values' sizes; its labels are short."""
    size = float(np.abs(values).max())
    return int(np.floor(np.log10(size))) if size > 0 else 0


def _decades(residual: Array) -> Array:
    size = np.abs(residual)
    least = max(float(size.max()) * 10.0**-_DECADES, float(np.finfo(np.float32).tiny))
    return np.log10(np.maximum(size, least))


def _draw_plane(ax: "Axes", found: Fields, values: Array, title: str, colors: str) -> None:
    """Draw values at scattered points, with their colours' bar; an error's are symmetric."""
    from matplotlib.ticker import MaxNLocator
    from matplotlib.tri import Triangulation

    x, y = found.points.T
    size = float(np.abs(values).max())
    low, high = (-size, size) if colors == "RdBu_r" else (float(values.min()), float(values.max()))
    drawn = ax.tripcolor(
        Triangulation(x, y), values, shading="gouraud", cmap=colors, vmin=low, vmax=high
    )
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.05, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=0)
    ax.set_title(title)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_xlim(float(x.min()), float(x.max()))
    ax.set_ylim(float(y.min()), float(y.max()))


def _draw_error(ax: "Axes", record: RunRecord) -> None:
    """Draw the relative error against the optimizer's time."""
    error = record.column("l2_error")
    ax.plot(record.column("seconds"), error, color=BLUE, linewidth=1.4)
    if np.nanmin(error) > 0:
        ax.set_yscale("log")
    ax.set_title(f"‖u − u*‖ / ‖u*‖,  at last {error[-1]:.1e}")
    ax.set_xlabel("processor seconds" if record.clock == "processor" else "seconds")
