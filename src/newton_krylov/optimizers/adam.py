"""Adam."""

from collections.abc import Sequence

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import SAMPLES
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.schedule import Schedule, constant
from newton_krylov.optimizers.training import Momentum
from newton_krylov.optimizers.training_torch import TorchOptimizer
from newton_krylov.registry import register


@register("optimizer", "adam", needs=(SAMPLES,))
class Adam(TorchOptimizer):
    """Adam (Kingma and Ba, 2015), by torch's `Adam`; a step is one epoch.

    With its defaults it is what the paper's released code runs under the name of gradient descent.

    Parameters
    ----------
    learning_rate : float
        At the first step; the schedule multiplies it.
    beta1, beta2 : float
        Decay of the means of the gradient and of its square, in [0, 1).
    epsilon : float
        Added to the denominator.
    batch_size : int
        Samples in a mini-batch.
    schedule : Schedule
        What becomes of the learning rate.
    """

    def __init__(
        self,
        learning_rate: PositiveFloat = 1e-3,
        beta1: Momentum = 0.9,
        beta2: Momentum = 0.999,
        epsilon: PositiveFloat = 1e-8,
        batch_size: PositiveInt = 32,
        schedule: Schedule = constant,
    ) -> None:
        super().__init__(learning_rate, batch_size, schedule)
        self.betas, self.epsilon = (beta1, beta2), epsilon

    def make(
        self, objective: Objective, parameters: list[Tensor]
    ) -> Sequence[torch.optim.Optimizer]:
        """Make torch's Adam for the parameters."""
        return [
            torch.optim.Adam(parameters, self.learning_rate, betas=self.betas, eps=self.epsilon)
        ]
