"""Sinkhorn's algorithm."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from newton_krylov.capabilities import ALL_SAMPLES, TRANSPORT_DUAL
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Objective
from newton_krylov.objectives.entropic_transport import EntropicTransport, TransportPoint
from newton_krylov.optimizers.base import Optimizer, Step, Steps
from newton_krylov.registry import register


class Scaling:
    """Sinkhorn's iterations from given potentials.

    An iteration minimizes the dual over the row potentials, then over the columns'. The plan is
    kept as diag(a) K diag(b), with K the plan at reference potentials, so that an iteration costs
    one product with K and one with its transpose; where a factor grows out of range, the update is
    made in the log domain and K is formed again (the stabilization of Schmitzer, "Stabilized sparse
    scaling algorithms for entropy regularized transport problems", 2019). What all but vanishes in
    K is therefore negligible at all times, however large eta is.

    Parameters
    ----------
    objective : EntropicTransport
        The dual.
    w : Tensor, shape (n + m,)
        Where to start.
    """

    def __init__(self, objective: EntropicTransport, w: Tensor) -> None:
        self._f = objective
        # What all but vanishes in K, times two factors, stays below 1e-226 (float32: 1e-24).
        self._limit = torch.finfo(objective.dtype).max ** (1 / 8)
        self._refer(*objective.potentials(w))

    def _refer(self, x: Tensor, y: Tensor) -> None:
        """Form the kernel at potentials x and y."""
        self._f.counts.add(passes=0.5)
        self._x, self._y = x, y
        self._K = self._f.plan(x, y)
        self._a, self._b = torch.ones_like(x), torch.ones_like(y)
        self._row_product: Tensor | None = None

    def _multiply(self, K: Tensor, v: Tensor) -> Tensor:
        self._f.counts.add(passes=0.5)
        return K @ v

    def iterate(self) -> None:
        """Make one iteration: one pass, and more where a factor is out of range."""
        f = self._f
        a = f.row_marginal / self._rows()
        if self._in_range(a):
            self._a = a
        else:
            self._refer(*self._log_rows())
        b = f.column_marginal / self._multiply(self._K.T, self._a)
        if self._in_range(b):
            self._b = b
        else:
            self._refer(*self._log_columns())
        self._row_product = None

    def point(self) -> TransportPoint:
        """Return where the iterations stand; the next one reuses what value and gradient cost."""
        f = self._f
        # The columns' marginal has just been met.
        sums = self._a * self._rows(), f.column_marginal
        return TransportPoint(f, torch.cat(self.potentials()), sums)

    def _rows(self) -> Tensor:
        """Return K b, shape (n,)."""
        if self._row_product is None:
            self._row_product = self._multiply(self._K, self._b)
        return self._row_product

    def potentials(self) -> tuple[Tensor, Tensor]:
        """Return x, shape (n,), and y, shape (m,)."""
        eta = self._f.eta
        return self._x + self._a.log() / eta, self._y + self._b.log() / eta

    def _in_range(self, factors: Tensor) -> bool:
        return bool(1 / self._limit <= factors.min()) and bool(factors.max() <= self._limit)

    def _log_rows(self) -> tuple[Tensor, Tensor]:
        """Return the best row potentials for the present columns', by log-sum-exp."""
        f = self._f
        f.counts.add(passes=0.5)
        _, y = self.potentials()
        sums = torch.logsumexp(f.log_kernel.add(y, alpha=f.eta), 1)
        return (f.row_marginal.log() - sums) / f.eta, y

    def _log_columns(self) -> tuple[Tensor, Tensor]:
        """Return the best column potentials for the present rows', by log-sum-exp."""
        f = self._f
        f.counts.add(passes=0.5)
        x, _ = self.potentials()
        sums = torch.logsumexp(f.log_kernel.add(x.mul(f.eta)[:, None]), 0)
        return x, (f.column_marginal.log() - sums) / f.eta


def transport_objective(objective: Objective, optimizer: str) -> EntropicTransport:
    """Return the objective if it is the dual of a transport problem.

    Parameters
    ----------
    objective : Objective
        Whatever the run minimizes.
    optimizer : str
        Name of the optimizer, for the message.

    Returns
    -------
    EntropicTransport
        The same object.

    Raises
    ------
    UnsupportedError
        If it is another one.
    """
    if not isinstance(objective, EntropicTransport):
        raise UnsupportedError(
            f"optimizer={optimizer} is for optimal transport alone: choose "
            "loss=entropic_transport and dataset=transport, or another optimizer"
        )
    return objective


@register("optimizer", "sinkhorn", needs=(TRANSPORT_DUAL, ALL_SAMPLES))
class Sinkhorn(Optimizer):
    """Sinkhorn's algorithm: the marginals are met in turn, rows then columns, in every iteration.

    Block coordinate descent on the dual (Cuturi, "Sinkhorn distances: lightspeed computation of
    optimal transport", 2013). After an iteration the columns' marginal is met, and the gradient
    norm is the rows' error. Linear convergence, slow for large eta: tens of thousands of
    iterations are common, of which by default the trace keeps a few hundred.

    Parameters
    ----------
    thinning : float
        What share of the iterations made so far may pass until the next one is recorded, and
        looked at by the stopping criteria; 0 records each.
    """

    def __init__(self, thinning: Annotated[float, Field(ge=0, lt=1)] = 0.01) -> None:
        self.thinning = thinning

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0, whose row potentials are not used; without end."""
        f = transport_objective(objective, "sinkhorn")
        yield Step(f.at(w0), needed=False)
        scaling, done = Scaling(f, w0), 0
        while True:
            count = max(1, int(self.thinning * done))
            for _ in range(count):
                scaling.iterate()
            done += count
            point = scaling.point()
            _ = point.grad_norm  # what a stopping test looks at; the value is no part of the method
            yield Step(point, iterations=count, needed=False)
