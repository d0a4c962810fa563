"""Says what is wrong with an override that Hydra's grammar cannot read, and what to type."""

import re
import unicodedata

_DASHES = "\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}\N{HYPHEN}\N{NON-BREAKING HYPHEN}"
_QUOTES = {"'": "\u2018\u2019\u201a\u2032", '"': "\u201c\u201d\u201e\u2033\u00ab\u00bb"}
_INVISIBLE = "\u00a0\u202f\u2009\u200b\ufeff\u00ad\u2060"
_PRINTED = {
    **dict.fromkeys(_DASHES, "-"),
    **{each: mark for mark, those in _QUOTES.items() for each in those},
    **dict.fromkeys(_INVISIBLE, ""),
}
"""Characters that a page has where a keyboard has others."""

_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_KEY = r"[+~]{0,2}[\w./@-]+"
_LONG = 3
"""An option of so many letters has two dashes."""
_EXAMPLE = "solver.rtol=1e-6"
_OPTIONS = ("help", "version", "multirun", "cfg", "info")


def unreadable(line: str) -> str:
    """Return what is wrong with an override, in one sentence.

    Parameters
    ----------
    line : str
        As it was typed.

    Returns
    -------
    str
        A sentence with what would be right.
    """
    key, equals, value = line.partition("=")
    if odd := next((c for c in line if c in _PRINTED), None):
        return f"'{line}' holds the character {unicodedata.name(odd).lower()}: {_as_typed(line)}."
    if line[:1] in ("'", '"') and line[-1:] == line[:1] and equals:
        return f"{line} is quoted as a whole: type {line[1:-1]}."
    if equals and re.fullmatch(_KEY, key):
        return f"'{line}' cannot be read: {_of_value(key, value)}."
    return f"'{line}' {_of_key(key, equals, value)}."


def _of_key(key: str, equals: str, value: str) -> str:
    name = key.strip("+~ ")
    if not name:
        return "has no key: write key=value"
    if found := re.fullmatch(rf"({_KEY})\s*:\s*(\S.*)", key):
        return f"has no '=': type {found[1]}={found[2]}"
    if not equals:
        option = f", or --{name} for an option" if name in _OPTIONS else ""
        return f"has no value: write {name}=VALUE{option}"
    if re.fullmatch(_KEY, key.strip()):
        return f"has spaces around '=': type {key.strip()}={value.strip()}"
    return f"has no key that can be: a key is made of names and dots, as {_EXAMPLE}"


def _as_typed(line: str) -> str:
    """Say what the keyboard has for a line that a page has printed."""
    typed = "".join(_PRINTED.get(c, c) for c in line)
    if "=" not in line and line[0] in _DASHES:
        name = typed.strip("-")
        return f"type {'-' if len(name) < _LONG else '--'}{name}"
    if any(c in "".join(_QUOTES.values()) for c in line):
        typed = re.sub("['\"]", "", typed)
    key, _, value = line.partition("=")
    if any(c in _PRINTED for c in key) or not value:
        return f"type {typed}"
    return f"type {typed}, or, if it belongs to the value, {quoted_override(key, value)}"


def _of_value(key: str, value: str) -> str:
    inside = re.sub(r"(?<!\\)'(?:\\.|[^'\\])*'|(?<!\\)\"(?:\\.|[^\"\\])*\"", "", value)
    if re.search(r"\s[\w.]+=", inside):
        return "it holds several overrides: put a space between them, outside quotation marks"
    if value.startswith("="):
        return f"it has more than one '=': type {key}{value}"
    typed = quoted_override(key, value)
    if reason := _left_open(inside):
        return f"{reason}; if that belongs to the value, type {typed}"
    if re.search(r"^\s*,|,\s*,|,\s*$", inside):
        return f"a value is missing beside the comma: write {key}=A,B"
    return f"it holds characters that need quotation marks: type {typed}"


def _left_open(text: str) -> str:
    """Say which quotation mark or bracket has no other half."""
    for mark in "'\"":
        if mark in text:
            return f"the quotation mark {mark} is not closed"
    opened: list[str] = []
    for c in text:
        if c in _BRACKETS:
            opened.append(c)
        elif c in _BRACKETS.values() and (not opened or _BRACKETS[opened.pop()] != c):
            return f"the bracket {c} closes none"
    return f"the bracket {opened[-1]} is not closed" if opened else ""


def quoted_override(key: str, value: str) -> str:
    """Return an override whose value is one text, as it is typed in a shell.

    Parameters
    ----------
    key, value : str
        The key, and the text as it is.

    Returns
    -------
    str
        In quotation marks for the shell, the value in others for Hydra.
    """
    text = value.replace("\\", "\\\\").replace('"', '\\"').replace("'", "'\\''")
    return f"""'{key}="{text}"'"""
