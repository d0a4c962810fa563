"""Networks as the losses of runs: a criterion, bound to a data set."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from newton_krylov.capabilities import LABELLED
from newton_krylov.data.dataset import Dataset, ImageSet, LabelledData
from newton_krylov.errors import CombinationError
from newton_krylov.objectives.network.graphs import Criterion
from newton_krylov.objectives.network.likelihood import gaussian
from newton_krylov.objectives.network.objective import GIB, Network
from newton_krylov.registry import register

Memory = Annotated[PositiveFloat, Field(lt=1e6)]


class DatasetNetwork(Network):
    """A network as the loss of a run: bound to a data set, named in configurations.

    Subclasses name the criterion and the tasks it is for.
    """

    name: str
    tasks: tuple[str, ...]
    alternatives: str

    def __init__(
        self,
        dataset: Dataset,
        model: nn.Module,
        criterion: Criterion,
        *,
        l2: float,
        chunk: int | None,
        memory: float,
    ) -> None:
        if not isinstance(dataset, LabelledData) or dataset.task not in self.tasks:
            raise CombinationError(
                f"loss={self.name} needs {self.alternatives}; dataset={dataset.name} is no such."
            )
        X = dataset.train.X
        if X.layout is not torch.strided and X.shape.numel() * X.dtype.itemsize > memory * GIB:
            raise CombinationError(
                f"loss={self.name} reads dense samples, and those of dataset={dataset.name} would "
                f"take more than loss.memory={memory:g} GiB."
            )
        super().__init__(
            model,
            criterion,
            X,
            dataset.train.y,
            l2=l2,
            chunk=chunk,
            memory=memory * GIB,
            images=dataset.images if isinstance(dataset, ImageSet) else None,
            channels_last=True,
        )


@register("loss", "cross_entropy", needs=(LABELLED,))
class CrossEntropy(DatasetNetwork):
    """Mean cross entropy of a network's logits: mean(logsumexp(z) - z_y) + l2/2 |w|^2.

    Parameters
    ----------
    dataset : Dataset
        Data set with classes: images, or a table of features.
    model : nn.Module
        The network, one logit a class.
    l2 : float
        lambda >= 0, over all weights.
    chunk : int or None
        Samples in one forward pass; None chooses.
    memory : float
        GiB that each cache may take: of Hessian graphs, and of frozen layers' activations.
    """

    name = "cross_entropy"
    tasks = ("binary", "multiclass")
    alternatives = "classes, as dataset=cifar10 or digits_images has them"

    def __init__(
        self,
        dataset: Dataset,
        model: nn.Module,
        l2: NonNegativeFloat = 0.0,
        chunk: PositiveInt | None = None,
        memory: Memory = 4.0,
    ) -> None:
        super().__init__(dataset, model, F.cross_entropy, l2=l2, chunk=chunk, memory=memory)


@register("loss", "mse", needs=(LABELLED,))
class MeanSquaredError(DatasetNetwork):
    """Mean squared error of a network's one output: mean((z - y)^2) / 2 + l2/2 |w|^2.

    Parameters
    ----------
    dataset : Dataset
        A regression.
    model : nn.Module
        The network, one output.
    l2 : float
        lambda >= 0, over all weights.
    chunk : int or None
        Samples in one forward pass; None chooses.
    memory : float
        GiB that each cache may take: of Hessian graphs, and of frozen layers' activations.
    """

    name = "mse"
    tasks = ("regression",)
    alternatives = "real-valued targets, as dataset=diabetes has them"

    def __init__(
        self,
        dataset: Dataset,
        model: nn.Module,
        l2: NonNegativeFloat = 0.0,
        chunk: PositiveInt | None = None,
        memory: Memory = 4.0,
    ) -> None:
        super().__init__(dataset, model, _HalfMeanSquare(), l2=l2, chunk=chunk, memory=memory)


class _HalfMeanSquare:
    """Mean of (z - y)^2 / 2 over outputs z of shape (n, 1): of normal targets of variance 1."""

    draw = staticmethod(gaussian(1.0))

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs.squeeze(1) - y).square().mean() / 2
