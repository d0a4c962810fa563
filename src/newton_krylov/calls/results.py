"""What the calls return: records as data frames, tables and figures that a notebook shows."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from newton_krylov.errors import DataError
from newton_krylov.records.record import WEIGHTS
from newton_krylov.report.compare import COMPARISON_HTML
from newton_krylov.report.figures import overview_figure, run_figure
from newton_krylov.report.records import RunRecord, differences, read_record, read_records
from newton_krylov.report.results import (
    caution_text,
    endings_table,
    fastest_text,
    times_table,
)
from newton_krylov.report.study import Study, studies
from newton_krylov.report.tables import Table
from newton_krylov.report.verdict import Race, read_race

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = (
    "status", "outcome", "loss", "suboptimality", "grad_norm", "test_accuracy", "test_d2",
    "seconds",
)  # fmt: skip


class Run:
    """One run, as its folder has it.

    Parameters
    ----------
    folder : Path
        The run's.

    Attributes
    ----------
    folder : Path
        With `trace.csv`, `summary.json`, `config.yaml`, `weights.npy`, figures.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def record(self) -> RunRecord:
        """What the folder holds."""
        return read_record(self.folder)

    @property
    def summary(self) -> dict[str, Any]:
        """How it ended: `status`, `outcome`, `reason`, the last row's figures, the data set."""
        return self.record.summary

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration."""
        return self.record.config

    @cached_property
    def trace(self) -> pd.DataFrame:
        """One row a step: loss, suboptimality, gradient norm, seconds, counts, ..."""
        return _trace(self.record)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The run in one row, as `sweep` has one for each."""
        return _frame([self.record])

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """The final parameters, shape (dim,)."""
        try:
            found: NDArray[np.float64] = np.load(self.folder / WEIGHTS, allow_pickle=False)
        except OSError as error:
            raise DataError(f"{self.folder} has no weights: the run did not end.") from error
        return found

    def figure(self) -> "Figure":
        """Draw how far it came against its steps and its seconds, and its accuracy.

        Returns
        -------
        Figure
            Matplotlib's.

        Raises
        ------
        DataError
            If it made no step.
        """
        if not self.record.rows:
            raise DataError(f"{self.folder} has no steps to draw: {self.record.ending}.")
        return run_figure(self.record)

    def __str__(self) -> str:
        known = [key for key in _SHOWN if self.summary.get(key) is not None]
        rows = [[key, _cell(self.summary[key])] for key in known]
        body = "\n".join(f"{key:<14} {value}" for key, value in rows)
        return f"{self.record.label} on {self.record.problem.title}\n{body}\n{self.folder}"

    def __repr__(self) -> str:
        return f"<Run {self.record.label}: {self.record.ending}>"

    def _repr_html_(self) -> str:
        known = self.frame.drop(columns="folder").dropna(axis="columns", how="all")
        last = known.to_html(index=False, border=0)
        return f"{last}{_picture(self.figure()) if self.record.rows else ''}"


class Comparison:
    """Several runs side by side.

    Parameters
    ----------
    records : sequence of RunRecord
        The runs.
    folder : Path or None
        Where the comparison was written.

    Attributes
    ----------
    folder : Path or None
        With `comparison.html`, `comparison.csv`, figures.
    studies : list of Study
        One for each problem.
    """

    def __init__(self, records: Sequence[RunRecord], folder: Path | None) -> None:
        self.folder = folder
        self.records = list(records)
        self.studies: list[Study] = studies(self.records)

    @cached_property
    def runs(self) -> list[Run]:
        """The runs one by one."""
        return [Run(record.folder) for record in self.records]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a run: label, the settings in which the runs differ, how it ended."""
        return _frame(self.records)

    @property
    def summary(self) -> pd.DataFrame:
        """The same as `frame`: how each run ended."""
        return self.frame

    @cached_property
    def trace(self) -> pd.DataFrame:
        """The traces of all runs below one another; `run` is the row of `frame`."""
        traces = [_trace(record).assign(run=i) for i, record in enumerate(self.records)]
        found = pd.concat([each for each in traces if len(each)] or traces, ignore_index=True)
        labels = [record.label for record in self.records]
        found.insert(0, "run", found.pop("run"))
        found.insert(1, "label", [labels[i] for i in found["run"]])
        return found

    @cached_property
    def table(self) -> pd.DataFrame:
        """The medians of each method's runs, best first: what it reached, and its times."""
        parts = []
        for study in self.studies:
            ranked = Study(study.problem, study.ranked, study.family)
            part = _as_frame(endings_table(ranked))
            if study.targets:
                times = _as_frame(times_table(ranked))
                heads = {head: f"to {head}" for head in times.columns[1:]}
                part = part.join(times.iloc[:, 1:].rename(columns=heads))
            if len(self.studies) > 1:
                part.insert(0, "Problem", study.problem.title)
            parts.append(part)
        return pd.concat(parts, ignore_index=True)

    @property
    def answer(self) -> str:
        """Who is first, in a sentence for each problem, and what makes that doubtful."""
        several = len(self.studies) > 1
        return "\n".join(
            f"{study.problem.title}: {text}" if several else text
            for study in self.studies
            for text in (fastest_text(study), caution_text(study))
            if text
        )

    @property
    def page(self) -> Path | None:
        """The comparison as one HTML page."""
        return None if self.folder is None else self.folder / COMPARISON_HTML

    def figure(self, problem: int = 0) -> "Figure":
        """Draw the methods of a problem.

        Parameters
        ----------
        problem : int
            Number of the problem, in the order of `studies`.

        Returns
        -------
        Figure
            Matplotlib's.

        Raises
        ------
        DataError
            If no run of it made a step.
        """
        study = self.studies[problem]
        if not any(record.rows for record in study.records):
            raise DataError(f"No run on {study.problem.title} made a step.")
        return overview_figure(study)

    def __str__(self) -> str:
        return f"{self.table.to_string(index=False)}\n{self.answer}".rstrip()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.records)} runs: {self.answer}>"

    def _repr_html_(self) -> str:
        answer = "".join(f"<p><b>{html.escape(line)}</b></p>" for line in self.answer.splitlines())
        drawn = (
            _picture(self.figure(i))
            for i, study in enumerate(self.studies)
            if any(record.rows for record in study.records)
        )
        return f"{answer}{self.table.to_html(index=False, border=0)}{''.join(drawn)}"


