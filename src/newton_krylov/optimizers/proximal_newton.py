"""Proximal Newton for penalties with corners: the lasso and the elastic net of linear models."""

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from newton_krylov.capabilities import ALL_SAMPLES, CORNERS, LINEAR_MODEL
from newton_krylov.curvature.base import Curvature
from newton_krylov.errors import UnsupportedError
from newton_krylov.kernels.coordinates import minimize
from newton_krylov.linear_solvers.result import LinearSolver
from newton_krylov.objectives.base import Objective
from newton_krylov.objectives.linear_model import LinearModel, LinearModelPoint
from newton_krylov.operators import LinearOperator, MatrixOperator, RestrictedOperator
from newton_krylov.optimizers.base import ContinuedOptimizer, Step, Steps
from newton_krylov.optimizers.damping import Fixed
from newton_krylov.optimizers.forcing import Forcing, Inner, Outer
from newton_krylov.optimizers.line_search import LineSearch
from newton_krylov.optimizers.newton_step import NewtonMemory
from newton_krylov.preconditioners.base import PreconditionerBuilder
from newton_krylov.registry import register

_MOST_SOLVES = 8
_FIRST_SHIFT, _MOST_SHIFT = 1e-3, 1.0
"""Shift to begin with, and the largest: where columns outnumber samples the first does not do."""
_PRODUCTS = 64.0
"""Of a step, about: each sign that a weight changes takes another solve."""
_FEW_PRODUCTS, _SHARE = 2.0, 16
"""Columns to begin with: their matrix is formed in the time of so many products with all, and has
one number for so many that the data have."""
_GROWTH = 2
_READ = 4
"""How many times the numbers of the data a formed matrix may have, whose products read all."""
_LOOSEST = 0.1
"""Inner tolerance: of looser solves the wrong weights change their signs, and steps get short."""


class ProximalMemory(NewtonMemory):
    """What the method carries from one step to the next.

    Attributes
    ----------
    shift : float
        What is added to the Hessian's diagonal where no ridge makes it regular, in units of its
        mean: ten times less after a step of Newton's, ten times more after another.
    """

    def __init__(self, curvature: Curvature, preconditioner: PreconditionerBuilder) -> None:
        super().__init__(curvature, Fixed(), preconditioner)
        self.shift = _FIRST_SHIFT


