"""The terminal: where text goes, and how a path is written there."""

from pathlib import Path

from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """Return the terminal, or a wide plain one where output goes elsewhere."""
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=120)


def short(path: Path) -> str:
    """Return a path as a user in the working directory would write it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
