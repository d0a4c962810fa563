"""Linear solvers: A x = b, given only products with A. One method a file; each registers itself."""

from newton_krylov.registry import import_modules

import_modules(__name__)
