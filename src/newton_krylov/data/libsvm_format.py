"""Read LIBSVM's text format: scikit-learn parses, and errors name the line.

A line is `label index:value index:value ...` with ascending indices, counted from 1; `#` begins a
comment. Files are untrusted: nothing is allocated from a number in the file, lines and the output
of a decompressor are bounded, and every fault is a `DataError` of one sentence.
"""

import bz2
import codecs
import gzip
import lzma
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from newton_krylov.data.sparse import index_dtype
from newton_krylov.errors import DataError
from newton_krylov.files import require_file, usable_memory

MAX_FEATURES = 100_000_000
"""Highest index taken on trust: twice the widest of LIBSVM's sets; `n_features` allows more."""

MAX_LINE = 64 * 2**20
"""Bytes of one line: a dense sample of some five million features."""

MAX_EXPANSION = 200
"""Text per compressed byte, in every stretch of `MAX_LINE` bytes; real files reach 20, and bombs
a thousand."""

_HELD = 24
"""Bytes of memory for a sample, and for each of its entries, while a file is read."""

_SHOWN = 40  # characters of a wrong token that a message repeats
_COMPRESSED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x1f\x8b": gzip.open,
}


@dataclass(frozen=True)
class LabelledSamples:
    """What a file holds.

    Attributes
    ----------
    X : csr_array, shape (n, d)
        float64 values, int32 indices wherever they fit, no stored zeros.
    y : ndarray, shape (n,)
        float64 labels as written.
    """

    X: sp.csr_array
    y: NDArray[np.float64]


def read_libsvm(
    path: Path, *, zero_based: bool = False, n_features: int | None = None
) -> LabelledSamples:
    """Read a file of LIBSVM's format, plain or compressed (bz2, xz, gz).

    Parameters
    ----------
    path : Path
        The file.
    zero_based : bool
        Whether indices count from 0 instead of 1.
    n_features : int, optional
        Number of columns; the highest index of the file by default.

    Returns
    -------
    LabelledSamples
        The samples, in the file's order.

    Raises
    ------
    DataError
        If the file is missing, damaged or malformed; names the line and what is wrong in it.
    """
    limit = _Limit(zero_based, n_features)
    with _open(path, usable_memory()) as lines:
        samples = _parse(path, lines, lines, limit)
    if not len(samples.y):
        raise DataError(f"{path} holds no sample; each line should be 'label index:value ...'.")
    if not samples.X.shape[1]:
        raise DataError(f"{path} holds labels but no feature; write them as 'index:value'.")
    return samples


def read_parts(
    path: Path,
    *,
    zero_based: bool = False,
    n_features: int | None = None,
    size: int = 2**24,
) -> Iterator[LabelledSamples]:
    """Read a file of LIBSVM's format part by part, so that it need not fit into memory.

    Parameters
    ----------
    path, zero_based, n_features
        As in `read_libsvm`.
    size : int
        Bytes of text in a part, but for its last line.

    Yields
    ------
    LabelledSamples
        Consecutive samples; without `n_features` as wide as the part's highest index.
    """
    limit = _Limit(zero_based, n_features)
    with _open(path) as lines:
        while (part := _Part(lines, size)).more:
            yield _parse(path, part, lines, limit)


def _parse(path: Path, text: Any, lines: "_Lines", limit: "_Limit") -> LabelledSamples:
    """Let scikit-learn parse text, a view of lines, and check what it does not."""
    from sklearn.datasets import load_svmlight_file

    try:
        X, y = load_svmlight_file(text, zero_based=limit.zero_based)
    except (ValueError, OverflowError) as error:
        raise _explain(path, limit, str(error)) from None
    width = X.shape[1] if X.nnz else 0
    if lines.suspicious or width > limit.width or not (_finite(X.data) and _finite(y)):
        _check(path, limit)
        lines.suspicious = False  # the whole file has been checked
    shape = (len(y), limit.n_features or width)
    indices = index_dtype(shape, X.nnz)
    X = sp.csr_array((X.data, X.indices.astype(indices), X.indptr.astype(indices)), shape=shape)
    X.eliminate_zeros()
    return LabelledSamples(X, y)


