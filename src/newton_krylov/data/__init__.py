"""Data sets: one source a file; each registers itself under the group `dataset`.

The names below are imported when they are first used, so that the catalogue can be read alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from newton_krylov.data.catalogue import Task as Task
    from newton_krylov.data.dataset import Dataset as Dataset
    from newton_krylov.data.dataset import ImageSet as ImageSet
    from newton_krylov.data.dataset import LabelledData as LabelledData
    from newton_krylov.data.dataset import Split as Split
    from newton_krylov.data.dataset import Table as Table
    from newton_krylov.data.dataset import TransportProblem as TransportProblem
    from newton_krylov.data.sources import load_dataset as load_dataset
    from newton_krylov.data.sources import source as source

_HOME = {
    "Dataset": "dataset",
    "ImageSet": "dataset",
    "LabelledData": "dataset",
    "Split": "dataset",
    "Table": "dataset",
    "Task": "catalogue",
    "TransportProblem": "dataset",
    "load_dataset": "sources",
    "source": "sources",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'newton_krylov.data' has no attribute '{name}'")
    return getattr(importlib.import_module(f"newton_krylov.data.{_HOME[name]}"), name)
