"""torch's own optimizers in the mini-batch loop."""

from abc import abstractmethod

import torch
from torch import Tensor

from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import ContinuedOptimizer, Steps
from newton_krylov.optimizers.schedule import Schedule
from newton_krylov.optimizers.training import EpochMemory, Epochs, Update


class _Memory(EpochMemory):
    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        self.torch = optimizer


class TorchOptimizer(ContinuedOptimizer[_Memory]):
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
    def make(self, w: Tensor) -> torch.optim.Optimizer:
        """Make torch's optimizer.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            The one parameter that it changes in place.

        Returns
        -------
        torch.optim.Optimizer
            With the learning rate `learning_rate`.
        """

    def memory(self, objective: Objective, w0: Tensor) -> _Memory:
        """Return torch's optimizer, and the number of epochs."""
        parameter = w0.detach().clone().requires_grad_()
        return _Memory(self.make(parameter))

    def iterate(
        self, objective: Objective, w0: Tensor, memory: _Memory, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0, without end; a step is one epoch."""
        (group,) = memory.torch.param_groups
        (parameter,) = group["params"]

        def advance(batch: Objective, w: Tensor, rate: float, generator: torch.Generator) -> Update:
            point = batch.at(w)
            parameter.grad, loss = point.grad, point.value
            group["lr"] = rate * self.learning_rate
            memory.torch.step()
            # A copy, since torch changes its parameter in place and points keep theirs.
            new = parameter.detach().clone()
            return Update(new, loss, point.grad_norm, rate * self.learning_rate)

        epochs = Epochs(self.batch_size, self.schedule, memory)
        return (yield from epochs.steps(objective, w0, generator, advance))
