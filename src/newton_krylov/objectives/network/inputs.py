"""What a network's first free stage reads: samples, or activations of the frozen stages."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from newton_krylov.data.images import Images
from newton_krylov.data.on_disk import OnDisk
from newton_krylov.objectives.network.chunks import Chunks
from newton_krylov.objectives.network.forward import FixedForward, Watch
from newton_krylov.objectives.network.layout import Stage, mapped, run, tensors_of
from newton_krylov.objectives.network.noise import Noise


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
    def span(self, start: int, stop: int) -> Any:
        """Return the inputs of samples start to stop - 1, a tensor or a structure of tensors."""

    @abstractmethod
    def take(self, index: Tensor, drawn: Noise | None) -> "Inputs":
        """Return the inputs of some samples.

        Parameters
        ----------
        index : Tensor, shape (m,), int64
            Indices of the samples, on the inputs' device.
        drawn : Noise or None
            New noise for them; None keeps what these inputs have.

        Returns
        -------
        Inputs
            Inputs of those samples.
        """

    def mode(
        self, start: int, stop: int, *, linearized: bool = False, watch: Watch | None = None
    ) -> FixedForward:
        """Return how samples start to stop - 1 pass through stages."""
        noise = None if self.noise is None else self.noise.take(torch.arange(start, stop))
        return FixedForward(noise, linearized=linearized, watch=watch)


def _noise(known: Noise | None, index: Tensor, drawn: Noise | None) -> Noise | None:
    if drawn is not None:
        return drawn
    return None if known is None else known.take(index)


@dataclass(frozen=True)
class Samples(Inputs):
    """The samples themselves.

    Attributes
    ----------
    X : Tensor, shape (n, ...), or a tuple or dict of such
        Bytes of images, or numbers.
    dtype : torch.dtype
        Precision of what the network reads, where it is real numbers; others stay as they are.
    images : Images or None
        How bytes become numbers, and how images are augmented where there is noise.
    noise : Noise or None
        Noise of these samples.
    channels_last : bool
        Whether images may be laid out with the channels last, which on a processor makes
        convolutions a fifth faster (measured).
    """

    X: Any
    dtype: torch.dtype
    images: Images | None = None
    noise: Noise | None = None
    channels_last: bool = False

    def __len__(self) -> int:
        return len(tensors_of(self.X)[0])

    def span(self, start: int, stop: int) -> Any:
        """Return the normalized inputs of samples start to stop - 1."""
        return mapped(lambda X: self._read(X[start:stop]), self.X)

    def _read(self, X: Tensor) -> Tensor:
        if self.images is not None:
            x = self.images.normalize(X, self.dtype)
        else:
            x = X.to(self.dtype) if X.is_floating_point() else X
        last = self.channels_last and x.ndim == 4 and x.device.type == "cpu"
        return x.to(memory_format=torch.channels_last) if last else x

    def take(self, index: Tensor, drawn: Noise | None) -> "Samples":
        """Return some samples; new noise augments them again."""
        X = mapped(lambda X: X[index], self.X)
        if drawn is not None and self.images is not None:
            state = np.random.SeedSequence(drawn.seed).generate_state(1, np.uint64)[0]
            generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
            X = self.images.augment(X, generator, drawn.rows)
        return replace(self, X=X, noise=_noise(self.noise, index, drawn))

    def like(self, X: Any) -> "Samples":
        """Return other samples, read in the same way, without noise."""
        return replace(self, X=readable(X), noise=None)

    @property
    def augmented(self) -> bool:
        """Whether noise changes the samples themselves."""
        return self.images is not None and self.images.augmentation != "none"


def readable(X: Any) -> Any:
    """Return samples as a network reads them.

    A sparse table is filled up with its zeros. A tensor that was made under inference mode, which
    no graph may hold, is copied.
    """

    def read(X: Tensor) -> Tensor:
        if X.layout is not torch.strided or isinstance(X, OnDisk):
            return X.to_dense()
        return X.clone() if X.is_inference() else X.detach()

    return mapped(read, X)


class Activations(Inputs):
    """What frozen stages make of their inputs; computed once where it fits in memory.

    Parameters
    ----------
    source : Inputs
        Inputs of the first stage.
    stages : sequence of Stage
        The frozen stages.
    tensors : sequence of Tensor
        All the network's parameters, by number.
    chunks : Chunks
        Cut the samples, and say how many bytes the activations may take; beyond, they are computed
        at each use.
    """

    def __init__(
        self,
        source: Inputs,
        stages: Sequence[Stage],
        tensors: Sequence[Tensor],
        chunks: Chunks,
    ) -> None:
        self.source, self.stages, self.tensors, self.chunks = source, stages, tensors, chunks
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
        seen = self.chunks.seen
        changing = seen.batch_norm | (seen.dropout if drawn is not None else set())
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
        return Activations(source, stages, self.tensors, self.chunks)

    def _compute(self, start: int, stop: int) -> Tensor:
        with torch.no_grad():
            x = self.source.span(start, stop)
            y: Tensor = run(self.stages, self.tensors, x, self.source.mode(start, stop))
        return y

    @cached_property
    def _table(self) -> Tensor | None:
        numbers = len(self) * self.chunks.seen.outputs[self.stages[-1].number]
        if numbers * self.tensors[0].element_size() > self.chunks.memory:
            return None
        table: Tensor | None = None
        for start, stop in self.chunks.pieces(len(self), self.stages):
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
    """Return whether noise changes the samples themselves, in front of any frozen stages."""
    while isinstance(inputs, Activations):
        inputs = inputs.source
    return isinstance(inputs, Samples) and inputs.augmented
