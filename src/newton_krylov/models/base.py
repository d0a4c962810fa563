"""What a network is built for, and how its first weights are drawn."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from newton_krylov.data.dataset import Dataset, LabelledData, Text
from newton_krylov.data.equation import EquationProblem
from newton_krylov.errors import CombinationError


@dataclass(frozen=True)
class Interface:
    """What goes in and what comes out.

    Attributes
    ----------
    inputs : tuple of int
        Shape of one sample: (channels, height, width), (n_features,), or (context,) of a text.
    outputs : int
        How many numbers the network returns for a sample: one a class.
    alphabet : int
        How many characters there are where samples are text; 0 where they are numbers.
    """

    inputs: tuple[int, ...]
    outputs: int
    alphabet: int = 0

    @classmethod
    def of(cls, dataset: Dataset) -> "Interface":
        """Return what a data set asks of a network.

        Parameters
        ----------
        dataset : Dataset
            Images, a table, a text, or an equation.

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
        alphabet = len(dataset.alphabet) if isinstance(dataset, Text) else 0
        return cls(tuple(dataset.train.X.shape[1:]), dataset.n_classes or 1, alphabet)


def numbers(interface: Interface, name: str) -> tuple[int, ...]:
    """Return the shape of a sample of numbers; refuse text, which the model `name` cannot read."""
    if interface.alphabet:
        raise CombinationError(
            f"model={name} reads numbers, and the samples are text; choose model=transformer."
        )
    return interface.inputs


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
