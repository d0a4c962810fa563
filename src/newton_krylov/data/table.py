"""The user's own tables: CSV, Parquet, Feather or NumPy files with a named target."""

import bz2
import gzip
import io
import lzma
import re
import zipfile
from codecs import BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt

from newton_krylov.capabilities import LINEAR_MODEL, LOG_LINK
from newton_krylov.data.catalogue import Task
from newton_krylov.data.columns import Matrix
from newton_krylov.data.labels import LabelError, encode_labels
from newton_krylov.data.prepare import RawData, Samples, checked_fold, checksum, fold_rows
from newton_krylov.data.sources import source
from newton_krylov.data.table_columns import (
    days,
    encode,
    point_numbers,
    too_many_to_be_classes,
    understand,
    with_plain_kinds,
    written_numbers,
)
from newton_krylov.errors import ConfigError, DataError, suggest
from newton_krylov.files import (
    expand_home,
    memory_bounded,
    require_file,
    require_memory,
    sha256_file,
    title_of,
    usable_memory,
)

if TYPE_CHECKING:
    import pandas as pd

_READERS = {
    ".csv": "read_csv",
    ".tsv": "read_csv",
    ".parquet": "read_parquet",
    ".feather": "read_feather",
    ".arrow": "read_feather",
}
_TEXTS = (".csv", ".tsv")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zip", ".zst")
_STRETCH, _EXPANSION = 64 * 2**20, 200
"""Bytes of text after which it is compared with what it was unpacked from, and how many times as
much it may be: tables reach 20 times, and bombs a thousand."""

_HELD = 16
"""Bytes of memory for a cell of a text: in the frame, and in the matrix."""
_NUMPY = ".npz"
_CSR = {"data", "indices", "indptr", "shape"}
_MOST_NAMED = 6
"""Classes that are named, each with its share."""


