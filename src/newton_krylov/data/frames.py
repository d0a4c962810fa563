"""Frames of other libraries."""

from typing import Any

from newton_krylov.errors import DataError


def to_pandas(data: Any) -> Any:
    """Return a frame or a column of polars (a lazy one, too) or pyarrow as pandas' own.

    Parameters
    ----------
    data : object
        Anything.

    Returns
    -------
    object
        As it came, unless it can be turned into pandas'.

    Raises
    ------
    DataError
        For kinds of columns that pandas has not.
    """
    if hasattr(data, "collect_schema") and hasattr(data, "collect"):  # polars' lazy one
        data = data.collect()
    if not hasattr(data, "to_pandas"):
        return data
    try:
        return data.to_pandas()
    except Exception as error:  # of polars, of pyarrow, of many kinds
        text = " ".join(str(error).split())
        raise DataError(f"The {type(data).__name__} is no frame of pandas': {text}") from error
