"""Writes the page: `python -m studies.reproduction outputs/<sweep> ... --out docs`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from newton_krylov.errors import UserError
from newton_krylov.report.records import read_records
from studies.reproduction.generate import generate
from studies.reproduction.kept import keep


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate the page from the command line.

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
        prog="python -m studies.reproduction",
        description="Write docs/reproduction.md from the records of runs.",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="sweep folders, as in outputs/")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="default: docs")
    parser.add_argument("--keep", type=Path, help="also copy the records there, of these runs")
    options = parser.parse_args(arguments)
    try:
        page = generate(options.folders, options.out)
        if options.keep is not None:
            keep(read_records(options.folders), options.keep)
    except UserError as error:
        Console(stderr=True).print(f"Error: {error}", markup=False, soft_wrap=True)
        return 2
    Console().print(f"{page}", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
