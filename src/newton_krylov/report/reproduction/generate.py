"""Puts the page together; a new study of the paper adds its section here."""

from collections.abc import Sequence
from pathlib import Path

from newton_krylov.data.files import atomic_write
from newton_krylov.errors import DataError
from newton_krylov.report.records import RunRecord, read_records
from newton_krylov.report.reproduction import convex, growth
from newton_krylov.report.reproduction.page import SectionMaker, write_page

SECTIONS: tuple[SectionMaker, ...] = (convex.section, growth.section)
"""In the order of the page."""

PAGE = "reproduction.md"


def generate(folders: Sequence[Path], out_dir: Path) -> Path:
    """Generate the page and its figures.

    Parameters
    ----------
    folders : sequence of Path
        Sweep folders.
    out_dir : Path
        Gets `reproduction.md`, and figures in `figures/`.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DataError
        Where no section can be made of the runs.
    """
    records: dict[str, list[RunRecord]] = {}
    for record in read_records(folders):
        records.setdefault(record.study, []).append(record)
    made = [make(records, out_dir / "figures") for make in SECTIONS]
    sections = [section for section in made if section is not None]
    if not sections:
        raise DataError("None of these runs belongs to a study of the paper: paper_convex, ...")
    out_dir.mkdir(parents=True, exist_ok=True)
    with atomic_write(out_dir / PAGE) as stream:
        stream.write(write_page(sections, records).encode())
    return out_dir / PAGE
