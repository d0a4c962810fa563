"""Data sets: one source a file; each registers itself under the group `dataset`."""

from newton_krylov.data.dataset import (
    Dataset,
    ImageSet,
    LabelledData,
    Split,
    Table,
    Task,
    TransportProblem,
)
from newton_krylov.data.sources import load_dataset, source

__all__ = [
    "Dataset",
    "ImageSet",
    "LabelledData",
    "Split",
    "Table",
    "Task",
    "TransportProblem",
    "load_dataset",
    "source",
]