@source(
    "table",
    needs_with={"offset": (LINEAR_MODEL,), "exposure": (LOG_LINK,)},
    scaling="standardize",
    bias="auto",
)
def table(
    *,
    path: str | None = None,
    target: str | None = None,
    test_path: str | None = None,
    task: Task | Literal["auto"] = "auto",
    weight: str | None = None,
    offset: str | None = None,
    exposure: str | None = None,
    drop: list[str] | None = None,
    categorical: list[str] | None = None,
    missing: Literal["impute", "refuse"] = "impute",
    test_fraction: float = 0.2,
    folds: Annotated[int, Field(ge=2)] | None = None,
    fold: PositiveInt | None = None,
    seed: NonNegativeInt = 0,
) -> RawData:
    """Any table by its path, with a column to predict: CSV, Parquet, Feather, NumPy's npz.

    Dates become days, and numbers written as text ('1,234', '$5', '?') numbers. What else is not a
    number becomes one column of zeros and ones for each of its values; a value that only the test
    samples have sets none. Texts with a value of their own in more than half of the rows (and more
    than ten) are left out, as identifiers. Missing numbers are replaced by the median of the
    training samples, truth values and 0 or 1 by the more frequent one, and a missing category sets
    none. All of it is said, column by column.

    Parameters
    ----------
    path : str
        The file; CSV may be compressed. An npz file has the arrays `X` and `y`, or `y` beside what
        `scipy.sparse.save_npz` writes of a CSR matrix (`data`, `indices`, `indptr`, `shape`).
    target : str
        The column to predict; of an npz file an array, `y` by default.
    test_path : str, optional
        A file to test with, of the same columns.
    task : {"auto", "binary", "multiclass", "regression"}
        `auto`: classes if the target is text or truth values, or few whole numbers.
    weight : str, optional
        A column (of an npz file an array) >= 0: how much each sample counts.
    offset : str, optional
        A column that is added to a linear model's output and not fitted.
    exposure : str, optional
        A column > 0 that the mean is proportional to: its logarithm is added to the offset.
    drop : list of str, optional
        Columns to leave out, such as identifiers.
    categorical : list of str, optional
        Columns to take as categories though they hold numbers or dates, or look like identifiers.
    missing : {"impute", "refuse"}
        What to do where a value is missing.
    test_fraction : float
        Share of the samples held out for testing, in [0, 1), where there is no test file; of
        classes, the same share of each.
    folds : int, optional
        Cut the training samples into so many parts for cross-validation (of classes each with its
        share of each class). The test samples, if there are any, are left aside.
    fold : int, optional
        Which of the parts, from 1 on, is held out and tested with; the others are trained with.
    seed : int
        Chooses the held-out samples, and the parts.

    Returns
    -------
    RawData
        The samples.

    Raises
    ------
    ConfigError
        Without a path or a target, and for columns that are not there.
    DataError
        For a file that cannot be read, and for values that are missing or not finite where they
        must not be.
    """
    if path is None:
        raise ConfigError("dataset=table needs a file: dataset.path=FILE.")
    place = checked_fold(folds, fold)
    files = [expand_home(path), *([expand_home(test_path)] if test_path else [])]
    beside = {"weight": weight, "offset": offset, "exposure": exposure}
    arrays = [target or "y", *(name for name in beside.values() if name is not None)]
    frames, sparse = zip(*(_read(file, arrays) for file in files), strict=True)
    _require_alike(sparse, files)
    target = _target(frames, files, target)
    targets = [frame.pop(target) for frame in frames]
    if task != "multiclass" and (numbers := written_numbers(targets)) is not None:
        targets = numbers[0]
    elif task == "regression" and (dates := days(targets)) is not None:
        targets = dates[0]
    labels, decided, classes = _labels(targets, files, target, task)
    extras = [_beside(frame, file, beside) for frame, file in zip(frames, files, strict=True)]
    frames = [frame.drop(columns=_known(frame, drop or [], "drop")) for frame in frames]
    if frames[0].columns.empty and sparse[0] is None:
        raise DataError(f"{files[0]} has no column beside '{target}' to predict it from.")
    _known(frames[0], categorical or [], "categorical")
    understood = understand(frames, categorical or [])
    frames = understood.frames
    if frames[0].columns.empty and sparse[0] is None:
        raise DataError(
            f"{files[0]} has nothing to predict '{target}' from: {understood.remarks[-1]}."
        )
    rows: Sequence[NDArray[np.int64]] = []
    if len(frames) == 1 and test_fraction:
        rows = _split(labels[0], decided, test_fraction, seed)
    if place is not None:
        train = rows[0] if rows else np.arange(len(labels[0]))
        rows = [train[part] for part in fold_rows(labels[0][train], decided, *place, seed)]
    if rows:
        frames = [frames[0].iloc[part] for part in rows]
        sparse = [None if sparse[0] is None else sparse[0][part] for part in rows]
        labels = [labels[0][part] for part in rows]
        extras = [{key: column[part] for key, column in extras[0].items()} for part in rows]
    matrices: list[Matrix] = [X for X in sparse if X is not None]
    decisions: tuple[str, ...] = ()
    if not matrices:
        places = files if place is None else files[:1]  # the fold is of the first
        matrices, decisions = encode(frames, places, categorical or [], missing)
        if not matrices[0].shape[1]:
            raise DataError(
                f"{files[0]} has nothing to predict '{target}' from: no other column has a value."
            )
    samples = [
        Samples(X, y, extra.get("weight"), offset=_offset(extra))
        for X, y, extra in zip(matrices, labels, extras, strict=True)
    ]
    return RawData(
        train=samples[0],
        test=samples[1] if len(samples) > 1 else None,
        task=decided,
        n_classes=len(classes),
        classes=classes,
        source=path,
        title=title_of(files[0], target),
        folded=place is not None,
        remarks=(
            _of_target(targets, target, decided, chosen=task != "auto"),
            *understood.remarks,
            *decisions,
        ),
        fingerprint=checksum(
            {
                "files": [sha256_file(file) for file in files],
                "target": target, "task": decided, "drop": drop, "categorical": categorical,
                "missing": missing, "test_fraction": test_fraction, "seed": seed,
            }
            | {key: name for key, name in beside.items() if name is not None}
            | ({"taken": dict(understood.taken)} if understood.taken else {})
        ),
    )  # fmt: skip


