"""The Jacobian of residuals: products by forward and reverse mode, dense by chunks."""

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

from newton_krylov.operators import RectangularOperator

Residual = Callable[[Tensor], Tensor]
"""w, shape (n,), to the residuals, shape (m,); of torch operations that can be differentiated."""

_TANGENTS = 8
"""Numbers that a pass over one residual is taken to keep, for each that it returns."""


def import_early() -> None:
    """Let torch import, outside of any clock, what forward over reverse mode needs.

    The warnings of these modules do not concern the user.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jvp(grad(torch.sum), (torch.zeros(1),), (torch.ones(1),))


class Jacobian(RectangularOperator):
    """J of residuals at w, for any differentiable function, one graph for all products J'u.

    Parameters
    ----------
    residual : callable
        See `Residual`.
    w : Tensor, shape (n,)
        Parameters at which to evaluate.
    memory : float
        Bytes that the passes of a chunk may take together.

    Attributes
    ----------
    r : Tensor, shape (m,)
        The residuals at w.
    """

    def __init__(self, residual: Residual, w: Tensor, memory: float) -> None:
        r, self._pull, *_ = vjp(residual, w)
        super().__init__((len(r), len(w)), w.dtype, w.device)
        self.r = r.detach()
        self._residual, self._w, self._memory = residual, w, memory

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,): one forward-mode pass."""
        product: Tensor = jvp(self._residual, (self._w,), (v,))[1]
        return product.detach().to(self.dtype)  # torch promotes tangents of single numbers

    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector of shape (m,): one reverse pass."""
        product: Tensor = self._pull(u)[0]
        return product.detach().clone()

    def rows(self, U: Tensor) -> Tensor:
        """Return U J for some rows U, shape (k, m): reverse passes, batched."""
        product: Tensor = vmap(lambda u: self._pull(u)[0])(U)
        return product.detach()

    def columns(self, V: Tensor) -> Tensor:
        """Return J V' for some rows V, shape (k, n): forward passes, batched; shape (m, k)."""
        product: Tensor = vmap(lambda v: jvp(self._residual, (self._w,), (v,))[1], out_dims=1)(V)
        return product.detach().to(self.dtype)

    def dense(self) -> Tensor:
        """Form J, shape (m, n), by rows or columns, whichever are fewer, in chunks."""
        m, n = self.shape
        if m < n:
            return torch.cat([self.rows(U) for U in self._units(m)])
        return torch.cat([self.columns(V) for V in self._units(n)], dim=1)

    def blocks(self) -> Iterator[Tensor]:
        """Return J in blocks of rows, each of which fits in the memory, one after another."""
        for U in self._units(self.shape[0]):
            yield self.rows(U)

    def _units(self, size: int) -> Iterator[Tensor]:
        """Return the unit vectors of a space, as rows, in chunks."""
        m, n = self.shape
        one = max(_TANGENTS * m, n) * self.r.element_size()
        chunk = max(1, min(size, int(self._memory / one)))
        for start in range(0, size, chunk):
            part = torch.zeros(min(chunk, size - start), size, dtype=self.dtype, device=self.device)
            part.diagonal(start).fill_(1.0)
            yield part
