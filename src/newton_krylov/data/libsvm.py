"""Data sets of LIBSVM's format: any file by its path, and those of LIBSVM's site by name.

LIBSVM's collection: Chang and Lin, "LIBSVM: a library for support vector machines", ACM
Transactions on Intelligent Systems and Technology 2(3), 2011.
"""

import codecs
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import scipy.sparse as sp
from numpy.typing import NDArray

from newton_krylov.data.cache import Arrays, cached
from newton_krylov.data.catalogue import LIBSVM, Task
from newton_krylov.data.download import fetch, verify
from newton_krylov.data.labels import LabelError, encode_labels
from newton_krylov.data.libsvm_format import LabelledSamples, line_of_sample, read_libsvm
from newton_krylov.data.prepare import RawData, Samples, checksum
from newton_krylov.data.sources import source
from newton_krylov.data.table import is_table
from newton_krylov.errors import ConfigError, DataError
from newton_krylov.files import expand_home, require_file, require_memory, usable_memory

SITE = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets"

Sha256 = Annotated[str, pydantic.Field(pattern="^[0-9a-fA-F]{64}$")]
Width = Annotated[int, pydantic.Field(ge=1, lt=2**31)]
TestSet = Literal["auto", "own", "none"]

_VECTORS = 4
"""Of as many numbers as there are features: weights, gradient, direction, Hessian product."""

_PARSER_VERSION = 1  # part of the cache's keys: raise it when the same file reads differently
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalFiles:
    """Local files.

    Attributes
    ----------
    train : Path
        Samples to train with.
    test : Path or None
        Samples to test with.
    sha256, test_sha256 : str or None
        What they must be.
    """

    train: Path
    test: Path | None = None
    sha256: str | None = None
    test_sha256: str | None = None


def read_files(
    files: LocalFiles,
    *,
    origin: str,
    task: Task | Literal["auto"] = "auto",
    n_features: int | None = None,
    zero_based: bool = False,
) -> RawData:
    """Read a train file and perhaps a test file of LIBSVM's format.

    Parsed files are kept in the cache under their checksum: reading one again costs a few
    milliseconds, and no import of scikit-learn.

    Parameters
    ----------
    files : LocalFiles
        What to read.
    origin : str
        Where the data came from, for the record.
    task : {"auto", "binary", "multiclass", "regression"}
        What the labels are, see `encode_labels`.
    n_features : int, optional
        Number of columns; by default the widest file's.
    zero_based : bool
        Whether indices count from 0.

    Returns
    -------
    RawData
        Both splits with the same number of columns and the same classes.

    Raises
    ------
    DataError
        If a file is missing, malformed, has another checksum, or labels that are not of the task.
    """
    paths = [files.train] if files.test is None else [files.train, files.test]
    sums = [
        verify(path, sha256=asked)
        for path, asked in zip(paths, (files.sha256, files.test_sha256), strict=False)
    ]
    parts = [
        _parse(path, digest, zero_based, n_features)
        for path, digest in zip(paths, sums, strict=True)
    ]
    try:
        labels, decided, n_classes = encode_labels([part.y for part in parts], task)
    except LabelError as error:
        path = paths[error.part]
        line = line_of_sample(path, error.sample)
        raise DataError(f"{path}, line {line} {error.problem}.") from None
    width = n_features or max(part.X.shape[1] for part in parts)
    if 8 * _VECTORS * width > usable_memory():
        _refuse_width(width, n_features, paths, parts)
    samples = [
        Samples(_widen(part.X, width), y, places=partial(_place, path))
        for path, part, y in zip(paths, parts, labels, strict=True)
    ]
    read_as = {"task": decided, "width": width, "zero_based": zero_based}
    return RawData(
        train=samples[0],
        test=samples[1] if len(samples) > 1 else None,
        task=decided,
        n_classes=n_classes,
        source=origin,
        fingerprint=checksum({"files": sums, "parser": _PARSER_VERSION} | read_as),
    )


