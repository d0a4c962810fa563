"""Sends records to MLflow that are not there, or not whole: the server was down, or a run killed.

    python -m newton_krylov.tracking.upload outputs/2025-01-31/12-00-00-000000 ...

It may be repeated: rows and parameters that are there are not sent again. A record that says
"running" while no process writes it is one of a killed run, and marked so.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from newton_krylov.errors import UserError, in_words
from newton_krylov.terminal import console, end_on_interrupt, interrupts, output_lost, say


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m newton_krylov.tracking.upload"
) -> int:
    """Send records from the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Instead of the command line's.
    prog : str
        How the command is typed.

    Returns
    -------
    int
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Send the records of runs to MLflow; rows that are there are not sent again.",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="run or sweep folders")
    parser.add_argument("--uri", help="tracking server or database (default: the runs' own)")
    options = parser.parse_args(arguments)
    say("reading the records (MLflow takes seconds to import)", stderr=True)

    from newton_krylov.tracking.address import keep
    from newton_krylov.tracking.afterwards import upload

    screen, errors = console(), console(stderr=True)
    whole = True
    try:
        with interrupts():
            for sent in upload(options.folders, options.uri and keep(options.uri)):
                place = f" as run {sent.run_id}" if sent.run_id else ""
                text = f"{sent.folder}: {sent.what}{place}"
                if sent.problem is None:
                    screen.print(text, markup=False, soft_wrap=True)
                else:
                    whole = False
                    errors.print(f"{text}: {sent.problem}", markup=False, soft_wrap=True)
    except (UserError, OSError) as error:
        errors.print(f"Error: {in_words(error)}", markup=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        return 130
    return 0 if whole and not output_lost() else 1


if __name__ == "__main__":
    end_on_interrupt()
    sys.exit(main())
