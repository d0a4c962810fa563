"""Newton's method on a network's layers in turn."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import PositiveInt
from torch import Tensor

from newton_krylov.capabilities import LAYERS
from newton_krylov.errors import ConfigError, UnsupportedError
from newton_krylov.objectives.base import Layered, Objective
from newton_krylov.objectives.network.layout import layers_below
from newton_krylov.optimizers.base import ContinuedOptimizer, Steps
from newton_krylov.optimizers.schedule import Schedule, constant
from newton_krylov.optimizers.stochastic_step import StochasticMemory, StochasticStep, end_epoch
from newton_krylov.optimizers.training import EpochMemory, Epochs, Update
from newton_krylov.registry import register


class _Memory(EpochMemory):
    def __init__(self, layers: dict[str, StochasticMemory]) -> None:
        super().__init__()
        self.layers = layers


@register("optimizer", "layerwise_newton", needs=(LAYERS,))
class LayerwiseNewton(ContinuedOptimizer[_Memory]):
    """Newton's method on some of a network's layers, one after the other on every mini-batch.

    For each layer in turn: the objective of that layer's weights alone, the others held where
    they are now; its gradient on the mini-batch, its curvature on a part of it; a Newton step
    with the layer's own damping, momentum and memory. The weights of layers that are not named do
    not change.

    The paper's method (section 0.3.2) is `hessian_approx=rank1_pyhessian solver=exact
    line_search=fixed line_search.step_size=0.01 optimizer.negative_curvature=ignore` with
    `damping=fixed`. The preset's defaults adapt the damping, each layer's tau by itself, and refuse
    a step that raises the batch's loss.

    Parameters
    ----------
    step : StochasticStep
        As in `Newton`.
    schedule : Schedule
        What becomes of the steps' length.
    layers : sequence of str or None
        Names of layers, in the order of their turns; that of a module with layers inside stands
        for them, in the network's order. None takes all.
    batch_size : int
        Samples in a mini-batch; a step of the run is one epoch.
    """

    def __init__(
        self,
        step: StochasticStep,
        schedule: Schedule = constant,
        layers: Sequence[str] | None = None,
        batch_size: PositiveInt = 1000,
    ) -> None:
        self.step = step
        self.schedule = schedule
        self.layers = layers
        self.batch_size = batch_size

    def memory(self, objective: Objective, w0: Tensor) -> _Memory:
        """Return a step's memory for each layer, and the number of epochs."""
        names, batches = self._names(objective), self.batch_size < objective.n_samples
        return _Memory({layer: self.step.memory(batches=batches) for layer in names})

    def iterate(
        self, objective: Objective, w0: Tensor, memory: _Memory, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0, without end; a step is one epoch."""
        epochs = Epochs(self.batch_size, self.schedule, memory)
        if len(memory.layers) == 1:
            return (yield from self._one(objective, w0, epochs, memory, generator))

        def advance(batch: Objective, w: Tensor, rate: float, generator: torch.Generator) -> Update:
            return self._in_turn(batch, w, memory, rate, generator)

        def notes() -> tuple[str, ...]:
            ends = {layer: ", ".join(end_epoch(own)) for layer, own in memory.layers.items()}
            return tuple(f"{layer} {end}" for layer, end in ends.items() if end)

        return (yield from epochs.steps(objective, w0, generator, advance, notes))

    def _names(self, objective: Objective) -> list[str]:
        if not isinstance(objective, Layered):
            raise UnsupportedError(
                "optimizer=layerwise_newton needs a network's layers: choose loss=cross_entropy."
            )
        names = list(objective.blocks) if self.layers is None else list(self.layers)
        if not names:
            raise ConfigError("optimizer.layers=[] leaves nothing to train: name a layer.")
        try:
            return layers_below(objective.blocks, names)
        except ConfigError as error:
            raise ConfigError(f"optimizer.layers: {error}") from None

    def _one(
        self,
        objective: Objective,
        w0: Tensor,
        epochs: Epochs,
        memory: _Memory,
        generator: torch.Generator,
    ) -> Steps:
        """Iterate on a single layer; what the frozen layers make of a sample is computed once."""
        assert isinstance(objective, Layered)
        ((layer, own),) = memory.layers.items()
        alone = objective.restricted([layer], w0)

        def advance(batch: Objective, w: Tensor, rate: float, generator: torch.Generator) -> Update:
            return self.step.update(batch, w, own, generator, rate)

        start = w0[objective.blocks[layer]]
        for step in epochs.steps(alone, start, generator, advance, lambda: end_epoch(own)):
            yield replace(step, point=objective.at(alone.embed(step.point.w)))
        return ""

    def _in_turn(
        self,
        batch: Objective,
        w: Tensor,
        memory: _Memory,
        rate: float,
        generator: torch.Generator,
    ) -> Update:
        """Make a step on each layer."""
        assert isinstance(batch, Layered)
        updates = []
        for layer, own in memory.layers.items():
            alone = batch.restricted([layer], w)
            update = self.step.update(alone, w[batch.blocks[layer]], own, generator, rate)
            w = alone.embed(update.w)
            updates.append(replace(update, notes=tuple(f"{layer} {n}" for n in update.notes)))
        return _together(w, updates)


def _together(w: Tensor, updates: Sequence[Update]) -> Update:
    """Sum up the layers' steps on one mini-batch: the loss is that before the first one."""
    return Update(
        w,
        updates[0].loss,
        lambda: math.hypot(*(u.grad_norm() for u in updates)),
        sum(u.step_size for u in updates) / len(updates),
        sum(u.inner_iterations for u in updates),
        tuple(note for u in updates for note in u.notes),
    )
