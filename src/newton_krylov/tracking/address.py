"""Addresses of tracking servers. A password in one stays in this process and those it starts.

Files, logs, the terminal and MLflow's tags hold the address with `***` in the password's place.
"""

import base64
import json
import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

from newton_krylov.terminal import inert

MASK = "***"
_VARIABLE = "NEWTON_KRYLOV_ADDRESSES"
"""Masked to whole addresses, for the processes of a sweep, which read the masked ones."""

_SHORTEST = 3
"""Letters of a password that can be looked for in a text."""

_USER = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z\d+.-]*://)(?P<user>[^\s/?#'\"<>]*)@")
_QUERY = re.compile(
    r"(?P<key>[?&][\w.-]*(?:passw|pwd|token|secret|key)[\w.-]*=)[^&\s,'\"<>]+", re.IGNORECASE
)
_ADDRESS = re.compile(r"\b[A-Za-z][A-Za-z\d+.-]*://[^\s'\"<>]+")


def masked(text: str) -> str:
    """Return a text with the passwords of the addresses in it masked.

    Parameters
    ----------
    text : str
        Any text.

    Returns
    -------
    str
        `http://user:***@host`; a user's name without a password may be a token, and is masked.
    """
    return _QUERY.sub(rf"\g<key>{MASK}", _USER.sub(_masked_user, text))


def harmless(text: str) -> str:
    """Return what a server or a library says, fit to be shown: no password, no control character.

    Parameters
    ----------
    text : str
        Anything; a server may repeat what it was sent.

    Returns
    -------
    str
        Line feeds stay.
    """
    text = masked(text)
    for secret in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return inert(text)


def _secrets() -> Iterator[str]:
    """Yield the passwords that are known here, as they are written and as they are sent."""
    given = os.environ
    pairs = [
        (given.get("MLFLOW_TRACKING_USERNAME", ""), given.get("MLFLOW_TRACKING_PASSWORD", "")),
        ("", given.get("MLFLOW_TRACKING_TOKEN", "")),
    ]
    for whole in (*_kept().values(), given.get("MLFLOW_TRACKING_URI", "")):
        for found in _USER.finditer(whole):
            name, colon, word = found["user"].partition(":")
            pairs.append((name, word) if colon else ("", name))
        pairs += [("", found[0].partition("=")[2]) for found in _QUERY.finditer(whole)]
    for name, word in pairs:
        known = unquote(word)
        sent = base64.b64encode(f"{unquote(name)}:{known}".encode()).decode()
        yield from {word, known, sent} if len(word) >= _SHORTEST else ()


def _masked_user(found: re.Match[str]) -> str:
    name, colon, _ = found["user"].partition(":")
    return f"{found['scheme']}{name if colon else ''}{colon}{MASK}@"


def keep(text: str) -> str:
    """Mask a text's addresses, and keep the whole ones for `revealed`.

    Parameters
    ----------
    text : str
        An address, or an override with one or several.

    Returns
    -------
    str
        See `masked`.
    """
    found = {masked(whole): whole for whole in _ADDRESS.findall(text) if masked(whole) != whole}
    # Of a list of addresses, each by itself as well.
    for whole in re.split(r"[,\]\[]", text):
        address = _ADDRESS.search(whole)
        if address is not None and masked(address[0]) != address[0]:
            found[masked(address[0])] = address[0]
    if found:
        os.environ[_VARIABLE] = json.dumps({**_kept(), **found})
    return masked(text)


def revealed(address: str) -> str:
    """Return an address with its password, where this process or `$MLFLOW_TRACKING_URI` knows it.

    Parameters
    ----------
    address : str
        Address, possibly masked.

    Returns
    -------
    str
        Whole.

    Raises
    ------
    ValueError
        If nobody knows the password.
    """
    if MASK not in address:
        return address
    default = os.environ.get("MLFLOW_TRACKING_URI", "")
    if masked(default) == address:
        return default
    try:
        return _kept()[address]
    except KeyError:
        raise ValueError(
            f"the password of {address} is not kept in a record: give the whole address in "
            f"$MLFLOW_TRACKING_URI"
        ) from None


def _kept() -> dict[str, str]:
    return dict(json.loads(os.environ.get(_VARIABLE, "{}")))
