"""Sinkhorn-Newton-Sparse."""

import torch
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor

from newton_krylov.curvature.base import Curvature
from newton_krylov.linear_solvers.result import LinearSolver
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import Optimizer, Step, Steps, settled
from newton_krylov.optimizers.forcing import Forcing, Inner
from newton_krylov.optimizers.line_search import LineSearch
from newton_krylov.optimizers.newton import Newton
from newton_krylov.optimizers.sinkhorn import Scaling, transport_objective
from newton_krylov.preconditioners.base import PreconditionerBuilder
from newton_krylov.registry import register


@register("optimizer", "sinkhorn_newton_sparse")
class SinkhornNewtonSparse(Optimizer):
    """Sinkhorn's iterations, then Newton's method on the dual of entropic transport.

    Tang et al., "Accelerating Sinkhorn algorithm with sparse Newton iterations" (ICLR 2024),
    algorithm 1, with `hessian_approx=thresholded_sparse`, `solver=cg`, the diagonal as
    preconditioner and `line_search=armijo`. With the exact Hessian it is the Sinkhorn-Newton
    method. The trace's iterations are those of both phases.

    A sparsified Hessian can be all but singular, where a group of rows and columns exchanges
    hardly any mass with the rest, and the step along such a group is then much too long. The line
    search alone would see to that; here `regularization` eta |g| is added to the diagonal as well,
    in the manner of Levenberg and Marquardt (the follow-up, "Safe and sparse Newton method for
    entropic-regularized optimal transport", NeurIPS 2024, avoids singularity too; that this is its
    rule is not claimed). The system is then positive definite at every point that is not optimal,
    and since the gradient vanishes, convergence stays as fast.

    Parameters
    ----------
    solver : LinearSolver
        Solves the inner system; gets the forcing term as `rtol`.
    curvature : Curvature
        What stands for the Hessian.
    line_search : LineSearch
        Chooses the step size of the Newton phase.
    forcing : Forcing
        Chooses the inner tolerance.
    preconditioner : PreconditionerBuilder
        Built anew at every point.
    sinkhorn_steps : int
        Iterations of the first phase.
    regularization : float
        Added to the diagonal, in units of eta |g|; 0 adds nothing.
    """

    def __init__(
        self,
        solver: LinearSolver,
        curvature: Curvature,
        line_search: LineSearch,
        forcing: Forcing,
        preconditioner: PreconditionerBuilder,
        sinkhorn_steps: NonNegativeInt = 20,
        regularization: NonNegativeFloat = 1e-3,
    ) -> None:
        self.newton = Newton(solver, curvature, line_search, forcing, preconditioner)
        self.sinkhorn_steps = sinkhorn_steps
        self.regularization = regularization

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0; ends by itself where no direction of descent is left."""
        f = transport_objective(objective, "sinkhorn_newton_sparse")
        point = settled(f.at(w0))
        yield Step(point)
        scaling = Scaling(f, w0)
        for _ in range(self.sinkhorn_steps):
            scaling.iterate()
            point = settled(scaling.point())
            yield Step(point, note="sinkhorn")
        last: Inner | None = None
        while True:
            shift = self.regularization * f.eta * point.grad_norm
            A = self.newton.operator(point, generator).affine(shift=shift)
            advanced = self.newton.advance(point, A, last, generator)
            if isinstance(advanced, str):
                return advanced
            step, last = advanced
            point = settled(step.point)
            yield step