def is_table(file: Path) -> bool:
    """Say whether a file's name is that of a table which `dataset=table` reads."""
    return _kind(file) in {*_READERS, _NUMPY}


def _kind(file: Path) -> str:
    """Return the ending of a file's name, whatever packed it."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    return next((s for s in reversed(suffixes) if s not in _COMPRESSED), "")


def _read(file: Path, arrays: list[str]) -> "tuple[pd.DataFrame, sp.csr_array | None]":
    """Read a file as a frame, by the ending of its name, and its sparse matrix if it has one."""
    import pandas as pd

    require_file(file)
    suffix = _kind(file)
    _require_memory(file, suffix)
    if suffix == _NUMPY:
        return _read_arrays(file, arrays)
    if suffix not in _READERS:
        kinds = ", ".join(sorted({*_READERS, _NUMPY}))
        raise DataError(
            f"{file} is not a table by its name: dataset=table reads {kinds}; LIBSVM's format is "
            f"dataset=libsvm dataset.path={file}."
        )
    options: dict[str, Any] = {}
    names: list[str] = []
    try:
        if suffix in _TEXTS:
            options, names = _layout(file, suffix)
        elif suffix == ".parquet":  # its reader takes them for one
            _refuse_twice(_schema(file).names, file)
        with memory_bounded(), _opened(file) as content:
            frame: pd.DataFrame = getattr(pd, _READERS[suffix])(content, **options)
        frame = point_numbers(frame) if options.get("decimal") == "," else frame
    except DataError:
        raise
    except MemoryError as error:
        raise _too_large(file) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is neither UTF-8 nor UTF-16 text: convert it, as by "
            f"iconv -f latin1 -t utf-8 {file} > new.csv"
        ) from error
    except Exception as error:  # pandas and pyarrow raise of many kinds on a damaged file
        if "out of memory" in str(error):  # pandas' own reader of texts
            raise _too_large(file) from error
        raise DataError(f"{file} cannot be read as {suffix[1:]}: {_in_words(error)}.") from error
    if suffix in _TEXTS:
        frame, names = _cleaned(frame, names, file)
    if frame.empty:
        raise DataError(f"{file} has no rows.")
    named = [str(name) for name in frame.columns]
    # As they stand in a text file: pandas numbers those that are there twice.
    frame.columns = [own or name for own, name in zip(names or named, named, strict=True)]
    if suffix == ".parquet":
        frame = frame.astype(dict.fromkeys(_categories(file), "category"))
    _refuse_twice([str(name) for name in frame.columns], file)
    return with_plain_kinds(frame, str(file)), None


def _layout(file: Path, suffix: str) -> tuple[dict[str, Any], list[str]]:
    """Return how a text file is to be read, and its columns' names.

    Columns are separated by what gives most names in the first line, outside quotation marks; with
    semicolons, commas are decimal.
    """
    import pandas as pd

    with _opened(file) as content:
        start = content.read(2**10)
    wide = start.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    if start.startswith((BOM_UTF32_LE, BOM_UTF32_BE)):
        raise DataError(f"{file} is UTF-32 text: convert it to UTF-8.")
    if b"\0" in start and not wide:
        raise DataError(f"{file} has zero bytes, which a text in UTF-8 has not.")
    encoding = "utf-16" if wide else "utf-8-sig"
    common: dict[str, Any] = {"encoding": encoding, "skipinitialspace": True}
    if start.decode(encoding, "ignore").startswith("sep="):  # for Excel alone
        common["skiprows"] = 1
    pairs = [(",", "."), (";", ","), ("|", "."), ("\t", ".")]
    found: list[tuple[dict[str, Any], list[str]]] = []
    for sep, decimal in pairs[-1:] if suffix == ".tsv" else pairs:
        options = common | {"sep": sep, "decimal": decimal}
        with _opened(file) as content:
            first = pd.read_csv(
                content, nrows=1, header=None, dtype=str, na_filter=False, **options
            )
        found.append((options, [str(name).strip() for name in first.iloc[0]]))
    return max(found, key=lambda each: ('"' not in "".join(each[1]), len(each[1])))


def _cleaned(
    frame: "pd.DataFrame", names: list[str], file: Path
) -> "tuple[pd.DataFrame, list[str]]":
    """Leave out what separators at the ends of lines make, and spaces at the ends of texts."""
    import pandas as pd

    if len(frame) and not frame.index.equals(pd.RangeIndex(len(frame))):
        raise DataError(
            f"{file}: the rows have more values than the first line has names: name every column."
        )
    if len(names) == frame.shape[1]:
        there = [bool(name) or not frame.iloc[:, k].isna().all() for k, name in enumerate(names)]
        frame = frame.loc[:, there]
        names = [name for name, kept in zip(names, there, strict=True) if kept]
    texts = [
        str(name) for name, dtype in frame.dtypes.items() if pd.api.types.is_string_dtype(dtype)
    ]
    frame = frame.assign(**{name: _stripped(frame[name]) for name in texts})
    if len(texts) == len(names) == frame.shape[1]:  # names again make every column a text
        again = np.ones(len(frame), dtype=bool)
        for k, name in enumerate(names):
            again &= (frame.iloc[:, k].astype(str) == name).to_numpy()
        if again.any():
            row = int(np.argmax(again))
            raise DataError(f"{file}, row {row + 1} is the columns' names again: leave it out.")
    return frame, names


def _stripped(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return texts without spaces at their ends; other values of the column stay."""
    texts = column.map(lambda value: value.strip() if isinstance(value, str) else value)
    return texts.where(texts != "")


