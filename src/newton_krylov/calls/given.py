"""What a program has in memory (frames, arrays, modules, functions), as a configuration names it.

Data become a file, named by its content, so that a run's record can be read, compared and resumed
like any other. Modules and functions are registered under a name; the process that calls has them,
and nobody else.
"""

import copy
import hashlib
import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Number
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from newton_krylov.calls.identity import draws, identity
from newton_krylov.capabilities import FUNCTION, LABELLED
from newton_krylov.data.dataset import Dataset
from newton_krylov.data.frames import to_pandas
from newton_krylov.data.sparse import canonical, tensor_to_array, tensor_to_csr
from newton_krylov.data.table_columns import refuse_containers
from newton_krylov.errors import ConfigError, DataError, UserError
from newton_krylov.files import atomic_write, require_memory
from newton_krylov.models import Interface
from newton_krylov.objectives.function import FunctionObjective, Scalar
from newton_krylov.objectives.network.losses import DatasetNetwork
from newton_krylov.registry import register

DATA = Path("outputs") / "data"
"""Where data from memory are kept, below the working directory."""

Words = dict[str, Any]


def named(words: Mapping[str, Any]) -> Words:
    """Replace what only a program can hold by names that a configuration can.

    Parameters
    ----------
    words : mapping
        The keywords of a call. `dataset` may be a data frame or arrays `(X, y)`, or a mapping with
        such `data` and further keys; `model` a module; `loss` a criterion of outputs and targets,
        or a function of one vector, with its start as `dataset`.

    Returns
    -------
    dict
        The same in the words of the configuration.

    Raises
    ------
    ConfigError, DataError
        For data that cannot be kept.
    """
    found = dict(words)
    data = as_pandas(found.get("dataset"))
    rest: Words = {}
    if inside := isinstance(data, Mapping) and "data" in data:
        rest = {key: value for key, value in data.items() if key != "data"}
        data = _as_frame(as_pandas(data["data"]))
    if _is_pair(data) and isinstance(data[0], pd.DataFrame):
        X, y = data
        if all(isinstance(dtype, pd.SparseDtype) for dtype in X.dtypes):
            data = (X.sparse.to_coo(), y)
        else:
            data, rest["target"] = joined(X, y)
    if isinstance(data, pd.DataFrame) or _is_pair(data):
        if isinstance(found.get("model"), nn.Module) and "dataset.bias" not in found:
            rest = {"bias": False, **rest}  # a network's layers have their own
        found["dataset"] = {"name": "table", "path": kept(data), **rest}
    elif inside:
        raise ConfigError(
            f"dataset.data is a {type(data).__name__}: it should be a data frame or (X, y)."
        )
    elif not _is_name(data) and not isinstance(data, Tensor | np.ndarray):
        shown = " ".join(repr(data).split())[:60]
        if " at 0x" in repr(data):
            shown = f"a {type(data).__name__}"
        raise ConfigError(
            f"dataset is {shown}: it should be a data set's name, a data frame, arrays (X, y), or "
            f"a mapping of its keys."
        )
    _name_columns(found)
    if callable(found.get("loss")) and isinstance(data, Tensor | np.ndarray):
        return found | registered_function(found["loss"], data)
    if isinstance(found.get("model"), nn.Module):
        found["model"] = registered_model(found["model"])
    if callable(found.get("loss")):
        found["loss"] = registered_criterion(found["loss"])
    return found


def as_pandas(data: Any) -> Any:
    """Turn another library's frame, or one in a pair (X, y), into pandas' own."""
    if isinstance(data, tuple):
        return tuple(_as_frame(as_pandas(part)) for part in data)
    if isinstance(data, np.ndarray) and data.dtype.names:  # records
        return pd.DataFrame(data)
    return to_pandas(data)


def _as_frame(data: Any) -> Any:
    """Return a dict of columns as a frame."""
    columns = isinstance(data, Mapping) and not sp.issparse(data)  # SciPy's dok is a dict
    return pd.DataFrame(data) if columns else data


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) == 2 and not isinstance(data[0], str)


