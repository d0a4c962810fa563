"""Newton's method on a network's layers in turn."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.capabilities import LAYERS
from newton_krylov.curvature.base import Curvature
from newton_krylov.errors import ConfigError, UnsupportedError, suggest
from newton_krylov.linear_solvers.result import LinearSolver
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import State, Steps
from newton_krylov.optimizers.damping import DampingRule, Factor
from newton_krylov.optimizers.forcing import Forcing
from newton_krylov.optimizers.line_search import LineSearch
from newton_krylov.optimizers.newton import NegativeCurvature, Newton
from newton_krylov.optimizers.training import Epochs, Momentum, Schedule, Update
from newton_krylov.preconditioners.base import PreconditionerBuilder
from newton_krylov.registry import register


@runtime_checkable
class Layered(Protocol):
    """An objective whose parameters are those of named layers."""

    blocks: dict[str, slice]

    def restricted(self, layers: Sequence[str], w: Tensor) -> "Restricted":
        """Return the objective of some layers' weights, the others held at w, shape (dim,)."""
        ...


class Restricted(Protocol):
    """A layered objective with only some layers free."""

    def embed(self, w: Tensor) -> Tensor:
        """Return all layers' weights, given those of the free ones."""
        ...


@register("optimizer", "layerwise_newton", needs=(LAYERS,))
class LayerwiseNewton(Newton):
    """Newton's method on some of a network's layers, one after the other on every mini-batch.

    For each layer in turn: the objective of that layer's weights alone, the others held where
    they are now; its gradient on the mini-batch, its curvature on a part of it; a step of
    `Newton`, with the layer's own damping, momentum and memory. The weights of layers that are
    not named do not change.

    The paper's method (section 0.3.2) is `hessian_approx=rank1_pyhessian solver=exact
    line_search=fixed line_search.step_size=0.01 optimizer.negative_curvature=ignore` with a
    fixed damping. The defaults adapt the damping and refuse a step that raises the batch's loss.

    Parameters
    ----------
    solver, curvature, line_search, forcing, preconditioner
        As of `Newton`.
    layers : sequence of str or None
        Names of layers, in the order of their turns; None takes all, in the network's order.
    damping, damping_rule, damping_factor, damping_min, negative_curvature
        As of `Newton`; every layer has its own tau.
    batch_size, curvature_samples, curvature_every, momentum, schedule, schedule_epochs
        As of `Newton`; a step of the run is one epoch.
    """

    def __init__(
        self,
        solver: LinearSolver,
        curvature: Curvature,
        line_search: LineSearch,
        forcing: Forcing,
        preconditioner: PreconditionerBuilder,
        layers: Sequence[str] | None = None,
        damping: NonNegativeFloat = 1.0,
        damping_rule: DampingRule = "levenberg_marquardt",
        damping_factor: Factor = 2.0,
        damping_min: NonNegativeFloat = 0.0,
        negative_curvature: NegativeCurvature = "follow",
        batch_size: PositiveInt = 1000,
        curvature_samples: PositiveInt | None = 250,
        curvature_every: PositiveInt = 1,
        momentum: Momentum = 0.0,
        schedule: Schedule = "constant",
        schedule_epochs: PositiveInt = 4,
    ) -> None:
        super().__init__(
            solver,
            curvature,
            line_search,
            forcing,
            preconditioner,
            damping=damping,
            damping_rule=damping_rule,
            damping_factor=damping_factor,
            damping_min=damping_min,
            negative_curvature=negative_curvature,
            batch_size=batch_size,
            curvature_samples=curvature_samples,
            curvature_every=curvature_every,
            momentum=momentum,
            schedule=schedule,
            schedule_epochs=schedule_epochs,
        )
        self.layers = layers

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0, without end; a step is one epoch."""
        names = self._names(objective)
        self._memories = {layer: self.memory() for layer in names}
        assert self.batch_size is not None
        self._epochs = Epochs(self.batch_size, self.schedule, self.schedule_epochs)
        if self._resumed is not None:
            for layer, memory in self._memories.items():
                memory.load_state_dict(self._resumed["layers"][layer])
            self._epochs.load_state_dict(self._resumed)
            self._resumed = None
        if len(names) == 1:
            return (yield from self._one(objective, w0, names[0], generator))
        return (
            yield from self._epochs.steps(objective, w0, generator, self._in_turn, self._end_epoch)
        )

    def state_dict(self) -> State:
        """Return what is carried from one step to the next, layer by layer."""
        layers = {layer: memory.state_dict() for layer, memory in self._memories.items()}
        return {"layers": layers, **self._epochs.state_dict()}

    def _names(self, objective: Objective) -> list[str]:
        if not isinstance(objective, Layered):
            raise UnsupportedError(
                "optimizer=layerwise_newton needs a network's layers: choose loss=cross_entropy."
            )
        names = list(objective.blocks) if self.layers is None else list(self.layers)
        if not names:
            raise ConfigError("optimizer.layers=[] leaves nothing to train: name a layer.")
        for name in names:
            if name not in objective.blocks:
                unknown = f"optimizer.layers: '{name}' is not a layer of the network"
                raise ConfigError(f"{unknown}{suggest(name, objective.blocks)}")
        return names

    def _one(
        self, objective: Objective, w0: Tensor, layer: str, generator: torch.Generator
    ) -> Steps:
        """Iterate on a single layer; what the frozen layers make of a sample is computed once."""
        assert isinstance(objective, Layered)
        alone = objective.restricted([layer], w0)
        assert isinstance(alone, Objective)

        def advance(batch: Objective, w: Tensor, rate: float, generator: torch.Generator) -> Update:
            return self.update(batch, w, self._memories[layer], generator, rate)

        start = w0[objective.blocks[layer]]
        for step in self._epochs.steps(alone, start, generator, advance, self._end_epoch):
            yield replace(step, point=objective.at(alone.embed(step.point.w)))
        return ""

    def _in_turn(
        self, batch: Objective, w: Tensor, rate: float, generator: torch.Generator
    ) -> Update:
        """Make a step on each layer."""
        assert isinstance(batch, Layered)
        updates = []
        for layer, memory in self._memories.items():
            alone = batch.restricted([layer], w)
            assert isinstance(alone, Objective)
            own = w[batch.blocks[layer]]
            update = self.update(alone, own, memory, generator, rate)
            w = alone.embed(update.w)
            updates.append(replace(update, notes=tuple(f"{layer} {n}" for n in update.notes)))
        return _together(w, updates)

    def _end_epoch(self) -> str:
        ends = {layer: self.end_epoch(memory) for layer, memory in self._memories.items()}
        if len(ends) == 1:
            return next(iter(ends.values()))
        return "; ".join(f"{layer} {end}" for layer, end in ends.items() if end)


def _together(w: Tensor, updates: Sequence[Update]) -> Update:
    """Sum up the layers' steps on one mini-batch: the loss is that before the first one."""
    return Update(
        w,
        updates[0].loss,
        math.hypot(*(u.grad_norm for u in updates)),
        sum(u.step_size for u in updates) / len(updates),
        sum(u.inner_iterations for u in updates),
        tuple(note for u in updates for note in u.notes),
    )
