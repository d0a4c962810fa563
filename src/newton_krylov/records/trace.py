"""The trace: one row a step, written as the run goes, so a killed run keeps what it had."""

import csv
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self, TextIO, get_type_hints

from newton_krylov.files import is_regular, usable_memory

Kind = Literal["result", "cost", "count", "step"]
"""What a column holds: where the method stands; what it took to get there, of any method; what it
evaluated, where that is known; or what belongs to one step alone."""

Place = Literal["line", "members", "summary", "table", "axis"]
"""Where a column is shown: a line a step, a sweep's members side by side, and a run's summary in
the terminal; a report's tables; the axes of figures and of the page."""

EVERYWHERE: tuple[Place, ...] = ("line", "members", "summary", "table", "axis")


@dataclass(frozen=True)
class Column:
    """What terminal, CSV, MLflow, report, comparison and sweeper know of a column of the trace.

    Attributes
    ----------
    title : str
        Title on an axis.
    symbol : str
        The quantity's formula.
    words : str
        In a run's summary; the title where it is empty.
    brief : str
        Heading of a narrow column; `words` where it is empty.
    heading : str
        Heading in a report's table; `brief` with a capital where it is empty.
    kind : {"result", "cost", "count", "step"}
        See `Kind`.
    form : str
        How a number is formatted.
    full : str
        The same where there is room; `form` where it is empty.
    width : int
        Width of the column in a console line.
    log : bool
        Whether its axis is logarithmic.
    rising : bool
        Whether more is better.
    digits : int
        Significant ones in a report's table.
    unit : {"", "gap", "share", "seconds"}
        How a table writes it: plain, as a difference to the optimum, in percent, as a time.
    shown : tuple of str
        See `Place`.
    name : str
        The attribute of `Row`, which fills it in.
    optional : bool
        Whether the attribute has a default: where no run knows it, it is not shown.
    """

    title: str
    symbol: str = ""
    words: str = ""
    brief: str = ""
    heading: str = ""
    kind: Kind = "result"
    form: str = ".4g"
    full: str = ""
    width: int = 11
    log: bool = False
    rising: bool = False
    digits: int = 3
    unit: Literal["", "gap", "share", "seconds"] = ""
    shown: tuple[Place, ...] = EVERYWHERE
    name: str = ""
    optional: bool = False

    def named(self, name: str, *, optional: bool) -> "Column":
        """Return the column with its name, and with words where it was given none."""
        words = self.words or self.title
        brief = self.brief or words
        heading = self.heading or f"{brief[:1].upper()}{brief[1:]}"
        named = replace(
            self, name=name, words=words, brief=brief, heading=heading, optional=optional
        )
        return replace(named, full=self.full or self.form)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One step of a run; each attribute's annotation is its entry in the table of columns.

    A number that is not known is nan: a suboptimality without a certified optimum, an accuracy of a
    regression, a count that a library does not report, the start's step size. Counts and costs are
    those so far (see `Counts`), and seconds the optimizer's own, without metrics and logging.
    """

    iteration: Annotated[
        int,
        Column(
            "epoch (outer iteration)", words="steps", brief="step", heading="Steps", kind="cost",
            form="d", width=6,
        ),
    ]  # fmt: skip
    loss: Annotated[
        float, Column("loss", "f(w)", heading="f", form=".9g", full=".16g", digits=10, width=14)
    ]
    suboptimality: Annotated[
        float,
        Column(
            "suboptimality", "f(w) − f*", brief="subopt.", heading="f − f*", form=".2e",
            full=".3e", width=10, log=True, unit="gap",
        ),
    ]  # fmt: skip
    grad_norm: Annotated[
        float,
        Column(
            "gradient norm", "‖∇f(w)‖", brief="|grad|", form=".2e", full=".3e", width=10, log=True,
            shown=("line", "summary", "axis"),
        ),
    ]  # fmt: skip
    train_accuracy: Annotated[
        float,
        Column(
            "training accuracy", words="train accuracy", brief="train acc.", form=".4f", width=12,
            rising=True, unit="share", shown=("line", "summary", "table", "axis"),
        ),
    ]  # fmt: skip
    test_accuracy: Annotated[
        float, Column("test accuracy", brief="test acc.", form=".4f", rising=True, unit="share")
    ]
    test_loss: Annotated[float, Column("test loss", shown=("summary", "table", "axis"))]
    step_size: Annotated[float, Column("step size", kind="step", form=".3g", shown=("line",))]
    inner_iterations: Annotated[
        float,
        Column(
            "inner iterations", brief="inner", kind="step", form="g", width=7,
            shown=("line", "table"),
        ),
    ]  # fmt: skip
    function_count: Annotated[float, Column("function evaluations", kind="count", shown=())]
    gradient_count: Annotated[float, Column("gradient evaluations", kind="count", shown=())]
    hvp_count: Annotated[
        float,
        Column(
            "Hessian-vector products", words="Hessian products", brief="H prod.",
            heading="H products", kind="count", form="g",
            shown=("members", "summary", "table", "axis"),
        ),
    ]  # fmt: skip
    hessian_count: Annotated[float, Column("Hessian matrices", kind="count", shown=())]
    data_passes: Annotated[
        float,
        Column(
            "passes over the data", words="data passes", brief="passes", kind="cost", form=".1f",
            full="g", width=9, shown=("line", "summary", "table", "axis"),
        ),
    ]  # fmt: skip
    step_seconds: Annotated[float, Column("seconds of the step", kind="step", shown=())]
    seconds: Annotated[
        float,
        Column(
            "wall-clock time of the optimizer", words="optimizer seconds", brief="seconds",
            heading="Time", kind="cost", form=".4f", width=9, unit="seconds",
        ),
    ]  # fmt: skip
    l2_error: Annotated[
        float,
        Column(
            "relative error of the solution", "‖u − u*‖ / ‖u*‖", brief="l2 error", form=".2e",
            full=".3e", width=10, log=True,
        ),
    ] = math.nan  # fmt: skip
    fresh_loss: Annotated[
        float,
        Column(
            "loss at fresh points", brief="fresh loss", form=".2e", full=".3e", width=11, log=True,
        ),
    ] = math.nan  # fmt: skip
    test_balanced_accuracy: Annotated[
        float,
        Column(
            "balanced test accuracy", brief="balanced", heading="Balanced acc.", form=".4f",
            width=10, rising=True, unit="share", shown=("line", "members", "summary", "table"),
        ),
    ] = math.nan  # fmt: skip
    test_auc: Annotated[
        float,
        Column(
            "test area under the curve", words="test AUC", brief="AUC", form=".4f", width=8,
            rising=True, unit="share", shown=("line", "members", "summary", "table"),
        ),
    ] = math.nan  # fmt: skip
    test_d2: Annotated[
        float,
        Column(
            "explained share of the test deviance", words="test D2", brief="D2", form=".4f",
            width=8, rising=True, shown=("line", "members", "summary", "table"),
        ),
    ] = math.nan  # fmt: skip
    test_mean_absolute_error: Annotated[
        float,
        Column(
            "mean absolute test error", brief="MAE", heading="Mean abs. error", form=".4g",
            shown=("summary", "table"),
        ),
    ] = math.nan  # fmt: skip
    notes: tuple[str, ...] = ()

    @classmethod
    def columns(cls) -> list[str]:
        """Return the file's column names in order."""
        return ["note" if field.name == "notes" else field.name for field in fields(cls)]

    @classmethod
    def read(cls, *, note: str = "", **numbers: Any) -> Self:
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