def _is_name(data: Any) -> bool:
    """Say whether it is what a configuration has, or a list of names to try."""
    many = isinstance(data, list) and all(isinstance(each, str | Mapping) for each in data)
    return many or data is None or isinstance(data, str | Path | Mapping)


def _name_columns(words: Words) -> None:
    """Take a number or several levels as the target for that column's name: files have texts."""
    node = words.get("dataset")
    for place, key in ((words, "dataset.target"), (node, "target")):
        if isinstance(place, dict) and isinstance(place.get(key), int | np.integer | tuple):
            place[key] = _name_of(place[key])


def _name_of(column: Any) -> str:
    """Return a column's name as text, its levels joined where it has several."""
    levels = column if isinstance(column, tuple) else (column,)
    return "_".join(str(level) for level in levels if level != "")


def _named_by_texts(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.set_axis([_name_of(column) for column in frame.columns], axis=1)


def joined(X: pd.DataFrame, y: Any) -> tuple[pd.DataFrame, str]:
    """Return samples and their targets as one frame, and the target's name in it."""
    values = y if isinstance(y, pd.Series) else pd.Series(_vector(y))
    if len(values) != len(X):
        raise DataError(f"X has {len(X)} rows and y {len(values)}: they should have as many.")
    frame, name = _named_by_texts(X), "y"
    while name in frame:
        name += "_"
    return frame.assign(**{name: values.array}), name


def kept(data: Any) -> Path:
    """Write data to a file named by its content, unless it is there.

    Parameters
    ----------
    data : DataFrame or (array or sparse matrix, array)
        A table with its target, or samples X, shape (n, d), and targets y, shape (n,).

    Returns
    -------
    Path
        A Parquet or npz file, which `dataset=table` reads.

    Raises
    ------
    DataError
        For what such a file cannot hold.
    UserError
        If it cannot be written.
    """
    stream = io.BytesIO()
    if isinstance(data, pd.DataFrame):
        kind, suffix = "frame", "parquet"
        frame = _as_in_a_file(data)
        try:
            frame.to_parquet(stream, index=False)
        except Exception as error:  # pyarrow's, of many kinds
            text = " ".join(str(error).split())
            raise DataError(f"The data frame cannot be kept as Parquet: {text}") from error
    else:
        kind, suffix = "arrays", "npz"
        X = sparse(data[0]) if _is_sparse(data[0]) else array(data[0], "X")
        y = _vector(data[1])
        if X.ndim != 2 or y.shape != X.shape[:1]:
            raise DataError(
                f"The data have X of shape {X.shape} and y of shape {y.shape}: they should be "
                f"(n, d) and (n,)."
            )
        if not y.size:
            raise DataError("The data have no rows.")
        if isinstance(X, sp.csr_array):
            parts = {"data": X.data, "indices": X.indices, "indptr": X.indptr, "shape": X.shape}
            np.savez(stream, y=y, **parts)  # type: ignore[arg-type]
        else:
            np.savez(stream, X=X, y=y)
    content = stream.getvalue()
    path = DATA.absolute() / f"{kind}-{hashlib.sha256(content).hexdigest()[:12]}.{suffix}"
    if not path.exists():
        try:
            with atomic_write(path) as file:
                file.write(content)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}.") from error
    return path


def _as_in_a_file(data: pd.DataFrame) -> pd.DataFrame:
    """Return a frame as a file has it: names that are texts, dense columns, each of one kind."""
    frame = _named_by_texts(data)
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise DataError(
            f"The data frame has several columns named {twice[0]!r}: each should have a name of "
            f"its own."
        )
    thin = [str(name) for name, dtype in frame.dtypes.items() if isinstance(dtype, pd.SparseDtype)]
    require_memory(8 * len(frame) * len(thin), "A dense frame of the sparse columns")
    filled = {name: np.asarray(frame[name]) for name in thin}
    mixed = {str(name): _as_texts(frame[name]) for name in frame if _is_mixed(frame[name])}
    huge = {str(name): frame[name].astype(float) for name in frame if _is_huge(frame[name])}
    return frame.assign(**filled, **mixed, **huge)


