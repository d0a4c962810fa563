"""Errors that the user can correct: one clear sentence, shown without a traceback."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in what the user gave: configuration, data or environment.

    The message says what is wrong, where, and what would be right. The entry point prints it
    without a traceback and exits with a non-zero code.
    """


class ConfigError(UserError):
    """A wrong key, name, type or value in the configuration."""


class DataError(UserError):
    """A data file that is missing, malformed, or does not have the promised checksum."""


class UnsupportedError(UserError):
    """A combination of parts that makes no sense, such as `cg` on a nonsymmetric operator."""


class NotFiniteError(UserError, ValueError):
    """Numbers that are nan or infinite where a method needs finite ones."""


class CombinationError(ConfigError, UnsupportedError):
    """Choices that are each valid but cannot be combined; a sweep leaves them out."""


def in_words(error: Exception) -> str:
    """Return what an error says, one of the system's about a file as a sentence, too.

    Parameters
    ----------
    error : Exception
        A user's, or one of the system's.

    Returns
    -------
    str
        For the user to read.
    """
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be read or written: {error.strerror}."
    return str(error)


_RENAMED = {
    "optimizer.damping": ("damping.tau", ""),
    "optimizer.damping_rule": (
        "damping",
        "=fixed or damping=marquardt (which was levenberg_marquardt)",
    ),
    "optimizer.damping_factor": ("damping.factor", ", of damping=marquardt"),
    "optimizer.damping_min": ("damping.lowest", ", of damping=marquardt"),
    "optimizer.schedule": ("schedule", "=constant, linear or cosine"),
    "optimizer.schedule_epochs": ("schedule.epochs", ""),
}
"""Old keys to the new ones, and what else to say of these."""

_RENAMED_VALUES = {
    "optimizer.damping_rule": {"fixed": "fixed", "levenberg_marquardt": "marquardt"},
    "optimizer.schedule": {name: name for name in ("constant", "linear", "cosine")},
}
"""Of keys that are groups now; with another value the key is somebody else's (`dynanewton`)."""


def renamed(key: str) -> str | None:
    """Return the sentence for a key that has another name now; None for any other.

    Parameters
    ----------
    key : str
        Dotted, as a user writes it.

    Returns
    -------
    str or None
        With the new name.
    """
    return f"{key} is now {''.join(_RENAMED[key])}." if key in _RENAMED else None


def rewritten(override: str) -> str:
    """Return an override by today's names.

    Parameters
    ----------
    override : str
        Of any time: `"optimizer.damping_min=3e-5"`.

    Returns
    -------
    str
        `"damping.lowest=3e-5"`; itself where nothing has another name now.
    """
    key, equals, value = override.partition("=")
    if key not in _RENAMED or not equals:
        return override
    values = value.split(",")
    names = _RENAMED_VALUES.get(key, {one: one for one in values})
    if not names.keys() >= set(values):
        return override
    return f"{_RENAMED[key][0]}={','.join(names[one] for one in values)}"


class TakenError(UserError):
    """A folder that holds another run, or one that another process is writing."""


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return `"; did you mean 'x'? Choices: a, b, x"` for a wrong `word`.

    Parameters
    ----------
    word : str
        What the user wrote.
    choices : iterable of str
        What would have been right.

    Returns
    -------
    str
        The end of a sentence, beginning with its own punctuation.
    """
    names = sorted(choices)
    close = get_close_matches(word, names, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    return f"{hint} Choices: {', '.join(names) if names else '(none)'}"


def listed(words: Sequence[str], last: str) -> str:
    """Return `"a, b and c"` for three words and the last word `"and"`."""
    head, tail = words[:-1], words[-1]
    return f"{', '.join(head)} {last} {tail}" if head else tail