def _in_words(error: Exception) -> str:
    """Return what pandas or pyarrow says, in one line."""
    text = " ".join(str(error).split()).rstrip(".")
    found = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", text)
    if found is None:
        return text
    return f"line {found[2]} has {found[3]} values, and the lines before it have {found[1]}"


def _categories(file: Path) -> list[str]:
    """Return the columns that were categories when pandas wrote them; Parquet keeps texts only."""
    columns = (_schema(file).pandas_metadata or {}).get("columns", [])
    return [str(c["field_name"]) for c in columns if c.get("pandas_type") == "categorical"]


def _schema(file: Path) -> Any:
    from pyarrow.parquet import read_schema

    return read_schema(file)


def _refuse_twice(names: list[str], file: Path) -> None:
    for name, times in Counter(names).most_common(1):
        if times > 1:
            raise DataError(f"{file} has two columns named '{name}'.")


def _require_memory(file: Path, suffix: str) -> None:
    """Refuse what a file says that it unfolds to; a damaged one says nothing here."""
    n_bytes = 0
    with suppress(Exception):
        if suffix == ".parquet":
            from pyarrow.parquet import read_metadata

            found = read_metadata(file)
            n_bytes = 8 * found.num_rows * found.num_columns
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                n_bytes = sum(member.file_size for member in archive.infolist())
    require_memory(n_bytes, f"{file}: what it unfolds to")


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Give pandas the file, or the text in it, no more of which is read than memory holds."""
    if _kind(file) not in (".csv", ".tsv"):
        _take_memory_singly()
        yield file
        return
    with file.open("rb") as raw, _unpacked(file, raw) as stream:
        packed = None if stream is raw else raw
        yield io.BufferedReader(_Bounded(file, stream, packed), 2**20)


def _unpacked(file: Path, raw: BinaryIO) -> Any:
    """Return a stream of what a file's ending says that it packs; the file itself if nothing."""
    suffix = file.suffix.lower()
    if suffix == ".zip":
        archive = zipfile.ZipFile(raw)
        names = archive.namelist()
        if len(names) != 1:
            raise DataError(f"{file} packs {len(names)} files; it should pack one table.")
        return archive.open(names[0])
    if suffix == ".zst":
        pa: Any = import_module("pyarrow")  # its types leave these out
        return pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")
    unpack: dict[str, Callable[..., Any]] = {
        ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open,
    }  # fmt: skip
    return unpack[suffix](raw, "rb") if suffix in unpack else raw


