"""Generated samples, part by part: the sparse synthetic set where it would not fit into memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from newton_krylov.data.shards.writer import Part
from newton_krylov.data.synthetic import MARGIN, gaussian_csr, spectrum

_ENTRIES = 2**20  # of a part, on average


@dataclass(frozen=True)
class Generator:
    """Two classes with a planted linear model, as `dataset=synthetic` but for the exact scaling.

    Every entry is nonzero with probability `density`, then Gaussian with its column's scale; the
    squared scales are logarithmically spaced over `condition_number` and of mean 1 / density. So
    the mean square of the entries is 1 and diag(X'X) spreads as asked, both up to the noise of
    the draw, which one pass cannot remove. Labels follow the logistic model of planted weights,
    with margins of standard deviation `MARGIN`.

    Attributes
    ----------
    d : int
        Features.
    density : float
        Share of nonzeros, in (0, 1).
    condition_number : float
        Condition number of diag(X'X).
    seed : int
        Seed of everything random.
    """

    d: int
    density: float
    condition_number: float = 100.0
    seed: int = 0

    def parts(self, n: int, split: int) -> Iterator[Part]:
        """Yield n samples in parts that fit into memory.

        Parameters
        ----------
        n : int
            Samples.
        split : int
            Number of the split: each has samples of its own, of the same model.

        Yields
        ------
        tuple of csr_array and ndarray
            Samples, and labels 0 and 1.
        """
        scales, weights = self._model()
        rng = np.random.default_rng([self.seed, 1 + split])
        rows = max(1, math.ceil(_ENTRIES / (self.density * self.d)))
        for start in range(0, n, rows):
            X = gaussian_csr(rng, min(rows, n - start), self.d, self.density)
            X.data *= scales[X.indices]
            margins = X @ weights
            yield X, (rng.logistic(size=len(margins)) < margins).astype(np.float64)

    def _model(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the columns' scales and the planted weights."""
        rng = np.random.default_rng([self.seed, 0])
        squares = rng.permutation(spectrum(self.d, self.condition_number)) / self.density
        weights = rng.standard_normal(self.d)
        variance = self.density * (squares @ weights**2)
        return np.sqrt(squares), weights * (MARGIN / math.sqrt(variance))
