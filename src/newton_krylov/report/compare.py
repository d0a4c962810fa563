"""Compares runs: tables, a CSV file, figures and one HTML page, from their folders alone."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from newton_krylov.files import atomic_write
from newton_krylov.report.context import differences_table, environments_table
from newton_krylov.report.fields import study_fields
from newton_krylov.report.figures import draw_profiles, draw_scaling, draw_study, slugs
from newton_krylov.report.folds import cross_validations
from newton_krylov.report.html.page import write_page
from newton_krylov.report.profiles import profiles
from newton_krylov.report.records import read_records
from newton_krylov.report.results import tables
from newton_krylov.report.scaling import scaling
from newton_krylov.report.spreadsheet import write_csv
from newton_krylov.report.study import Study, studies
from newton_krylov.report.tables import Preface

_log = logging.getLogger(__name__)

T = TypeVar("T")

COMPARISON_HTML = "comparison.html"
COMPARISON_CSV = "comparison.csv"
COMPARISON_MD = "comparison.md"


def compare(folders: Iterable[Path], out_dir: Path) -> list[Path]:
    """Compare the runs in some folders.

    Runs on equal problems are compared with each other; runs that differ by seed or repetition
    only are one entry, shown by medians and ranges. A run that failed, or whose folder is
    damaged, is in every table with its reason.

    Parameters
    ----------
    folders : iterable of Path
        Run folders, sweep folders, or anything above them.
    out_dir : Path
        Gets `comparison.html` (everything, on one page that needs nothing else), `comparison.csv`
        (a line a run), `comparison.md` (a row a method) and `figures/`.

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


def write_comparison(
    groups: Sequence[Study], out_dir: Path, preface: Preface | None = None
) -> list[Path]:
    """Write the page, the tables, the CSV file and the figures of some studies.

    Parameters
    ----------
    groups : sequence of Study
        Studies of any problems; at least one.
    out_dir : Path
        As in `compare`.
    preface : Preface, optional
        Goes above everything else on the page and in the tables.

    Returns
    -------
    list of Path
        The files written.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    page, sheet, text = (out_dir / n for n in (COMPARISON_HTML, COMPARISON_CSV, COMPARISON_MD))
    write_csv(groups, sheet)
    fields = [_drawable(study_fields, study) for study in groups]
    with atomic_write(text) as stream:
        stream.write(_markdown(groups, preface).encode())
    with atomic_write(page) as stream:
        stream.write(write_page(groups, preface, fields).encode())
    return [page, sheet, text, *_draw(groups, fields, out_dir / "figures")]


def _markdown(groups: Sequence[Study], preface: Preface | None) -> str:
    settings = differences_table(groups)
    shown = [*tables(groups), *([settings] if settings else []), environments_table(groups)]
    answer = ""
    if preface is not None:
        reasons = "\n".join(f"- {reason}" for reason in preface.reasons)
        answer = f"{preface.paragraph}\n\n{preface.table().markdown()}\n{reasons}\n\n"
    for found in cross_validations(groups):
        answer += f"{found.text}\n\n{found.table().markdown()}\n"
    return f"# Comparison\n\n{answer}" + "\n".join(table.markdown() for table in shown)


def _draw(groups: Sequence[Study], fields: Sequence[bytes | None], folder: Path) -> list[Path]:
    files = []
    for place, study, picture in zip(_figure_folders(groups, folder), groups, fields, strict=True):
        files += _drawable(draw_study, study, place) or []
        if picture is not None:
            place.mkdir(parents=True, exist_ok=True)
            with atomic_write(place / "fields.png") as stream:
                stream.write(picture)
            files.append(place / "fields.png")
    growth = scaling(groups)
    if growth is not None:
        files += draw_scaling(growth, folder)
    return files + draw_profiles(profiles(groups), groups[0].family, folder)


def _drawable(draw: Callable[..., T], study: Study, *where: Path) -> T | None:
    """Draw a study; None where it has numbers that no axis can hold."""
    try:
        return draw(study, *where)
    except (ArithmeticError, ValueError, MemoryError) as error:
        _log.warning("%s cannot be drawn: %s", study.problem.title, error)
        return None


def _figure_folders(groups: Sequence[Study], figures: Path) -> list[Path]:
    """Give each problem a folder of its own, where there are several."""
    if len(groups) == 1:
        return [figures]
    return [figures / name for name in slugs([study.problem.title for study in groups])]
