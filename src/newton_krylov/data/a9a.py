"""The embedded a9a: UCI Adult in LIBSVM's binary encoding, shipped with the package."""

from pathlib import Path

from newton_krylov.data.libsvm import LocalFiles, read_files
from newton_krylov.data.prepare import RawData
from newton_krylov.data.sources import source

_FOLDER = Path(__file__).parent / "files"
_ORIGIN = "UCI Adult (Becker and Kohavi, CC BY 4.0, doi:10.24432/C5XW20), embedded"


@source("a9a")
def a9a() -> RawData:
    """Census income, 32,561 x 123 sparse 0/1 features, two classes, 16,281 test rows.

    Equal, row for row, to LIBSVM's `a9a` and `a9a.t`; `data/a9a/build.py` derives it.
    """
    files = LocalFiles(_FOLDER / "a9a.xz", _FOLDER / "a9a.t.xz")
    return read_files(files, origin=_ORIGIN, task="binary", n_features=123)
