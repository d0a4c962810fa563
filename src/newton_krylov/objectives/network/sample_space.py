"""The Gauss-Newton matrix of a few samples by its rows: exact, and solved in their space.

With a square root of the loss's Hessian by the outputs, L_i = S_i S_i', the matrix is R'R + l2 I, R
the rows S_i'J_i: k for each of n samples. By the formula of Sherman, Morrison and Woodbury

    (R'R + tau I)^-1 b = (b - R'(R R' + tau I)^-1 R b) / tau,

a system of n k unknowns instead of one of as many as there are weights. No row is formed whole: a
linear layer's part of one is g a', so that its part of R R' is the product, entry by entry, of
those of the inputs a and of the gradients g.
"""

from functools import cached_property

import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.network.kronecker import FactorPasses
from newton_krylov.operators import LinearOperator, eigh

_NUMBERS = 2**26
"""How many numbers of a convolution's rows are formed at once."""


class SampleSpaceOperator(LinearOperator):
    """R'R + l2 I, its shifted systems solved in the space of the rows.

    Parameters
    ----------
    passes : FactorPasses
        Of all columns of the loss's Hessian's root, without parameters that have no layer.

    Raises
    ------
    UnsupportedError
        If samples depend on one another, or a row of the outputs is not one sample's.
    """

    def __init__(self, passes: FactorPasses) -> None:
        f = passes.passes
        super().__init__(f.dim, f.dtype, f.device)
        self._f = f
        if f.chunks.seen.batch_norm or f.loss.rows:
            raise UnsupportedError(
                "The samples' rows are solved for where each output is of one sample: neither "
                "batch norm by a batch's statistics nor several targets a sample; take "
                "hessian_approx.space=weights."
            )
        self._parts = passes.rows()

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (dim,)."""
        self._f.counts.add(hvp=self._f.share)
        return self._f.regularized(self._pull(self._push(v)), v)

    def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
        """Solve (A + shift I) x = b, b of shape (dim,); where A is singular, in its range."""
        values, V = self._eigen
        total = self._f.l2 + shift
        c = V.T @ self._push(b).view(-1).double()
        if total == 0.0:
            floor = len(values) * torch.finfo(self.dtype).eps * values.max()
            inverse = torch.where(values > floor, values, torch.inf).square().reciprocal()
            return self._pull((V @ (c * inverse)).to(self.dtype))
        inside = (V @ (c / (values + total))).to(self.dtype)
        return (b - self._pull(inside)).div_(total)

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues and eigenvectors of R R', in float64."""
        gram = sum(_gram(a, g) for a, g in self._parts.values())
        assert isinstance(gram, Tensor)
        values, V = eigh(gram.double())
        return values.clamp_min(0), V

    def _push(self, v: Tensor) -> Tensor:
        """Return R v, shape (n, k)."""
        parts = self._f.split(v)
        total: Tensor | None = None
        for layer, (a, g) in self._parts.items():
            moved = a @ layer.joined(parts).T  # (n, positions, rows)
            part = torch.einsum("nto,nkto->nk", moved, g)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def _pull(self, u: Tensor) -> Tensor:
        """Return R'u, u of n k numbers."""
        out = torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
        outs = self._f.split(out)
        for layer, (a, g) in self._parts.items():
            weighted = torch.einsum("nk,nkto->nto", u.view(g.shape[:2]), g)
            layer.separate(weighted.flatten(0, 1).T @ a.flatten(0, 1), outs)
        return out


def _gram(a: Tensor, g: Tensor) -> Tensor:
    """Return a layer's part of R R', shape (n k, n k)."""
    n, k, positions, rows = g.shape
    if positions == 1:
        flat = g.reshape(n * k, rows)
        products = (flat @ flat.T).view(n, k, n, k)
        inputs = a[:, 0] @ a[:, 0].T
        return (products * inputs[:, None, :, None]).view(n * k, n * k)
    total = g.new_zeros(n * k, n * k)
    size = max(1, _NUMBERS // (n * k * a.shape[2]))
    for start in range(0, rows, size):
        part = torch.einsum("nkto,ntc->nkoc", g[..., start : start + size], a).reshape(n * k, -1)
        total.addmm_(part, part.T)
    return total
