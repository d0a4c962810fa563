"""Sinkhorn-Newton-Sparse."""

import torch
from pydantic import NonNegativeFloat, NonNegativeInt
from torch import Tensor

from newton_krylov.capabilities import ALL_SAMPLES, TRANSPORT_DUAL
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.optimizers.base import Optimizer, Step, Steps
from newton_krylov.optimizers.newton_step import NewtonStep
from newton_krylov.optimizers.sinkhorn import Scaling, transport_objective
from newton_krylov.registry import register


@register("optimizer", "sinkhorn_newton_sparse", needs=(TRANSPORT_DUAL, ALL_SAMPLES))
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
    step : NewtonStep
        The step of the second phase; its parameters are set by name.
    sinkhorn_steps : int
        Iterations of the first phase.
    regularization : float
        Added to the diagonal, in units of eta |g|; 0 adds nothing.
    """

    def __init__(
        self,
        step: NewtonStep,
        sinkhorn_steps: NonNegativeInt = 20,
        regularization: NonNegativeFloat = 1e-3,
    ) -> None:
        self.step = step
        self.sinkhorn_steps = sinkhorn_steps
        self.regularization = regularization

    def steps(self, objective: Objective, w0: Tensor, generator: torch.Generator) -> Steps:
        """Iterate from w0; ends where no direction of descent is left."""
        f = transport_objective(objective, "sinkhorn_newton_sparse")
        point: Point = f.at(w0)
        yield Step(point)
        scaling = Scaling(f, w0)
        for _ in range(self.sinkhorn_steps):
            scaling.iterate()
            point = scaling.point()
            yield Step(point, notes=("sinkhorn",))
        memory = self.step.memory()
        while True:
            shift = self.regularization * f.eta * point.grad_norm
            A = memory.curvature.at(point, generator).affine(shift=shift)
            step = self.step.along(point, A, memory, generator)
            if isinstance(step, str):
                return step
            point = step.point
            yield step
