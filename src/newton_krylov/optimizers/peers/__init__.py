"""Other libraries' optimizers, for comparison. One library a file; each registers itself."""

from newton_krylov.registry import import_modules

import_modules(__name__)
