"""Stochastic EKFAC: K-FAC's eigenbasis, with the eigenvalues that the matrix has in it."""

import torch
from torch import Tensor

from newton_krylov.capabilities import ALL_SAMPLES, LAYERS
from newton_krylov.objectives.base import Point
from newton_krylov.objectives.network.kronecker import Block, eigen
from newton_krylov.objectives.network.layer_calls import Layer
from newton_krylov.operators import eigh
from newton_krylov.optimizers.kfac import KFAC, KFACMemory, Tensors, key_of, layer_of, mix
from newton_krylov.registry import register

_RANGE = 1e-10
"""Eigenvalues of the inputs' Gram matrix below this share of the largest are outside its range."""


@register("optimizer", "ekfac", needs=(LAYERS, ALL_SAMPLES))
class EKFAC(KFAC):
    """Natural gradient in the Kronecker factors' eigenbasis, in mini-batches; a step is one epoch.

    Each layer's gradient G becomes P ((P'GQ) / (s + damping)) Q', P and Q the eigenvectors of
    K-FAC's factors, s the running mean of the squares of P'G_iQ over single samples' gradients
    (George, Laurent, Bouthillier, Ballas and Vincent, "Fast approximate natural gradient descent
    in a Kronecker-factored eigenbasis", 2018, algorithm 1). `inverses_every` steps lie between two
    bases, `factors_every` between two looks at s, which begins anew in each basis. Lengths,
    momentum and an adaptive damping are as in `kfac`.

    Parameters
    ----------
    learning_rate, momentum, damping, adapt_every, clip, decay, factors_every, inverses_every
        See `kfac`.
    curvature_samples, window, fisher, sharing, batch_size, schedule
        See `kfac`; of inputs wider than `window` Q spans the last `window` ones, of wider outputs P
        is the identity.
    """

    def _invert(self, memory: KFACMemory) -> None:
        """Take the factors' eigenvectors, in whose basis nothing is known yet."""
        for key, own in memory.factors.items():
            Q = eigen(own["A"])[1] if "A" in own else _range(own["U"])
            memory.inverses[key] = {"Q": Q}
            if own["B"].ndim == 2:
                memory.inverses[key]["P"] = eigen(own["B"])[1]

    def _correct(self, point: Point, memory: KFACMemory, generator: torch.Generator) -> None:
        """Take the squares of single samples' gradients in the basis into the means."""
        bases = {layer_of(key): (own.get("P"), own["Q"]) for key, own in memory.inverses.items()}
        passes = self._sampled(point).kronecker_passes(self.how, generator)
        for layer, squares in passes.corrected(bases).items():
            mix(memory.inverses[key_of(layer)], "s", squares, 1 - self.decay)

    def _divided(self, own: Tensors, layer: Layer, G: Tensor, damping: float) -> Tensor:
        """Divide in the basis; beyond its span by the damping."""
        return Block(layer, own.get("P"), own["Q"], own["s"]).solve(G, damping)


def _range(rows: Tensor) -> Tensor:
    """Return orthonormal columns that span some rows, of which there are fewer than columns."""
    wide = rows.double()
    values, V = eigh(wide @ wide.T)
    keep = values > _RANGE * values[-1]
    Q: Tensor = wide.T @ (V[:, keep] / values[keep].sqrt())
    return Q.to(rows.dtype).contiguous()
