"""The trace: one row a step, written as the run goes, so a killed run keeps what it had."""

import csv
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self, TextIO


@dataclass(frozen=True)
class Row:
    """One step of a run.

    Attributes
    ----------
    iteration : int
        0 is the start.
    loss : float
        f(w), the regularizer included.
    suboptimality : float
        f(w) minus the certified optimum; nan where none is known.
    grad_norm : float
        Euclidean norm of the gradient.
    train_accuracy, test_accuracy : float
        Shares between 0 and 1; nan where there is none.
    test_loss : float
        Mean loss on the test split, without the regularizer; nan where there is none.
    step_size : float
        The line search's alpha; nan for the start.
    inner_iterations : float
        Of the linear solver, in this step; nan where a library does not tell.
    function_count, gradient_count, hvp_count, hessian_count : float
        Evaluations so far (see `Counts`); nan where a library does not tell.
    data_passes : float
        Passes over the data so far (see `Counts`).
    step_seconds, seconds : float
        The optimizer's own time, of this step and so far: without metrics and logging.
    notes : tuple of str
        What else happened, in words.
    """

    iteration: int
    loss: float
    suboptimality: float
    grad_norm: float
    train_accuracy: float
    test_accuracy: float
    test_loss: float
    step_size: float
    inner_iterations: float
    function_count: float
    gradient_count: float
    hvp_count: float
    hessian_count: float
    data_passes: float
    step_seconds: float
    seconds: float
    notes: tuple[str, ...] = ()

    @classmethod
    def columns(cls) -> list[str]:
        """Return the file's column names in order."""
        return ["note" if field.name == "notes" else field.name for field in fields(cls)]

    @classmethod
    def read(cls, *, note: str, **numbers: Any) -> Self:
        """Make a row of the file's columns; what it noted stays one text."""
        return cls(**numbers, notes=(note,) if note else ())

    @property
    def note(self) -> str:
        """The notes as one text, the file's last column."""
        return "; ".join(self.notes)

    def record(self) -> dict[str, float | str]:
        """Return the file's columns, name to value."""
        return {name: getattr(self, name) for name in self.columns()}

    def metrics(self) -> dict[str, float]:
        """Return the numeric columns but the iteration, name to value."""
        row = asdict(self)
        del row["iteration"], row["notes"]
        return row


class Measured(Protocol):
    """What a tracker takes: numbers with their place in a run."""

    @property
    def iteration(self) -> int:
        """Which step they belong to."""

    @property
    def seconds(self) -> float:
        """The optimizer's own time until then."""

    def metrics(self) -> dict[str, float]:
        """Return the numbers by name."""


OnRow = Callable[[Row], None]
"""Called after every step with its row, outside the timed region."""


_SECONDS_BETWEEN_SYNCS = 1.0


class TraceWriter:
    """Appends rows to a CSV file, each handed to the system as it is written.

    So a killed process loses nothing. Against a loss of power the file is synchronized too, but at
    most once a second: it would cost more than a quick step does.

    Parameters
    ----------
    path : Path
        The file; replaced if it exists.
    rows : iterable of Row
        Of a run that is continued.
    """

    def __init__(self, path: Path, rows: Iterable[Row] = ()) -> None:
        self._file: TextIO = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, Row.columns())
        self._writer.writeheader()
        self._writer.writerows(row.record() for row in rows)
        self._file.flush()
        self._last_sync = time.monotonic()

    def __call__(self, row: Row) -> None:
        """Append a row."""
        self._writer.writerow(row.record())
        self._file.flush()
        if time.monotonic() - self._last_sync >= _SECONDS_BETWEEN_SYNCS:
            os.fsync(self._file.fileno())
            self._last_sync = time.monotonic()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_trace(path: Path) -> list[Row]:
    """Read a trace back; a last line cut short by a kill is left out.

    Parameters
    ----------
    path : Path
        A file written by `TraceWriter`.

    Returns
    -------
    list of Row
        In order.

    Raises
    ------
    ValueError
        If the file's columns are not a trace's.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != Row.columns():
            raise ValueError(f"{path} is not a trace: its columns are {reader.fieldnames}")
        return [_parse(record) for record in reader if None not in record.values()]


def _parse(record: dict[str, str]) -> Row:
    whole, text = {"iteration"}, {"note"}
    return Row.read(
        **{
            name: value if name in text else int(value) if name in whole else float(value)  # type: ignore[arg-type]
            for name, value in record.items()
        }
    )
