"""How curvatures draw their samples."""

import torch
from torch import Tensor

from newton_krylov.errors import ConfigError


class Blocks:
    """Consecutive blocks of a random permutation; a new one is drawn when it is used up.

    Samples within a block are distinct, and a draw costs O(block) work.
    """

    def __init__(self) -> None:
        self._n = 0
        self._rest = torch.empty(0, dtype=torch.int64)

    def draw(self, size: int, n: int, generator: torch.Generator) -> Tensor:
        """Draw the next block.

        Parameters
        ----------
        size : int
            At most n.
        n : int
            How many samples there are.
        generator : torch.Generator
            On the CPU.

        Returns
        -------
        Tensor, shape (size,), int64
            Sample numbers, ascending: rows are gathered in the order in which they lie in memory.
        """
        if n != self._n or len(self._rest) < size:
            self._n, self._rest = n, torch.randperm(n, generator=generator)
        index, self._rest = self._rest[:size].sort().values, self._rest[size:]
        return index


def sample_size(size: int | None, fraction: float, n: int) -> int:
    """Return how many of n samples to draw.

    Parameters
    ----------
    size : int or None
        The number itself, where it was given.
    fraction : float
        Else the share of n, in (0, 1].
    n : int
        How many samples there are.

    Returns
    -------
    int
        Between 1 and n.

    Raises
    ------
    ConfigError
        If `size` exceeds n.
    """
    if size is None:
        return max(1, round(fraction * n))
    if size > n:
        raise ConfigError(
            f"hessian_approx.size={size} exceeds the {n} samples there are; give at most {n}, or "
            f"a fraction."
        )
    return size
