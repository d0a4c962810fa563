"""The columns of a user's table: what they hold, and the numbers they become.

Everything that is decided without being asked for is said in a sentence: which columns are dates or
numbers written as text, what was put where a value is missing, which columns look like identifiers.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from newton_krylov.data.columns import Matrix
from newton_krylov.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

    Column = pd.Series[Any]

_LARGEST_CARDINALITY = 1000
_MISSING = "\N{REPLACEMENT CHARACTER}missing"
"""Stands for a missing category; its column is dropped."""

_BLANKS = ("", "?", "-", "--", ".", "none", "missing", "unknown")
"""What stands for a missing number in a column of numbers, beside what pandas knows."""

_AROUND = r"^(?:[$€£¥]\s*)?|(?:\s*[%$€£¥])?$"
"""Signs of currency and percent."""

_THOUSANDS = r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[+-]?\d+(?:\.\d+)?"
_DECIMAL_POINT = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_POINTS_BETWEEN_THOUSANDS = r"[+-]?\d{1,3}(?:\.\d{3})*"
_DECIMAL_COMMA = r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+)(?:,\d+)?"

_MANY = 0.5
"""Share of the rows with values of their own from which a text looks like an identifier."""

_NAMED = 6
"""A sentence names so many columns; of more, it says how many there are."""


@dataclass(frozen=True)
class Understood:
    """Frames whose columns are numbers, truth values or categories.

    Attributes
    ----------
    frames : list of DataFrame
        As they were given but for the columns below.
    taken : mapping of str to str
        Columns that were dates or text and are numbers now: name to what they were taken for.
    remarks : tuple of str
        The same in sentences.
    """

    frames: list["pd.DataFrame"]
    taken: Mapping[str, str]
    remarks: tuple[str, ...]


def understand(frames: list["pd.DataFrame"], categorical: Sequence[str]) -> Understood:
    """Find the columns that hold dates, and numbers written as text, and make numbers of them.

    Parameters
    ----------
    frames : list of DataFrame
        Of the same columns.
    categorical : sequence of str
        Columns to leave as they are.

    Returns
    -------
    Understood
        The frames.
    """
    frames = [frame.copy(deep=False) for frame in frames]
    dates: dict[str, str] = {}
    numbers: dict[str, str] = {}
    mixed: list[str] = []
    for name in frames[0].columns:
        if name in categorical or not all(name in frame for frame in frames):
            continue
        parts = [frame[name] for frame in frames]
        if (days := _days(parts)) is not None:
            found, dates[name] = days
        elif (read := written_numbers(parts)) is not None:
            found, numbers[name] = read
        else:
            mixed.append(_mixture(name, parts))
            continue
        for frame, column in zip(frames, found, strict=True):
            frame[name] = column
    remarks = [
        _remark(
            "dates, taken as days since 1970", dates, "dataset.categorical leaves them as they are"
        ),
        _remark("numbers written as text, read as numbers", numbers),
        *mixed,
    ]
    return Understood(frames, dates | numbers, tuple(filter(None, remarks)))


def _remark(what: str, columns: Mapping[str, str], otherwise: str = "") -> str:
    if not columns:
        return ""
    named = _some(f"'{name}' ({how})" for name, how in columns.items())
    return f"{what}: {named}" + (f"; {otherwise}" if otherwise else "")


def _some(texts: Iterable[str]) -> str:
    """Return the first of many."""
    every = list(texts)
    left = len(every) - _NAMED
    return ", ".join(every[:_NAMED]) + (f" and {left} more" if left > 0 else "")


def _days(parts: list["Column"]) -> "tuple[list[Column], str] | None":
    """Return dates as days since 1970, and lengths of time as days, with what they were."""
    import pandas as pd

    day = pd.Timedelta(1, "D")
    if all(pd.api.types.is_timedelta64_dtype(part) for part in parts):
        return [part.dt.total_seconds() / 86_400 for part in parts], "lengths of time"
    if all(pd.api.types.is_datetime64_any_dtype(part) for part in parts):
        found, how = [pd.to_datetime(part, utc=True) for part in parts], "times"
    else:
        kinds = {pd.api.types.infer_dtype(part, skipna=True) for part in parts} - {"empty"}
        if kinds <= {"date", "datetime"} and kinds:
            attempts: list[tuple[Callable[[Column], Any], str]] = [
                (lambda part: pd.to_datetime(part, utc=True), "times")
            ]
        elif kinds == {"string"}:
            attempts = [(_parser(form), _words(form)) for form in _formats(parts)]
        else:
            return None
        read = _first_that_reads(attempts, parts)
        if read is None:
            return None
        found, how = read
    epoch = pd.Timestamp(0, tz="UTC")
    return [(part - epoch) / day for part in found], how


def _first_that_reads(
    attempts: "list[tuple[Callable[[Column], Any], str]]", parts: "list[Column]"
) -> "tuple[list[Any], str] | None":
    for read, how in attempts:
        try:
            return [read(part) for part in parts], how
        except (ValueError, TypeError, OverflowError):
            continue
    return None


def _parser(form: str) -> "Callable[[Column], Any]":
    import pandas as pd

    return lambda part: pd.to_datetime(part, format=form, utc=True)


def _formats(parts: "list[Column]") -> list[str]:
    """Guess how the first text writes a date: month first, or day first."""
    from pandas.tseries.api import guess_datetime_format

    text = next((str(value) for part in parts for value in part.dropna().head(1)), "")
    found = []
    for dayfirst in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the other order of day and month fits better
            form = guess_datetime_format(text, dayfirst=dayfirst) or ""
        year, month = "%Y" in form, any(m in form for m in ("%m", "%b", "%B"))
        if year and month:
            found.append("ISO8601" if form.startswith("%Y-%") else form)
    return list(dict.fromkeys(found))


def _words(form: str) -> str:
    if form == "ISO8601":
        return "year-month-day"
    names = {"%Y": "year", "%m": "month", "%b": "month", "%B": "month", "%d": "day"}
    return re.sub(r"%\w", lambda found: names.get(found[0], found[0][1].lower()), form)


def written_numbers(parts: "list[Column]") -> "tuple[list[Column], str] | None":
    """Return texts as numbers, if each of them is one, and the first that needed to be read.

    Texts of digits alone, such as codes that a binary file keeps as texts, stay texts.

    Parameters
    ----------
    parts : list of Series
        Columns of the same name.

    Returns
    -------
    tuple of (list of Series, str) or None
        float64, nan where a sign such as `?` stands for a missing number.
    """
    import pandas as pd

    whole = pd.concat(parts, ignore_index=True)
    if pd.api.types.infer_dtype(whole, skipna=True) != "string":
        return None
    plain = _bare(whole)
    known = plain.dropna()
    odd = pd.to_numeric(whole, errors="coerce").isna() & whole.notna()
    if known.empty or not odd.any():
        return None
    for pattern, turn in (
        (_THOUSANDS, lambda text: text.str.replace(",", "")),
        (_DECIMAL_COMMA, lambda text: text.str.replace(".", "").str.replace(",", ".")),
        (r".*", lambda text: text),
    ):
        if known.str.fullmatch(pattern).all():
            numbers = pd.to_numeric(turn(plain), errors="coerce")
            if not numbers[known.index].isna().any():
                values, ends = numbers.to_numpy(np.float64), np.cumsum([len(p) for p in parts])
                pieces = np.split(values, ends[:-1])
                found = [pd.Series(v, p.index) for v, p in zip(pieces, parts, strict=True)]
                return found, f"such as {str(whole[odd].iloc[0])!r}"
    return None


def point_numbers(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Return a frame that was read with decimal commas, its texts with decimal points as numbers.

    A file with semicolons may have either, column by column. Where all of a column's points stand
    before three digits they part thousands if another column has commas.
    """
    import pandas as pd

    commas = any(pd.api.types.is_float_dtype(kind) for kind in frame.dtypes)
    for name in frame.columns[[pd.api.types.infer_dtype(c) == "string" for _, c in frame.items()]]:
        known = frame[name].dropna().str.strip()
        grouped = known.str.fullmatch(_POINTS_BETWEEN_THOUSANDS).all()
        if known.str.fullmatch(_DECIMAL_POINT).all() and not (grouped and commas):
            frame[name] = pd.to_numeric(frame[name])
    return frame