@register(
    "optimizer",
    "proximal_newton",
    needs=(LINEAR_MODEL, ALL_SAMPLES),
    offers=(CORNERS,),
)
class ProximalNewton(ContinuedOptimizer[ProximalMemory]):
    """Newton's method for f + sum_j s_j |w_j|, f smooth, on the columns that matter.

    A step minimizes the quadratic model of f plus the penalty (Lee, Sun and Saunders, "Proximal
    Newton-type methods for minimizing composite functions", 2014). Where there are many columns, it
    changes the weights of a working set alone: those that are not 0 and as many again whose
    gradients are the largest in units of s_j, some to begin with. Each step ends with the whole
    gradient, so that all columns are looked at before the next is made.

    The model's Hessian is formed where that is cheap, and coordinate descent finds which weights
    are 0 and the signs of the others, for which a linear system is solved. Elsewhere an active-set
    method, the semismooth Newton method of the model, goes by products alone: the weights that are
    not 0, and those whose gradient exceeds s_j, are free, with the signs that they have or will
    have; a linear system for them is solved; weights that would change their sign are held at 0 and
    the rest is solved for again. A line search along the way to the answer follows. Where that is
    not a way down, a proximal gradient step is made, so that the method converges from anywhere;
    near a minimum the free weights and their signs no longer change, and the steps are Newton's.

    Parameters
    ----------
    solver : LinearSolver
        Solves the systems of the free weights, where no Hessian is formed.
    curvature : Curvature
        What stands for the Hessian of f; positive semidefinite.
    line_search : LineSearch
        Chooses the step size.
    forcing : Forcing
        Chooses the inner tolerance by the least norm of a subgradient.
    preconditioner : PreconditionerBuilder
        Built for each system.
    """

    def __init__(
        self,
        solver: LinearSolver,
        curvature: Curvature,
        line_search: LineSearch,
        forcing: Forcing,
        preconditioner: PreconditionerBuilder,
    ) -> None:
        self.solver, self.curvature, self.line_search = solver, curvature, line_search
        self.forcing, self.preconditioner = forcing, preconditioner

    def memory(self, objective: Objective, w0: Tensor) -> ProximalMemory:
        """Return a memory without an inner solve."""
        return ProximalMemory(*copy.deepcopy((self.curvature, self.preconditioner)))

    def iterate(
        self, objective: Objective, w0: Tensor, memory: ProximalMemory, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends where no step lowers the objective beyond its rounding error."""
        if not isinstance(objective, LinearModel):
            raise UnsupportedError(
                "optimizer=proximal_newton is for losses of linear models, such as loss=logistic."
            )
        return (yield from self.from_point(objective.at(w0), memory, generator))

    def from_point(
        self, point: LinearModelPoint, memory: ProximalMemory, generator: torch.Generator
    ) -> Steps:
        """Iterate from a point, of which something may be known already; see `iterate`."""
        yield Step(point)
        while point.grad_norm > 0:
            index, A = _working_set(point, memory.curvature.at(point, generator))
            A = _formed(A, point.objective.features.entries)
            eta = self.forcing(Outer(point.grad_norm, memory.last))
            eta = min(eta, _LOOSEST) if point.objective.l1 > 0 else eta
            model = _Model(point, A, index, memory.shift)
            while (step := self._step(point, model, memory, eta, generator)) is None:
                if eta <= math.sqrt(torch.finfo(A.dtype).eps):
                    return "no step lowers the loss beyond its rounding error"
                eta *= 1e-3
            assert isinstance(step.point, LinearModelPoint)
            point = step.point
            yield step
        return "a subgradient is zero"

    def _step(
        self,
        point: LinearModelPoint,
        model: "_Model",
        memory: ProximalMemory,
        eta: float,
        generator: torch.Generator,
    ) -> Step | None:
        """Go the first way that leads down; None where none does."""
        known = model.minimizer(eta)
        ways, iterations, residual = known or self._ways(model, memory, eta, generator)
        for p, note in _and_last(ways, model):
            ray = point.ray(torch.zeros_like(point.w).index_copy(0, model.index, p))
            if not ray.slope < 0:
                continue
            found = self.line_search(ray)
            if found.accepted:
                length = 0.0 if note else found.alpha
                memory.last = Inner(eta, point.grad_norm, residual, length)
                memory.shift = min(memory.shift * (10 if note else 0.1), _MOST_SHIFT)
                return Step(found.point, found.alpha, iterations, (note,) if note else ())
        return None

    def _ways(
        self, model: "_Model", memory: ProximalMemory, eta: float, generator: torch.Generator
    ) -> "_Ways":
        """Return ways down the model by products alone.

        Where no weight changes its sign there is one, to the model's minimizer. Else one goes
        straight on to the lowest point along it, at a corner often, and the other holds the
        weights that would change their signs at 0 and solves for the rest again.
        """
        w, signs = model.w, model.signs
        free, held = model.free, torch.zeros_like(w)
        straight: Tensor | None = None
        iterations, residual = 0.0, 0.0
        p = held
        for _ in range(_MOST_SOLVES):
            index = free.nonzero().flatten()
            if len(index) == 0:
                break
            rest = model.downhill - (model.A @ held if bool(held.any()) else 0.0)
            system = RestrictedOperator(model.A, index).affine(shift=model.shift)
            M = memory.preconditioner.build(system, generator)
            inner = self.solver(system, rest[index], rtol=eta, M=M)
            iterations += inner.iterations
            residual = float(inner.residual_norms[-1])
            p = held.index_copy(0, index, inner.x)
            crossing = free & ((w + p) * signs < 0)
            if not bool(crossing.any()):
                break
            wrong = crossing & (w == 0)  # no way down begins with these
            if not bool(wrong.any()) or straight is not None:
                straight = p if straight is None else straight
                wrong = crossing
            free = free & ~wrong
            held = torch.where(wrong, -w, held)
        p = torch.where((w + p) * signs < 0, -w, p)
        if straight is None:
            return [(p, "")], iterations, residual
        ways = [(p, ""), (model.lowest_along(straight), "to a corner")]
        ways.sort(key=lambda way: model.change(way[0]))
        return ways, iterations, residual


_Ways = tuple[list[tuple[Tensor, str]], float, float]
"""Ways down the model, the lowest first, with notes; the iterations, and what residual is left."""


def _and_last(ways: list[tuple[Tensor, str]], model: "_Model") -> Iterator[tuple[Tensor, str]]:
    """Yield the ways, and when none of them has served a proximal gradient step."""
    yield from ways
    yield model.proximal_gradient(), "a proximal gradient step"


def _working_set(point: LinearModelPoint, A: LinearOperator) -> tuple[Tensor, LinearOperator]:
    """Return the numbers of the weights that a step changes, and the operator on them."""
    f = point.objective
    columns = f.dim // f.n_outputs
    every = torch.arange(f.dim, device=point.w.device)
    if f.l1 == 0:
        return every, A
    lasso = f.lasso * torch.ones_like(point.w)
    kept = ((point.w != 0) | (lasso == 0)).view(columns, -1).any(1)
    most, formable = _sizes(f, A)
    most = max(most, _GROWTH * int(kept.sum()))
    if most >= columns or (2 * most >= columns and columns <= formable):
        return every, A
    size = (point.smooth_grad.abs() / lasso).nan_to_num().view(columns, -1).amax(1)
    chosen = torch.where(kept, math.inf, size).topk(most).indices.sort().values
    part = A.of_columns(chosen)
    return (every, A) if part is None else (f.weights_of(chosen), part)


def _sizes(f: LinearModel, A: LinearOperator) -> tuple[int, int]:
    """Return how many columns to begin with, and of how many a matrix may be formed, if it may."""
    forming, columns, numbers = A.forming(), f.dim // f.n_outputs, f.features.entries
    first = math.ceil(math.sqrt(numbers / _SHARE) / f.n_outputs)
    if forming is None:
        return first, columns
    if forming.cost > 0:
        first = min(first, math.ceil(columns * math.sqrt(_FEW_PRODUCTS / forming.cost)))
    return first, math.isqrt(_READ * numbers)


def _formed(A: LinearOperator, numbers: int) -> LinearOperator:
    """Return the matrix, where forming it takes less than the products of a step's solves."""
    forming = A.forming()
    if forming is None or forming.cost > _PRODUCTS:
        return A
    if A.shape[0] ** 2 > _READ * numbers:
        return A
    return MatrixOperator(A.dense())


class _Model:
    """The quadratic model of f at a point, plus the penalty with corners, of some of the weights.

    Parameters
    ----------
    point : LinearModelPoint
        Where it is made.
    A : LinearOperator
        The Hessian of these weights.
    index : Tensor, int64
        Their numbers.
    shift : float
        See `ProximalMemory`.
    """

    def __init__(
        self, point: LinearModelPoint, A: LinearOperator, index: Tensor, shift: float
    ) -> None:
        self.A, self.index = A, index
        self.w, self.g, self.least = point.w[index], point.smooth_grad[index], point.grad[index]
        self.lasso = (point.objective.lasso * torch.ones_like(point.w))[index]
        w, g = self.w, self.g
        self.signs = torch.where(w != 0, torch.sign(w), -torch.sign(g)) * (self.lasso > 0)
        self.free = (w != 0) | (g.abs() > self.lasso)
        self.downhill = -(g + self.lasso * self.signs)
        self.shift = 0.0
        if point.objective.l2 == 0:  # the Hessian may be singular
            unit = float(A.diagonal().mean()) if A.has_diagonal else 1.0
            self.shift = shift * unit * min(1.0, point.grad_norm / (float(self.lasso.max()) or 1.0))

    def minimizer(self, eta: float) -> _Ways | None:
        """Return the way to it by coordinate descent; None where the Hessian is not formed."""
        A = self.A
        if not (
            isinstance(A, MatrixOperator) and A.device.type == "cpu" and bool(self.lasso.any())
        ):
            return None
        H = A.dense().clone()
        H.diagonal().add_(self.shift)
        tolerance = eta * float(self.least.norm())
        x, made, left = minimize(
            H.numpy(), self.lasso.numpy(), self.w.numpy(), self.g.numpy(), tolerance
        )
        return [(torch.from_numpy(x) - self.w, "")], made, left

    def change(self, p: Tensor) -> float:
        """Return by how much p changes the model; one product."""
        smooth = torch.dot(p, self.g + 0.5 * (self.A @ p))
        return float(smooth + (self.lasso * ((self.w + p).abs() - self.w.abs())).sum())

    def lowest_along(self, p: Tensor) -> Tensor:
        """Return the way to the lowest point of the model along p, exactly; one product.

        Along p the model is a parabola whose slope jumps by 2 s_j |p_j| where weight j is 0.
        """
        w = self.w
        crossing = ((w * p < 0) & (self.lasso > 0)).nonzero().flatten()
        places, order = torch.sort(-w[crossing] / p[crossing])
        corners = crossing[order]
        curvature = float(torch.dot(p, self.A @ p))
        corner = torch.where(w == 0, p.abs(), torch.sign(w) * p)
        start = float(torch.dot(self.g, p) + (self.lasso * corner).sum())
        jumps = (2 * self.lasso * p.abs())[corners].cumsum(0)
        after = start + curvature * places + jumps
        beyond = (after >= 0).nonzero().flatten()
        number = int(beyond[0]) if len(beyond) else len(places)
        gained = float(jumps[number - 1]) if number else 0.0
        t = -(start + gained) / curvature if curvature > 0 else math.inf
        if number < len(places) and t >= float(places[number]):
            way = p * places[number]
            way[corners[number]] = -w[corners[number]]
            return way
        return p * min(t, 1.0)

    def proximal_gradient(self) -> Tensor:
        """Return the way to the minimizer of g'v + |v - w|^2 / (2 t) + sum_j s_j |v_j|.

        1 / t is the curvature along the subgradient of least norm.
        """
        s = self.least / self.least.abs().max()  # whose square does not underflow
        curvature = float(torch.dot(s, self.A @ s)) / float(torch.dot(s, s))
        t = 1 / curvature if curvature > 0 else 1.0
        v = self.w - t * self.g
        return torch.sign(v) * (v.abs() - t * self.lasso).clamp(min=0) - self.w