def line_of_sample(path: Path, sample: int) -> int:
    """Return the line on which a sample stands, beyond comments and empty lines.

    Parameters
    ----------
    path : Path
        A file that has been read.
    sample : int
        Index of the sample, from 0.

    Returns
    -------
    int
        Line number, from 1.
    """
    with _open(path) as lines:
        for line in lines:
            sample -= bool(_words(line))
            if sample < 0:
                break
        return lines.number


def _finite(values: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(values).all())


class _Lines:
    """The lines of a decompressed file, counted; bounded in length, expansion and memory."""

    def __init__(
        self, path: Path, stream: BinaryIO, compressed: BinaryIO | None, memory: float
    ) -> None:
        self.number = 0
        self.suspicious = False
        self._path, self._stream, self._compressed = path, stream, compressed
        self._memory = memory
        self._stretch, self._place = 0, 0  # text since the file was last looked at, and where
        self._barren = 0  # bytes since the last sample

    def __iter__(self) -> Iterator[bytes]:
        while line := self._stream.readline(MAX_LINE + 1):
            self.number += 1
            if len(line) > MAX_LINE:
                raise DataError(
                    f"{self._path}, line {self.number} is longer than {MAX_LINE >> 20} MiB; "
                    "a sample stands on one line, and samples end with a line feed."
                )
            self._bound_expansion(len(line))
            self._bound_samples(line)
            if self.number == 1:
                line = self._without_mark(line)
            # The parser allows 1_000, as Python's numbers do, and passes over qidANYTHING.
            if b"_" in line or b"qid" in line:
                self.suspicious = True
            yield line

    def _bound_expansion(self, length: int) -> None:
        self._stretch += length
        if self._compressed is None or self._stretch <= MAX_LINE:
            return
        place = self._compressed.tell()
        if self._stretch > MAX_EXPANSION * (place - self._place):
            raise DataError(
                f"{self._path}, line {self.number} expands to more than {MAX_EXPANSION} times its "
                "size; decompress it yourself if you trust it."
            )
        self._stretch, self._place = 0, place

    def _bound_samples(self, line: bytes) -> None:
        words = line.partition(b"#")[0]
        if not words.strip():
            self._barren += len(line)
            if self._barren > MAX_LINE:
                raise DataError(
                    f"{self._path}, line {self.number}: there is no sample in the {MAX_LINE >> 20} "
                    "MiB before; each line should be 'label index:value ...'."
                )
            return
        self._barren = 0
        self._memory -= _HELD * (1 + words.count(b":"))
        if self._memory < 0:
            raise DataError(
                f"{self._path}, line {self.number}: the samples so far take all of the "
                f"{usable_memory() / 2**30:,.1f} GiB of memory that this machine has; convert the "
                "file by `python -m newton_krylov.data.shards`, which leaves it on disk."
            )

    def _without_mark(self, line: bytes) -> bytes:
        """Drop the byte-order mark that some editors put before UTF-8; refuse other encodings."""
        if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"{self._path} is UTF-16 text; save it as UTF-8 or as plain ASCII.")
        # A line that is empty now would end the iteration over the file.
        return line.removeprefix(codecs.BOM_UTF8) or b"\n"

    def read(self, size: int = -1) -> bytes:
        """Mark this as a file for scikit-learn, which then only iterates over it."""
        return self._stream.read(size)


class _Part:
    """The next lines of a file, `size` bytes but for the last line; `more` if there is any."""

    def __init__(self, lines: _Lines, size: int) -> None:
        self._lines, self._size = iter(lines), size
        self._first = next(self._lines, None)
        self.more = self._first is not None

    def __iter__(self) -> Iterator[bytes]:
        line, left = self._first, self._size
        while line is not None:
            yield line
            left -= len(line)
            line = next(self._lines, None) if left > 0 else None

    def read(self, size: int = -1) -> bytes:
        """Mark this as a file for scikit-learn, which then only iterates over it."""
        raise NotImplementedError