class _Bounded(io.RawIOBase):
    """A stream of text that ends with an error where its cells are more than memory holds."""

    def __init__(self, file: Path, stream: Any, packed: BinaryIO | None) -> None:
        self._file, self._stream, self._packed = file, stream, packed
        self._left = usable_memory()
        self._stretch, self._place = 0, 0  # text since the file was last looked at, and where

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read on."""
        n_bytes: int = self._stream.readinto(buffer)
        text = bytes(buffer[:n_bytes])
        cells = sum(text.count(end) for end in (b",", b";", b"|", b"\t", b"\n"))
        self._left -= max(n_bytes, _HELD * cells)
        if self._left < 0:
            raise _too_large(self._file)
        self._stretch += n_bytes
        if self._packed is not None and self._stretch > _STRETCH:
            place = self._packed.tell()
            if self._stretch > _EXPANSION * (place - self._place):
                raise DataError(
                    f"{self._file} expands to more than {_EXPANSION} times its size; decompress it "
                    f"yourself if you trust it."
                )
            self._stretch, self._place = 0, place
        return n_bytes


def _take_memory_singly() -> None:
    """Let Arrow take memory from the system as it needs it.

    By itself it lays in a gibibyte, which no limit bounds that is set afterwards.
    """
    pa: Any = import_module("pyarrow")  # its types leave these out
    pa.set_memory_pool(pa.system_memory_pool())


def _too_large(file: Path) -> DataError:
    return DataError(
        f"{file}: its columns take more than the {usable_memory() / 2**30:,.1f} GiB of memory that "
        f"this machine has."
    )


def _read_arrays(file: Path, names: list[str]) -> "tuple[pd.DataFrame, sp.csr_array | None]":
    import pandas as pd

    kinds = "the arrays X and y, as numpy.savez writes them, and no objects"
    try:
        with memory_bounded(), np.load(file, allow_pickle=False) as arrays:
            here = set(arrays.files)
            sparse = here >= _CSR
            if not sparse and "X" not in here:
                raise DataError(f"{file} should hold {kinds}; it has {', '.join(sorted(here))}.")
            X: Any = _sparse(arrays) if sparse else _plain(arrays["X"])
            columns = {name: _plain(arrays[name]) for name in names if name in here}
    except DataError:
        raise
    except MemoryError as error:
        raise _too_large(file) from error
    except Exception as error:  # NumPy, SciPy and zipfile raise of many kinds on a damaged file
        raise DataError(f"{file} should hold {kinds}.") from error
    if names[0] not in columns:
        raise DataError(
            f"{file} has no array '{names[0]}' to predict, but {', '.join(sorted(here))}: it "
            f"should hold {kinds}."
        )
    columns = {name: v[:, 0] if v.shape[1:] == (1,) else v for name, v in columns.items()}
    for name, values in columns.items():
        if X.ndim != 2 or values.shape != X.shape[:1]:
            raise DataError(
                f"{file}: X has shape {X.shape} and {name} {values.shape}; want (n, d) and (n,)."
            )
    for name, values in {"X": X, **columns}.items():
        if values.dtype.kind in "cV":
            what = "records" if values.dtype.kind == "V" else "complex numbers"
            raise DataError(f"{file}: {name} holds {what}; want real numbers.")
    if not X.shape[0]:
        raise DataError(f"{file} has no rows.")
    if not sparse:
        frame = pd.DataFrame(X, columns=[f"x{i + 1}" for i in range(X.shape[1])])
        return frame.assign(**columns), None
    if not (finite := np.isfinite(X.data)).all():
        row = int(np.searchsorted(X.indptr, int(np.argmin(finite)), "right"))
        raise DataError(f"{file}, row {row}: a value of X is missing or infinite.")
    return pd.DataFrame(columns), X


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array in this machine's order of bytes, and bytes as texts."""
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8", "replace")
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _sparse(arrays: Any) -> sp.csr_array:
    """Return the matrix that `scipy.sparse.save_npz` wrote."""
    parts = [arrays[name] for name in ("data", "indices", "indptr")]
    X = sp.csr_array(tuple(parts), shape=tuple(arrays["shape"]))
    X.check_format(full_check=True)
    return X.astype(np.float64, copy=False)


