"""Compares runs: a table, a CSV file and figures, from their folders alone.

Run `python -m newton_krylov.report.compare outputs/<date>/<time> ...`.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from newton_krylov.data.files import atomic_write
from newton_krylov.errors import UserError
from newton_krylov.report.figures import draw_scaling, draw_study, slug
from newton_krylov.report.panel import SECONDS_PER, seconds_text
from newton_krylov.report.records import RunRecord, read_records
from newton_krylov.report.scaling import scaling
from newton_krylov.report.study import Array, Entry, Study, studies
from newton_krylov.report.tables import Table, middle, number_text

TARGETS = (1e-3, 1e-6, 1e-9, 1e-12)
"""Suboptimalities whose times are told."""

COMPARISON_CSV = "comparison.csv"
COMPARISON_MD = "comparison.md"


def compare(folders: Iterable[Path], out_dir: Path) -> list[Path]:
    """Compare the runs in some folders.

    Runs on equal problems are compared with each other; runs that differ by seed or repetition
    only are one entry, of which medians and ranges are told. A run that failed, or whose folder is
    damaged, is in every table with its reason.

    Parameters
    ----------
    folders : iterable of Path
        Run folders, sweep folders, or anything above them.
    out_dir : Path
        Gets `comparison.csv` (a line a run), `comparison.md` (a row a method) and `figures/`.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    DataError
        For a path that is not a folder, and where there are no runs at all.
    """
    return write_comparison(studies(read_records(folders)), out_dir)


def write_comparison(groups: Sequence[Study], out_dir: Path) -> list[Path]:
    """Write the table, the CSV file and the figures of some studies.

    Parameters
    ----------
    groups : sequence of Study
        Of any problems; at least one.
    out_dir : Path
        As in `compare`.

    Returns
    -------
    list of Path
        The files written.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    files = [out_dir / COMPARISON_CSV, out_dir / COMPARISON_MD]
    _write_csv(groups, files[0])
    text = "\n".join(table.markdown() for table in tables(groups))
    with atomic_write(files[1]) as stream:
        stream.write(f"# Comparison\n\n{text}".encode())
    figures = out_dir / "figures"
    for folder, study in zip(_figure_folders(groups, figures), groups, strict=True):
        files += draw_study(study, folder)
    growth = scaling(groups)
    return files + (draw_scaling(growth, figures) if growth else [])


def _figure_folders(groups: Sequence[Study], figures: Path) -> list[Path]:
    """Give each problem a folder of its own, where there are several."""
    if len(groups) == 1:
        return [figures]
    names = [slug(study.problem.title) for study in groups]
    return [
        figures / (name if names.count(name) == 1 else f"{name}-{i}")
        for i, name in enumerate(names)
    ]


def tables(groups: Sequence[Study]) -> list[Table]:
    """Tabulate studies: where each method ended, its times to targets, and what went wrong.

    Parameters
    ----------
    groups : sequence of Study
        Of any problems.

    Returns
    -------
    list of Table
        Two for each problem, and one of faults where there are any.
    """
    made = []
    for study in groups:
        made.append(_endings(study))
        if study.optimum is not None:
            made.append(_times(study))
    faults = [fault for study in groups for record in study.records for fault in record.faults]
    if faults:
        made.append(Table("Missing or damaged", ["What"], [[fault] for fault in faults]))
    return made


def _endings(study: Study) -> Table:
    """Tabulate what each method reached, and at what cost."""
    benchmark = None if study.benchmark is None else study.final_loss(study.benchmark)
    heads = ["Method", "f", "f − f*", "Train acc.", "Test acc.", "Steps", "Inner", "H products"]
    heads += ["Passes", "Time", "Ending"]
    if benchmark is not None:
        heads.insert(3, f"f − {str(study.benchmark).lower()}'s")
    rows = []
    for entry in study.entries:
        row = [
            entry.label,
            number_text(middle(entry.last("loss")), digits=10),
            _gap(middle(entry.last("suboptimality"))),
            _percent(middle(entry.last("train_accuracy"))),
            _percent(middle(entry.last("test_accuracy"))),
            number_text(middle(entry.last("iteration"))),
            number_text(middle(entry.total("inner_iterations"))),
            number_text(middle(entry.last("hvp_count"))),
            number_text(middle(entry.last("data_passes"))),
            _spread(entry.last("seconds")),
            entry.ending,
        ]
        if benchmark is not None:
            row.insert(3, _gap(middle(entry.last("loss")) - benchmark))
        rows.append(row)
    return Table(study.problem.title, heads, rows, _remarks(study))