def _is_mixed(column: pd.Series) -> bool:
    """Say whether a column has values of several kinds, or of none that a file has."""
    kind = column.cat.categories.dtype if hasattr(column, "cat") else column.dtype
    if isinstance(kind, pd.IntervalDtype):
        return True
    return column.dtype == object and pd.api.types.infer_dtype(column).startswith("mixed")


def _is_huge(column: pd.Series) -> bool:
    """Say whether a column has whole numbers that no integer of a file holds."""
    if column.dtype != object or pd.api.types.infer_dtype(column) != "integer":
        return False
    return any(abs(value) >= 2**63 for value in column.dropna())


def _as_texts(column: pd.Series) -> pd.Series:
    """Return a column of several kinds of values as a text file would have it."""
    refuse_containers(column, f"The data frame's column '{column.name}'", first=0)
    return column.map(str, na_action="ignore")


def _is_sparse(part: Any) -> bool:
    return sp.issparse(part) or (isinstance(part, Tensor) and part.layout is not torch.strided)


def sparse(part: Any) -> sp.csr_array:
    """Return a sparse matrix in CSR format.

    Parameters
    ----------
    part : sparse matrix or Tensor, shape (n, d)
        Of SciPy's or torch's formats.

    Returns
    -------
    csr_array, shape (n, d)
        Entries that are there twice are added.

    Raises
    ------
    DataError
        For what are no real numbers.
    """
    if isinstance(part, Tensor):
        part = tensor_to_csr(part)
    if part.dtype.kind not in "biuf":
        raise DataError(f"X holds {part.dtype}, and should hold real numbers.")
    return canonical(sp.csr_array(part))


def _vector(y: Any) -> np.ndarray[Any, Any]:
    """Return targets as an array, shape (n,); those of one column are taken for that."""
    found = array(y, "y")
    found = found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found
    if found.ndim != 1:
        raise DataError(
            f"y has shape {found.shape}: it should be (n,), one target for each sample."
        )
    return found


def array(part: Any, name: str) -> np.ndarray[Any, Any]:
    """Return numbers or texts as an array.

    Parameters
    ----------
    part : array-like, Tensor, Series or DataFrame
        Samples or targets.
    name : str
        What to call it in a message.

    Returns
    -------
    ndarray
        Of numbers or texts.

    Raises
    ------
    DataError
        For objects.
    """
    if _is_sparse(part):
        raise DataError(f"{name} is sparse, and should be an array: give {name}.toarray().")
    if np.ndim(part) == 0:
        raise DataError(f"{name} is {part!r:.60}: it should be an array with a row per sample.")
    found = tensor_to_array(part) if isinstance(part, Tensor) else np.asarray(part)
    if found.dtype.kind in "OUS":
        found = _of_one_kind(part, name)
    if found.dtype.kind not in "biufUS":
        raise DataError(
            f"{name} holds {found.dtype}, no numbers: give a data frame with dataset.target, whose "
            f"columns may be of any kind."
        )
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def _of_one_kind(part: Any, name: str) -> np.ndarray[Any, Any]:
    """Return objects as numbers or as texts; NumPy would write what is mixed or missing as text."""
    objects = np.asarray(part, dtype=object)
    missing = pd.isna(objects) | (objects == "nan")
    kinds = {isinstance(value, str | bytes) for value in objects[~missing].ravel()}
    if missing.any() and kinds != {False}:
        row = int(np.argwhere(missing)[0][0])
        what = "target" if name == "y" else f"value of {name}"
        raise DataError(f"{name}, row {row + 1}: the {what} is missing.")
    if kinds == {True, False}:
        raise DataError(f"{name} mixes texts and numbers: give a data frame, of any columns.")
    if kinds == {True}:
        return np.char.decode(objects.astype(bytes)) if _all_bytes(objects) else objects.astype(str)
    found = np.asarray(
        np.where(missing, np.nan, objects).tolist() if missing.any() else objects.tolist()
    )
    if found.dtype == object and all(isinstance(v, Number) for v in found.ravel()):
        with suppress(TypeError, OverflowError):  # decimals, fractions, integers beyond 64 bits
            return found.astype(np.float64)
    return found


def _all_bytes(objects: np.ndarray[Any, Any]) -> bool:
    return all(isinstance(value, bytes) for value in objects.ravel())


