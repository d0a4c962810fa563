"""A data set: train and test splits as tensors, and where they came from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from newton_krylov.data.equation import Equation
from newton_krylov.data.images import Images

Task = Literal["binary", "multiclass", "regression"]


@dataclass(frozen=True)
class Split:
    """Samples and their targets.

    Attributes
    ----------
    X : Tensor, shape (n_samples, n_features)
        Dense, or sparse CSR with int32 indices (half the index traffic, and the fast path of the
        sparse products). Images keep their shape, (n_samples, channels, height, width), and their
        bytes: uint8, whatever the run's dtype.
    y : Tensor, shape (n_samples,)
        Class indices 0 .. n_classes - 1 (int64), or floats for a regression.
    weights : Tensor or None, shape (n_samples,)
        How much each sample counts, >= 0 and of mean 1, in the dtype of X: 2 where others have 1
        is as if the sample were there twice. None where all count alike.

    Of a transport problem, `X` is the cost matrix, shape (n, m), and `y` holds both marginals, the
    rows' before the columns', shape (n + m,).
    """

    X: Tensor
    y: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return self.X.shape[0]


@dataclass(frozen=True)
class Curve:
    """A curve that is to be fitted to the samples, with parameters of its own and no network.

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


@dataclass(frozen=True)
class Dataset:
    """Train and test splits with their provenance. Knows nothing of losses.

    Attributes
    ----------
    name : str
        As the user asked for it.
    train : Split
        What the objective is made of.
    test : Split or None
        Held out, for accuracy.
    task : {"binary", "multiclass", "regression", "transport", "equation"}
        What `y` holds.
    n_classes : int
        0 where there are no classes.
    source : str
        Where the data came from: a path, an address, a package, or "synthetic".
    checksum : str
        SHA-256 of what defines the data (files, or the generator's arguments) and of the options
        applied to it; equal checksums mean equal tensors.
    images : Images or None
        Of a set of images, how they become a network's input; None for a table.
    curve : Curve or None
        Where there is a formula to be fitted.
    equation : Equation or None
        Where there is a differential equation to be solved; `train.X` is then its points.
    bias : bool
        Whether the last column is one of ones, which the source of the data did not have.
    """

    name: str
    train: Split
    test: Split | None
    task: Task | Literal["transport", "equation"]
    n_classes: int
    source: str
    checksum: str
    images: Images | None = None
    curve: Curve | None = None
    equation: Equation | None = None
    bias: bool = False

    @property
    def n_features(self) -> int:
        """Numbers in a sample: columns of a table, pixels of an image times channels."""
        return self.train.X.shape[1:].numel()