@contextmanager
def _open(path: Path, memory: float = math.inf) -> Iterator[_Lines]:
    require_file(path)
    try:
        with path.open("rb") as raw:
            start = raw.read(6)
            raw.seek(0)
            opener = next((o for magic, o in _COMPRESSED.items() if start.startswith(magic)), None)
            if opener is None:
                yield _Lines(path, raw, None, memory)
                return
            with cast("BinaryIO", opener(raw)) as stream:
                yield _Lines(path, stream, raw, memory)
    except (EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path} is damaged or not complete ({error}); fetch it again.") from error
    except OSError as error:  # bz2 and gzip report damaged data so
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error


@dataclass(frozen=True)
class _Limit:
    """Which indices a file may hold."""

    zero_based: bool
    n_features: int | None

    @property
    def first(self) -> int:
        return 0 if self.zero_based else 1

    @property
    def width(self) -> int:
        return self.n_features or MAX_FEATURES

    @property
    def last(self) -> int:
        return self.width - 1 + self.first


def _words(line: bytes) -> list[bytes]:
    return line.partition(b"#")[0].split()


def _short(token: object) -> str:
    """Repeat a token of the file, which may be long or hold control characters."""
    text = ascii(token.decode("latin-1")) if isinstance(token, bytes) else str(token)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _check(path: Path, limit: _Limit) -> None:
    """Go through the file by a strict reading of the format; raise at the first fault."""
    with _open(path) as lines:
        for line in lines:
            if problem := _problem(_words(line), limit):
                raise DataError(f"{path}, line {lines.number} {problem}.")


def _explain(path: Path, limit: _Limit, parsers: str) -> DataError:
    """Return the error that names the line at which the parser stopped."""
    try:
        _check(path, limit)
    except DataError as error:
        return error
    return DataError(f"{path} is not a file of LIBSVM's format: {parsers}.")


def _problem(words: list[bytes], limit: _Limit) -> str | None:
    """Say what is wrong with a line, if anything is."""
    if not words:
        return None
    label, *features = words
    if _number(label) is None:
        if b"," in label:
            return f"has the labels {_short(label)}, but one label a sample is read"
        if b":" in label:
            return f"begins with {_short(label)}, but the label comes first"
        return f"has the label {_short(label)}, which is not a finite number"
    if features and features[0].startswith(b"qid:"):  # SVMrank's query number: passed over
        features = features[1:]
    previous = -1
    for feature in features:
        problem = _problem_of_feature(feature, previous, limit)
        if problem:
            return problem
        previous = int(feature.partition(b":")[0])
    return None


def _problem_of_feature(feature: bytes, previous: int, limit: _Limit) -> str | None:
    index, colon, value = feature.partition(b":")
    if not colon:
        return f"has {_short(feature)} where 'index:value' should be"
    if problem := _problem_of_index(index, previous, limit):
        return problem
    if _number(value) is None:
        return f"has {_short(feature)}, whose value is not a finite number"
    return None


def _problem_of_index(text: bytes, previous: int, limit: _Limit) -> str | None:
    if not text.removeprefix(b"+").removeprefix(b"-").isdigit():
        return f"has the feature index {_short(text)}, which is not a whole number"
    if len(text) > 20:  # beyond 64 bits; Python itself refuses 4,300 digits
        return f"has the feature index {_short(text)}, which is too long for an index"
    index = int(text)
    if index < limit.first:
        base = " (or from 0: set zero_based=true)" if index == 0 else ""
        return f"has the feature index {index}, but indices count from {limit.first}{base}"
    if index > limit.last:
        wide = "n_features" if limit.n_features else "the limit (set n_features to allow more)"
        return f"has the feature index {index}, beyond {limit.last}, {wide}"
    if index <= previous:
        order = "twice" if index == previous else f"after {previous}, but indices must ascend"
        return f"has the feature index {index} {order}"
    return None


def _number(text: bytes) -> float | None:
    """Return a finite decimal number, or None; an underscore is Python's, not the format's."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and b"_" not in text else None
