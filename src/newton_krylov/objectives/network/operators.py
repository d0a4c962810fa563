"""Curvature of a network's loss by its products, each a backward pass over a graph that is kept.

All are of f(w) = mean_i loss(z_i(w), y_i) + l2/2 |w|^2 with z = outputs. The graph of what is
differentiated once more is built at the first product and serves all products at that point;
where a point has more samples than the memory allows, the graphs of the rest are built again at
each product.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.norms import norm
from newton_krylov.objectives.network.compression import compression
from newton_krylov.objectives.network.graphs import HessianGraph, Kept, OutputGraph, vjp
from newton_krylov.objectives.network.kronecker import (
    FactorPasses,
    Kronecker,
    KroneckerOperator,
)
from newton_krylov.objectives.network.passes import Passes
from newton_krylov.operators import Compression, LinearOperator

G = TypeVar("G")


_ONCE = ("not implemented", "differentiate twice", "once_differentiable")
"""What torch's messages say where there is no second derivative."""
_CHECKED = 3
"""Products of which the symmetry is checked."""
_ROUNDINGS = 1e3
"""A product that is shorter than so many rounding errors of the matrix says nothing of it."""


class NetworkOperator(LinearOperator, Generic[G]):
    """A mean over spans of samples of J_s' B_s J_s or H_s, plus l2 I.

    Parameters
    ----------
    passes : Passes
        Give the spans, l2 and the counts.
    graphs : Kept
        One graph a span.
    w : Tensor, shape (dim,)
        Parameters at which to evaluate.
    """

    def __init__(self, passes: Passes, graphs: Kept[G], w: Tensor) -> None:
        super().__init__(passes.dim, passes.dtype, passes.device)
        self._passes = passes
        self._graphs = graphs
        self._w = w
        self._first: tuple[Tensor, Tensor] | None = None  # a vector and its product
        self._products = 0

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (dim,)."""
        f = self._passes
        if v.shape != (f.dim,) or v.dtype != f.dtype:
            raise ValueError(
                f"expected a vector of shape ({f.dim},) and type {f.dtype}, one number for each "
                f"free weight, got {tuple(v.shape)} and {v.dtype}"
            )
        product = self._multiplied(v)
        if self._products < _CHECKED:
            self._check_symmetry(v, product)
        return product

    def _multiplied(self, v: Tensor) -> Tensor:
        f = self._passes
        f.counts.add(hvp=f.share, passes=f.share)
        parts = f.split(v)
        products = (self._product(number, parts) for number in range(len(f.spans)))
        try:
            return f.regularized(f.mean_of(products), v)
        except RuntimeError as error:
            if not any(words in str(error) for words in _ONCE):
                raise
            raise UnsupportedError(
                f"Some operation of the network or of the criterion cannot be differentiated "
                f"twice, which products with its curvature need: {error}"
            ) from error

    def dense(self) -> Tensor:
        """Form the matrix, shape (dim, dim)."""
        matrix = super().dense()
        gap, scale = float((matrix - matrix.T).double().norm()), float(matrix.double().norm())
        if self._is_asymmetric(gap, scale):
            raise _asymmetry(gap / scale)
        return matrix

    def kronecker(
        self, generator: torch.Generator, *, corrected: bool, **options: Any
    ) -> LinearOperator:
        """Return K-FAC's or EKFAC's approximation; the options are `Kronecker`'s."""
        seed = int(torch.randint(2**62, (), generator=generator))
        passes = FactorPasses(self._passes, self._w, Kronecker(**options), seed)
        return KroneckerOperator(passes, corrected=corrected)

    def _check_symmetry(self, v: Tensor, product: Tensor) -> None:
        """Compare u'(A v) with v'(A u), u the first vector that was multiplied.

        Where both lie nearly in the null space their products are roundings, and say nothing.
        """
        self._products += 1
        if self._first is None:
            self._first = v.clone(), product.clone()
            return
        u, Au = self._first
        gap = float((torch.dot(u, product) - torch.dot(v, Au)).abs())
        scale = float(norm(u) * norm(product) + norm(v) * norm(Au))
        if self._is_asymmetric(gap, scale):
            rounding = _ROUNDINGS * torch.finfo(self.dtype).eps * self._size()
            if max(float(norm(product) / norm(v)), float(norm(Au) / norm(u))) > rounding:
                raise _asymmetry(gap / scale)
        if self._products == _CHECKED:
            self._first = None

    def _size(self) -> float:
        """Return about the largest eigenvalue's size, by a step of the power method."""
        draw = torch.Generator().manual_seed(0)
        v = self._multiplied(torch.randn(self.shape[0], generator=draw).to(self._w))
        return float(norm(self._multiplied(v)) / norm(v).clamp_min(torch.finfo(v.dtype).tiny))

    def _is_asymmetric(self, gap: float, scale: float) -> bool:
        """Say whether rounding does not explain it: errors of derivatives are of the order of 1.

        Rounding was, in float32 on transformers of 28,672 and 949,280 weights, 2e-8 and 2e-7 of the
        size at the start, and up to 0.04 where weights 100 to 3,000 times as large stand for a
        run that diverges: there the terms of a product cancel. The bound is 0.15.
        """
        bound: float = 30 * torch.finfo(self.dtype).eps ** (1 / 3)
        return gap > bound * scale

    @abstractmethod
    def _product(self, number: int, v: Sequence[Tensor]) -> Sequence[Tensor]:
        """Multiply one span's matrix by a vector, parameter by parameter."""


