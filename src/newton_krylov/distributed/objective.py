"""An objective over the samples of all processes: the mean of theirs, weighted by their shares.

With n_r of n samples in process r and f_r its own objective, f = sum_r (n_r / n) f_r, regularizer
included, and the same holds for the gradient, for products with the Hessian and its kin, and along
a ray. So a process evaluates what it would evaluate alone, and one sum over the processes follows:
d numbers for a gradient or a product, one for a value. What every process would compute alike, an
optimizer's vectors of length d, is not shared out.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from newton_krylov.capabilities import LAYERS, LIKELIHOOD, SAMPLE_GRADIENTS, SAMPLES
from newton_krylov.data.dataset import Split
from newton_krylov.distributed.group import ProcessGroup
from newton_krylov.distributed.sharding import numbers_of
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Layered, Objective, Point, Ray
from newton_krylov.objectives.network.noise import Noise
from newton_krylov.objectives.network.objective import Network
from newton_krylov.operators import Capability, LinearOperator


def data_parallel(local: Objective, group: ProcessGroup, X: Tensor) -> "DataParallel":
    """Return the objective over the samples of all processes.

    Parameters
    ----------
    local : Objective
        Objective of this process's samples (see `sharding.shard`).
    group : ProcessGroup
        The processes.
    X : Tensor, shape (n, ...)
        The samples of all processes, in their order.

    Returns
    -------
    DataParallel
        A network's has layers, as the network has.

    Raises
    ------
    UnsupportedError
        If the objective is not a mean over samples.
    """
    numbers = torch.tensor(numbers_of(X, group), device=local.device)
    if SAMPLES not in local.offers:
        raise UnsupportedError(
            f"device=distributed needs a loss that is {SAMPLES}, which "
            f"loss={getattr(local, 'name', type(local).__name__)} is not; choose device=cpu."
        )
    kind = DataParallelNetwork if LAYERS in local.offers else DataParallel
    return kind(local, group, _LocalSamples(len(X), numbers))


class _LocalSamples:
    """Which of all processes' n samples this one has: `numbers`, ascending, in its own order."""

    def __init__(self, n: int, numbers: Tensor) -> None:
        self.n, self.numbers = n, numbers

    @property
    def share(self) -> float:
        """The part of the samples that this process has, between 0 and 1."""
        return len(self.numbers) / self.n

    def take(self, index: Tensor) -> tuple["_LocalSamples", Tensor]:
        """Return which samples of a subset this process has, and their numbers among its own."""
        if len(self.numbers) == 0:
            return _LocalSamples(len(index), self.numbers), self.numbers
        at = torch.searchsorted(self.numbers, index).clamp_(max=len(self.numbers) - 1)
        mine = self.numbers[at] == index
        return _LocalSamples(len(index), mine.nonzero().squeeze(1)), at[mine]


