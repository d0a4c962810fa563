"""Stochastic gradient descent."""

from collections.abc import Sequence

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import SAMPLES
from newton_krylov.errors import ConfigError
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.schedule import Schedule, constant
from newton_krylov.optimizers.training import Momentum
from newton_krylov.optimizers.training_torch import TorchOptimizer
from newton_krylov.registry import register


@register("optimizer", "sgd", needs=(SAMPLES,))
class SGD(TorchOptimizer):
    """Stochastic gradient descent with momentum, by torch's `SGD`; a step is one epoch.

    v = momentum v + g and w - rate v (Polyak, 1964), or with `nesterov` the gradient's step is
    looked ahead (Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and
    momentum in deep learning", 2013).

    Parameters
    ----------
    learning_rate : float
        At the first step; the schedule multiplies it.
    momentum : float
        In [0, 1).
    nesterov : bool
        Whether to look ahead.
    batch_size : int
        Samples in a mini-batch.
    schedule : Schedule
        What becomes of the learning rate.

    Raises
    ------
    ConfigError
        If `nesterov` has no momentum to look ahead with.
    """

    def __init__(
        self,
        learning_rate: PositiveFloat = 0.05,
        momentum: Momentum = 0.9,
        nesterov: bool = False,
        batch_size: PositiveInt = 128,
        schedule: Schedule = constant,
    ) -> None:
        if nesterov and momentum == 0:
            raise ConfigError("optimizer.nesterov needs a momentum: set optimizer.momentum=0.9.")
        super().__init__(learning_rate, batch_size, schedule)
        self.momentum, self.nesterov = momentum, nesterov

    def make(
        self, objective: Objective, parameters: list[Tensor]
    ) -> Sequence[torch.optim.Optimizer]:
        """Make torch's SGD for the parameters."""
        return [
            torch.optim.SGD(
                parameters, self.learning_rate, momentum=self.momentum, nesterov=self.nesterov
            )
        ]