def _asymmetry(share: float) -> UnsupportedError:
    """Return the error of products that differ by a share of their size."""
    return UnsupportedError(
        f"The products with this matrix are not symmetric (u'Av and v'Au differ by {share:.1g} of "
        f"their size), as they are with every Hessian: some operation of the network or of the "
        f"criterion has a wrong second derivative. torch.autograd.gradgradcheck finds which."
    )


class HessianOperator(NetworkOperator[HessianGraph]):
    """The Hessian: a product is the derivative of the gradient's graph (Pearlmutter, 1994)."""

    def compression(self) -> Compression | None:
        """Return the Hessian by one wide linear layer's weights in the span of its inputs."""
        return compression(self._passes, self._w)

    def _product(self, number: int, v: Sequence[Tensor]) -> Sequence[Tensor]:
        parameters, gradient = self._graphs[number]
        return vjp(gradient, parameters, v)


class GaussNewtonOperator(NetworkOperator[OutputGraph]):
    """The generalized Gauss-Newton matrix J' L J, L the Hessian of the loss by the outputs.

    Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", 2002.
    """

    def _product(self, number: int, v: Sequence[Tensor]) -> Sequence[Tensor]:
        graph = self._graphs[number]
        return graph.pull(graph.curve(graph.push(v)))


class EmpiricalFisherOperator(NetworkOperator[OutputGraph]):
    """The mean over samples of g_i g_i', g_i the gradient of sample i's loss.

    g_i = J_i' r_i with r_i the gradient by the outputs, so a product is J' applied to
    r_i (r_i' (J v)_i): no sample's gradient is ever formed.
    """

    def _product(self, number: int, v: Sequence[Tensor]) -> Sequence[Tensor]:
        graph = self._graphs[number]
        gradients = self._gradients(number, graph)
        t = graph.push(v).reshape(gradients[0].shape)
        terms = [r * (r * t).sum(1, keepdim=True) for r in gradients]
        weighted = graph.shared(torch.stack(terms).mean(0))
        return graph.pull(weighted.view_as(graph.outputs))

    def _gradients(self, number: int, graph: OutputGraph) -> Sequence[Tensor]:
        """Return the rows' own gradients by the outputs, once or more."""
        return [graph.sample_gradients]


class MonteCarloFisherOperator(EmpiricalFisherOperator):
    """The mean over samples of g_i g_i' at targets that are drawn from the model's predictions.

    Parameters
    ----------
    passes : Passes
        Give the spans, l2 and the counts.
    graphs : Kept
        One graph a span.
    w : Tensor, shape (dim,)
        Parameters at which to evaluate.
    draws : int
        Targets drawn for each sample.
    seed : int
        Seed of the draws, which are the same whenever a span's graph is built.
    """

    def __init__(
        self, passes: Passes, graphs: Kept[OutputGraph], w: Tensor, draws: int, seed: int
    ) -> None:
        super().__init__(passes, graphs, w)
        self._draws, self._seed = draws, seed
        self._drawn: dict[int, Sequence[Tensor]] = {}

    def _gradients(self, number: int, graph: OutputGraph) -> Sequence[Tensor]:
        if number not in self._drawn:
            entropy = np.random.SeedSequence([self._seed, number]).generate_state(1, np.uint64)[0]
            generator = torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
            self._drawn[number] = [
                graph.own_gradients(
                    self._passes.drawn_gradient(graph.outputs, number, generator)
                ).to(graph.outputs.dtype)
                for _ in range(self._draws)
            ]
        return self._drawn[number]
