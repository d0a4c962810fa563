"""Data sets: one source a file; each registers itself under the group `dataset`."""

from newton_krylov.data.dataset import Dataset, Split, Task
from newton_krylov.data.files import cache_dir, default_data_dir
from newton_krylov.data.sources import load_dataset, source
from newton_krylov.registry import import_modules

__all__ = ["Dataset", "Split", "Task", "cache_dir", "default_data_dir", "load_dataset", "source"]

import_modules(__name__)