def _table() -> dict[str, Column]:
    hints = get_type_hints(Row, include_extras=True)
    return {
        name: column.named(name, optional=hasattr(Row, name))
        for name, hint in hints.items()
        for column in getattr(hint, "__metadata__", ())
    }


COLUMNS: Mapping[str, Column] = _table()
"""The trace's numeric columns by name, in order."""


def shown(place: Place, known: Callable[[str], bool] = lambda _: True) -> list[Column]:
    """Return the columns that are shown in a place: results first, then costs and counts.

    An optional one only where it is known.
    """
    there = [
        column
        for column in COLUMNS.values()
        if place in column.shown and (not column.optional or known(column.name))
    ]
    return sorted(there, key=lambda column: column.kind != "result")


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
_MOST_STEPS = 2**53  # that a float represents exactly
_HELD = 3  # bytes of memory per byte of a trace, once it is rows


class TraceWriter:
    """Appends rows to a CSV file, each handed to the system as it is written.

    So a killed process loses nothing. Against a loss of power the file is synchronized too, but at
    most once a second: it would cost more than a quick step does.

    Parameters
    ----------
    path : Path
        The file; replaced if it exists.
    rows : iterable of Row
        Rows of a run that is resumed.
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
    if path.exists() and not is_regular(path):
        raise ValueError(f"{path} is not a regular file")
    if path.exists() and _HELD * path.stat().st_size > usable_memory():
        raise ValueError(f"{path} is longer than a trace can be")
    with path.open(newline="", encoding="utf-8") as file:
        # A row is whole with its line's end only: its last number may lack digits.
        reader = csv.DictReader(line for line in file if line.endswith("\n"))
        found = reader.fieldnames or []
        optional = {"note", *(c.name for c in COLUMNS.values() if c.optional)}
        # A trace of an earlier version lacks the columns that came later, and no others.
        if [name for name in Row.columns() if name in found or name not in optional] != found:
            raise ValueError(f"{path} is not a trace: its columns are {str(found)[:200]}")
        return [_parse(record) for record in reader if None not in record.values()]


def cut_short(summary: Mapping[str, Any], rows: Sequence[Row]) -> str | None:
    """Return whether a trace lacks steps that its run's summary knows of.

    Parameters
    ----------
    summary : mapping
        The run's; written after the steps it knows of.
    rows : sequence of Row
        The trace.

    Returns
    -------
    str or None
        The end of a sentence that begins with the file; None for a whole trace.
    """
    known, last = summary.get("iteration"), rows[-1].iteration if rows else -1
    if not isinstance(known, int) or known <= last:
        return None
    where = f"ends at step {last}" if rows else "has no steps"
    return f"is damaged: it {where}, but the run came to step {known}."


def _parse(record: dict[str, str]) -> Row:
    whole, text = {"iteration"}, {"note"}
    return Row.read(
        **{
            name: value if name in text else _whole(value) if name in whole else float(value)  # type: ignore[arg-type]
            for name, value in record.items()
        }
    )


def _whole(text: str) -> int:
    value = int(text)
    if abs(value) > _MOST_STEPS:
        raise ValueError(f"there is no step {text[:20]}...")
    return value
