"""Dropout masks by a seed: the same for a sample whoever asks, in any order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK = 64
"""Samples whose masks are drawn together."""

_LEVELS = 2**16  # dropout's probability is rounded to a multiple of 1 / _LEVELS

Key = tuple[int, int]
"""A call's place in the network: its stage, and its number among the stage's calls."""


@dataclass(frozen=True)
class Noise:
    """Dropout masks of some samples, drawn from a seed; the same whoever asks, in any order.

    Attributes
    ----------
    seed : int
        Nonnegative.
    rows : Tensor, shape (n,), int64
        Each sample's number under this seed, on the CPU.
    """

    seed: int
    rows: Tensor

    def take(self, index: Tensor) -> "Noise":
        """Return the masks of some of the samples, numbered by `index`, shape (m,)."""
        return Noise(self.seed, self.rows[index.cpu()])

    def scale(self, key: Key, shape: Sequence[int], p: float) -> Tensor:
        """Return what dropout multiplies by: 0 or 1 / (1 - p).

        Parameters
        ----------
        key : tuple of int
            Which call.
        shape : sequence of int
            Of one sample's mask.
        p : float
            Probability of 0.

        Returns
        -------
        Tensor, shape (n, *shape), float32
            On the CPU.
        """
        cut = round(p * _LEVELS)
        if cut >= _LEVELS:
            return torch.zeros(len(self.rows), *shape)
        blocks, within = self.rows // BLOCK, self.rows % BLOCK
        numbers, position = torch.unique(blocks, return_inverse=True)
        levels = torch.cat([self._block(key, int(b), math.prod(shape)) for b in numbers])
        wanted = position * BLOCK + within
        if len(wanted) != len(levels) or not torch.equal(wanted, torch.arange(len(wanted))):
            levels = levels[wanted]
        keep = levels >= cut - _LEVELS // 2
        return keep.to(torch.float32).mul_(_LEVELS / (_LEVELS - cut)).view(-1, *shape)

    def _block(self, key: Key, number: int, width: int) -> Tensor:
        """Draw the levels of a block's samples, int16, four from each 64-bit draw."""
        entropy = np.random.SeedSequence([self.seed, *key, number])
        seed = int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))
        generator = torch.Generator().manual_seed(seed)
        draws = torch.empty(-(-BLOCK * width // 4), dtype=torch.int64)
        draws.random_(-(2**63), None, generator=generator)
        return draws.view(torch.int16)[: BLOCK * width].view(BLOCK, width)
