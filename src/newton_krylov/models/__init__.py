"""Networks, by name: what a data set's inputs and classes ask of a `torch.nn.Module`."""

from newton_krylov.models.base import Interface, initialized

__all__ = ["Interface", "initialized"]
