"""Data sets: a sum of kinds, each with what it holds, and where that came from.

A kind is a subclass of `Dataset`: a table of features, images, a transport problem. A further kind
(the points of a differential equation, say) is a frozen dataclass of its own with the three
attributes and the methods of `Dataset`, and a loss that takes it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from newton_krylov.data.catalogue import Task
from newton_krylov.data.images import Images


@dataclass(frozen=True)
class Split:
    """Samples and their targets.

    Attributes
    ----------
    X : Tensor, shape (n_samples, n_features)
        Dense, or sparse CSR with int32 indices (half the index traffic, and the fast path of the
        sparse products). Images keep their shape, (n_samples, channels, height, width), and their
        bytes: uint8, whatever the run's dtype. Tokens, (n_samples, length), are int64.
    y : Tensor, shape (n_samples,)
        Class indices 0 .. n_classes - 1 (int64), or floats for a regression; of shape
        (n_samples, length) where every token has a target of its own.
    weights : Tensor or None, shape (n_samples,)
        How much each sample counts, >= 0 and of mean 1, in the dtype of X: 2 where others have 1
        is as if the sample were there twice. None where all count alike.
    offset : Tensor or None, shape (n_samples,)
        What is added to a linear model's output and not fitted, in the dtype of X; None for zeros.
    """

    X: Tensor
    y: Tensor
    weights: Tensor | None = None
    offset: Tensor | None = None

    def __len__(self) -> int:
        return self.X.shape[0]

    def to(self, device: torch.device) -> "Split":
        """Return the same on a device."""
        return self._with(self.X.to(device), self.y.to(device), lambda x: x.to(device))

    def double(self) -> "Split":
        """Return the same in float64; classes and tokens stay integers."""
        y = self.y.double() if self.y.is_floating_point() else self.y
        X = self.X if self.X.dtype is torch.int64 else self.X.double()
        return self._with(X, y, Tensor.double)

    def share_of(self, label: int) -> float:
        """Return how much of the samples, by their weights, is of a class."""
        right = (self.y == label).double()
        return float((right if self.weights is None else right * self.weights).mean())

    def rows(self, X: Tensor, index: Tensor) -> "Split":
        """Return some of the samples, whose rows of features are X."""
        return self._with(X, self.y[index], lambda x: x[index])

    def _with(self, X: Tensor, y: Tensor, change: Callable[[Tensor], Tensor]) -> "Split":
        weights, offset = (None if v is None else change(v) for v in (self.weights, self.offset))
        return Split(X, y, weights, offset)


class Dataset(ABC):
    """Data with their provenance. Knows nothing of losses.

    Attributes
    ----------
    name : str
        As the user asked for it.
    source : str
        Where the data came from: a path, an address, a package, or "synthetic".
    checksum : str
        SHA-256 of what defines the data (files, or the generator's arguments) and of the options
        applied to it; equal checksums mean equal tensors.
    kind : str
        What it is, in words.
    """

    name: str
    source: str
    checksum: str
    kind: str

    @property
    def splits(self) -> tuple[Split | None, Split | None]:
        """The samples to train with and to test with, where the kind has samples."""
        return None, None

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """Return the same on a device."""

    @abstractmethod
    def double(self) -> Self:
        """Return what an objective is made of, in float64: the certified optimum is of that."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return its size and task for a run's record: `n_samples`, `n_features`, `nnz`, `task`."""


@dataclass(frozen=True)
class LabelledData(Dataset):
    """Samples with targets.

    Attributes
    ----------
    train : Split
        What the objective is made of.
    test : Split or None
        Held out, for accuracy.
    task : {"binary", "multiclass", "regression"}
        What `y` holds.
    n_classes : int
        0 where there are no classes.
    classes : tuple of str
        The classes' names, in the order of their indices; empty where they have none.
    """

    name: str
    train: Split
    test: Split | None
    task: Task
    n_classes: int
    source: str
    checksum: str
    classes: tuple[str, ...] = field(default=(), kw_only=True)

    @property
    def splits(self) -> tuple[Split, Split | None]:
        """The samples to train with and to test with."""
        return self.train, self.test

    @property
    def n_features(self) -> int:
        """Numbers in a sample: columns of a table, pixels of an image times channels."""
        return self.train.X.shape[1:].numel()

    def to(self, device: torch.device) -> Self:
        """Return the same on a device."""
        test = None if self.test is None else self.test.to(device)
        return replace(self, train=self.train.to(device), test=test)

    def double(self) -> Self:
        """Return the train split in float64."""
        return replace(self, train=self.train.double(), test=None)

    @property
    def majority(self) -> dict[str, Any] | None:
        """What answering the most frequent class always is worth; None where classes are equal.

        `class`, by its name ('no') or number (class 0), `share` of the training samples that it
        classifies rightly, and `test_share` where there are test samples. Classes are equal if none
        is twice as frequent as another.
        """
        if self.n_classes < 2 or self.train.y.ndim > 1:  # a token is no answer
            return None
        counts = torch.bincount(self.train.y.flatten(), minlength=self.n_classes)
        if counts.max() < 2 * counts.min():
            return None
        most = int(counts.argmax())
        shares = [each.share_of(most) for each in self.splits if each is not None]
        name = repr(self.classes[most]) if self.classes else f"class {most}"
        return {"class": name, **dict(zip(("share", "test_share"), shares, strict=False))}

    def facts(self) -> dict[str, Any]:
        """Return its size and task, and its classes' names."""
        named = {"classes": list(self.classes)} if self.classes else {}
        return {
            "n_samples": len(self.train),
            "n_features": self.n_features,
            "nnz": _stored(self.train.X),
            "task": self.task,
            **named,
        }


@dataclass(frozen=True)
class Whole:
    """What the folds of a cross-validation have in common.

    Attributes
    ----------
    checksum : str
        Of all of them together.
    folds, fold : int
        How many there are, and which of them this is, from 1 on.
    """

    checksum: str
    folds: int
    fold: int


@dataclass(frozen=True)
class Table(LabelledData):
    """Samples that are rows of features.

    Attributes
    ----------
    bias : bool
        Whether the last column is one of ones, which the source of the data did not have.
    remarks : tuple of str
        What was decided about the user's columns, in sentences without a full stop.
    whole : Whole or None
        Of what it is a fold.
    """

    bias: bool = False
    remarks: tuple[str, ...] = ()
    whole: Whole | None = None

    kind = "a table of features"

    def facts(self) -> dict[str, Any]:
        """Return its size, task and classes' names, and of which cross-validation it is a fold."""
        fold = {}
        if self.whole is not None and self.test is not None:
            fold = {
                "fold": self.whole.fold,
                "folds": self.whole.folds,
                "folds_samples": len(self.train) + len(self.test),
                "folds_checksum": self.whole.checksum,
            }
        return super().facts() | fold


@dataclass(frozen=True)
class ImageSet(LabelledData):
    """Samples that are images.

    Attributes
    ----------
    images : Images
        How they become a network's input.
    """

    images: Images

    kind = "images"


@dataclass(frozen=True)
class Text(LabelledData):
    """Samples that are pieces of a text; the target of each character is the next one.

    Attributes
    ----------
    alphabet : str
        The characters, in the order of their numbers.
    """

    alphabet: str

    kind = "text"


@dataclass(frozen=True)
class CurveFit(LabelledData):
    """Samples that a curve is to be fitted to, with parameters of its own and no network.

    Attributes
    ----------
    formula : callable
        (x, parameters) -> the curve's values, shape (n_samples,); x is the samples' one column,
        shape (n_samples,), or all of several.
    start : Tensor, shape (p,)
        First parameters.
    certified : Tensor or None, shape (p,)
        The best parameters, where they are known.
    """

    formula: Callable[[Tensor, Tensor], Tensor]
    start: Tensor
    certified: Tensor | None = None

    kind = "samples of a curve"

    def residuals(self, parameters: Tensor) -> Tensor:
        """Return the curve's values minus the targets, shape (n_samples,)."""
        X = self.train.X
        return self.formula(X[:, 0] if X.shape[1] == 1 else X, parameters) - self.train.y

    def to(self, device: torch.device) -> Self:
        """Return the same on a device."""
        return replace(super().to(device), start=self.start.to(device))


@dataclass(frozen=True)
class TransportProblem(Dataset):
    """A problem of optimal transport, which has no samples to hold out.

    Attributes
    ----------
    cost : Tensor, shape (n, m)
        Cost of moving a unit of mass from each source to each target.
    row_marginal, column_marginal : Tensor, shapes (n,) and (m,)
        Positive masses of the sources and of the targets.
    """

    name: str
    cost: Tensor
    row_marginal: Tensor
    column_marginal: Tensor
    source: str
    checksum: str

    kind = "a transport problem"

    def to(self, device: torch.device) -> Self:
        """Return the same on a device."""
        return self._with(lambda x: x.to(device))

    def double(self) -> Self:
        """Return the same in float64."""
        return self._with(Tensor.double)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(
            self,
            cost=change(self.cost),
            row_marginal=change(self.row_marginal),
            column_marginal=change(self.column_marginal),
        )

    def facts(self) -> dict[str, Any]:
        """Return the size of the cost."""
        n, m = self.cost.shape
        return {"n_samples": n, "n_features": m, "nnz": n * m, "task": "transport"}


def _stored(X: Tensor) -> int:
    """Count the entries that a data matrix holds."""
    if hasattr(X, "nnz"):  # on disk
        return int(X.nnz)
    return int(X.values().numel()) if X.layout is torch.sparse_csr else X.numel()
