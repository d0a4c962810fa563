"""Parts by name, for callers who have not imported the modules that register them."""

from newton_krylov.registry import Entry, entry, import_modules

_HOME = {
    "loss": "objectives",
    "solver": "linear_solvers",
    "preconditioner": "preconditioners",
    "line_search": "optimizers",
    "forcing": "optimizers",
    "damping": "optimizers",
    "schedule": "optimizers",
    "optimizer": "optimizers",
    "hessian_approx": "curvature",
}


def named(group: str, name: str) -> Entry:
    """Look up a part of the library, importing the package it lives in.

    Raises
    ------
    ConfigError
        For an unknown name, with the choices and the closest match.
    """
    import_modules(f"newton_krylov.{_HOME[group]}")
    return entry(group, name)
