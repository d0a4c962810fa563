"""What a network is built for, and how its first weights are drawn."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from newton_krylov.data.dataset import Dataset, LabelledData
from newton_krylov.data.equation import EquationProblem
from newton_krylov.errors import CombinationError


@dataclass(frozen=True)
class Interface:
    """What goes in and what comes out.

    Attributes
    ----------
    inputs : tuple of int
        Shape of one sample: (channels, height, width), or (n_features,).
    outputs : int
        How many numbers the network returns for a sample: one a class.
    """

    inputs: tuple[int, ...]
    outputs: int

    @classmethod
    def of(cls, dataset: Dataset) -> "Interface":
        """Return what a data set asks of a network.

        Parameters
        ----------
        dataset : Dataset
            Images, a table, or an equation.

        Returns
        -------
        Interface
            One output a class; a single one for a regression or an equation.

        Raises
        ------
        CombinationError
            If the data set has no samples with targets, and is no equation.
        """
        if isinstance(dataset, EquationProblem):
            return cls((dataset.equation.test.shape[1],), 1)
        if not isinstance(dataset, LabelledData):
            raise CombinationError(
                f"A network needs samples with targets, but dataset={dataset.name} has "
                f"{dataset.kind}; choose another dataset or loss."
            )
        return cls(tuple(dataset.train.X.shape[1:]), dataset.n_classes or 1)


Builder = Callable[[Interface], nn.Module]
"""A part of the group `model`, its own options bound."""


def initialized(build: Builder, interface: Interface, generator: torch.Generator) -> nn.Module:
    """Build a network whose weights are drawn as torch's layers do, from this generator.

    Parameters
    ----------
    build : callable
        Makes the module.
    interface : Interface
        What it is for.
    generator : torch.Generator
        On the CPU. The global generator, which torch's layers use, is left as it was.

    Returns
    -------
    nn.Module
        On the CPU, in torch's default dtype.
    """
    seed = int(torch.randint(2**62, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build(interface)
