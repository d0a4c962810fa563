"""The dual of entropic optimal transport, minimized.

The primal problem is to move a row marginal r to a column marginal c at the least cost,

    min  <C, P> + 1/eta sum_ij P_ij log P_ij   over P >= 0 with P 1 = r and P' 1 = c,

and its dual, with a potential for each row and each column, to minimize the convex

    f(x, y) = 1/eta sum_ij P_ij - r'x - c'y,   P_ij = exp(eta (x_i + y_j - C_ij) - 1).

f is the negative of the potential that Tang et al. ("Accelerating Sinkhorn algorithm with sparse
Newton iterations", ICLR 2024) maximize. Its gradient is the marginals' error, (P 1 - r, P' 1 - c),
and its Hessian eta [[diag(P 1), P], [P', diag(P' 1)]]. The potentials have a gauge: f is the same
at (x + t, y - t), so the Hessian is singular along (1, -1), to which every gradient is orthogonal.
"""

import math
from functools import cached_property

import torch
from pydantic import PositiveFloat
from torch import Tensor

from newton_krylov.capabilities import TRANSPORT, TRANSPORT_DUAL
from newton_krylov.data.dataset import Dataset, TransportProblem
from newton_krylov.errors import CombinationError, UnsupportedError
from newton_krylov.objectives.base import Counts, Objective, Point
from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register