class Verdict(Comparison):
    """The answer to "would a second-order method help here?", with what it rests on.

    Parameters
    ----------
    folder : Path
        Of the race.
    """

    def __init__(self, folder: Path) -> None:
        self.race: Race = read_race(folder)
        judged = [r for c in self.race.contestants for r in (*c.default, *c.tuned) if r.config]
        tried = [r for c in self.race.contestants for _, r in c.tuning]
        super().__init__(judged or tried, folder)

    @property
    def answer(self) -> str:
        """Yes, No, No difference, or Not decided."""
        return self.race.answer

    @property
    def paragraph(self) -> str:
        """The answer with who is how much faster to which target."""
        return self.race.paragraph

    @property
    def reasons(self) -> list[str]:
        """Why, each with its number."""
        return self.race.reasons

    @cached_property
    def table(self) -> pd.DataFrame:
        """Times to the targets, the fastest to the hardest one first."""
        return _as_frame(self.race.table())

    def __str__(self) -> str:
        table = _as_frame(self.race.short_table()).to_string(index=False)
        return "\n".join([self.paragraph, "", table, "", *self.reasons])

    def _repr_html_(self) -> str:
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        table = self.table.to_html(index=False, border=0)
        drawn = _picture(self.figure()) if any(record.rows for record in self.records) else ""
        return f"<p><b>{html.escape(self.paragraph)}</b></p>{table}<ul>{reasons}</ul>{drawn}"


def records_of(given: Iterable[Any]) -> list[RunRecord]:
    """Return the records of results and of folders.

    Parameters
    ----------
    given : iterable
        Results of the calls, run or sweep folders, archives.

    Returns
    -------
    list of RunRecord
        At least one.

    Raises
    ------
    DataError
        For a path without runs.
    """
    records: list[RunRecord] = []
    for each in given:
        if isinstance(each, Run):
            records.append(each.record)
        elif isinstance(each, Comparison):
            records += each.records
        else:
            records += read_records([Path(each)])
    return list({record.folder.resolve(): record for record in records}.values())


def _trace(record: RunRecord) -> pd.DataFrame:
    rows = [asdict(row) | {"notes": row.note} for row in record.rows]
    return pd.DataFrame(rows).rename(columns={"notes": "note"})


def _frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    different = differences(records)
    rows = []
    for i, record in enumerate(records):
        own = {key: values[i] for key, values in different.items() if key != "label"}
        last = {key: record.summary.get(key) for key in _SHOWN if key != "status"}
        rows.append(
            {"label": record.label, **own, "status": record.status, **last}
            | {"folder": str(record.folder)}
        )
    return pd.DataFrame(rows)


def _as_frame(table: Table) -> pd.DataFrame:
    return pd.DataFrame(list(map(list, table.rows)), columns=list(table.heads))


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _picture(figure: "Figure") -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    text = base64.b64encode(stream.getvalue()).decode()
    return f'<img style="max-width: 100%" alt="" src="data:image/png;base64,{text}">'
