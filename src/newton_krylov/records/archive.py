"""Many runs in one compact file: a line of JSON for each, compressed by gzip.

A line holds a run's configuration, summary and environment, and its trace by columns, so that
`pandas.read_json(file, lines=True)` reads it as well. In a trace a number that is not known is
null, an infinite one the text "inf". Weights and figures are not kept.
"""

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newton_krylov.errors import DataError, UserError
from newton_krylov.files import atomic_write, require_file, usable_memory
from newton_krylov.records.record import LARGEST, bounded
from newton_krylov.records.trace import Row

SUFFIX = ".jsonl.gz"
_TEXT, _WHOLE = "note", "iteration"
_EXPANSION = 200  # text per compressed byte; traces reach 20, and bombs a thousand
_HELD = 16  # bytes of memory per byte of text, at most, once it is rows


@dataclass(frozen=True)
class ArchivedRun:
    """One run of an archive.

    Attributes
    ----------
    name : str
        Unique in its file.
    config, summary, environment : dict
        What the run's files of these names held.
    rows : sequence of Row
        The run's trace.
    """

    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    environment: dict[str, Any]
    rows: Sequence[Row]


def write_archive(runs: Iterable[ArchivedRun], path: Path) -> None:
    """Write runs to one file; the same runs give the same bytes.

    Parameters
    ----------
    runs : iterable of ArchivedRun
        In the order in which they are to be read.
    path : Path
        Named `*.jsonl.gz`; replaced if it exists.
    """
    text = "".join(f"{json.dumps(_plain(run), ensure_ascii=False)}\n" for run in runs)
    with atomic_write(path) as stream:
        stream.write(gzip.compress(text.encode(), mtime=0))


def read_archive(path: Path) -> list[ArchivedRun]:
    """Read the runs of a file.

    Parameters
    ----------
    path : Path
        As `write_archive` wrote it.

    Returns
    -------
    list of ArchivedRun
        In order. A column that the trace lacks, since it is newer than the file, is nan.

    Raises
    ------
    DataError
        For a file that is damaged, or something else.
    """
    require_file(path)
    runs = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            runs.append(_run(path, json.loads(line)))
        except UserError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            reason = f"{error!r}"[:200]
            raise DataError(f"{path}, line {number}, is not a run: {reason}.") from error
    return runs


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, bounded in length and in sum."""
    left = min(max(LARGEST, _EXPANSION * path.stat().st_size), usable_memory() // _HELD)
    number = 0
    try:
        with gzip.open(path) as stream:
            while line := stream.readline(LARGEST + 1):
                number += 1
                left -= len(line)
                if len(line) > LARGEST:
                    raise DataError(
                        f"{path}, line {number} is longer than {LARGEST >> 20} MiB; no run is."
                    )
                if left < 0:
                    raise DataError(f"{path} expands to more than an archive of runs can be.")
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {str(error).rstrip('.')}.") from error


def _plain(run: ArchivedRun) -> dict[str, Any]:
    trace = {name: [_number(getattr(row, name)) for row in run.rows] for name in Row.columns()}
    return {
        "run": run.name,
        "config": run.config,
        "summary": run.summary,
        "environment": run.environment,
        "trace": trace,
    }


def _run(path: Path, line: Mapping[str, Any]) -> ArchivedRun:
    return ArchivedRun(
        str(line["run"]),
        dict(bounded(path, line["config"])),
        dict(bounded(path, line["summary"])),
        dict(bounded(path, line["environment"])),
        _rows(line["trace"]),
    )


def _rows(trace: Mapping[str, Sequence[Any]]) -> list[Row]:
    unknown = [None] * len(trace[_WHOLE])
    columns = {name: trace.get(name, unknown) for name in Row.columns()}
    return [
        Row.read(**{name: _value(name, value) for name, value in zip(columns, values, strict=True)})
        for values in zip(*columns.values(), strict=True)
    ]


def _number(value: Any) -> Any:
    """Return a value of a trace as JSON holds it."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else str(value)


def _value(column: str, value: Any) -> Any:
    if column == _TEXT:
        return value or ""
    if column == _WHOLE:
        return int(value)
    return math.nan if value is None else float(value)