def _refuse_width(
    width: int, n_features: int | None, paths: Sequence[Path], parts: Sequence[LabelledSamples]
) -> None:
    """Refuse a width of which no vectors can be held; name the line that asks for it."""
    place = f"{paths[0]} with n_features={width:,}"
    if n_features is None:
        path, X = next((p, part.X) for p, part in zip(paths, parts, strict=True)
                       if part.X.shape[1] == width)  # fmt: skip
        sample = int(np.searchsorted(X.indptr, np.argmax(X.indices), "right")) - 1
        place = f"{path}, line {line_of_sample(path, sample)} has the feature index {width:,}"
    require_memory(8 * _VECTORS * width, f"{place}: training with vectors of that length")


def _parse(path: Path, digest: str, zero_based: bool, n_features: int | None) -> LabelledSamples:
    def compute() -> Arrays:
        samples = read_libsvm(path, zero_based=zero_based, n_features=n_features)
        X = samples.X
        return {
            "y": samples.y,
            "data": X.data,
            "indices": X.indices,
            "indptr": X.indptr,
            "shape": np.array(X.shape),
        }

    key = checksum(
        {
            "file": digest,
            "parser": _PARSER_VERSION,
            "zero_based": zero_based,
            "n_features": n_features,
        }
    )
    kept = cached("libsvm", key, compute)
    shape = tuple(kept["shape"].tolist())
    X = sp.csr_array((kept["data"], kept["indices"], kept["indptr"]), shape=shape)
    return LabelledSamples(X, kept["y"])


def _place(path: Path, sample: int) -> str:
    return f"{path}, line {line_of_sample(path, sample)}"


def _widen(X: sp.csr_array, width: int) -> sp.csr_array:
    return sp.csr_array((X.data, X.indices, X.indptr), shape=(X.shape[0], width))


@source("libsvm", test_fraction=0.2, bias="auto")
def libsvm(
    *,
    path: str | None = None,
    test_path: str | None = None,
    task: Task | Literal["auto"] = "auto",
    n_features: Width | None = None,
    zero_based: bool = False,
    sha256: Sha256 | None = None,
    test_sha256: Sha256 | None = None,
    weights_path: str | None = None,
) -> RawData:
    """Any file of LIBSVM's format by its path, plain or compressed (bz2, xz, gz).

    Parameters
    ----------
    path : str
        The file to train with.
    test_path : str, optional
        The file to test with.
    task : {"auto", "binary", "multiclass", "regression"}
        What the labels are, see `encode_labels`.
    n_features : int, optional
        Number of columns; by default the highest index of both files.
    zero_based : bool
        Whether indices count from 0.
    sha256, test_sha256 : str, optional
        Refuse files with other checksums.
    weights_path : str, optional
        A file with a weight for each training sample, >= 0, one a line: 2 counts as often as two
        such rows.

    Returns
    -------
    RawData
        The samples.

    Raises
    ------
    ConfigError
        Without a path, or if a file is a table by its name and not of LIBSVM's format.
    """
    if path is None:
        raise ConfigError("dataset=libsvm needs a file: dataset.path=FILE.")
    test = expand_home(test_path) if test_path else None
    files = LocalFiles(expand_home(path), test, sha256, test_sha256)
    try:
        raw = read_files(
            files, origin=path, task=task, n_features=n_features, zero_based=zero_based
        )
    except DataError as error:
        if files.train.is_file() and is_table(files.train):
            raise ConfigError(
                f"{files.train} is not of LIBSVM's format ('label index:value ...'); a table is "
                f"read by dataset=table dataset.path={path} dataset.target=COLUMN."
            ) from error
        raise
    raw = replace(raw, title=files.train.name)
    return raw if weights_path is None else _weighted(raw, expand_home(weights_path))


def _weighted(raw: RawData, path: Path) -> RawData:
    """Give the training samples the weights of a file."""
    weights, digest = _read_weights(path, len(raw.train.y)), verify(path, sha256=None)
    return replace(
        raw,
        train=replace(raw.train, weights=weights),
        fingerprint=checksum({"data": raw.fingerprint, "weights": digest}),
    )


def _read_weights(path: Path, n: int) -> NDArray[np.float64]:
    """Read one number a line, as LIBSVM's tools for weights of instances do."""
    require_file(path)
    lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("latin-1").split()
    weights = np.zeros(len(lines))
    for number, text in enumerate(lines):
        try:
            weights[number] = float(text)
        except ValueError:
            weights[number] = np.nan
        if not 0 <= weights[number] < np.inf:
            wrong = f"{path}, weight {number + 1} is {text[:40]!r}"
            raise DataError(f"{wrong}; it should be a number of at least 0.")
    if len(weights) != n:
        raise DataError(f"{path} has {len(weights):,} weights, but there are {n:,} samples.")
    if not weights.sum() > 0:
        raise DataError(f"{path} has no weight above 0.")
    return weights


