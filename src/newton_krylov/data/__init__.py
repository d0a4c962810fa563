"""Data sets: one source a file; each registers itself under the group `dataset`."""

from newton_krylov.registry import import_modules

import_modules(__name__)
