"""How a source of data becomes a registered data set, and how one is loaded by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from newton_krylov.capabilities import GENERATED, LABELLED, RESIDUALS, TABLE
from newton_krylov.data.dataset import Dataset
from newton_krylov.data.options import with_options
from newton_krylov.data.prepare import Options, RawData, prepare
from newton_krylov.files import default_data_dir
from newton_krylov.registry import entry, import_modules, register

Reader = Callable[..., RawData]


def load_dataset(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    data_dir: Path | None = None,
    dtype: torch.dtype = torch.float64,
) -> Dataset:
    """Load a data set by its registered name.

    Parameters
    ----------
    name : str
        As in `dataset=NAME`.
    options : mapping, optional
        What the configuration says under `dataset`; a `name` key is ignored.
    data_dir : Path, optional
        Where downloaded data lies; `newton_krylov.data.default_data_dir()` by default.
    dtype : torch.dtype
        Precision of X, and of the targets of a regression.

    Returns
    -------
    Dataset
        On the CPU.

    Raises
    ------
    ConfigError
        For an unknown name or option, or a value that is not valid.
    DataError
        If the data is missing, damaged or malformed.

    Examples
    --------
    >>> data = load_dataset("iris", {"bias": True, "test_fraction": 0.2})
    >>> len(data.train), len(data.test), data.n_features, data.n_classes
    (120, 30, 5, 3)
    """
    import_modules("newton_krylov.data")  # the sources register themselves
    parts = {"data_dir": data_dir or default_data_dir(), "dtype": dtype}
    load: Callable[[], Dataset] = entry("dataset", name).build(options or {}, **parts)
    return load()


def source(
    name: str,
    *,
    generated: bool = False,
    needs_with: Mapping[str, tuple[str, ...]] | None = None,
    **defaults: Any,
) -> Callable[[Reader], Callable[..., Dataset]]:
    """Register a function that reads raw data as `dataset=name`, with the common options.

    The registered function takes the reader's parameters and those of `Options`, so both are
    configuration keys. A source that is no table (images, say) registers a function that returns
    a `Dataset` by `newton_krylov.registry.register` itself.

    Parameters
    ----------
    name : str
        The name by which configurations choose it.
    generated : bool
        Whether the data is made by the program, not read.
    needs_with : mapping of str to tuple of str, optional
        What the reader's parameters need of other parts (see `newton_krylov.registry.register`).
    **defaults
        Defaults of common options that differ for this source.

    Returns
    -------
    callable
        A decorator; what it returns loads the data set.
    """

    def decorate(read: Reader) -> Callable[..., Dataset]:
        def make(raw: RawData, options: Options, dtype: torch.dtype) -> Dataset:
            return prepare(name, raw, options, dtype)

        load = with_options(read, Options, defaults, make)
        offers = (TABLE, LABELLED, RESIDUALS, *((GENERATED,) if generated else ()))
        return register("dataset", name, offers=offers, needs_with=needs_with)(load)

    return decorate