def _require_alike(sparse: Sequence[sp.csr_array | None], files: list[Path]) -> None:
    """Refuse a test file of another kind or width than the training file's."""
    words = [
        "no sparse matrix" if X is None else f"a sparse matrix of {X.shape[1]} columns"
        for X in sparse
    ]
    if len(set(words)) > 1:
        raise DataError(f"{files[0]} has {words[0]}, and {files[1]} {words[1]}: want the same.")


def _target(frames: Sequence["pd.DataFrame"], files: list[Path], target: str | None) -> str:
    if target is None and files[0].suffix.lower() == _NUMPY:
        return "y"
    columns = list(frames[0].columns)
    if target is None:
        raise ConfigError(
            f"dataset=table needs the column to predict: dataset.target=NAME"
            f"{suggest('', columns).replace('?', '')}"
        )
    for frame, file in zip(frames, files, strict=True):
        if target not in frame:
            raise ConfigError(
                f"dataset.target={target} is no column of {file}{suggest(target, columns)}"
            )
    return target


def _known(frame: "pd.DataFrame", names: list[str], key: str) -> list[str]:
    for name in names:
        if name not in frame:
            raise ConfigError(
                f"dataset.{key}: there is no column '{name}'{suggest(name, map(str, frame))}"
            )
    return names


def _labels(
    columns: list["pd.Series[Any]"], files: list[Path], target: str, task: Any
) -> tuple[list[NDArray[Any]], Task, tuple[str, ...]]:
    """Encode the target: text and truth values as classes in alphabetical order; name them."""
    import pandas as pd

    for column, file in zip(columns, files, strict=True):
        if column.isna().any():
            row = int(np.argmax(column.isna().to_numpy()))
            raise DataError(
                f"{file}, row {row + 1}: the target '{target}' is missing, as in "
                f"{column.isna().sum():,} of {len(column):,} rows (empty, or a word such as NA): "
                f"leave those out."
            )
        _require_digits(column, file, target, task)
    numeric = all(
        pd.api.types.is_numeric_dtype(c) and not pd.api.types.is_bool_dtype(c) for c in columns
    )
    if numeric:
        values = [column.to_numpy(dtype=np.float64) for column in columns]
        names = [_shown(value) for value in np.unique(np.concatenate(values))]
    elif task == "regression":
        raise DataError(f"The target '{target}' is text, which a regression cannot predict.")
    else:
        names = sorted({str(value) for column in columns for value in column.unique()})
        places = {name: float(i) for i, name in enumerate(names)}
        values = [np.array([places[str(value)] for value in column]) for column in columns]
    if task != "regression" and len(names) == 1:
        raise DataError(
            f"{files[0]}: the target '{target}' is {names[0]} in every row: there is nothing to "
            f"predict."
        )
    if task == "auto" and too_many_to_be_classes(len(names), sum(map(len, values))):
        if not numeric:
            raise DataError(
                f"{files[0]}: the target '{target}' has {len(names):,} different values in "
                f"{sum(map(len, values)):,} rows, too many to be classes (for dates, "
                f"dataset.task=regression takes days)."
            )
        task = "regression"
    if task == "auto" and not numeric:
        task = "binary" if len(names) == 2 else "multiclass"
    for found, file in zip(values, files, strict=True):
        if not np.isfinite(found).all():
            row = int(np.argmin(np.isfinite(found)))
            raise DataError(f"{file}, row {row + 1}: the target '{target}' is not finite.")
    try:
        encoded, decided, n_classes = encode_labels(values, task)
    except LabelError as error:
        place = f"{files[error.part]}, row {error.sample + 1}"
        raise DataError(f"{place}: the target '{target}' {error.problem}") from error
    return encoded, decided, tuple(names) if n_classes else ()


def _shown(value: float) -> str:
    """Write a number in six digits, or in as many as tell it from others."""
    short = f"{value:g}"
    return short if float(short) == value else repr(float(value)).removesuffix(".0")


