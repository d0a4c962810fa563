"""Text in pieces of characters, for networks that predict the next one."""

import hashlib
import lzma
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, PositiveInt

from newton_krylov.capabilities import LABELLED
from newton_krylov.data.dataset import Split, Text
from newton_krylov.data.prepare import checksum
from newton_krylov.errors import ConfigError, DataError
from newton_krylov.files import expand_home, require_file, require_memory
from newton_krylov.registry import register

_EMBEDDED = Path(__file__).parent / "files" / "asyoulik.txt.xz"
_ORIGIN = "William Shakespeare, As You Like It (public domain; Canterbury corpus), embedded"
_BYTES = 16
"""Of memory that a character takes: as input and as target, a number of 64 bits each."""

Fraction = Annotated[float, Field(gt=0, lt=1)]


@register("dataset", "text", offers=(LABELLED,))
def text(
    *,
    path: str | None = None,
    context: Annotated[int, Field(ge=2)] = 128,
    test_fraction: Fraction = 0.1,
    limit: PositiveInt | None = None,
) -> Text:
    """Cut a text into pieces, the next character to be predicted; one of Shakespeare's plays.

    Parameters
    ----------
    path : str, optional
        A file of text in UTF-8; None takes the embedded play, 125,179 characters.
    context : int
        Characters in a sample; the pieces do not overlap.
    test_fraction : float
        Share of the pieces held out for testing: those at the end, which no training piece holds.
    limit : int, optional
        At most so many training pieces, from the beginning.

    Returns
    -------
    Text
        X of shape (n_samples, context), int64, and as many targets, each the character behind.

    Raises
    ------
    ConfigError
        For a text too short to be cut so.
    DataError
        For a file that is missing, or no text.
    """
    content, origin = _content(path)
    characters = "".join(sorted(set(content)))
    number = {character: k for k, character in enumerate(characters)}
    tokens = torch.tensor([number[character] for character in content])
    n = (len(tokens) - 1) // context
    n_test = round(test_fraction * n)
    if not 0 < n_test < n:
        raise ConfigError(
            f"dataset.context={context} cuts the {len(content):,} characters into {n} pieces, of "
            f"which dataset.test_fraction={test_fraction} leaves {n_test} to test and {n - n_test} "
            "to train; both must be positive."
        )
    X, y = (tokens[at : at + n * context].view(n, context) for at in (0, 1))
    n_train = min(n - n_test, limit or n)
    cut = {"context": context, "train": n_train, "test": n_test}
    return Text(
        name="text",
        train=Split(X[:n_train].clone(), y[:n_train].clone()),
        test=Split(X[n - n_test :].clone(), y[n - n_test :].clone()),
        task="multiclass",
        n_classes=len(characters),
        source=origin,
        checksum=checksum({"text": hashlib.sha256(content.encode()).hexdigest()} | cut),
        alphabet=characters,
    )


def _content(path: str | None) -> tuple[str, str]:
    """Return the text and where it came from."""
    if path is None:
        return lzma.decompress(_EMBEDDED.read_bytes()).decode(), _ORIGIN
    file = expand_home(path)
    require_file(file)
    require_memory(_BYTES * file.stat().st_size, f"dataset.path={path}")
    try:
        return file.read_text(encoding="utf-8"), str(file)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}, byte {error.start}: dataset=text reads text in UTF-8, and this is not; "
            "convert it, for example by iconv."
        ) from None
