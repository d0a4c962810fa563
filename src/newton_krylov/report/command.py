"""The command `python compare.py`: reads runs from folders or from MLflow and compares them.

Nothing heavy is imported before the arguments are understood: `--help` answers at once.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from newton_krylov.errors import UserError

_EXAMPLES = """\
examples:
  {prog} outputs/2026-01-31/12-00-00-000000   (a sweep's folder, or a run's, or several)
  {prog} --experiment paper_convex            (from MLflow, by the experiment's name)
  {prog} --parent 0123456789abcdef            (the runs of one sweep)
  {prog} --experiment solvers --filter "metrics.suboptimality < 1e-9"
"""


def main(arguments: Sequence[str] | None = None, prog: str = "python compare.py") -> int:
    """Compare runs from the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Instead of the command line's.
    prog : str
        How the command is typed.

    Returns
    -------
    int
        The exit status: 0, 1 where not all could be shown, or 2 for a mistake of the user's, for
        which one sentence is printed.
    """
    options = _parse(arguments, prog)
    from newton_krylov.terminal import interrupts, one_line, open_closed_streams, output_lost, say

    open_closed_streams()
    say("reading the runs")
    from newton_krylov.report.request import answer

    try:
        with interrupts():
            answer(options)
    except KeyboardInterrupt:
        say("Interrupted.", stderr=True)
        return 130
    except OSError as error:
        text = f"{error.filename or 'the comparison'} cannot be written: {error.strerror}."
        say(one_line(f"Error: {text}"), stderr=True)
        return 2
    except UserError as error:
        say(one_line(f"Error: {error}"), stderr=True)
        return 2
    return 1 if output_lost() else 0


def _parse(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Compare runs: one HTML page, tables, a CSV file and figures.",
        epilog=_EXAMPLES.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, help="run or sweep folders, as in outputs, or archives"
    )
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