def find_files(
    name: str,
    data_dir: Path,
    *,
    test_set: TestSet = "auto",
    mirror: str = SITE,
    sha256: str | None = None,
    test_sha256: str | None = None,
) -> LocalFiles:
    """Return a known data set's files, downloaded where they are missing.

    A file put into `<data_dir>/libsvm` by hand is taken under the site's name for it, with or
    without the suffix of its compression.

    Parameters
    ----------
    name : str
        A key of `LIBSVM`.
    data_dir : Path
        The data folder.
    test_set : {"auto", "own", "none"}
        Whether a test file that the site has is needed; `auto` takes it where it is there, and
        fetches it when the train file must be fetched.
    mirror : str
        Address of the site or of a copy.
    sha256, test_sha256 : str, optional
        What the files must be.

    Returns
    -------
    LocalFiles
        All there.

    Raises
    ------
    DataError
        If a download fails.
    """
    known, folder = LIBSVM[name], data_dir / "libsvm"
    train = _at_hand(folder, known.train)
    test = None
    if known.test is not None and test_set != "none":
        test = _at_hand(folder, known.test)
        if test is None and (test_set == "own" or train is None):
            # Before the train file: cut short, the next run still knows that it is wanted.
            test = _fetched(folder, known.test, f"{mirror}/{known.task}", test_sha256)
        elif test is None:
            _log.warning(
                "%s is not in %s: no test set (test_set=own fetches it)", known.test, folder
            )
    if train is None:
        train = _fetched(folder, known.train, f"{mirror}/{known.task}", sha256)
    return LocalFiles(train, test, sha256, test_sha256)


def _at_hand(folder: Path, file: str) -> Path | None:
    candidates = (folder / file, folder / file.removesuffix(".bz2"))
    return next((path for path in candidates if path.exists()), None)


def _fetched(folder: Path, file: str, address: str, sha256: str | None) -> Path:
    fetch(f"{address}/{file}", folder / file, sha256=sha256)
    return folder / file


def _read_known(name: str, data_dir: Path, mirror: str, **wanted: Any) -> RawData:
    known = LIBSVM[name]
    files = find_files(name, data_dir, mirror=mirror.rstrip("/"), **wanted)
    address = f"{SITE}/{known.task}/{known.train}"
    return read_files(files, origin=address, task=known.task, n_features=known.n_features)


def _reader(name: str) -> Callable[..., RawData]:
    """Return a function of its own for a name, with the configuration keys that make sense."""

    def train_alone(*, data_dir: Path, mirror: str = SITE, sha256: Sha256 | None = None) -> RawData:
        return _read_known(name, data_dir, mirror, sha256=sha256)

    def train_and_test(
        *,
        data_dir: Path,
        test_set: TestSet = "none" if name in _HUGE_TESTS else "auto",
        mirror: str = SITE,
        sha256: Sha256 | None = None,
        test_sha256: Sha256 | None = None,
    ) -> RawData:
        wanted = {"test_set": test_set, "sha256": sha256, "test_sha256": test_sha256}
        return _read_known(name, data_dir, mirror, **wanted)

    read = train_alone if LIBSVM[name].test is None else train_and_test
    read.__doc__ = f"{LIBSVM[name].summary}\n{_KEYS}"
    read.__qualname__ = f"libsvm.{name}"  # distinguishes one registered function from another
    return read


_KEYS = """
Parameters
----------
test_set : {"auto", "own", "none"}
    Whether to take the test file; auto does where it is there, or comes with a download.
mirror : str
    Address of LIBSVM's site or of a copy.
sha256, test_sha256 : str, optional
    Refuse files with other checksums.
"""

_HUGE_TESTS: Sequence[str] = ("rcv1",)  # 677,399 samples: only when asked for

for _name, _known in LIBSVM.items():
    _held_out = 0.2 if _known.test is None or _name in _HUGE_TESTS else 0.0
    source(_name, test_fraction=_held_out)(_reader(_name))
