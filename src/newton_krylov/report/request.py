"""Carries out what a command line asks of a comparison, and prints its tables."""

import argparse
import hashlib
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from newton_krylov.errors import DataError
from newton_krylov.records.archive import SUFFIX
from newton_krylov.records.unfinished import mark_killed_in
from newton_krylov.report.compare import COMPARISON_HTML, write_comparison
from newton_krylov.report.figures import slug
from newton_krylov.report.records import RunRecord, read_record, read_records
from newton_krylov.report.results import fastest_text, tables
from newton_krylov.report.study import studies
from newton_krylov.report.tables import count_text
from newton_krylov.terminal import console, one_line, say
from newton_krylov.tracking.afterwards import settle

OUTPUTS = Path("outputs")

_PLAIN = re.compile("[a-z0-9_]+( [a-z0-9_]+)*")
"""Names that make one folder each, without anything added."""

_FOR_A_TERMINAL = ("Method", "f", "f − f*", "Test acc.", "Steps", "Passes", "Time", "Ending")
"""Columns of the table of endings that fit; the files have all of them."""


def answer(options: argparse.Namespace) -> None:
    """Compare the runs that the options name, write the files, print the tables."""
    screen = console()
    settle()
    mark_killed_in(Path(folder) for folder in options.folders if Path(folder).is_dir())
    groups = studies(_read(options))
    out = options.out or _default_place(options)
    runs = sum(len(study.records) for study in groups)
    say(f"comparing {count_text(runs, 'run')}: tables and figures")
    files = write_comparison(groups, out)
    for table in tables([replace(study, entries=study.ranked) for study in groups]):
        shown = table.only(*_FOR_A_TERMINAL) if table.heads[0] == "Method" else table
        screen.print(shown.rich())
    several = len(groups) > 1
    for study in groups:
        if sentence := fastest_text(study):
            say(one_line(f"{study.problem.title}: {sentence}" if several else sentence))
    written = f"{out / COMPARISON_HTML} and {len(files) - 1} more files"
    screen.print(written, markup=False, soft_wrap=True)


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
        first = Path(options.folders[0])
        if first.is_dir():
            return first
        name = f"comparison-{first.name.removesuffix(SUFFIX)}"
        if first.absolute().parent == Path.cwd():
            return OUTPUTS / name
        # Another archive of the name may lie in another folder.
        return OUTPUTS / f"{name}-{_digest(str(first.absolute()))}"
    asked = [vars(options).get(key) for key in ("experiment", "parent", "filter")]
    name = asked[0] or asked[1] or "filter"
    if not asked[2] and _PLAIN.fullmatch(name):
        return OUTPUTS / f"comparison-{name.replace(' ', '-')}"
    # What a slug leaves out, capitals included, may be all that distinguishes two studies.
    words = ["comparison", slug(name), _digest(repr(asked))]
    return OUTPUTS / "-".join(word for word in words if word)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