def _bare(texts: "Column") -> "Column":
    """Return texts without signs of currency and percent, missing where they stand for that."""
    bare = texts.astype("string").str.strip()
    bare = bare.mask(bare.str.casefold().isin(_BLANKS))
    return bare.str.replace(_AROUND, "", regex=True)


def _mixture(name: str, parts: "list[Column]") -> str:
    """Say of a column of numbers and a few words that the words make it one of categories."""
    import pandas as pd

    whole = pd.concat(parts, ignore_index=True)
    if pd.api.types.infer_dtype(whole, skipna=True) not in ("string", "mixed"):
        return ""
    text = _bare(whole)
    known = text.notna().to_numpy()
    numeric = pd.to_numeric(text, errors="coerce").notna().to_numpy()
    words = known & ~numeric
    if not 0 < words.sum() < 0.1 * known.sum():
        return ""
    row = int(np.argmax(words))
    return (
        f"'{name}' holds numbers but for {words.sum()} of {known.sum()} values, such as "
        f"{str(whole.iloc[row])!r} in row {row + 1}: all of them are taken as categories"
    )


def encode(
    frames: list["pd.DataFrame"], files: list[Path], categorical: list[str], missing: str
) -> tuple[list[Matrix], tuple[str, ...]]:
    """Turn columns into numbers, by the training samples' values.

    Parameters
    ----------
    frames : list of DataFrame
        The training samples, and those to test with if there are any.
    files : list of Path
        Where they come from.
    categorical : list of str
        Columns to take as categories though they hold numbers.
    missing : {"impute", "refuse"}
        What to do where a value is missing.

    Returns
    -------
    tuple of (list of matrices, tuple of str)
        One for each frame; and what was decided, in sentences.

    Raises
    ------
    DataError
        For what is missing or infinite where it must not be, and for columns of identifiers.
    """
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    first = frames[0]
    columns = [str(name) for name in first]
    numeric = [
        name
        for name in columns
        if name not in categorical and pd.api.types.is_numeric_dtype(first[name])
    ]
    other = [name for name in columns if name not in numeric]
    _check(frames, files, numeric, other, missing)
    names = _identifiers(frames, numeric, other)
    frames = [_plain(frame, numeric, other) for frame in frames]
    # A missing category is a value of its own to the encoder; it is dropped below by its name.
    transformer = ColumnTransformer(
        [
            ("numbers", SimpleImputer(strategy="median", keep_empty_features=True), numeric),
            ("categories", OneHotEncoder(handle_unknown="ignore", dtype=np.float64), other),
        ],
        verbose_feature_names_out=False,
    )
    transformer.fit(frames[0])
    made = transformer.get_feature_names_out()
    kept = np.array([not str(name).endswith(f"_{_MISSING}") for name in made])
    matrices: list[Any] = [transformer.transform(frame)[:, kept] for frame in frames]
    medians = transformer.named_transformers_["numbers"].statistics_ if numeric else ()
    remarks = (
        _filled(frames, dict(zip(numeric, medians, strict=True)), other),
        _categories(frames[0], other),
        names,
    )
    return [_plain_matrix(X) for X in matrices], tuple(filter(None, remarks))


