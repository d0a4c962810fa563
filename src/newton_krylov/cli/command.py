"""The installed command: `newton-krylov run`, `newton-krylov compare`, `newton-krylov upload`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from newton_krylov.errors import suggest
from newton_krylov.terminal import end_on_interrupt, end_quickly
from newton_krylov.version import __version__

PROG = "newton-krylov"
DONE, MISTAKE = 0, 2
"""Exit codes as in `cli.main`, which is imported only to run: it needs the commands' packages."""

_USAGE = f"""\
Usage: {PROG} COMMAND [arguments]

  run       compose a configuration and run it, or a sweep of it ({PROG} run --help)
  compare   compare runs: one HTML page, tables, figures ({PROG} compare --help)
  upload    send records to MLflow that are not there yet ({PROG} upload --help)

  --version, --help"""
_COMMANDS = ("run", "compare", "upload")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Parameters
    ----------
    arguments : sequence of str, optional
        Instead of the process's own.

    Returns
    -------
    int
        The exit code.
    """
    if arguments is None:
        end_on_interrupt()
        end_quickly()
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    rest = rest[:-1]
    if name in ("", "-h", "--help"):
        print(_USAGE)  # noqa: T201
        return DONE if name else MISTAKE
    if name == "--version":
        print(f"{PROG} {__version__}")  # noqa: T201
        return DONE
    if name not in _COMMANDS:
        print(f"Error: '{name}' is not a command{suggest(name, _COMMANDS)}", file=sys.stderr)  # noqa: T201
        return MISTAKE
    try:
        return _call(name, rest)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
            raise
        print(  # noqa: T201
            f"Error: {PROG} {name} needs the package '{error.name}', which is not installed; "
            f"pip install {PROG} brings it.",
            file=sys.stderr,
        )
        return MISTAKE


def _call(name: str, arguments: list[str]) -> int:
    prog = f"{PROG} {name}"
    if name == "run":
        from newton_krylov.cli.main import main as run

        return run(configuration_folder(), arguments, prog)
    if name == "compare":
        from newton_krylov.report.command import main as compare

        return compare(arguments, prog)
    from newton_krylov.tracking.upload import main as upload

    return upload(arguments, prog)


def configuration_folder() -> Path:
    """Return the folder of the configuration: a wheel's own, or the repository's `conf`."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "conf"
    return shipped if shipped.is_dir() else package.parents[1] / "conf"
