"""Looks at the spectrum of a run's curvature every few steps; the run does not notice."""

import math
import time
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.errors import ConfigError
from newton_krylov.objectives.base import Layered, Objective, Point
from newton_krylov.objectives.network.layout import layers_below
from newton_krylov.operators import LinearOperator
from newton_krylov.records.spectrum import Snapshot
from newton_krylov.registry import register
from newton_krylov.spectral.density import jensen_shannon, spectral_density
from newton_krylov.spectral.estimators import trace
from newton_krylov.spectral.lanczos import lanczos

OWN = "own"
"""The name by which `of` takes the run's own curvature."""
_SPARE = 20  # vectors that Lanczos may keep beside the wanted ones


@register("spectrum", "observation")
@dataclass(frozen=True)
class Observation:
    """What to look at, and when.

    Attributes
    ----------
    every : int or None
        Iterations from one look to the next; the start and the end are looked at too. None: never.
    of : str
        Whose spectrum: the name of a `hessian_approx`, which gets its defaults, or `own`, the
        run's. A curvature that draws samples or starts warm is a fresh one, so that the run's own
        is not disturbed.
    layers : list of str or None
        Layers of a network whose weights alone are varied, the others held. None: all.
    samples : int or None
        How many of the training samples, drawn once, the curvature is of. None: all.
    top : int
        Eigenpairs, those largest in absolute value; 0 leaves them out.
    rtol : float
        Ritz residuals asked for, relative to the largest.
    maxiter : int
        Limit of products for them.
    trace : int
        Products for the trace, by Hutch++; 0 leaves it out, and it takes at least 3.
    density : bool
        Whether to estimate the spectral density, by stochastic Lanczos quadrature.
    probes, steps : int
        Random vectors of the density, and products for each.
    blocks : bool
        Whether to compare the spectra of a network's layers, each with the others held: the
        distances between their densities, of which the mean is the block heterogeneity.
    """

    every: PositiveInt | None = None
    of: str = "hvp"
    layers: list[str] | None = None
    samples: PositiveInt | None = None
    top: NonNegativeInt = 5
    rtol: PositiveFloat = 1e-3
    maxiter: PositiveInt = 100
    trace: Annotated[int, Field(ge=0)] = 30
    density: bool = False
    probes: PositiveInt = 5
    steps: PositiveInt = 40
    blocks: bool = False

    def __post_init__(self) -> None:
        if self.trace in (1, 2):
            raise ConfigError(
                f"spectrum.trace={self.trace} is not valid: Hutch++ takes at least 3 products, and "
                f"0 leaves the trace out."
            )