def _filled(
    frames: list["pd.DataFrame"], medians: Mapping[str, float], other: Sequence[str]
) -> str:
    """Say how many values are missing, and what stands in their place."""
    said = []
    for name, median in medians.items():
        if count := sum(int(frame[name].isna().sum()) for frame in frames):
            empty = bool(frames[0][name].isna().all())
            what = "0, for want of any" if empty else f"the median, {median:.6g}"
            said.append((count, f"{count:,} of '{name}' ({what})"))
    for name in other:
        if count := sum(int((frame[name] == _MISSING).sum()) for frame in frames):
            said.append((count, f"{count:,} of '{name}' (no category)"))
    if not said:
        return ""
    total = sum(count for count, _ in said)
    return (
        f"{total:,} missing values were filled in: {_some(text for _, text in said)}; "
        f"dataset.missing=refuse does not"
    )


def _categories(frame: "pd.DataFrame", other: Sequence[str]) -> str:
    if not other:
        return ""
    counts = {name: int((frame[name].unique() != _MISSING).sum()) for name in other}
    each = _some(f"'{name}' {count:,}" for name, count in counts.items())
    return f"categories, each a column of zeros and ones: {each}"


def _identifiers(frames: list["pd.DataFrame"], numeric: Sequence[str], other: Sequence[str]) -> str:
    """Say which columns look as if they named the rows."""
    import pandas as pd

    found = []
    for name in numeric:
        values = np.concatenate([f[name].to_numpy(np.float64, na_value=np.nan) for f in frames])
        if len(values) > 2 and np.array_equal(
            np.sort(values), values.min() + np.arange(len(values))
        ):
            found.append((name, f"'{name}' numbers the rows"))
    for name in other:
        column = pd.concat([frame[name] for frame in frames])
        distinct, n = column.nunique(), int(column.notna().sum())
        if distinct > max(10, _MANY * n):
            found.append((name, f"'{name}' has {distinct:,} different values in {n:,} rows"))
    if not found:
        return ""
    way = dropped([name for name, _ in found])
    return f"identifiers? {_some(text for _, text in found)}; {way} leaves out what says nothing"


