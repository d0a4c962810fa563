"""The keywords of a call as overrides: the words of the configuration, in Python's grammar."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from newton_krylov.cli.main import quoted
from newton_krylov.errors import ConfigError

_UNQUOTED = re.compile(r"[A-Za-z_][\w/.-]*", re.ASCII)
"""Texts that stand for themselves in an override."""
_MEANT_OTHERWISE = {"true", "false", "null", "nan", "inf"}


def overrides_of(words: Mapping[str, Any], *, sweep: bool = False) -> list[str]:
    """Write the keywords of a call as one would type them.

    Parameters
    ----------
    words : mapping
        A group to a choice (`solver="cr"`), to a mapping of keys
        (`solver={"name": "gmres", "restart": 20}`), or a key to its value; keys may be dotted
        (`{"loss.l2": 0.1}`).
    sweep : bool
        Whether a list is a list of values to try, one run each; otherwise it is a value.

    Returns
    -------
    list of str
        `key=value`, in order.

    Raises
    ------
    ConfigError
        For a value that no configuration can hold.
    """
    return [f"{key}={text}" for given in words.items() for key, text in _flat(*given, sweep=sweep)]


def _flat(key: str, value: Any, *, sweep: bool) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for inner, item in value.items():
            yield from _flat(key if inner == "name" else f"{key}.{inner}", item, sweep=sweep)
    elif sweep and isinstance(value, list):
        if not value:
            raise ConfigError(f"{key}=[] gives no value to try.")
        yield key, ",".join(_text(key, item) for item in value)
    else:
        yield key, _text(key, value)


def _text(key: str, value: Any) -> str:
    """Write a value in Hydra's grammar."""
    value = value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str | Path):
        return _plain_or_quoted(str(value))
    if isinstance(value, list | tuple):
        return f"[{','.join(_text(key, item) for item in value)}]"
    raise ConfigError(
        f"{key} cannot be a {type(value).__name__}: a call takes names, numbers, texts, lists and "
        f"mappings of these."
    )


def _plain_or_quoted(text: str) -> str:
    plain = _UNQUOTED.fullmatch(text) and text.lower() not in _MEANT_OTHERWISE
    return text if plain else quoted(text)
