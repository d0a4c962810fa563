"""Curvature of a network's loss by its products, each a backward pass over a graph that is kept.

All are of f(w) = mean_i loss(z_i(w), y_i) + l2/2 |w|^2 with z = outputs. The graph of what is
differentiated once more is built at the first product and serves all products at that point;
where a point has more samples than the memory allows, the graphs of the rest are built anew at
each product.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from newton_krylov.operators import Compression, LinearOperator

if TYPE_CHECKING:
    from newton_krylov.objectives.network.objective import Network

G = TypeVar("G")
Criterion = Callable[[Tensor, Tensor], Tensor]
"""(outputs, targets) -> the mean loss over samples, a 0-d tensor."""


def vjp(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], v: Sequence[Tensor], **keywords: Any
) -> list[Tensor]:
    """Return (d outputs / d inputs)' v; the graph is kept, and what is not reached is zero.

    Parameters
    ----------
    outputs, inputs : sequence of Tensor
        Of a graph.
    v : sequence of Tensor
        One for each output.
    **keywords
        Of `torch.autograd.grad`.

    Returns
    -------
    list of Tensor
        One for each input.
    """
    pairs = [(o, t) for o, t in zip(outputs, v, strict=True) if o.requires_grad]
    if not pairs:
        return [torch.zeros_like(x) for x in inputs]
    reached, weights = zip(*pairs, strict=True)
    found = torch.autograd.grad(
        reached, inputs, weights, retain_graph=True, materialize_grads=True, **keywords
    )
    return list(found)


@cache
def import_early() -> None:
    """Let torch import what its first derivative along a vector needs, half a second's work.

    Called where an objective is made, so that it does not count as the first step's time.
    """
    one = torch.ones((), requires_grad=True)
    torch.autograd.grad(one.square(), one, torch.ones(()))


class Kept(Generic[G]):
    """Builds graphs by number and keeps as many as the memory allows.

    Parameters
    ----------
    build : callable
        Number to graph.
    limit : int
        How many to keep.
    """

    def __init__(self, build: Callable[[int], G], limit: int) -> None:
        self._build, self._limit = build, limit
        self._graphs: dict[int, G] = {}

    def __getitem__(self, number: int) -> G:
        if number in self._graphs:
            return self._graphs[number]
        with torch.enable_grad():
            graph = self._build(number)
        if len(self._graphs) < self._limit:
            self._graphs[number] = graph
        return graph


class NetworkOperator(LinearOperator, Generic[G]):
    """A mean over spans of samples of J_s' B_s J_s or H_s, plus l2 I.

    Parameters
    ----------
    objective : Network
        Gives the spans, l2 and the counts.
    graphs : Kept
        One graph a span.
    """

    def __init__(self, objective: "Network", graphs: Kept[G]) -> None:
        super().__init__(objective.dim, objective.dtype, objective.device)
        self._objective = objective
        self._graphs = graphs

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (dim,)."""
        f = self._objective
        f.counts.add(hvp=f.share, passes=f.share)
        parts = f.split(v)
        products = (self._product(self._graphs[number], parts) for number in range(len(f.spans)))
        return f.regularized(f.mean_of(products), v)

    @abstractmethod
    def _product(self, graph: G, v: Sequence[Tensor]) -> Sequence[Tensor]:
        """Multiply one span's matrix by a vector, parameter by parameter."""


HessianGraph = tuple[Sequence[Tensor], Sequence[Tensor]]
"""Parameters, and the gradient by them as a function of them."""


class HessianOperator(NetworkOperator[HessianGraph]):
    """The Hessian: a product is the derivative of the gradient's graph (Pearlmutter, 1994).

    Parameters
    ----------
    objective : Network
        Gives the spans, l2 and the counts.
    graphs : Kept
        One graph a span.
    w : Tensor, shape (dim,)
        Where.
    """

    def __init__(self, objective: "Network", graphs: Kept[HessianGraph], w: Tensor) -> None:
        super().__init__(objective, graphs)
        self._w = w

    def compression(self) -> Compression | None:
        """Return the Hessian by one wide linear layer's weights in the span of its inputs."""
        from newton_krylov.objectives.network.compression import compression

        return compression(self._objective, self._w)

    def _product(self, graph: HessianGraph, v: Sequence[Tensor]) -> Sequence[Tensor]:
        parameters, gradient = graph
        return vjp(gradient, parameters, v)


class OutputGraph:
    """The outputs as a function of the parameters, and what a product with J needs.

    J' u is linear in u; its derivative by u, applied to v, is J v: two backward passes that reuse
    the graph, where forward-mode differentiation would run the network anew for each product.

    Parameters
    ----------
    parameters : sequence of Tensor
        Leaves.
    outputs : Tensor, shape (n, ...)
        Depending on them.
    loss : callable
        Outputs to the mean loss over these samples.
    """

    def __init__(
        self, parameters: Sequence[Tensor], outputs: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> None:
        self.parameters, self.outputs = parameters, outputs
        self._u = torch.zeros_like(outputs, requires_grad=True)
        self._pulled = torch.autograd.grad(
            outputs, parameters, self._u, create_graph=True, materialize_grads=True
        )
        self._free = outputs.detach().requires_grad_()
        (self._loss_gradient,) = torch.autograd.grad(
            loss(self._free), self._free, create_graph=True
        )

    def push(self, v: Sequence[Tensor]) -> Tensor:
        """Return J v, shape of the outputs."""
        return vjp(self._pulled, [self._u], v)[0]

    def pull(self, u: Tensor) -> Sequence[Tensor]:
        """Return J' u, parameter by parameter."""
        return vjp([self.outputs], self.parameters, [u])

    def curve(self, t: Tensor) -> Tensor:
        """Return the Hessian of the mean loss by the outputs, times t."""
        return vjp([self._loss_gradient], [self._free], [t])[0]

    @property
    def sample_gradients(self) -> Tensor:
        """The gradient of each sample's own loss by its outputs, shape of the outputs."""
        return self._loss_gradient.detach() * len(self.outputs)


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