def registered_model(module: nn.Module, shape: tuple[int, ...] | None = None) -> str:
    """Register a module as a model.

    Parameters
    ----------
    module : nn.Module
        Copied for every run, and its layers draw their weights by the run's seed; those with frozen
        weights (`requires_grad=False`) keep them.
    shape : tuple of int, optional
        Of a sample, where the data are kept flat.

    Returns
    -------
    str
        Its name, of its class and its content.
    """

    def build(interface: Interface) -> nn.Module:
        made = copy.deepcopy(module)
        for layer in filter(draws, made.modules()):
            cast(Any, layer).reset_parameters()
        return made if shape is None else nn.Sequential(nn.Unflatten(1, shape), made)

    content = (identity(module), shape)
    return _registered("model", type(module).__name__, content, build)


def registered_criterion(criterion: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Register a criterion as a network's loss.

    Parameters
    ----------
    criterion : callable
        Outputs, shape (n, outputs), and targets, shape (n,), to a mean over the samples.

    Returns
    -------
    str
        Its name.
    """
    title = getattr(criterion, "__name__", type(criterion).__name__)

    class Criterion(DatasetNetwork):
        """A criterion that a program gave."""

        name = title
        tasks = ("binary", "multiclass", "regression")
        alternatives = "samples with targets"

        def __init__(self, dataset: Dataset, model: nn.Module) -> None:
            super().__init__(dataset, model, criterion, l2=0.0, chunk=None, memory=4.0)

    return _registered("loss", title, identity(criterion), Criterion, needs=(LABELLED,))


@dataclass(frozen=True)
class Start(Dataset):
    """Where a function is to be minimized from: all the data that it has.

    Attributes
    ----------
    point : Tensor, shape (n,)
        The start.
    """

    name: str
    point: Tensor
    source: str
    checksum: str

    kind = "a function's start"

    def to(self, device: torch.device) -> Self:
        """Return the same on a device."""
        return replace(self, point=self.point.to(device))

    def double(self) -> Self:
        """Return the same in float64."""
        return replace(self, point=self.point.double())

    def facts(self) -> dict[str, Any]:
        """Return the number of parameters."""
        n = len(self.point)
        return {"n_samples": 1, "n_features": n, "nnz": n, "task": "function"}


def registered_function(function: Scalar, start: Tensor | np.ndarray[Any, Any]) -> Words:
    """Register a function of one vector as a loss, and its start as a data set.

    Parameters
    ----------
    function : callable
        w, shape (n,), to a number, of torch operations.
    start : Tensor or ndarray, shape (n,)
        What `start` draws is added to it.

    Returns
    -------
    dict
        `loss`, `dataset` and `dtype`.

    Raises
    ------
    DataError
        For a start that is no vector.
    """
    if start.ndim != 1:
        raise DataError(f"The start has shape {tuple(start.shape)}: it should be a vector, (n,).")
    point = torch.as_tensor(start).detach().cpu()
    point = point if point.dtype in (torch.float32, torch.float64) else point.double()
    checksum = hashlib.sha256(point.numpy().tobytes()).hexdigest()
    title = getattr(function, "__name__", type(function).__name__)

    class Given(FunctionObjective):
        """A function that a program gave, from its start."""

        def __init__(self, dataset: Dataset) -> None:
            assert isinstance(dataset, Start)
            super().__init__(function, dataset.point)

    def load() -> Start:
        return Start(f"{title} in {len(point)} variables", point, "a call", checksum)

    return {
        "loss": _registered("loss", title, identity(function), Given, offers=(FUNCTION,)),
        "dataset": _registered("dataset", f"start_of_{title}", checksum, load),
        "dtype": str(point.dtype).removeprefix("torch."),
    }


def _registered(group: str, title: str, content: Any, target: Any, **declared: Any) -> str:
    """Register under a title, and a digest of the content that distinguishes it from others."""
    digest = hashlib.sha256(repr(content).encode()).hexdigest()[:6]
    name = f"{''.join(c for c in title if c.isalnum() or c == '_')}_{digest}"
    # The last object of this name counts, and it is the program's, not the package's.
    target.__qualname__, target.__module__ = name, "__main__"
    register(group, name, **declared)(target)
    return name
