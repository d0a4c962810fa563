"""How many samples pass through a network together."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.network.forward import Seen
from newton_krylov.objectives.network.layer_calls import Layer
from newton_krylov.objectives.network.layout import Stage, even_spans
from newton_krylov.objectives.network.noise import BLOCK

# Bytes of activations in one forward pass. On a CPU 128 samples of the paper's network: as fast as
# 1,000 where freed memory is kept, up to a third faster where it is not, and in an eighth of the
# memory. A GPU wants enough samples to be busy.
_CHUNK_BYTES = {"cpu": 128e6, "cuda": 4e9}
BATCH_NORM_CHUNK = 500
# A graph that is differentiated twice keeps about three tensors for each that a forward pass makes.
_TENSORS_KEPT = 3


@dataclass(frozen=True)
class Chunks:
    """Cuts samples into the spans that pass through stages together.

    Attributes
    ----------
    seen : Seen
        How much the stages compute, and where samples depend on one another.
    size : int or None
        The longest span; None takes as many samples as suit the device.
    together : int or None
        The longest span where samples depend on one another and no size is given; None takes all.
    whole : bool
        Whether the loss is not that of its parts, so that there can be but one span.
    memory : float
        Bytes that graphs may take; all that is free where there can be but one span.
    dtype : torch.dtype
        Precision of the network.
    device : torch.device
        Device of the network.
    rows : dict
        By the free parameters' indices: how many rows each sample has in each layer's calls, once
        that is known.
    """

    seen: Seen
    size: int | None
    together: int | None
    whole: bool
    memory: float
    dtype: torch.dtype
    device: torch.device
    rows: dict[tuple[int, ...], dict[Layer, list[int] | None]] = field(default_factory=dict)

    def spans(self, n: int, stages: Sequence[Stage]) -> list[tuple[int, int]]:
        """Return the spans of n samples, first and one past the last.

        Raises
        ------
        UnsupportedError
            If they must pass together and do not fit in memory.
        """
        spans = [(0, n)] if self.whole else self.pieces(n, stages)
        if self.whole or (self.seen.batch_norm and (self.size or self.together) is None):
            self._check_memory(n, stages)
        return spans

    def pieces(self, n: int, stages: Sequence[Stage]) -> list[tuple[int, int]]:
        """Return the spans in which n samples may pass where no loss is taken of each."""
        if self.seen.batch_norm:  # then the spans are part of what the function is
            return even_spans(n, self.size or self.together or n)
        return even_spans(n, self.size or self._suitable(stages), BLOCK)

    def kept_graphs(self, spans: Sequence[tuple[int, int]], stages: Sequence[Stage]) -> int:
        """Count the spans whose twice differentiated graphs fit in the memory."""
        widest = max(stop - start for start, stop in spans)
        return int(self.memory / (_TENSORS_KEPT * self._bytes_per_sample(stages) * widest))

    def _check_memory(self, n: int, stages: Sequence[Stage]) -> None:
        needed = _TENSORS_KEPT * self._bytes_per_sample(stages) * n
        free = max(self.memory, _free_bytes(self.device))
        if needed > free:
            why = (
                "the criterion is not a mean over parts of a batch"
                if self.whole
                else "batch norm, or what else makes one sample depend on others, is over all"
            )
            raise UnsupportedError(
                f"All {n} samples must pass through the network together, since {why}; that takes "
                f"about {needed / 2**30:.3g} GiB, and {free / 2**30:.3g} are free: give fewer "
                f"samples" + ("." if self.whole else ", or `chunk`, the number to take together.")
            )

    def _suitable(self, stages: Sequence[Stage]) -> int:
        budget = _CHUNK_BYTES["cpu" if self.device.type == "cpu" else "cuda"]
        chunk = int(budget / self._bytes_per_sample(stages))
        return max(1, chunk // BLOCK * BLOCK or chunk)

    def _bytes_per_sample(self, stages: Sequence[Stage]) -> float:
        numbers = sum(self.seen.numbers.get(stage.number, 0) for stage in stages)
        return max(1, numbers) * torch.finfo(self.dtype).bits / 8


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return 0.0  # a system that does not say: the memory that was given is all
