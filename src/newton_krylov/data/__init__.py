"""Data sets: one source a file; each registers itself under the group `dataset`."""

from newton_krylov.data.dataset import Dataset, Split, Task
from newton_krylov.data.sources import load_dataset, source

__all__ = ["Dataset", "Split", "Task", "load_dataset", "source"]
