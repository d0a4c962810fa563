"""Puts the page together; a new study adds its section here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from newton_krylov.data.files import atomic_write
from newton_krylov.errors import DataError
from newton_krylov.report.records import RunRecord, read_records
from newton_krylov.report.reproduction.page import Section, write_page

SECTIONS = (
    "convex",
    "growth",
    "nonconvex",
    "ye_zhang",
    "dynanewton",
    "sns",
)
"""Modules of this package, each with a function `section`, in the order of the page."""

PAGE = "reproduction.md"


def generate(folders: Sequence[Path], out_dir: Path) -> Path:
    """Generate the page and its figures, of whatever studies there are.

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
    made = [_section(name, records, out_dir / "figures") for name in SECTIONS]
    sections = [section for section in made if section is not None]
    if not sections:
        found = ", ".join(f"'{name}'" for name in records)
        raise DataError(
            f"None of these runs belongs to a study with a section on the page, as "
            f"experiment=paper_convex does; their studies are {found}."
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    with atomic_write(out_dir / PAGE) as stream:
        stream.write(write_page(sections, records).encode())
    return out_dir / PAGE


def _section(name: str, records: Mapping[str, list[RunRecord]], figures: Path) -> Section | None:
    """Make a section, and note which studies it was made of."""
    module = import_module(f"{__package__}.{name}")
    watched = _Watched(records)
    section: Section | None = module.section(watched, figures)
    return None if section is None else replace(section, studies=tuple(watched.used))


class _Watched(Mapping[str, list[RunRecord]]):
    """The runs by study; remembers which studies were there when asked for."""

    def __init__(self, records: Mapping[str, list[RunRecord]]) -> None:
        self._records = records
        self.used: dict[str, None] = {}

    def __getitem__(self, study: str) -> list[RunRecord]:
        found = self._records[study]
        self.used[study] = None
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)