def dropped(names: Sequence[str]) -> str:
    """Return what to type to leave out columns.

    Parameters
    ----------
    names : sequence of str
        Columns.

    Returns
    -------
    str
        Quoted for the shell where it must be.
    """
    if all(re.fullmatch(r"[\w.-]+", name) for name in names):
        return f"dataset.drop=[{','.join(names)}]"
    quoted = (name.replace("\\", "\\\\").replace('"', '\\"') for name in names)
    return "'dataset.drop=[" + ",".join(f'"{name}"' for name in quoted) + "]'"


def _plain_matrix(X: Any) -> Matrix:
    dense = not sp.issparse(X)
    return np.ascontiguousarray(X) if dense else sp.csr_array(X)


def _plain(frame: "pd.DataFrame", numeric: list[str], other: list[str]) -> "pd.DataFrame":
    """Return numbers as float64 and everything else as text."""
    import pandas as pd

    columns: dict[str, Any] = {n: frame[n].to_numpy(np.float64, na_value=np.nan) for n in numeric}
    for name in other:
        text = frame[name].map(str, na_action="ignore").astype(object)
        columns[name] = text.where(frame[name].notna(), _MISSING)
    return pd.DataFrame(columns, index=frame.index)


def _check(
    frames: list["pd.DataFrame"],
    files: list[Path],
    numeric: list[str],
    other: list[str],
    missing: str,
) -> None:
    """Refuse what is missing or infinite where it must not be, and columns of identifiers."""
    import pandas as pd

    places = [files[min(i, len(files) - 1)] for i in range(len(frames))]
    for frame, file in zip(frames, places, strict=True):
        for name in (*numeric, *other):
            if name not in frame:
                raise DataError(f"{file} has no column '{name}', which {files[0]} has.")
            column = frame[name]
            if name in numeric and not pd.api.types.is_numeric_dtype(column):
                raise DataError(f"{file}: the column '{name}' holds numbers in {files[0]} only.")
            bad = column.isna().to_numpy() if missing == "refuse" else np.zeros(len(column), bool)
            what = "is missing (dataset.missing=impute fills it)"
            if name in numeric:
                infinite = np.isinf(column.to_numpy(np.float64, na_value=np.nan))
                if infinite.any():
                    bad, what = infinite, "is infinite"
            if bad.any():
                row = int(frame.index[int(np.argmax(bad))])
                raise DataError(f"{file}, row {row + 1}: the value of '{name}' {what}.")
    distinct = {name: frames[0][name].nunique() for name in other}
    many = [name for name, count in distinct.items() if count > _LARGEST_CARDINALITY]
    if many:
        each = ", ".join(f"'{name}' {distinct[name]:,}" for name in many)
        it = "it" if len(many) == 1 else "them"
        raise DataError(
            f"{files[0]}: text columns with too many different values to be categories ({each} of "
            f"{len(frames[0]):,} rows); leave {it} out by {dropped(many)}."
        )