class Observer:
    """Makes snapshots of the spectrum along a run.

    Nothing of it is counted as the optimizer's cost, and it draws from a generator of its own: the
    run takes the same steps with and without it.

    Parameters
    ----------
    observation : Observation
        What to look at; `every` is set.
    objective : Objective
        Objective of the run.
    curvature : Curvature
        A fresh one, chosen by `observation.of`.
    seed : int
        Seed of the samples and random vectors.
    after : int
        Iterations up to this one have been looked at before.

    Raises
    ------
    ConfigError
        For layers that the objective does not have, and more samples than there are.
    """

    def __init__(
        self,
        observation: Observation,
        objective: Objective,
        curvature: Curvature,
        seed: int,
        after: int = -1,
    ) -> None:
        assert observation.every is not None
        self._observation, self._objective, self._curvature = observation, objective, curvature
        self._generator = torch.Generator().manual_seed(seed)
        self._part = self._sampled(objective)
        self._last = after
        self._every = observation.every
        if observation.blocks and not isinstance(objective, Layered):
            raise ConfigError(
                "spectrum.blocks needs a network, such as that of loss=cross_entropy."
            )
        if observation.layers is not None:
            self._blocks = _blocks(objective, observation.layers)

    @property
    def top(self) -> int:
        """How many eigenvalues a snapshot has."""
        dim = self._objective.dim
        if self._observation.layers is not None:
            dim = sum(block.stop - block.start for block in self._blocks)
        return min(self._observation.top, dim)

    def due(self, iteration: int, *, end: bool = False) -> bool:
        """Return whether an iteration is to be looked at.

        Parameters
        ----------
        iteration : int
            Iteration of the run.
        end : bool
            Whether it is the last one.

        Returns
        -------
        bool
            True for the start, from then on at least `every` after the last look, and at the end.
        """
        if self._last < 0 or end:
            return iteration > self._last
        return iteration >= self._last + self._every

    def look(self, iteration: int, seconds: float, point: Point) -> Snapshot:
        """Look at the spectrum at a point.

        Parameters
        ----------
        iteration : int
            Iteration of the run.
        seconds : float
            The optimizer's time so far.
        point : Point
            Where the run stands.

        Returns
        -------
        Snapshot
            What was seen.
        """
        self._last = iteration
        o, start = self._observation, time.perf_counter()
        with self._objective.counts.paused():
            A = _Counted(self._curvature.at(self._point(point), self._generator))
            values, residuals = self._pairs(A)
            tr = trace(A, o.trace, generator=self._generator) if o.trace else None
            density = (
                spectral_density(A, probes=o.probes, steps=o.steps, generator=self._generator)
                if o.density
                else None
            )
            distances, products = self._distances(point) if o.blocks else ([], 0)
        return Snapshot(
            iteration,
            seconds,
            values,
            residuals,
            math.nan if tr is None else tr.value,
            math.nan if tr is None else tr.error,
            A.products + products,
            time.perf_counter() - start,
            () if density is None else density.nodes.tolist(),
            () if density is None else density.weights.tolist(),
            distances,
        )

    def _distances(self, point: Point) -> tuple[list[tuple[str, str, float]], int]:
        """Compare the layers' spectra, each pair once; also the products it took."""
        f, o = self._part or self._objective, self._observation
        assert isinstance(f, Layered)
        names = [*f.blocks] if o.layers is None else layers_below(f.blocks, o.layers)
        found = {}
        for name, block in f.blocks.items():
            if name in names:
                own = f.restricted([name], point.w).at(point.w[block])
                A = self._curvature.at(own, self._generator)
                found[name] = spectral_density(
                    A, probes=o.probes, steps=o.steps, generator=self._generator
                )
        pairs = [
            (one, other, jensen_shannon(found[one], found[other]))
            for one, other in combinations(found, 2)
        ]
        return pairs, sum(density.matvecs for density in found.values())

    def _pairs(self, A: LinearOperator) -> tuple[list[float], list[float]]:
        if self.top == 0:
            return [], []
        o = self._observation
        pairs = lanczos(
            A, self.top, which="magnitude", generator=self._generator, rtol=o.rtol,
            maxiter=o.maxiter, basis_size=self.top + _SPARE,
        )  # fmt: skip
        return pairs.values.tolist(), pairs.residual_norms.tolist()

    def _sampled(self, objective: Objective) -> Objective | None:
        """Return the objective of some samples; None where it is the run's own."""
        count, n = self._observation.samples, objective.n_samples
        if count is None or count == n:
            return None
        if count > n:
            raise ConfigError(f"spectrum.samples={count} exceeds the {n} samples there are.")
        index = torch.randperm(n, generator=self._generator)[:count].sort().values
        return objective.subset(index.to(objective.device))

    def _point(self, point: Point) -> Point:
        """Return the point whose curvature is looked at."""
        part = self._part
        if part is None:
            part = self._objective
            if self._observation.layers is None and point.objective is part:
                return point
        if self._observation.layers is None:
            return part.at(point.w)
        assert isinstance(part, Layered)
        return part.restricted(self._observation.layers, point.w).at(self._own(point.w))

    def _own(self, w: Tensor) -> Tensor:
        """Return the observed layers' weights."""
        return torch.cat([w[block] for block in self._blocks])


def _blocks(objective: Objective, layers: list[str]) -> list[slice]:
    """Return where the layers lie, in the order in which they do."""
    if not isinstance(objective, Layered):
        raise ConfigError("spectrum.layers needs a network, such as that of loss=cross_entropy.")
    objective.restricted(layers, objective.initial())  # refuses a list that names nothing
    named = layers_below(objective.blocks, layers)
    return [block for name, block in objective.blocks.items() if name in named]


class _Counted(LinearOperator):
    """Counts products with an operator."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(operator.shape[0], operator.dtype, operator.device)
        self._operator, self.products = operator, 0

    def matvec(self, v: Tensor) -> Tensor:
        self.products += 1
        return self._operator.matvec(v)
