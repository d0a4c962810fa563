"""The command `python compare.py`: reads runs from folders or from MLflow and compares them."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from newton_krylov.errors import DataError, UserError
from newton_krylov.report.compare import COMPARISON_HTML, write_comparison
from newton_krylov.report.figures import slug
from newton_krylov.report.records import RunRecord, read_record, read_records
from newton_krylov.report.results import tables
from newton_krylov.report.study import studies
from newton_krylov.terminal import console

OUTPUTS = Path("outputs")

_FOR_A_TERMINAL = ("Method", "f", "f − f*", "Test acc.", "Steps", "Passes", "Time", "Ending")
"""Columns of the table of endings that fit; the files have all of them."""

_EXAMPLES = """\
examples:
  python compare.py outputs/2026-01-31/12-00-00-000000   (a sweep's folder, or a run's, or several)
  python compare.py --experiment paper_convex            (from MLflow, by the experiment's name)
  python compare.py --parent 0123456789abcdef            (the runs of one sweep)
  python compare.py --experiment solvers --filter "metrics.suboptimality < 1e-9"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare runs from the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Instead of the command line's.

    Returns
    -------
    int
        The exit status: 0, or 2 for a mistake of the user's, which is told in one sentence.
    """
    from rich.console import Console

    options = _parse(arguments)
    out_stream = console()
    try:
        groups = studies(_read(options))
        out = options.out or _default_place(options)
        files = write_comparison(groups, out)
    except UserError as error:
        Console(stderr=True, soft_wrap=True).print(f"Error: {error}", markup=False, highlight=False)
        return 2
    for table in tables(groups):
        shown = table.only(*_FOR_A_TERMINAL) if table.heads[0] == "Method" else table
        out_stream.print(shown.rich())
    told = f"{out / COMPARISON_HTML} and {len(files) - 1} more files"
    out_stream.print(told, markup=False, soft_wrap=True)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python compare.py",
        description="Compare runs: one HTML page, tables, a CSV file and figures.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="*", type=Path, help="run or sweep folders, as in outputs")
    mlflow = parser.add_argument_group("runs from MLflow")
    mlflow.add_argument("--experiment", metavar="NAME", help="all runs of an experiment")
    mlflow.add_argument("--parent", metavar="RUN_ID", help="the runs nested in this one: a sweep's")
    mlflow.add_argument("--filter", metavar="QUERY", help="runs that MLflow's query finds")
    mlflow.add_argument(
        "--uri", help="the tracking server or database (default: MLflow's, sqlite:///mlflow.db)"
    )
    parser.add_argument(
        "--out", type=Path, help="where the comparison goes (default: the first folder, or outputs)"
    )
    options = parser.parse_args(arguments)
    chosen = bool(options.experiment or options.parent or options.filter)
    if bool(options.folders) == chosen:
        parser.error("give either folders, or --experiment, --parent or --filter for MLflow")
    return options


def _read(options: argparse.Namespace) -> list[RunRecord]:
    if options.folders:
        return read_records(options.folders)
    from newton_krylov.tracking.mlflow_reader import fetch

    with tempfile.TemporaryDirectory() as place:
        found = fetch(
            Path(place),
            uri=options.uri,
            experiment=options.experiment,
            parent=options.parent,
            query=options.filter,
        )
        records = [read_record(folder, source) for folder, source in found.items()]
    if not records:
        raise DataError("MLflow has runs there, but no run of an optimizer among them.")
    return records


def _default_place(options: argparse.Namespace) -> Path:
    if options.folders:
        return Path(options.folders[0])
    return OUTPUTS / f"comparison-{slug(options.experiment or options.parent or 'filter')}"
