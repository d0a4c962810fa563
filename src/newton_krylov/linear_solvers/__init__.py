"""Linear solvers: A x = b, given only products with A. One method a file; each registers itself.

Every registered solver is also a name of this package: `linear_solvers.cg(A, b)`.
"""

from newton_krylov import registry

registry.import_modules(__name__)
globals().update({name: registry.entry("solver", name).target for name in registry.names("solver")})
