"""Puts the page together; a new study adds its section here.

What a section says is kept (`sections/<section>.json`), so that a study can be run again, and its
part of the page be made again, without the hours of the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from newton_krylov.errors import DataError
from newton_krylov.files import atomic_write
from newton_krylov.report.records import RunRecord, read_records
from studies.reproduction.origin import origin
from studies.reproduction.page import Section, write_page
from studies.reproduction.stored import load, store

SECTIONS = (
    "convex",
    "growth",
    "nonconvex",
    "ye_zhang",
    "dynanewton",
    "sns",
    "pinn",
)
"""Modules of this package, each with a function `section`, in the order of the page."""

PAGE = "reproduction.md"


def generate(folders: Sequence[Path], out_dir: Path, sections_dir: Path | None = None) -> Path:
    """Generate the page and its figures, of whatever studies there are.

    Sections of which there are no runs stay as the last call with these folders made them.

    Parameters
    ----------
    folders : sequence of Path
        Sweep folders, or archives of runs.
    out_dir : Path
        Gets `reproduction.md`, and figures in `figures/`.
    sections_dir : Path, optional
        Gets what the page is made of, a file a section; `out_dir/sections` by default.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DataError
        Where no section can be made of the runs, or the file of another is damaged.
    """
    records: dict[str, list[RunRecord]] = {}
    for record in read_records(folders):
        records.setdefault(record.study, []).append(record)
    made = {name: _section(name, records, out_dir / "figures") for name in SECTIONS}
    if not any(made.values()):
        found = ", ".join(f"'{name}'" for name in records)
        raise DataError(
            f"None of these runs belongs to a study with a section on the page, as "
            f"experiment=paper_convex does; their studies are {found}."
        )
    place = sections_dir or out_dir / "sections"
    for name, section in made.items():
        if section is not None:
            store(section, place / f"{name}.json")
    return assemble(out_dir, place)


def assemble(out_dir: Path, sections_dir: Path) -> Path:
    """Write the page of the sections that are kept."""
    files = [sections_dir / f"{name}.json" for name in SECTIONS]
    sections = [load(file) for file in files if file.exists()]
    with atomic_write(out_dir / PAGE) as stream:
        stream.write(write_page(sections).encode())
    return out_dir / PAGE


def _section(name: str, records: Mapping[str, list[RunRecord]], figures: Path) -> Section | None:
    """Make a section, and note which runs it was made of."""
    module = import_module(f"{__package__}.{name}")
    watched = _Watched(records)
    section: Section | None = module.section(watched, figures)
    return None if section is None else replace(section, origin=origin(watched.used))


class _Watched(Mapping[str, list[RunRecord]]):
    """The runs by study; remembers those that were asked for."""

    def __init__(self, records: Mapping[str, list[RunRecord]]) -> None:
        self._records = records
        self.used: dict[str, list[RunRecord]] = {}

    def __getitem__(self, study: str) -> list[RunRecord]:
        found = self._records[study]
        self.used[study] = found
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)
