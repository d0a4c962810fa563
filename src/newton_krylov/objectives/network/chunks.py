"""How many samples pass through a network together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from newton_krylov.objectives.network.forward import Seen
from newton_krylov.objectives.network.layout import Stage, even_spans
from newton_krylov.objectives.network.noise import BLOCK

# Bytes of activations in one forward pass. On a CPU 128 samples of the paper's network: as fast as
# 1,000 where freed memory is kept, up to a third faster where it is not, and in an eighth of the
# memory. A GPU wants enough samples to be busy.
_CHUNK_BYTES = {"cpu": 128e6, "cuda": 4e9}
_BATCH_NORM_CHUNK = 500
# A graph that is differentiated twice keeps about three tensors for each that a forward pass makes.
_TENSORS_KEPT = 3


@dataclass(frozen=True)
class Chunks:
    """Cuts samples into the spans that pass through stages together.

    Attributes
    ----------
    seen : Seen
        How much the stages compute, and where batch norm is.
    size : int or None
        The longest span; None takes as many samples as suit the device.
    dtype : torch.dtype
        Of the network.
    device : torch.device
        Where it runs.
    """

    seen: Seen
    size: int | None
    dtype: torch.dtype
    device: torch.device

    def spans(self, n: int, stages: Sequence[Stage]) -> list[tuple[int, int]]:
        """Return the spans of n samples, first and one past the last."""
        if self.seen.batch_norm:  # then the spans are part of what the function is
            return even_spans(n, self.size or _BATCH_NORM_CHUNK)
        return even_spans(n, self.size or self._suitable(stages), BLOCK)

    def graphs(
        self, spans: Sequence[tuple[int, int]], stages: Sequence[Stage], memory: float
    ) -> int:
        """Count the spans whose twice differentiated graphs fit in so many bytes."""
        widest = max(stop - start for start, stop in spans)
        return int(memory / (_TENSORS_KEPT * self._bytes_per_sample(stages) * widest))

    def _suitable(self, stages: Sequence[Stage]) -> int:
        budget = _CHUNK_BYTES["cpu" if self.device.type == "cpu" else "cuda"]
        chunk = int(budget / self._bytes_per_sample(stages))
        return max(1, chunk // BLOCK * BLOCK or chunk)

    def _bytes_per_sample(self, stages: Sequence[Stage]) -> float:
        numbers = sum(self.seen.numbers.get(stage.number, 0) for stage in stages)
        return max(1, numbers) * torch.finfo(self.dtype).bits / 8