def _require_digits(column: "pd.Series[Any]", file: Path, target: str, task: Any) -> None:
    """Refuse whole numbers as classes that are equal as floats."""
    if column.dtype.kind not in "iu" or task == "regression":
        return
    if column.nunique() > column.astype(np.float64).nunique():
        raise DataError(
            f"{file}: the target '{target}' has whole numbers beyond 2^53 that differ in "
            f"their last digits alone: write classes as texts, or take numbers by "
            f"dataset.task=regression."
        )


def _of_target(columns: list["pd.Series[Any]"], target: str, task: Task, *, chosen: bool) -> str:
    """Say how the target is taken: its classes with their shares, or its range."""
    import pandas as pd

    whole = pd.concat(columns)
    if task == "regression":
        return f"'{target}' is a number from {whole.min():g} to {whole.max():g}"
    shares = whole.value_counts(normalize=True).sort_index()
    shares = shares[shares > 0]  # a category may have no sample
    numeric = pd.api.types.is_numeric_dtype(whole) and not pd.api.types.is_bool_dtype(whole)
    named = [
        f"{_shown(value) if numeric else value} ({share:.3g} %)"
        for value, share in (100 * shares).head(_MOST_NAMED).items()
    ]
    left = len(shares) - _MOST_NAMED
    more = f" and {left} more" if left > 0 else ""
    other = "; dataset.task=regression takes it as a number"
    offer = other if numeric and task == "multiclass" and not chosen else ""
    return f"'{target}' has {len(shares)} classes: {', '.join(named)}{more}{offer}"


def _beside(
    frame: "pd.DataFrame", file: Path, names: dict[str, str | None]
) -> dict[str, NDArray[np.float64]]:
    """Take the columns of weights, offsets and exposures out of a frame."""
    import pandas as pd

    found = {}
    for key, name in names.items():
        if name is None:
            continue
        if name not in frame:
            raise ConfigError(
                f"dataset.{key}: there is no column '{name}'{suggest(name, map(str, frame))}"
            )
        column = frame[name]
        if not pd.api.types.is_numeric_dtype(column):
            raise DataError(f"{file}: the column '{name}' of dataset.{key} holds no numbers.")
        values = column.to_numpy(np.float64, na_value=np.nan)
        wrong = ~np.isfinite(values)
        if key != "offset":
            wrong |= (values < 0) if key == "weight" else (values <= 0)
        if wrong.any():
            row = int(np.argmax(wrong))
            bound = {"weight": " of at least 0", "offset": "", "exposure": " above 0"}[key]
            raise DataError(
                f"{file}, row {row + 1}: '{name}' is {values[row]:g}, and dataset.{key} needs a "
                f"finite number{bound}."
            )
        if key == "weight" and not values.sum() > 0:
            raise DataError(f"{file}: the column '{name}' has no weight above 0.")
        found[key] = values
    for name in {name for name in names.values() if name is not None}:
        frame.pop(name)
    return found


def _offset(extra: dict[str, NDArray[np.float64]]) -> NDArray[np.float64] | None:
    """Return the sum of the offsets and of the exposures' logarithms."""
    if "exposure" not in extra:
        return extra.get("offset")
    return np.asarray(extra.get("offset", 0.0) + np.log(extra["exposure"]))


def _split(y: NDArray[Any], task: Task, share: float, seed: int) -> list[NDArray[np.int64]]:
    """Return the rows to train with and those held out."""
    from sklearn.model_selection import train_test_split

    if not 0 <= share < 1:
        raise ConfigError(f"dataset.test_fraction={share} should be at least 0 and less than 1.")
    whole = np.arange(len(y))
    smallest = 0 if task == "regression" else np.bincount(y)[np.unique(y)].min()
    stratify = y if smallest > 1 and share * len(y) >= len(np.unique(y)) else None
    try:
        kept, held = train_test_split(whole, test_size=share, random_state=seed, stratify=stratify)
    except ValueError as error:
        raise ConfigError(f"dataset.test_fraction={share} of {len(y)} rows: {error}") from error
    kept.sort()
    held.sort()
    return [kept, held]
