"""torch's own optimizers in the mini-batch loop."""

import copy
from abc import abstractmethod

import torch
from torch import Tensor

from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import Optimizer, State, Steps
from newton_krylov.optimizers.training import Epochs, Schedule, Update


class TorchOptimizer(Optimizer):
    """A first-order method whose steps are made by a class of `torch.optim`.

    Parameters
    ----------
    learning_rate : float
        Of the first step; the schedule multiplies it.
    batch_size : int
        Samples in a mini-batch.
    schedule : {"constant", "linear", "cosine"}
        See `training.factor`.
    schedule_epochs : int
        Epochs until the schedule has come to its end.
    """

    def __init__(
        self, learning_rate: float, batch_size: int, schedule: Schedule, schedule_epochs: int
    ) -> None:
        self.learning_rate = learning_rate
        self.batch_size, self.schedule, self.schedule_epochs = batch_size, schedule, schedule_epochs
        self._resumed: State | None = None
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

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0, without end; a step is one epoch."""
        self._epochs = Epochs(self.batch_size, self.schedule, self.schedule_epochs)
        parameter = w0.detach().clone().requires_grad_()
        self._torch = self.make(parameter)
        if self._resumed is not None:
            self._epochs.load_state_dict(self._resumed)
            self._torch.load_state_dict(self._resumed["torch"])
            self._resumed = None

        def advance(batch: Objective, w: Tensor, rate: float, generator: torch.Generator) -> Update:
            point = batch.at(w)
            parameter.grad, loss = point.grad, point.value
            for group in self._torch.param_groups:
                group["lr"] = rate * self.learning_rate
            self._torch.step()
            # A copy, since torch changes its parameter in place and points keep theirs.
            new = parameter.detach().clone()
            return Update(new, loss, point.grad_norm, rate * self.learning_rate)

        return (yield from self._epochs.steps(objective, w0, generator, advance))

    def state_dict(self) -> State:
        """Return torch's state and the number of epochs."""
        # A copy, since torch changes its tensors in place.
        return {"torch": copy.deepcopy(self._torch.state_dict()), **self._epochs.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Let the next `steps` go on from a checkpoint."""
        self._resumed = state