def _remarks(study: Study) -> list[str]:
    remarks = []
    if study.optimum is None:
        remarks.append("No certified optimum is known, so no suboptimality is told.")
    elif study.floor is not None:
        remarks.append(
            f"f* = {study.optimum:.16g}, certified; differences below {study.floor:.0e} are "
            f"rounding errors."
        )
    counts = {len(entry.records) for entry in study.entries}
    if counts != {1}:
        runs = "–".join(str(count) for count in sorted({min(counts), max(counts)}))
        remarks.append(f"Medians of {runs} runs each; least and greatest times in brackets.")
    return remarks


def _times(study: Study) -> Table:
    """Tabulate the optimizer's seconds to each target, and the ratio to the fastest method."""
    rows = []
    for entry in study.entries:
        row = [entry.label]
        for target in TARGETS:
            seconds, best = float(np.median(entry.seconds_to(target))), study.fastest(target)
            ratio = f" ({seconds / best:.2f}×)" if np.isfinite(seconds) else ""
            row.append(f"{seconds_text(seconds)}{ratio}")
        rows.append(row)
    heads = ["Time to f − f* ≤", *(_power(target) for target in TARGETS)]
    remark = "Until the end of the first step at or below the target; × the fastest method's."
    return Table("", heads, rows, [remark])


def _power(target: float) -> str:
    return f"{target:.0e}".replace("e-0", "e-")


def _gap(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.1e}"


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.2%}"


def _spread(seconds: Array) -> str:
    """Write the median with the least and the greatest value, `12 [11 – 14] ms`."""
    known = seconds[np.isfinite(seconds)]
    value, _, unit = seconds_text(middle(seconds)).partition(" ")
    if known.size < 2 or not unit:
        return f"{value} {unit}".rstrip()
    low, high = (f"{end / SECONDS_PER[unit]:.3g}" for end in (known.min(), known.max()))
    return f"{value} [{low} – {high}] {unit}"


def _write_csv(groups: Sequence[Study], path: Path) -> None:
    """Write a line for every run."""
    lines = [
        _csv_line(study, entry, record)
        for study in groups
        for entry in study.entries
        for record in entry.records
    ]
    heads = dict.fromkeys(key for line in lines for key in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(heads), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())


_LAST = (
    "loss",
    "suboptimality",
    "grad_norm",
    "train_accuracy",
    "test_accuracy",
    "test_loss",
    "iteration",
    "function_count",
    "gradient_count",
    "hvp_count",
    "hessian_count",
    "data_passes",
    "seconds",
)


def _csv_line(study: Study, entry: Entry, record: RunRecord) -> dict[str, Any]:
    problem, last = study.problem, record.rows[-1] if record.rows else None
    benchmark = None if study.benchmark is None else study.final_loss(study.benchmark)
    above = None if last is None or benchmark is None else last.loss - benchmark
    return {
        "dataset": problem.dataset,
        "n_samples": problem.n_samples,
        "n_features": problem.n_features,
        "loss_name": problem.loss,
        **{f"loss_{key}": value for key, value in problem.parameters},
        "method": entry.label,
        "seed": record.settings.get("seed"),
        "repeat": record.settings.get("repeat"),
        "status": record.status,
        "ending": record.ending,
        **{name: None if last is None else getattr(last, name) for name in _LAST},
        "inner_iterations": float(record.column("inner_iterations").sum()),
        "suboptimality_to_benchmark": above,
        **dict(_times_of(record)),
        "folder": str(record.folder),
        "faults": " ".join(record.faults),
    }


def _times_of(record: RunRecord) -> Iterator[tuple[str, float | None]]:
    for target in TARGETS:
        seconds = record.seconds_to(target)
        yield f"seconds_to_{_power(target)}", seconds if np.isfinite(seconds) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare runs from the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Instead of the command line's.

    Returns
    -------
    int
        The exit status.
    """
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="python -m newton_krylov.report.compare", description="Compare runs."
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, help="run or sweep folders, as in outputs/"
    )
    parser.add_argument(
        "--out", type=Path, help="where the comparison goes (default: the first folder)"
    )
    options = parser.parse_args(arguments)
    console = Console()
    try:
        out = options.out or options.folders[0]
        groups = studies(read_records(options.folders))
        files = write_comparison(groups, out)
    except UserError as error:
        Console(stderr=True).print(f"Error: {error}", markup=False)
        return 2
    for table in tables(groups):
        console.print(table.rich())
    console.print(f"{len(files)} files in {out}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
