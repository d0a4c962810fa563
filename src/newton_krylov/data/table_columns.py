"""The columns of a user's table: what they hold, and the numbers they become.

Everything that is decided without being asked for is said in a sentence: which columns are dates or
numbers written as text, what was put where a value is missing, which columns were left out.
"""

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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

_BEFORE, _BEHIND = r"^([+-]?)\s*[$€£¥]\s*", r"\s*[%$€£¥]$"
"""Signs of currency and percent."""
_NEGATIVE = r"^\((.*)\)$"
"""As accountants write it."""
_GAP = "[ \N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}'\N{RIGHT SINGLE QUOTATION MARK}]"
_GAPS = rf"[+-]?(?:\d+|\d{{1,3}}(?:{_GAP}\d{{3}})+)(?:[.,]\d+)?"

_THOUSANDS = r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[+-]?\d+(?:\.\d+)?"
_DECIMAL_POINT = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_POINTS_BETWEEN_THOUSANDS = r"[+-]?\d{1,3}(?:\.\d{3})*"
_DECIMAL_COMMA = r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+)(?:,\d+)?"

_MANY = 0.5
"""Share of a text's rows that may differ; with more different values it is an identifier."""

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
        Columns that are something else now, or left out: name to what they were taken for.
    remarks : tuple of str
        The same in sentences.
    """

    frames: list["pd.DataFrame"]
    taken: Mapping[str, str]
    remarks: tuple[str, ...]


def understand(frames: list["pd.DataFrame"], categorical: Sequence[str]) -> Understood:
    """Make numbers of dates and of what is written as text, and leave identifiers out.

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
    answers: dict[str, str] = {}
    identifiers: dict[str, str] = {}
    mixed: list[str] = []
    for name in frames[0].columns:
        if name in categorical or not all(name in frame for frame in frames):
            continue
        parts = [frame[name] for frame in frames]
        if (dated := days(parts)) is not None:
            found, dates[name] = dated
        elif (read := written_numbers(parts)) is not None:
            found, numbers[name] = read
        elif (truth := _truth_values(parts)) is not None:
            found, answers[name] = truth, "truth values"
        else:
            if said := _mixture(name, parts):
                mixed.append(said)
            elif many := _identifier(parts):
                identifiers[name] = many
            continue
        for frame, column in zip(frames, found, strict=True):
            frame[name] = column
    remarks = [
        _remark(
            "dates, taken as days since 1970", dates, "dataset.categorical leaves them as they are"
        ),
        _remark("numbers written as text, read as numbers", numbers),
        *mixed,
        _remark(
            "left out, as identifiers",
            identifiers,
            f"{_listed('categorical', identifiers)} keeps {_it(identifiers)}",
        ),
    ]
    frames = [frame.drop(columns=list(identifiers)) for frame in frames]
    taken = dates | numbers | answers | dict.fromkeys(identifiers, "identifier")
    return Understood(frames, taken, tuple(filter(None, remarks)))


def _truth_values(parts: list["Column"]) -> "list[Column] | None":
    """Return truth values, where some are missing and the others are therefore objects."""
    import pandas as pd

    kinds = {pd.api.types.infer_dtype(part, skipna=True) for part in parts} - {"empty"}
    if kinds != {"boolean"} or not any(part.dtype == object for part in parts):
        return None
    return [part.astype("boolean") for part in parts]


def _identifier(parts: list["Column"]) -> str:
    """Say how many different values a text has, if most of its rows have one of their own."""
    import pandas as pd

    if any(
        pd.api.types.is_numeric_dtype(part) or isinstance(part.dtype, pd.CategoricalDtype)
        for part in parts
    ):
        return ""
    whole = pd.concat(parts, ignore_index=True)
    distinct, n = whole.nunique(), int(whole.notna().sum())
    many = too_many_to_be_classes(distinct, n)
    return f"{distinct:,} different values in {n:,} rows" if many else ""


def too_many_to_be_classes(distinct: int, n: int) -> bool:
    """Say whether most of n rows have a value of their own."""
    return distinct > max(10, _MANY * n)


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


def days(parts: list["Column"]) -> "tuple[list[Column], str] | None":
    """Return dates as days since 1970, and lengths of time as days, with what they were.

    Parameters
    ----------
    parts : list of Series
        Columns of the same name.

    Returns
    -------
    tuple of (list of Series, str) or None
        float64, nan where a date is missing; None of what are no dates.
    """
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
    if known.empty or (not odd.any() and known.str.fullmatch(r"\d+").all()):
        return None
    for pattern, turn in (
        (_THOUSANDS, lambda text: text.str.replace(",", "")),
        (_DECIMAL_COMMA, lambda text: text.str.replace(".", "").str.replace(",", ".")),
        (_GAPS, lambda text: text.str.replace(_GAP, "", regex=True).str.replace(",", ".")),
        (r".*", lambda text: text),
    ):
        if known.str.fullmatch(pattern).all():
            numbers = pd.to_numeric(turn(plain), errors="coerce")
            if not numbers[known.index].isna().any():
                values, ends = numbers.to_numpy(np.float64), np.cumsum([len(p) for p in parts])
                pieces = np.split(values, ends[:-1])
                found = [pd.Series(v, p.index) for v, p in zip(pieces, parts, strict=True)]
                example = whole[odd] if odd.any() else known
                return found, f"such as {str(example.iloc[0])!r}"
    return None


