"""Parts by name, for callers who have not imported the modules that register them."""

from collections.abc import Mapping
from typing import Any

from newton_krylov.optimizers.base import Optimizer
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


def built_optimizer(
    name: str, options: Mapping[str, Any], line_search: str, solver: str = "cg"
) -> Optimizer:
    """Build a registered optimizer of exact Hessian products and of parts by their defaults.

    Raises
    ------
    ConfigError
        For an unknown name, or an option that the optimizer does not have.
    """
    parts = {
        "solver": named("solver", solver).build({}),
        "curvature": named("hessian_approx", "hvp").build({}),
        "line_search": named("line_search", line_search).build({}),
        "forcing": named("forcing", "superlinear").build({}),
        "preconditioner": named("preconditioner", "none").build({}),
        "damping": named("damping", "fixed").build({}),
        "schedule": named("schedule", "constant").build({}),
    }
    made: Optimizer = named("optimizer", name).build(options, **parts)
    return made