class DataParallel(Objective):
    """The mean of the processes' objectives, weighted by their shares of the samples.

    Parameters
    ----------
    local : Objective
        Objective of this process's samples.
    group : ProcessGroup
        The processes.
    places : _LocalSamples
        Which samples this process has. Where it has none, `local` is of another sample, and its
        weight is zero.
    """

    def __init__(self, local: Objective, group: ProcessGroup, places: _LocalSamples) -> None:
        self.local, self.group, self.places = local, group, places
        self.n_samples, self.counts = places.n, local.counts
        self.dim, self.dtype, self.device = local.dim, local.dtype, local.device
        self.convexity = local.convexity
        self.offers = local.offers & {SAMPLES, SAMPLE_GRADIENTS, LIKELIHOOD, LAYERS}
        self.name = f"{getattr(local, 'name', type(local).__name__)} (distributed)"

    def at(self, w: Tensor) -> "DataParallelPoint":
        """Evaluate at w, shape (dim,)."""
        return DataParallelPoint(self, self.local.at(w))

    def subset(self, index: Tensor) -> Self:
        """Bind the same function to some samples, wherever they are, shape (m,), int64."""
        places, own = self.places.take(index)
        return self._of(self.local.subset(_some(own)), places)

    def _of(self, local: Objective, places: _LocalSamples) -> Self:
        """Wrap a subset's local objective; evaluations count by the whole subset's share."""
        of_all: float = self.local.share  # type: ignore[attr-defined]
        local.share = of_all * places.n / self.n_samples  # type: ignore[attr-defined]
        return type(self)(local, self.group, places)

    def steepest(self) -> LinearOperator:
        """Return an operator that the Hessian of all processes' samples is below everywhere."""
        return MeanOperator(self, self.local.steepest())

    def reduced(self, x: Tensor) -> Tensor:
        """Return the processes' weighted mean.

        Parameters
        ----------
        x : Tensor
            This process's own; overwritten.

        Returns
        -------
        Tensor
            The same everywhere.
        """
        share = self.places.share
        return self.group.sum(x.mul_(share) if share else x.zero_())

    def rounding(self, value: float) -> float:
        """Return how far a computed value can be off by rounding alone, in any process."""
        return self.group.largest(self.local.rounding(value))

    def from_rank_zero(self, value: float) -> float:
        """Return the first process's number to all.

        Of a step's time it is the right one: while the first process records a step, the others
        wait already for the next one's first sum.
        """
        return self.group.broadcast(value)

    def accuracy(self, w: Tensor, split: Split) -> float | None:
        """Return the share of samples classified rightly, of all processes' parts of a split."""
        return self._mean(self.local.accuracy(w, split), len(split))

    def data_loss(self, w: Tensor, split: Split) -> float | None:
        """Return the mean loss over all processes' parts of a split, without the regularizer."""
        return self._mean(self.local.data_loss(w, split), len(split))

    def _mean(self, value: float | None, count: int) -> float | None:
        if value is None:
            return None
        total, n = self.group.sums(value * count, count)
        return total / n


def _some(own: Tensor) -> Tensor:
    """Return sample numbers, or one where there are none: an objective has at least a sample."""
    return own if len(own) else own.new_zeros(1)


class DataParallelPoint(Point):
    """A point of all processes' samples: each evaluates its own, and sums are taken on first use.

    Parameters
    ----------
    objective : DataParallel
        Objective whose point it is.
    local : Point
        Point of the objective of this process's samples.
    """

    objective: DataParallel

    def __init__(self, objective: DataParallel, local: Point) -> None:
        super().__init__(objective, local.w)
        self.local = local

    @cached_property
    def value(self) -> float:
        """f(w)."""
        share = self.objective.places.share
        own = self.local.value
        return self.objective.group.sums(share * own if share else 0.0)[0]

    @cached_property
    def grad(self) -> Tensor:
        """The gradient at w, shape (dim,)."""
        return self.objective.reduced(self.local.grad.clone())

    def hessian(self) -> LinearOperator:
        """Return the Hessian at w; a product takes one sum over the processes."""
        return MeanOperator(self.objective, self.local.hessian())

    def gauss_newton(self) -> LinearOperator:
        """Return the generalized Gauss-Newton operator at w."""
        return MeanOperator(self.objective, self.local.gauss_newton())

    def empirical_fisher(self) -> LinearOperator:
        """Return the empirical Fisher matrix at w."""
        return MeanOperator(self.objective, self.local.empirical_fisher())

    def monte_carlo_fisher(self, draws: int, generator: torch.Generator) -> LinearOperator:
        """Return the Fisher matrix at w from targets drawn for each sample."""
        return MeanOperator(self.objective, self.local.monte_carlo_fisher(draws, generator))

    def subset(self, index: Tensor) -> "DataParallelPoint":
        """Evaluate the objective of a subset at the same w; what is known is reused."""
        places, own = self.objective.places.take(index)
        local = self.local.subset(_some(own))
        return DataParallelPoint(self.objective._of(local.objective, places), local)

    def extrapolate(self, previous: Point, factor: float) -> "DataParallelPoint":
        """Evaluate beyond this point, as seen from an earlier one."""
        assert isinstance(previous, DataParallelPoint)
        return DataParallelPoint(self.objective, self.local.extrapolate(previous.local, factor))

    def ray(self, p: Tensor) -> "DataParallelRay":
        """Restrict f to w + alpha p."""
        return DataParallelRay(self, p)


