"""Registers every part of the package: the one place that imports them all."""

from newton_krylov import device as _device  # noqa: F401  (registers the devices)
from newton_krylov.registry import import_modules

PACKAGES = (
    "data",
    "models",
    "objectives",
    "objectives.network",
    "objectives.residual",
    "curvature",
    "linear_solvers",
    "preconditioners",
    "optimizers",
    "optimizers.peers",
    "tracking",
    "distributed",
)
"""Packages whose modules register parts when they are imported."""


def register_parts() -> None:
    """Import every module that registers a part, so that each can be chosen by name."""
    for package in PACKAGES:
        import_modules(f"newton_krylov.{package}")
