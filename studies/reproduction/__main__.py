"""Writes the page: `python -m studies.reproduction outputs/<sweep> ...`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from newton_krylov.errors import UserError
from newton_krylov.report.records import read_records
from studies.reproduction.generate import generate
from studies.reproduction.kept import keep

_HERE = Path(__file__).resolve().parent
_PROJECT = _HERE.parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate the page from the command line."""
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="python -m studies.reproduction",
        description="Write docs/reproduction.md from the records of runs.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, help="sweep folders, as in outputs/, or archives of runs"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="the page's folder, for a page of one's own, its sections beside it (default: this "
        "project's docs/ and studies/reproduction/sections/)",
    )
    parser.add_argument(
        "--keep", type=Path, help="also keep the records of these runs there, a file a study"
    )
    options = parser.parse_args(arguments)
    try:
        if options.out is None:
            page = generate(options.folders, _PROJECT / "docs", _HERE / "sections")
        else:
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