def with_plain_kinds(frame: "pd.DataFrame", where: str) -> "pd.DataFrame":
    """Return a frame whose decimals are floats, whose bytes are texts and whose periods are dates.

    Parameters
    ----------
    frame : DataFrame
        With columns of any kind.
    where : str
        What to call it in a message.

    Returns
    -------
    DataFrame
        Of numbers, texts, truth values, dates and categories.

    Raises
    ------
    DataError
        For lists and other containers.
    """
    import pandas as pd

    turned: dict[str, Any] = {}
    for name, column in frame.items():
        if isinstance(column.dtype, pd.PeriodDtype):
            turned[str(name)] = column.dt.start_time
        elif column.dtype == object:
            kind = pd.api.types.infer_dtype(column, skipna=True)
            if kind == "decimal":
                turned[str(name)] = column.astype(np.float64)
            elif kind == "bytes":
                turned[str(name)] = column.map(_text, na_action="ignore")
            else:
                refuse_containers(column, f"{where}, column '{name}'")
    return frame.assign(**turned)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def refuse_containers(column: "Column", where: str, first: int = 1) -> None:
    """Refuse a column of anything but numbers, texts, truth values and dates; name the row."""
    import pandas as pd

    for row, value in enumerate(column, first):
        if pd.api.types.is_list_like(value) or not pd.api.types.is_scalar(value):
            raise DataError(
                f"{where}, row {row}, holds a {type(value).__name__}: it should hold numbers, "
                f"texts, truth values or dates."
            )


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
    bare = bare.str.replace(_NEGATIVE, r"-\1", regex=True)
    return bare.str.replace(_BEFORE, r"\1", regex=True).str.replace(_BEHIND, "", regex=True)


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
        For what is missing or infinite where it must not be, and for texts of too many values.
    """
    import pandas as pd
    from sklearn.compose import ColumnTransformer
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
    frames = [_plain(frame, numeric, other) for frame in frames]
    filling = {name: _filling(frames[0][name]) for name in numeric}
    remarks = (
        _filled(frames, filling, other),
        _categories(frames[0], other),
        _counters(frames, numeric),
    )
    values = {name: value for name, (value, _) in filling.items()}
    frames = [frame.fillna(values) for frame in frames]
    # A missing category is a value of its own to the encoder; it is dropped below by its name.
    transformer = ColumnTransformer(
        [
            ("numbers", "passthrough", numeric),
            ("categories", OneHotEncoder(handle_unknown="ignore", dtype=np.float64), other),
        ],
        verbose_feature_names_out=False,
    )
    transformer.fit(frames[0])
    made = transformer.get_feature_names_out()
    kept = np.array([not str(name).endswith(f"_{_MISSING}") for name in made])
    matrices: list[Any] = [transformer.transform(frame)[:, kept] for frame in frames]
    return [_plain_matrix(X) for X in matrices], tuple(filter(None, remarks))


def _filling(column: "Column") -> tuple[float, str]:
    """Return what stands for a missing number, and the words for it."""
    known = column.dropna()
    if known.empty:
        return 0.0, "0, for want of any"
    if known.isin([0, 1]).all():  # an answer, to which none lies in between
        frequent = float(known.mode().iloc[0])
        return frequent, f"the most frequent, {frequent:.6g}"
    median = 2 * float((known / 2).median())  # the mean of two values may not overflow
    return median, f"the median, {median:.6g}"


def _filled(
    frames: list["pd.DataFrame"], filling: Mapping[str, tuple[float, str]], other: Sequence[str]
) -> str:
    """Say how many values are missing, and what stands in their place."""
    said = []
    for name, (_, what) in filling.items():
        if count := sum(int(frame[name].isna().sum()) for frame in frames):
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


def _counters(frames: list["pd.DataFrame"], numeric: Sequence[str]) -> str:
    """Say which columns number the rows."""
    found = []
    for name in numeric:
        values = np.concatenate([frame[name].to_numpy() for frame in frames])
        counted = values.min() + np.arange(len(values))
        if len(values) > 2 and np.array_equal(np.sort(values), counted):
            found.append(name)
    if not found:
        return ""
    each = _some(f"'{name}' numbers the rows" for name in found)
    return f"identifiers? {each}; {_listed('drop', found)} leaves out what says nothing"


def _it(names: Collection[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _listed(key: str, names: Iterable[str]) -> str:
    """Return what to type to name columns, quoted for the shell where it must be."""
    names = list(names)
    if all(re.fullmatch(r"[\w.-]+", name) for name in names):
        return f"dataset.{key}=[{','.join(names)}]"
    quoted = (name.replace("\\", "\\\\").replace('"', '\\"') for name in names)
    return f"'dataset.{key}=[" + ",".join(f'"{name}"' for name in quoted) + "]'"


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
        raise DataError(
            f"{files[0]}: text columns with too many different values to be categories ({each} of "
            f"{len(frames[0]):,} rows); leave {_it(many)} out by {_listed('drop', many)}."
        )
