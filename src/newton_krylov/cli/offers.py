"""Parts without a YAML file, which are chosen by name with the defaults of their registration.

Such are third parties' parts, and the data sets of the catalogue.
"""

import os
from pathlib import Path

from newton_krylov import registry
from newton_krylov.data.catalogue import summaries


def summaries_of(config_dir: Path) -> dict[str, dict[str, str]]:
    """Return a line on each part without a file, group to name to line; imports nothing heavy."""
    registry.import_plugins()
    found = _missing(config_dir)
    lines = {
        group: {name: registry.entry(group, name).summary for name in names}
        for group, names in found.items()
    }
    lines["dataset"] = summaries() | lines.get("dataset", {})
    return {g: {n: line.rstrip(".") for n, line in known.items()} for g, known in lines.items()}


def parts_without_files(config_dir: Path) -> dict[str, list[registry.Entry]]:
    """Return every registered part that has no file, by group; imports all parts."""
    from newton_krylov.runs.parts import register_parts

    register_parts()
    registry.import_plugins()
    missing = _missing(config_dir)
    return {g: [registry.entry(g, name) for name in names] for g, names in missing.items()}


def offer(config_dir: Path) -> None:
    """Let Hydra find every registered part that has no file, with its keys and defaults."""
    parts = parts_without_files(config_dir)
    _store({g: {part.name: part.defaults for part in found} for g, found in parts.items()})


def offer_names(config_dir: Path) -> None:
    """Let Hydra complete the names at once; the keys too, where the line has such a name."""
    named = {f"dataset={name}" for name in summaries()}
    if named & set(os.environ.get("COMP_LINE", "").split()):
        offer(config_dir)
    else:
        _store({g: {name: {} for name in known} for g, known in summaries_of(config_dir).items()})


def _missing(config_dir: Path) -> dict[str, list[str]]:
    """Return the registered names that have no file, by group."""
    return {
        group: [n for n in registry.names(group) if not (config_dir / group / f"{n}.yaml").exists()]
        for group in registry.groups()
        if (config_dir / group).is_dir()
    }


def _store(offered: dict[str, dict[str, dict[str, object]]]) -> None:
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for group, parts in offered.items():
        for name, defaults in parts.items():
            store.store(name, {"name": name, **defaults}, group, provider="registry")
