"""Muon."""

from collections.abc import Sequence

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import LAYERS
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Layered, Objective
from newton_krylov.objectives.network.layout import layers_below
from newton_krylov.optimizers.schedule import Schedule, constant
from newton_krylov.optimizers.training import Momentum
from newton_krylov.optimizers.training_torch import LayeredTorchOptimizer
from newton_krylov.registry import register


@register("optimizer", "muon", needs=(LAYERS,))
class Muon(LayeredTorchOptimizer):
    """Momentum made orthogonal, by torch's `Muon`; a step is one epoch.

    The step of a layer's weights is near U V' of the momentum U S V', by five iterations of Newton
    and Schulz (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024),
    times 0.2 sqrt(max(rows, columns)), so that rates that suit Adam suit it (Liu et al., "Muon is
    scalable for LLM training", 2025). Vectors and the layers of `adam_layers` get AdamW at the same
    rate.

    Parameters
    ----------
    learning_rate : float
        At the first step; the schedule multiplies it.
    momentum : float
        In [0, 1).
    weight_decay : float
        A step multiplies the weights by 1 - learning_rate weight_decay, besides.
    adam_layers : tuple of str or None
        Layers, by name, that AdamW trains: embeddings and the last one, as its authors advise;
        None stands for the last one.
    batch_size : int
        Samples in a mini-batch.
    schedule : Schedule
        What becomes of the learning rate.
    """

    def __init__(
        self,
        learning_rate: PositiveFloat = 1e-3,
        momentum: Momentum = 0.95,
        weight_decay: NonNegativeFloat = 0.01,
        adam_layers: tuple[str, ...] | None = None,
        batch_size: PositiveInt = 128,
        schedule: Schedule = constant,
    ) -> None:
        super().__init__(learning_rate, batch_size, schedule)
        self.momentum, self.weight_decay, self.adam_layers = momentum, weight_decay, adam_layers
        if not hasattr(torch.optim, "Muon"):
            raise UnsupportedError(
                f"optimizer=muon is torch's own, which came with torch 2.9; this is "
                f"{torch.__version__}: upgrade torch, or take soap or shampoo."
            )

    def make(
        self, objective: Objective, parameters: list[Tensor]
    ) -> Sequence[torch.optim.Optimizer]:
        """Make torch's Muon for the hidden layers' matrices, AdamW for all else."""
        assert isinstance(objective, Layered)
        excluded = self._of_adam(objective)
        matrices = [p for p, out in zip(parameters, excluded, strict=True) if not out]
        others = [p for p, out in zip(parameters, excluded, strict=True) if out]
        made: list[torch.optim.Optimizer] = []
        if matrices:
            made.append(
                torch.optim.Muon(
                    matrices, self.learning_rate, self.weight_decay, self.momentum,
                    adjust_lr_fn="match_rms_adamw",
                )
            )  # fmt: skip
        if others:
            made.append(
                torch.optim.AdamW(others, self.learning_rate, weight_decay=self.weight_decay)
            )
        return made

    def _of_adam(self, objective: Layered) -> list[bool]:
        """Return for each parameter whether AdamW trains it."""
        number = torch.zeros(objective.dim, dtype=torch.bool)
        names = [list(objective.blocks)[-1]] if self.adam_layers is None else self.adam_layers
        for layer in layers_below(objective.blocks, names) if names else []:
            number[objective.blocks[layer]] = True
        return [bool(p.any()) or p.ndim < 2 for p in self.parameters(objective, number)]
