"""Parts that a test or a page registers end with it: what runs next is not known (-n)."""

from collections.abc import Iterator
from contextlib import contextmanager

from newton_krylov import registry


@contextmanager
def forgotten() -> Iterator[None]:
    """Put the registry back as it was."""
    before = {group: dict(parts) for group, parts in registry._entries.items()}
    try:
        yield
    finally:
        registry._entries.clear()
        registry._entries.update(before)
