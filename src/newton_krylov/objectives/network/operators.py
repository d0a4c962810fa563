"""Curvature of a network's loss by its products, each a backward pass over a graph that is kept.

All are of f(w) = mean_i loss(z_i(w), y_i) + l2/2 |w|^2 with z = outputs. The graph of what is
differentiated once more is built at the first product and serves all products at that point;
where a point has more samples than the memory allows, the graphs of the rest are built again at
each product.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from torch import Tensor

from newton_krylov.objectives.network.compression import compression
from newton_krylov.objectives.network.graphs import HessianGraph, Kept, OutputGraph, vjp
from newton_krylov.objectives.network.passes import Passes
from newton_krylov.operators import Compression, LinearOperator

G = TypeVar("G")


class NetworkOperator(LinearOperator, Generic[G]):
    """A mean over spans of samples of J_s' B_s J_s or H_s, plus l2 I.

    Parameters
    ----------
    passes : Passes
        Give the spans, l2 and the counts.
    graphs : Kept
        One graph a span.
    """

    def __init__(self, passes: Passes, graphs: Kept[G]) -> None:
        super().__init__(passes.dim, passes.dtype, passes.device)
        self._passes = passes
        self._graphs = graphs

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (dim,)."""
        f = self._passes
        f.counts.add(hvp=f.share, passes=f.share)
        parts = f.split(v)
        products = (self._product(self._graphs[number], parts) for number in range(len(f.spans)))
        return f.regularized(f.mean_of(products), v)

    @abstractmethod
    def _product(self, graph: G, v: Sequence[Tensor]) -> Sequence[Tensor]:
        """Multiply one span's matrix by a vector, parameter by parameter."""


class HessianOperator(NetworkOperator[HessianGraph]):
    """The Hessian: a product is the derivative of the gradient's graph (Pearlmutter, 1994).

    Parameters
    ----------
    passes : Passes
        Give the spans, l2 and the counts.
    graphs : Kept
        One graph a span.
    w : Tensor, shape (dim,)
        Where.
    """

    def __init__(self, passes: Passes, graphs: Kept[HessianGraph], w: Tensor) -> None:
        super().__init__(passes, graphs)
        self._w = w

    def compression(self) -> Compression | None:
        """Return the Hessian by one wide linear layer's weights in the span of its inputs."""
        return compression(self._passes, self._w)

    def _product(self, graph: HessianGraph, v: Sequence[Tensor]) -> Sequence[Tensor]:
        parameters, gradient = graph
        return vjp(gradient, parameters, v)


class GaussNewtonOperator(NetworkOperator[OutputGraph]):
    """The generalized Gauss-Newton matrix J' L J, L the Hessian of the loss by the outputs.

    Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", 2002.
    """

    def _product(self, graph: OutputGraph, v: Sequence[Tensor]) -> Sequence[Tensor]:
        return graph.pull(graph.curve(graph.push(v)))


class EmpiricalFisherOperator(NetworkOperator[OutputGraph]):
    """The mean over samples of g_i g_i', g_i the gradient of sample i's loss.

    g_i = J_i' r_i with r_i the gradient by the outputs, so a product is J' applied to
    r_i (r_i' (J v)_i): no sample's gradient is ever formed.
    """

    def _product(self, graph: OutputGraph, v: Sequence[Tensor]) -> Sequence[Tensor]:
        r, t = graph.sample_gradients.flatten(1), graph.push(v).flatten(1)
        weighted = r * (r * t).sum(1, keepdim=True) / len(r)
        return graph.pull(weighted.view_as(graph.outputs))
