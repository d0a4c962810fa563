"""Networks as the losses of runs: a criterion, bound to a data set."""

from dataclasses import replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from newton_krylov.capabilities import LABELLED
from newton_krylov.data.dataset import Dataset, ImageSet, LabelledData, Split, Text
from newton_krylov.errors import CombinationError
from newton_krylov.objectives.network.graphs import Criterion
from newton_krylov.objectives.network.likelihood import bernoulli_of_logits, gaussian
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


@register("loss", "reconstruction", needs=(LABELLED,))
class Reconstruction(DatasetNetwork):
    """How badly an autoencoder gives its input back: the mean over samples, and l2/2 |w|^2.

    Of a sample it is the sum over its numbers x, for images pixels between 0 and 1: of the cross
    entropy -x log p - (1 - x) log(1 - p) with p = sigmoid(z), as Martens (2010) and Martens and
    Grosse (2015) minimize it, or of (z - x)^2 / 2.

    Parameters
    ----------
    dataset : Dataset
        Images or a table; its targets are not read.
    model : nn.Module
        The network, as many outputs as a sample has numbers.
    kind : {"cross_entropy", "squares"}
        What is summed; cross entropy needs numbers between 0 and 1.
    l2 : float
        lambda >= 0, over all weights.
    chunk : int or None
        Samples in one forward pass; None chooses.
    memory : float
        GiB that each cache may take: of Hessian graphs, and of frozen layers' activations.
    """

    name = "reconstruction"
    tasks = ("binary", "multiclass", "regression")
    alternatives = "images or a table, as dataset=digits_images"

    def __init__(
        self,
        dataset: Dataset,
        model: nn.Module,
        kind: Literal["cross_entropy", "squares"] = "cross_entropy",
        l2: NonNegativeFloat = 0.0,
        chunk: PositiveInt | None = None,
        memory: Memory = 4.0,
    ) -> None:
        if not isinstance(dataset, LabelledData) or isinstance(dataset, Text):
            raise CombinationError(
                f"loss=reconstruction needs images or a table, and dataset={dataset.name} has "
                f"{dataset.kind}; choose dataset=digits_images."
            )
        dataset = replace(dataset, train=_given_back(dataset.train))
        low, high = (float(bound) for bound in torch.aminmax(dataset.train.y))
        if kind == "cross_entropy" and not 0 <= low <= high <= 1:
            raise CombinationError(
                f"loss.kind=cross_entropy needs numbers between 0 and 1, and those of "
                f"dataset={dataset.name} lie between {low:g} and {high:g}; scale them by "
                "dataset.scaling, or choose loss.kind=squares."
            )
        self._restored = [dataset.train]
        criterion = _BernoulliSum() if kind == "cross_entropy" else _SquareSum()
        super().__init__(dataset, model, criterion, l2=l2, chunk=chunk, memory=memory)

    def evaluate(self, w: Tensor, split: Split) -> tuple[float, float]:
        """Return the mean loss on a split, and nan."""
        known = next((one for one in self._restored if one.X is split.X), None)
        if known is None:
            known = _given_back(split)
            self._restored.append(known)
        return super().evaluate(w, known)


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


def _given_back(split: Split) -> Split:
    """Return a split whose targets are its samples, shape (n, numbers); pixels become 0 to 1."""
    X = split.X if split.X.layout is torch.strided else split.X.to_dense()
    y = X.flatten(1)
    return Split(split.X, y if y.is_floating_point() else y.float() / 255)


class _BernoulliSum:
    """Mean over the samples of the sum of cross entropies, outputs z logits of shape (n, k)."""

    @staticmethod
    def draw(z: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        return bernoulli_of_logits(z, y, generator)[0], 1.0

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(outputs, y, reduction="none")
        return losses.flatten(1).sum(1).mean()


class _SquareSum:
    """Mean over the samples of |z - x|^2 / 2, outputs z of shape (n, k)."""

    draw = staticmethod(gaussian(1.0))

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y).square().flatten(1).sum(1).mean() / 2


class _HalfMeanSquare:
    """Mean of (z - y)^2 / 2 over outputs z of shape (n, 1): of normal targets of variance 1."""

    draw = staticmethod(gaussian(1.0))

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs.squeeze(1) - y).square().mean() / 2
