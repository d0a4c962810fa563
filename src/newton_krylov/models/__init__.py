"""Networks, by name: what a data set's inputs and classes ask of a `torch.nn.Module`."""

from newton_krylov.models.base import Interface, initialized
from newton_krylov.registry import import_modules

__all__ = ["Interface", "initialized"]

import_modules(__name__)
