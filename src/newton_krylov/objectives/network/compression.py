"""The Hessian by one linear layer's weights, compressed to what its inputs span.

A linear layer turns inputs X, shape (n, p), into Z = X W' (+ b), shape (n, q), and the loss is a
function of Z, with Hessian C at Z. So the Hessian by W is R'C R with R: W -> X W', which has rank
n q at most, however many weights there are; and R R' is the Gram matrix K = X X', n by n. With
K = L L', the small matrix L'C L has the same nonzero eigenvalues: for an eigenvector u of it,
v = R' L'^-1 u is one of the Hessian's, of the same length, and with the same residual. A product
with it costs n^2 q instead of 2 n p q operations, and what Lanczos keeps is n q instead of p q
numbers a vector: 250 instead of 16,384 rows for the paper's largest layer.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from newton_krylov.norms import norm
from newton_krylov.objectives.network.graphs import vjp
from newton_krylov.objectives.network.layout import Stage, run
from newton_krylov.objectives.network.passes import Passes
from newton_krylov.operators import Compression, LinearOperator

_WORTHWHILE = 2
"""A layer with fewer inputs than this times the samples is not compressed."""
_JITTER = 10
"""Added to the Gram matrix's diagonal, in units of its rounding, so that it has a factor."""


def compression(f: Passes, w: Tensor) -> Compression | None:
    """Compress the Hessian of a network by one linear layer's weights.

    Parameters
    ----------
    f : Passes
        With that layer alone free.
    w : Tensor, shape (dim,)
        Parameters at which to evaluate.

    Returns
    -------
    Compression or None
        None where something else is free, or it would gain nothing.
    """
    stage = _only_linear(f)
    if stage is None:
        return None
    X = torch.cat([f.inputs.span(*span) for span in f.spans])
    if len(X) != f.n or X.ndim != 2 or X.shape[1] < _WORTHWHILE * X.shape[0]:
        return None
    K = X @ X.T
    bias = "bias" in stage.parameters
    if bias:
        K += 1
    K.diagonal().add_(_JITTER * torch.finfo(K.dtype).eps * K.diagonal().max())
    L, failed = torch.linalg.cholesky_ex(K)
    if failed:
        return None
    f.counts.add(passes=f.share)
    return _Compression(f, w, X, L, bias=bias).made()


def _only_linear(f: Passes) -> Stage | None:
    """Return the stage that is a linear layer and has all free weights to itself."""
    stage, free = f.stages[0], set(f.numbers)
    others = f.stages[1:]
    shared = any(not free.isdisjoint(other.parameters.values()) for other in others)
    if shared or type(stage.module) is not nn.Linear or free != set(stage.parameters.values()):
        return None
    return stage


class _Compression:
    """The maps between the weights and the compressed vectors."""

    def __init__(self, f: Passes, w: Tensor, X: Tensor, L: Tensor, *, bias: bool) -> None:
        self._f, self._X, self._L, self._bias = f, X, L, bias
        self._parts = f.split(w)

    def made(self) -> Compression:
        Z = F.linear(self._X, *self._parts)
        small = _CompressedHessian(self._f, Z, self._L, self._parts)
        return Compression(small, self.expand, self.reduce)

    def expand(self, U: Tensor) -> Tensor:
        """Return v = R' L'^-1 u for each column of U, shape (n q, k), as columns."""
        columns = []
        for u in U.T:
            Y = torch.linalg.solve_triangular(self._L.T, u.view(len(self._X), -1), upper=True)
            parts = [(Y.T @ self._X).view(-1), *([Y.sum(0)] if self._bias else [])]
            v = torch.cat(parts)
            columns.append(v / norm(v))
        return torch.stack(columns, 1)

    def reduce(self, v: Tensor) -> Tensor:
        """Return u = L^-1 R v, which `expand` takes back to v's part in the range."""
        T = F.linear(self._X, *self._f.split(v))
        u: Tensor = torch.linalg.solve_triangular(self._L, T, upper=False)
        return u.reshape(-1)


class _CompressedHessian(LinearOperator):
    """L'C L + l2 I, C the Hessian of the loss by the layer's outputs Z."""

    def __init__(self, f: Passes, Z: Tensor, L: Tensor, parts: Sequence[Tensor]) -> None:
        super().__init__(Z.numel(), Z.dtype, Z.device)
        self._f, self._L = f, L
        tensors = f.tensors(parts)
        self._graphs = []
        for number, (start, stop) in enumerate(f.spans):
            with torch.enable_grad():
                z = Z[start:stop].detach().requires_grad_()
                mode = f.inputs.mode(start, stop)
                outputs = run(f.stages[1:], tensors, z, mode)
                loss = f.span_loss(outputs, number) * f.weight(number)
                (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
            self._graphs.append((z, gradient))

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n q,); reads no data, so it is no pass."""
        f = self._f
        f.counts.add(hvp=f.share)
        T = self._L @ v.view(len(self._L), -1)
        products = [
            vjp([gradient], [z], [T[start:stop]])[0]
            for (z, gradient), (start, stop) in zip(self._graphs, f.spans, strict=True)
        ]
        return (self._L.T @ torch.cat(products)).reshape(-1).add_(v, alpha=f.l2)
