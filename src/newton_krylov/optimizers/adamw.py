"""AdamW."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import SAMPLES
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.schedule import Schedule, constant
from newton_krylov.optimizers.training import Momentum
from newton_krylov.optimizers.training_torch import TorchOptimizer
from newton_krylov.registry import register


@register("optimizer", "adamw", needs=(SAMPLES,))
class AdamW(TorchOptimizer):
    """Adam whose weights decay beside it, by torch's `AdamW`; a step is one epoch.

    Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.

    Parameters
    ----------
    learning_rate : float
        At the first step; the schedule multiplies it.
    beta1, beta2 : float
        Decay of the means of the gradient and of its square, in [0, 1).
    epsilon : float
        Added to the denominator.
    weight_decay : float
        A step multiplies the weights by 1 - learning_rate weight_decay, besides.
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
        weight_decay: NonNegativeFloat = 0.01,
        batch_size: PositiveInt = 128,
        schedule: Schedule = constant,
    ) -> None:
        super().__init__(learning_rate, batch_size, schedule)
        self.options: dict[str, Any] = {
            "betas": (beta1, beta2), "eps": epsilon, "weight_decay": weight_decay
        }  # fmt: skip

    def make(
        self, objective: Objective, parameters: list[Tensor]
    ) -> Sequence[torch.optim.Optimizer]:
        """Make torch's AdamW for the parameters."""
        return [torch.optim.AdamW(parameters, self.learning_rate, **self.options)]
