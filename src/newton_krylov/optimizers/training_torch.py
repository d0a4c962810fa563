"""torch's own optimizers in the mini-batch loop."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from newton_krylov.capabilities import LAYERS
from newton_krylov.errors import CombinationError
from newton_krylov.objectives.base import Layered, Objective
from newton_krylov.optimizers.base import ContinuedOptimizer, State, Steps
from newton_krylov.optimizers.schedule import Schedule
from newton_krylov.optimizers.training import EpochMemory, Epochs, Update


class TorchMemory(EpochMemory):
    """torch's optimizer, and the number of epochs."""

    """Torch's optimizers with the parameters that they change in place, which are views of w."""

    def __init__(
        self, w: Tensor, parameters: list[Tensor], optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        super().__init__()
        self.w, self.parameters, self.optimizers = w, parameters, optimizers

    def state_dict(self) -> State:
        """Return the optimizers' states; w is the run's own."""
        states = {_key(k): made.state_dict() for k, made in enumerate(self.optimizers)}
        return {"epochs": self.epochs, **states}

    def load_state_dict(self, state: State) -> None:
        """Take the states from a checkpoint."""
        self.epochs = state["epochs"]
        for k, made in enumerate(self.optimizers):
            made.load_state_dict(state[_key(k)])


def _key(number: int) -> str:
    return "torch" if number == 0 else f"torch{number + 1}"


class TorchOptimizer(ContinuedOptimizer[TorchMemory]):
    """A first-order method whose steps are made by a class of `torch.optim`.

    Parameters
    ----------
    learning_rate : float
        At the first step; the schedule multiplies it.
    batch_size : int
        Samples in a mini-batch.
    schedule : Schedule
        What becomes of the learning rate.
    """

    def __init__(self, learning_rate: float, batch_size: int, schedule: Schedule) -> None:
        self.learning_rate = learning_rate
        self.batch_size, self.schedule = batch_size, schedule
        # torch's first optimizer imports torch's compiler, about a second: before the clock runs.
        torch.optim.SGD([torch.zeros(1)], 1.0)

    @abstractmethod
    def make(
        self, objective: Objective, parameters: list[Tensor]
    ) -> Sequence[torch.optim.Optimizer]:
        """Make torch's optimizers.

        Parameters
        ----------
        objective : Objective
            What to minimize.
        parameters : list of Tensor
            What they change in place: what `parameters` returned.

        Returns
        -------
        sequence of torch.optim.Optimizer
            Each with the learning rate `learning_rate`.
        """

    def parameters(self, objective: Objective, w: Tensor) -> list[Tensor]:
        """Return what torch's optimizers are to see of w, shape (dim,), as views of it."""
        return [w]

    def memory(self, objective: Objective, w0: Tensor) -> TorchMemory:
        """Return torch's optimizers, and the number of epochs."""
        w = w0.detach().clone()
        views = self.parameters(objective, w)
        parameters = [view.detach().requires_grad_() for view in views]
        return TorchMemory(w, parameters, self.make(objective, parameters))

    def iterate(
        self, objective: Objective, w0: Tensor, memory: TorchMemory, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0, without end; a step is one epoch."""
        groups = [group for made in memory.optimizers for group in made.param_groups]

        def advance(batch: Objective, w: Tensor, rate: float, generator: torch.Generator) -> Update:
            point = batch.at(w)
            gradients, loss = self.parameters(objective, point.grad), point.later()
            for parameter, gradient in zip(memory.parameters, gradients, strict=True):
                parameter.grad = gradient
            for group in groups:
                group["lr"] = rate * self.learning_rate
            for made in memory.optimizers:
                made.step()
            return Update(memory.w, loss, lambda: point.grad_norm, rate * self.learning_rate)

        epochs = Epochs(self.batch_size, self.schedule, memory)
        return (yield from epochs.steps(objective, w0, generator, advance))


class LayeredTorchOptimizer(TorchOptimizer):
    """One that sees each layer's weights as a matrix: kernels with their outputs as rows.

    What has one dimension, such as biases, stays a vector.
    """

    def parameters(self, objective: Objective, w: Tensor) -> list[Tensor]:
        """Return the free parameters as matrices and vectors; those without numbers are left out.

        Raises
        ------
        CombinationError
            If the objective has no layers.
        """
        if not isinstance(objective, Layered):
            raise CombinationError(
                f"{type(self).__name__} needs {LAYERS}, which "
                f"loss={getattr(objective, 'name', type(objective).__name__)} does not offer."
            )
        parameters = [p for p in objective.parameters(w) if p.numel()]
        return [p.view(len(p), -1) if p.ndim > 1 else p for p in parameters]