class DataParallelRay(Ray):
    """f along a direction: a trial costs one number's sum over the processes."""

    origin: DataParallelPoint

    def __init__(self, origin: DataParallelPoint, p: Tensor) -> None:
        super().__init__(origin, p)
        self._local = origin.local.ray(p)
        self._last: tuple[float, DataParallelPoint] = (0.0, origin)

    def point(self, alpha: float) -> DataParallelPoint:
        """Return the point w + alpha p; asking for the last alpha again costs nothing more."""
        if self._last[0] != alpha:
            point = DataParallelPoint(self.origin.objective, self._local.point(alpha))
            self._last = (alpha, point)
        return self._last[1]

    def derivative(self, alpha: float) -> float:
        """Return phi'(alpha)."""
        objective = self.origin.objective
        share = objective.places.share
        own = self._local.derivative(alpha)
        return objective.group.sums(share * own if share else 0.0)[0]


class MeanOperator(LinearOperator):
    """The weighted mean of the processes' operators.

    Parameters
    ----------
    objective : DataParallel
        Gives the weights and the group.
    local : LinearOperator
        Operator of this process's samples.
    """

    def __init__(self, objective: DataParallel, local: LinearOperator) -> None:
        super().__init__(objective.dim, objective.dtype, objective.device)
        self._objective, self._local = objective, local

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (dim,)."""
        return self._objective.reduced(self._local.matvec(v))

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (dim, k); one sum for all."""
        return self._objective.reduced(self._local.matmat(V).contiguous())

    def dense(self) -> Tensor:
        """Form the matrix, shape (dim, dim)."""
        return self._objective.reduced(self._local.dense())

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (dim,)."""
        return self._objective.reduced(self._local.diagonal())

    @property
    def capabilities(self) -> frozenset[Capability]:
        """A diagonal, where the processes have one."""
        return self._local.capabilities & {"diagonal"}


class DataParallelNetwork(DataParallel, Layered):
    """A network's objective over the samples of all processes, with its layers.

    Dropout masks and augmentation of a batch are each sample's own, whichever process has it, so
    the function is the one that a single process would minimize. Batch norm is not: it normalizes
    a process's samples by their own statistics.
    """

    local: Network

    @property
    def blocks(self) -> dict[str, slice]:
        """Each free layer's place in the flat vector."""
        return self.local.blocks

    def initial(self) -> Tensor:
        """Return the weights that the module came with, shape (dim,)."""
        return self.local.initial()

    def embed(self, w: Tensor) -> Tensor:
        """Return the whole network's weights, given those of the free layers."""
        return self.local.embed(w)

    def parameters(self, w: Tensor) -> list[Tensor]:
        """Return the free parameters as views of w, shape (dim,)."""
        return self.local.parameters(w)

    def kernels(self, w: Tensor) -> list[Tensor]:
        """Return the free kernels of convolutions as views of w, shape (dim,)."""
        return self.local.kernels(w)

    def restricted(self, layers: Sequence[str], w: Tensor) -> "DataParallelNetwork":
        """Free some layers' weights and hold the others at w, shape (dim,)."""
        return DataParallelNetwork(self.local.restricted(layers, w), self.group, self.places)

    def subset(self, index: Tensor, *, noise: int | None = None) -> "DataParallelNetwork":
        """Bind the same network to some samples; see `Network.subset`."""
        places, own = self.places.take(index)
        drawn = None if noise is None else Noise(noise, _some(places.numbers).cpu())
        return self._of(self.local.subset(_some(own), noise=drawn), places)

    def batch(self, index: Tensor, generator: torch.Generator) -> "DataParallelNetwork":
        """Bind to a mini-batch, its noise drawn now, alike in every process."""
        return self.subset(index, noise=self.local.noise_seed(generator))
