"""What a network's first free stage reads: samples, or activations of the frozen stages."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from newton_krylov.data.images import Images
from newton_krylov.data.on_disk import OnDisk
from newton_krylov.objectives.network.forward import FixedForward, Seen
from newton_krylov.objectives.network.layout import Stage, run
from newton_krylov.objectives.network.noise import Noise

Cut = Callable[[int, Sequence[Stage]], list[tuple[int, int]]]


class Inputs(ABC):
    """A batch's inputs, given span by span.

    Attributes
    ----------
    noise : Noise or None
        The dropout masks of the batch.
    """

    noise: Noise | None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def span(self, start: int, stop: int) -> Tensor:
        """Return the inputs of samples start to stop - 1."""

    @abstractmethod
    def take(self, index: Tensor, drawn: Noise | None) -> "Inputs":
        """Return the inputs of some samples.

        Parameters
        ----------
        index : Tensor, shape (m,), int64
            Their numbers, on the inputs' device.
        drawn : Noise or None
            New noise for them; None keeps what these inputs have.

        Returns
        -------
        Inputs
            Of those samples.
        """

    def mode(self, start: int, stop: int, *, linearized: bool = False) -> FixedForward:
        """Return how samples start to stop - 1 pass through stages."""
        noise = None if self.noise is None else self.noise.take(torch.arange(start, stop))
        return FixedForward(noise, linearized=linearized)


def _noise(known: Noise | None, index: Tensor, drawn: Noise | None) -> Noise | None:
    if drawn is not None:
        return drawn
    return None if known is None else known.take(index)


@dataclass(frozen=True)
class Samples(Inputs):
    """The samples themselves.

    Attributes
    ----------
    X : Tensor, shape (n, ...)
        Bytes of images, or numbers.
    dtype : torch.dtype
        Of what the network reads.
    images : Images or None
        How bytes become numbers, and how images are augmented where there is noise.
    noise : Noise or None
        Of these samples.
    """

    X: Tensor
    dtype: torch.dtype
    images: Images | None = None
    noise: Noise | None = None

    def __len__(self) -> int:
        return len(self.X)

    def span(self, start: int, stop: int) -> Tensor:
        """Return the normalized inputs of samples start to stop - 1."""
        X = self.X[start:stop]
        x = X.to(self.dtype) if self.images is None else self.images.normalize(X, self.dtype)
        # On a processor convolutions are a fifth faster with the channels last (measured).
        last = x.ndim == 4 and x.device.type == "cpu"
        return x.to(memory_format=torch.channels_last) if last else x

    def take(self, index: Tensor, drawn: Noise | None) -> "Samples":
        """Return some samples; new noise augments them anew."""
        X = self.X[index]
        if drawn is not None and self.images is not None:
            state = np.random.SeedSequence(drawn.seed).generate_state(1, np.uint64)[0]
            generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
            X = self.images.augment(X, generator, drawn.rows)
        return Samples(X, self.dtype, self.images, _noise(self.noise, index, drawn))

    def like(self, X: Tensor) -> "Samples":
        """Return other samples, read in the same way, without noise."""
        return Samples(dense(X), self.dtype, self.images)

    @property
    def augmented(self) -> bool:
        """Whether noise changes the samples themselves."""
        return self.images is not None and self.images.augmentation != "none"


def dense(X: Tensor) -> Tensor:
    """Return samples as a network reads them: a sparse table is filled up with its zeros."""
    return X if X.layout is torch.strided and not isinstance(X, OnDisk) else X.to_dense()


class Activations(Inputs):
    """What frozen stages make of their inputs; computed once where it fits in memory.

    Parameters
    ----------
    source : Inputs
        Of the first of the stages.
    stages : sequence of Stage
        The frozen stages.
    tensors : sequence of Tensor
        All the network's parameters, by number.
    seen : Seen
        Where the network has dropout and batch norm.
    cut : callable
        Cuts so many samples into spans that pass through stages together.
    memory : float
        Bytes that the activations may take; beyond, they are computed at each use.
    """

    def __init__(
        self,
        source: Inputs,
        stages: Sequence[Stage],
        tensors: Sequence[Tensor],
        seen: Seen,
        cut: Cut,
        memory: float,
    ) -> None:
        self.source, self.stages, self.tensors, self.seen = source, stages, tensors, seen
        self.cut, self.memory = cut, memory
        self.noise = source.noise

    def __len__(self) -> int:
        return len(self.source)

    def span(self, start: int, stop: int) -> Tensor:
        """Return the activations of samples start to stop - 1."""
        if self._table is None:
            return self._compute(start, stop)
        return self._table[start:stop]

    def take(self, index: Tensor, drawn: Noise | None) -> Inputs:
        """Return the activations of some samples.

        What new noise, or another batch's statistics, would change is computed again; in front of
        the first such stage it is not.
        """
        sound = self._sound(drawn)
        if sound < len(self.stages):
            head = self._head(sound)
            return self._with(head.take(index, drawn), self.stages[sound:])
        if self._table is None:
            return self._with(self.source.take(index, drawn), self.stages)
        values = self._table[index].contiguous(memory_format=_format(self._table))
        return _Table(values, _noise(self.noise, index, drawn))

    def _sound(self, drawn: Noise | None) -> int:
        """Count the stages whose known activations stay right for other noise and batches."""
        if drawn is not None and augmented(self.source):
            return 0
        changing = self.seen.batch_norm | (self.seen.dropout if drawn is not None else set())
        at = [k for k, stage in enumerate(self.stages) if stage.number in changing]
        return at[0] if at else len(self.stages)

    def _head(self, count: int) -> Inputs:
        if count == 0:
            return self.source
        if count not in self._heads:
            self._heads[count] = self._with(self.source, self.stages[:count])
        return self._heads[count]

    @cached_property
    def _heads(self) -> "dict[int, Activations]":
        return {}

    def _with(self, source: Inputs, stages: Sequence[Stage]) -> "Activations":
        return Activations(source, stages, self.tensors, self.seen, self.cut, self.memory)

    def _compute(self, start: int, stop: int) -> Tensor:
        with torch.no_grad():
            x = self.source.span(start, stop)
            return run(self.stages, self.tensors, x, self.source.mode(start, stop))

    @cached_property
    def _table(self) -> Tensor | None:
        numbers = len(self) * self.seen.outputs[self.stages[-1].number]
        if numbers * self.tensors[0].element_size() > self.memory:
            return None
        table: Tensor | None = None
        for start, stop in self.cut(len(self), self.stages):
            part = self._compute(start, stop)
            if table is None:
                shape = (len(self), *part.shape[1:])
                table = torch.empty(
                    shape, dtype=part.dtype, device=part.device, memory_format=_format(part)
                )
            table[start:stop] = part
        return table


def _format(x: Tensor) -> torch.memory_format:
    """Return the layout of x: a batch of images may have its channels last."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


@dataclass(frozen=True)
class _Table(Inputs):
    """Activations that are known."""

    values: Tensor
    noise: Noise | None

    def __len__(self) -> int:
        return len(self.values)

    def span(self, start: int, stop: int) -> Tensor:
        return self.values[start:stop]

    def take(self, index: Tensor, drawn: Noise | None) -> "_Table":
        return _Table(self.values[index], _noise(self.noise, index, drawn))


def augmented(inputs: Inputs) -> bool:
    """Tell whether noise changes the samples themselves, in front of any frozen stages."""
    while isinstance(inputs, Activations):
        inputs = inputs.source
    return isinstance(inputs, Samples) and inputs.augmented