@register("loss", "entropic_transport", needs=(TRANSPORT,))
class EntropicTransport(Objective):
    """Negative dual of entropic optimal transport; w holds the row potentials, then the columns'.

    One pass over the data is one evaluation of the plan P with both its marginals, or one product
    with the plan and one with its transpose; half of that counts half. Evaluation is in the log
    domain: P is formed as one exponential, which far from the optimum can overflow to inf (and
    the value with it, so a line search shortens its step) but is never nan.

    Parameters
    ----------
    dataset : Dataset
        A transport problem.
    eta : float
        Inverse strength of the entropy, relative to the largest cost: the unit of 1/eta is
        max |C|, so scaling the cost changes nothing but the unit of f.

    Attributes
    ----------
    row_marginal, column_marginal : Tensor, shapes (n,) and (m,)
        r and c.
    eta : float
        In the unit of 1 / cost.
    log_kernel : Tensor, shape (n, m)
        -eta C - 1.
    """

    convexity = 0.0
    certified = True  # by weak duality
    offers = frozenset({TRANSPORT_DUAL})

    def __init__(self, dataset: Dataset, eta: PositiveFloat = 1200.0) -> None:
        if not isinstance(dataset, TransportProblem):
            raise CombinationError(
                f"loss=entropic_transport needs a transport problem (dataset=transport), "
                f"but dataset={dataset.name} is none."
            )
        cost = dataset.cost
        n, m = cost.shape
        self.dim, self.n_samples = n + m, n
        self.dtype, self.device = cost.dtype, cost.device
        self.counts = Counts()
        self._marginals = _of_one_total(dataset.row_marginal, dataset.column_marginal)
        self.row_marginal, self.column_marginal = self._marginals[:n], self._marginals[n:]
        self._largest_cost = float(cost.abs().max()) or 1.0
        self.eta = eta / self._largest_cost
        self.log_kernel = cost.mul(-self.eta).sub_(1)
        self._least = math.log(torch.finfo(self.dtype).tiny) + 8

    def at(self, w: Tensor) -> "TransportPoint":
        """Evaluate at the potentials w = (x, y), shape (n + m,)."""
        if w.shape != (self.dim,):
            raise ValueError(f"expected w of shape ({self.dim},), got {tuple(w.shape)}")
        return TransportPoint(self, w)

    def subset(self, index: Tensor) -> "EntropicTransport":
        """Refuse: the rows of a transport problem are no samples of a mean."""
        raise UnsupportedError(
            "a transport problem has no samples to draw from: choose hessian_approx=hvp, exact, "
            "diagonal or thresholded_sparse"
        )

    def potentials(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Split w into the row potentials x, shape (n,), and the columns' y, shape (m,)."""
        return w[: self.n_samples], w[self.n_samples :]

    def log_plan(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log P, shape (n, m), at potentials of shapes (n,) and (m,)."""
        return self.log_kernel.add(x.mul(self.eta)[:, None]).add_(y, alpha=self.eta)

    def plan(self, x: Tensor, y: Tensor) -> Tensor:
        """Return P, shape (n, m), at potentials of shapes (n,) and (m,).

        No entry is below e^8 times the smallest normal number, a positive amount that no sum
        notices: an exponential that underflows takes six times as long as one that does not.
        """
        return self.log_plan(x, y).clamp_(min=self._least).exp_()

    def rounding(self, value: float) -> float:
        """Return how far a computed value can be off by rounding alone.

        The terms of f cancel, and the potentials are as large as the costs, so the bound is
        relative to the mass times the largest cost where that is more than the value.
        """
        mass = float(self.row_marginal.sum())
        return super().rounding(max(abs(value), mass * self._largest_cost))

    def suboptimality_bound(self, point: Point) -> float:
        """Return a bound on f(w) - min f, from weak duality, with no cancellation.

        The plan P at w is turned into one, Q, that has the right marginals. The gap between the
        primal value of Q and the dual value at w is then exactly
        1/eta sum_ij (Q log(Q/P) - Q + P), a sum of terms that are not negative. Q is made in two
        steps: P (1 + eta (dx + dy)) with the Newton step (dx, dy), whose marginals are right and
        whose gap is half the squared Newton decrement, as long as it is positive; then, for what is
        left, the rounding of Altschuler, Weed and Rigollet ("Near-linear time approximation
        algorithms for optimal transport via Sinkhorn iteration", 2017, algorithm 2).

        Parameters
        ----------
        point : Point
            Point at which to evaluate.

        Returns
        -------
        float
            At least f(w) - min f, apart from the rounding of f itself; inf where the plan
            overflows. O((n + m) m^2) work.
        """
        log_plan = self.log_plan(*self.potentials(point.w))
        P = log_plan.exp()
        if not torch.isfinite(P).all():
            return math.inf
        Q = _rounded(
            _corrected(P, self.row_marginal, self.column_marginal),
            self.row_marginal,
            self.column_marginal,
        )
        # With t = Q/P - 1 a term is P ((1 + t) log(1 + t) - t): near t = 0 its series, since the
        # difference cancels; elsewhere by logarithms, since P may have vanished.
        t = Q.div(P).sub_(1)
        near = P * t.square() * (0.5 - t * (1 / 6 - t * (1 / 12 - t / 20)))
        apart = Q * (Q.log() - log_plan) - Q + P
        terms = torch.where(t.abs() < 1e-2, near, torch.where(Q > 0, apart, P))
        return float(terms.sum()) / self.eta


def _of_one_total(rows: Tensor, columns: Tensor) -> Tensor:
    """Return both marginals, the second scaled to the first's total.

    Totals that differ, even by the rounding of float32 data, leave no plan with these marginals,
    and the dual unbounded along its gauge.
    """
    return torch.cat([rows, columns * (rows.sum() / columns.sum())])


def _corrected(P: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """Return P (1 + u_i + v_j) with marginals r and c, or P where that is not positive."""
    rows, columns = P.sum(1), P.sum(0)
    scaled = P / rows[:, None]
    # The row unknowns eliminated; the gauge direction, a null vector, is filled.
    schur = torch.diag(columns) - P.T @ scaled
    schur += columns.mean() / len(c)
    factor, failed = torch.linalg.cholesky_ex(schur)
    missing_r, missing_c = r - rows, c - columns
    v = torch.cholesky_solve((missing_c - scaled.T @ missing_r)[:, None], factor)[:, 0]
    u = (missing_r - P @ v) / rows
    factors = 1 + u[:, None] + v
    return P if failed or not (factors > 0).all() else P * factors


def _rounded(P: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """Return a matrix with marginals r and c, near P where P's are near."""
    Q = P * (r / P.sum(1)).clamp(max=1)[:, None]
    Q *= (c / Q.sum(0)).clamp(max=1)
    missing_r, missing_c = (r - Q.sum(1)).clamp(min=0), (c - Q.sum(0)).clamp(min=0)
    missing = missing_r.sum()
    return Q if missing == 0 else Q + missing_r[:, None] * (missing_c / missing)


class TransportPoint(Point):
    """The dual at one pair of potentials.

    Parameters
    ----------
    objective : EntropicTransport
        Objective whose point it is.
    w : Tensor, shape (n + m,)
        Potentials.
    marginals : pair of Tensor, shapes (n,) and (m,), optional
        Row and column sums of the plan at w, where they are known: value and gradient then cost
        no pass.
    """

    objective: EntropicTransport

    def __init__(
        self,
        objective: EntropicTransport,
        w: Tensor,
        marginals: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__(objective, w)
        if marginals is not None:
            self.marginals = marginals

    @cached_property
    def plan(self) -> Tensor:
        """P, shape (n, m): half a pass."""
        f = self.objective
        f.counts.add(passes=0.5)
        return f.plan(*f.potentials(self.w))

    @cached_property
    def marginals(self) -> tuple[Tensor, Tensor]:
        """The plan's row and column sums, shapes (n,) and (m,): half a pass beyond the plan."""
        plan = self.plan
        self.objective.counts.add(passes=0.5)
        return plan.sum(1), plan.sum(0)

    @cached_property
    def value(self) -> float:
        """f(w)."""
        f = self.objective
        rows, _ = self.marginals
        f.counts.add(function=1)
        return float(rows.sum() / f.eta - torch.dot(f._marginals, self.w))

    @cached_property
    def grad(self) -> Tensor:
        """The marginals' error, shape (n + m,)."""
        f = self.objective
        rows, columns = self.marginals
        f.counts.add(gradient=1)
        return torch.cat([rows, columns]).sub_(f._marginals)

    def hessian(self) -> "TransportHessian":
        """Return the Hessian at w, shape (n + m, n + m), positive semidefinite."""
        return TransportHessian(self)


class TransportHessian(LinearOperator):
    """eta [[diag(P 1), P], [P', diag(P' 1)]] by products with the plan.

    Parameters
    ----------
    point : TransportPoint
        Gives the plan and its marginals.
    """

    def __init__(self, point: TransportPoint) -> None:
        f = point.objective
        super().__init__(f.dim, f.dtype, f.device)
        self._f = f
        self._plan = point.plan
        self._diagonal = torch.cat(point.marginals).mul_(f.eta)

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n + m,): one pass."""
        return self._product(v, 1).addcmul_(self._diagonal, v)

    def matmat(self, V: Tensor) -> Tensor:
        """Multiply by the columns of V, shape (n + m, k): k passes."""
        return self._product(V, V.shape[1]).addcmul_(self._diagonal[:, None], V)

    def _product(self, V: Tensor, count: int) -> Tensor:
        """Multiply by the off-diagonal blocks."""
        self._f.counts.add(hvp=count, passes=count)
        n = self._plan.shape[0]
        return torch.cat([self._plan @ V[n:], self._plan.T @ V[:n]]).mul_(self._f.eta)

    def dense(self) -> Tensor:
        """Form the matrix, shape (n + m, n + m)."""
        self._f.counts.add(hessian=1, passes=1)
        n = self._plan.shape[0]
        matrix = torch.diag(self._diagonal)
        matrix[:n, n:] = self._plan * self._f.eta
        matrix[n:, :n] = matrix[:n, n:].T
        return matrix

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (n + m,), which is known."""
        return self._diagonal.clone()

    def largest_off_diagonal(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the largest entries above the diagonal that matter: half a pass.

        Entries so small that all of them together are lost in the rounding of the plan's mass are
        left out: most are, and to find the largest of the others is ten times as fast.

        Parameters
        ----------
        count : int
            How many at most.

        Returns
        -------
        rows, columns : Tensor, shape (k,), int64
            Indices of the entries; rows < columns.
        values : Tensor, shape (k,)
            Values of these entries.
        """
        self._f.counts.add(passes=0.5)
        n, m = self._plan.shape
        entries = self._plan.flatten()
        index = (entries > torch.finfo(self.dtype).eps * entries.mean()).nonzero()[:, 0]
        if len(index) > count:
            index = index[entries[index].topk(count, sorted=False).indices]
        return index // m, index % m + n, entries[index] * self._f.eta
