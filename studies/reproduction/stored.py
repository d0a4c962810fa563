"""Sections as files, from which the page can be put together again."""

import json
from dataclasses import asdict
from pathlib import Path

from newton_krylov.errors import DataError
from newton_krylov.files import atomic_write
from studies.reproduction.page import Claim, Origin, Section, Verdict


def store(section: Section, file: Path) -> None:
    """Write a section."""
    with atomic_write(file) as stream:
        text = json.dumps(asdict(section), ensure_ascii=False, indent=1)
        stream.write(f"{text}\n".encode())


def load(file: Path) -> Section:
    """Read a section."""
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        claims = [
            Claim(**{**claim, "verdict": Verdict(claim["verdict"])}) for claim in plain["claims"]
        ]
        return Section(plain["title"], plain["text"], claims, Origin(**plain["origin"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is not a section of the page ({error}); delete it, or generate "
            f"the page from its study's runs again."
        ) from None
