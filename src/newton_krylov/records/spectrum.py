"""What was seen of a spectrum at one step, and the files that keep it."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from newton_krylov.files import read_text

SPECTRUM = "spectrum.csv"
_LARGEST = 2**30
DENSITY = "spectrum_density.csv"
BLOCKS = "spectrum_blocks.csv"
_BLOCK_COLUMNS = ("iteration", "layer", "other", "distance")
_SCALARS = ("trace", "trace_error", "matvecs", "observation_seconds")
_DENSITY_COLUMNS = ("iteration", "eigenvalue", "share")


@dataclass(frozen=True)
class Snapshot:
    """The spectrum of a curvature operator at one step of a run.

    Attributes
    ----------
    iteration : int
        Iteration of the run.
    seconds : float
        The optimizer's own time so far; the observation is no part of it.
    values : sequence of float
        The dominant eigenvalues, largest in absolute value first.
    residuals : sequence of float
        Ritz residuals |A v - lambda v|: an eigenvalue lies within each of its value.
    trace, trace_error : float
        Estimate and standard error; nan where it was not asked for.
    matvecs : int
        Products that the observation took.
    observation_seconds : float
        Time that it took.
    nodes, shares : sequence of float
        The spectral density as point masses; empty where it was not asked for.
    distances : sequence of tuple of str, str and float
        Pairs of a network's layers with the Jensen-Shannon distance between the densities of their
        blocks; empty where it was not asked for.
    """

    iteration: int
    seconds: float
    values: Sequence[float]
    residuals: Sequence[float]
    trace: float
    trace_error: float
    matvecs: int
    observation_seconds: float
    nodes: Sequence[float] = field(default=())
    shares: Sequence[float] = field(default=())
    distances: Sequence[tuple[str, str, float]] = field(default=())

    @property
    def heterogeneity(self) -> float:
        """The mean distance between the layers' spectra; nan where it was not asked for."""
        far = [distance for _, _, distance in self.distances]
        return sum(far) / len(far) if far else math.nan

    def metrics(self) -> dict[str, float]:
        """Return what a tracker shows, name to value."""
        found = {f"eigenvalue_{k}": value for k, value in enumerate(self.values, 1)}
        found |= {f"ritz_residual_{k}": value for k, value in enumerate(self.residuals, 1)}
        found |= {"hessian_trace": self.trace, "hessian_trace_error": self.trace_error}
        return found | ({"block_heterogeneity": self.heterogeneity} if self.distances else {})


class SnapshotWriter:
    """Appends snapshots to CSV files in a run's folder, each handed over as it is written.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    top : int
        How many eigenvalues each has.
    snapshots : iterable of Snapshot
        Snapshots of a run that is resumed.
    """

    def __init__(self, folder: Path, top: int, snapshots: Iterable[Snapshot] = ()) -> None:
        self._top = top
        self._scalars = _Table(folder / SPECTRUM, _columns(top))
        self._density = _Table(folder / DENSITY, _DENSITY_COLUMNS)
        self._blocks: _Table | None = None  # where distances are asked for
        self._folder = folder
        for snapshot in snapshots:
            self(snapshot)

    def __call__(self, snapshot: Snapshot) -> None:
        """Append a snapshot; its scalars last, so that what is there is whole."""
        s = snapshot
        self._density.write([s.iteration, x, y] for x, y in zip(s.nodes, s.shares, strict=True))
        if s.distances:
            self._blocks = self._blocks or _Table(self._folder / BLOCKS, _BLOCK_COLUMNS)
            self._blocks.write([s.iteration, *pair] for pair in s.distances)
        scalars = [getattr(s, name) for name in _SCALARS]
        pairs = [*self._fitted(s.values), *self._fitted(s.residuals)]
        self._scalars.write([[s.iteration, s.seconds, *scalars, *pairs]])

    def _fitted(self, values: Sequence[float]) -> list[float]:
        """Cut or fill up with nan: a run may be continued with another number of eigenvalues."""
        return [*values[: self._top], *[math.nan] * (self._top - len(values))]

    def close(self) -> None:
        """Close the files."""
        self._scalars.close()
        self._density.close()
        if self._blocks is not None:
            self._blocks.close()


class _Table:
    """A CSV file that is written from its beginning."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._file: TextIO = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerow(columns)
        self._file.flush()

    def write(self, rows: Iterable[Sequence[Any]]) -> None:
        self._writer.writerows(rows)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _columns(top: int) -> list[str]:
    numbers = range(1, top + 1)
    pairs = [*(f"eigenvalue_{k}" for k in numbers), *(f"residual_{k}" for k in numbers)]
    return ["iteration", "seconds", *_SCALARS, *pairs]


def read_snapshots(folder: Path) -> list[Snapshot]:
    """Read the snapshots in a run's folder; a line cut short by a kill is left out.

    Parameters
    ----------
    folder : Path
        Folder of the run.

    Returns
    -------
    list of Snapshot
        In order; empty where the run was not observed.

    Raises
    ------
    ValueError
        If a file holds something else.
    """
    if not (folder / SPECTRUM).exists():
        return []
    density: dict[int, tuple[list[float], list[float]]] = {}
    for iteration, node, share in _read(folder / DENSITY):
        nodes, shares = density.setdefault(int(iteration), ([], []))
        nodes.append(float(node))
        shares.append(float(share))
    distances: dict[int, list[tuple[str, str, float]]] = {}
    for iteration, layer, other, distance in (
        _read(folder / BLOCKS) if (folder / BLOCKS).exists() else []
    ):
        distances.setdefault(int(iteration), []).append((layer, other, float(distance)))
    width = len(_columns(0))
    return [
        replace(
            _parse(row, density.get(int(row[0]), ((), ())), width),
            distances=distances.get(int(row[0]), ()),
        )
        for row in _read(folder / SPECTRUM)
    ]


def _read(path: Path) -> list[list[str]]:
    """Return a file's whole lines, but the head."""
    text = read_text(path, _LARGEST)
    rows = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
    if rows and rows[0][0] != "iteration":
        raise ValueError(f"{path} is not the record of a spectrum")
    return rows[1:]


def _parse(
    row: Sequence[str], density: tuple[Sequence[float], Sequence[float]], width: int
) -> Snapshot:
    iteration, seconds, trace, error, matvecs, elapsed = row[:width]
    pairs = [float(text) for text in row[width:]]
    top = len(pairs) // 2
    return Snapshot(
        int(iteration),
        float(seconds),
        pairs[:top],
        pairs[top:],
        float(trace),
        float(error),
        int(matvecs),
        float(elapsed),
        *density,
    )
