"""Figures of a run's curvature spectrum: eigenvalues and trace against the steps, densities."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from newton_krylov.records.spectrum import Snapshot, read_snapshots
from newton_krylov.report.panel import power_of_ten
from newton_krylov.report.records import RunRecord, read_record
from newton_krylov.report.sheet import sheet
from newton_krylov.report.study import Array, studies
from newton_krylov.report.style import BLUE, VERMILION
from newton_krylov.spectral.density import Density

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DENSITIES = 6
"""How many densities a panel shows, from the first to the last."""
_OVERLAP = 1.6
"""Height of the greatest density, in distances from one to the next."""
_GRID = 600
_WIDTH = 0.008
"""Standard deviation of a smoothed eigenvalue, as a share of the axis."""
_FLOOR = 1e-3
"""Densities below this share of a panel's greatest are not shown."""


def draw_spectrum(folder: Path) -> list[Path]:
    """Draw what was seen of a run's curvature."""
    snapshots = read_snapshots(folder)
    if not snapshots:
        return []
    panels = [
        draw
        for draw, known in (
            (_draw_eigenvalues, any(s.values for s in snapshots)),
            (_draw_trace, any(np.isfinite(s.trace) for s in snapshots)),
            (_draw_densities, any(s.nodes for s in snapshots)),
        )
        if known
    ]
    if not panels:
        return []
    record = read_record(folder)
    (study,) = studies([record])
    title = f"Spectrum of the {_whose(record)}: {study.entries[0].label}"
    with sheet(1, len(panels), title, study.problem.title, dpi=110) as page:
        for ax, draw in zip(page.axes, panels, strict=True):
            draw(ax, snapshots)
        return page.save(folder / "figures", "spectrum", formats=("png",))


def _whose(record: RunRecord) -> str:
    """Say whose spectrum it is, of what."""
    observed = record.config.get("spectrum") or {}
    name = str(observed.get("of", "hvp"))
    if name == "own":
        name = str((record.config.get("hessian_approx") or {}).get("name"))
    what = {"hvp": "Hessian", "exact": "Hessian", "ggn": "Gauss-Newton matrix"}.get(name, name)
    layers, samples = observed.get("layers"), observed.get("samples")
    by = f" by {', '.join(layers)}" if layers else ""
    return what + by + (f", {samples:,} samples" if samples else "")


def _column(snapshots: Sequence[Snapshot], name: str) -> Array:
    return np.array([getattr(s, name) for s in snapshots], dtype=float)


def _draw_eigenvalues(ax: "Axes", snapshots: Sequence[Snapshot]) -> None:
    """Draw |lambda_k|, each within its Ritz residual; negative ones apart."""
    steps = _column(snapshots, "iteration")
    values, residuals = (
        np.array([getattr(s, name) for s in snapshots]) for name in ("values", "residuals")
    )
    for k, (column, error) in enumerate(zip(values.T, residuals.T, strict=True)):
        shade = 1 - 0.75 * k / max(1, values.shape[1])
        size = np.abs(column)
        ax.plot(steps, size, color=BLUE, alpha=shade, linewidth=1.2)
        for sign, marker, color in ((1, "o", BLUE), (-1, "v", VERMILION)):
            shown = np.sign(column) == sign
            ax.errorbar(
                steps[shown], size[shown], np.minimum(error, 0.99 * size)[shown], fmt=marker,
                color=color, alpha=shade, markersize=4, elinewidth=1, capsize=2,
            )  # fmt: skip
    positive = np.abs(values[values != 0])
    if positive.size and positive.max() > 5 * positive.min():
        _logarithmic(ax)
    ax.set_title("dominant eigenvalues  |λ|")
    if np.any(values < 0):
        ax.text(0.98, 0.96, "▾ negative", transform=ax.transAxes, ha="right", va="top",
                fontsize=7.5, color=VERMILION)  # fmt: skip
    _finish_steps(ax, steps)


def _draw_trace(ax: "Axes", snapshots: Sequence[Snapshot]) -> None:
    """Draw the trace with two standard errors."""
    steps, trace = _column(snapshots, "iteration"), _column(snapshots, "trace")
    error = np.nan_to_num(_column(snapshots, "trace_error"))
    ax.fill_between(steps, trace - 2 * error, trace + 2 * error, color=BLUE, alpha=0.15, lw=0)
    ax.plot(steps, trace, "o-", color=BLUE, markersize=4, linewidth=1.2)
    known = trace[np.isfinite(trace)]
    if known.size and known.min() > 0 and known.max() > 5 * known.min():
        _logarithmic(ax)
    ax.set_title("trace  ± 2 standard errors")
    _finish_steps(ax, steps)


def _draw_densities(ax: "Axes", snapshots: Sequence[Snapshot]) -> None:
    """Draw the spectral densities of some steps, one above the other, on logarithmic heights."""
    known = [s for s in snapshots if s.nodes]
    chosen = np.unique(np.linspace(0, len(known) - 1, _DENSITIES).round().astype(int))
    shown = [known[i] for i in chosen]
    low = min(min(s.nodes) for s in shown)
    high = max(max(s.nodes) for s in shown)
    margin = 0.04 * (high - low) or 1.0
    grid = torch.linspace(low - margin, high + margin, _GRID, dtype=torch.float64)
    width = _WIDTH * float(grid[-1] - grid[0])
    curves = np.stack([_density(s).smoothed(grid, width).numpy() for s in shown])
    share = np.maximum(curves / curves.max(), _FLOOR)
    heights = _OVERLAP * (1 - np.log(share) / np.log(_FLOOR))
    for place in reversed(range(len(shown))):
        top = place + heights[place]
        order = 3 - 0.01 * place
        ax.fill_between(grid.numpy(), place, top, color="white", lw=0, zorder=order)
        ax.fill_between(grid.numpy(), place, top, color=BLUE, alpha=0.25, lw=0, zorder=order)
        ax.plot(grid.numpy(), top, color=BLUE, linewidth=1.0, zorder=order)
    ax.set_yticks(range(len(shown)), [f"{s.iteration:,}" for s in shown])
    ax.grid(axis="y", visible=False)
    ax.set_ylim(-0.1, len(shown) - 1 + 1.05 * _OVERLAP)
    ax.set_title(f"spectral density by step (log, {-np.log10(_FLOOR):.0f} decades)")
    ax.set_xlabel("eigenvalue")


def _density(snapshot: Snapshot) -> Density:
    nodes, shares = (
        torch.tensor(part, dtype=torch.float64) for part in (snapshot.nodes, snapshot.shares)
    )
    return Density(nodes, shares, 0)


def _logarithmic(ax: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_minor_locator(NullLocator())
    if high > 100 * low:
        ax.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
    else:
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _finish_steps(ax: "Axes", steps: Array) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("epoch (outer iteration)")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if len(steps) == 1:
        ax.set_xlim(steps[0] - 1, steps[0] + 1)
