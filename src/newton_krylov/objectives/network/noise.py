"""Dropout masks by a seed: the same for a sample whoever asks, in any order.

They are drawn where they are used, so a GPU's masks are not a processor's.
"""

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

    def scale(
        self, key: Key, shape: Sequence[int], p: float, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return what dropout multiplies by: 0 or 1 / (1 - p).

        Parameters
        ----------
        key : tuple of int
            Which call.
        shape : sequence of int
            Shape of one sample's mask.
        p : float
            Probability of 0.
        device : torch.device or str
            Where to draw.

        Returns
        -------
        Tensor, shape (n, *shape), float32
            On that device.
        """
        cut = round(p * _LEVELS)
        if cut >= _LEVELS:
            return torch.zeros(len(self.rows), *shape, device=device)
        blocks, within = self.rows // BLOCK, self.rows % BLOCK
        numbers, position = torch.unique(blocks, return_inverse=True)
        levels = torch.cat([self._block(key, int(b), math.prod(shape), device) for b in numbers])
        wanted = position * BLOCK + within
        if len(wanted) != len(levels) or not torch.equal(wanted, torch.arange(len(wanted))):
            levels = levels[wanted.to(device)]
        keep = levels >= cut - _LEVELS // 2
        return keep.to(torch.float32).mul_(_LEVELS / (_LEVELS - cut)).view(-1, *shape)

    def _block(self, key: Key, number: int, width: int, device: torch.device | str) -> Tensor:
        """Draw the levels of a block's samples, int16, four from each 64-bit draw."""
        entropy = np.random.SeedSequence([self.seed, *key, number])
        seed = int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))
        generator = torch.Generator(device).manual_seed(seed)
        draws = torch.empty(-(-BLOCK * width // 4), dtype=torch.int64, device=device)
        draws.random_(-(2**63), None, generator=generator)
        return draws.view(torch.int16)[: BLOCK * width].view(BLOCK, width)
