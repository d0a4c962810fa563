"""Levenberg-Marquardt: Gauss-Newton steps whose damping follows the gain, for residuals."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from newton_krylov.capabilities import SUM_OF_SQUARES
from newton_krylov.errors import UnsupportedError
from newton_krylov.linear_solvers.result import LinearSolver
from newton_krylov.norms import euclidean
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.objectives.residual.gauss_newton import GaussNewtonOperator
from newton_krylov.objectives.residual.objective import ResidualPoint
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, State, Step, Steps
from newton_krylov.optimizers.damping import LevenbergMarquardt as LevenbergMarquardtRule
from newton_krylov.optimizers.damping import Trial
from newton_krylov.optimizers.forcing import Forcing, Outer
from newton_krylov.rectangular import Scaled
from newton_krylov.registry import register

Scaling = Literal["none", "jacobian"]

_BEND = 0.75
"""The correction is made while twice its length is at most this part of the step's."""
_FORGET = 0.9
"""What is left of the columns' old norms in every step."""
_STALE = 1e3
"""A column's old norm counts for at most this times its present one."""
_TRIALS = 60


@dataclass(frozen=True)
class TrialStep:
    """A step that has been tried.

    Attributes
    ----------
    point : ResidualPoint
        Where it leads.
    p : Tensor, shape (dim,)
        The step.
    actual, predicted : float
        The decrease of f, and that of the undamped model; at least 0.
    iterations : int
        Iterations of the linear solver.
    accepted : bool
        Whether the step is to be made.
    """

    point: ResidualPoint
    p: Tensor
    actual: float
    predicted: float
    iterations: int
    accepted: bool


class LevenbergMarquardtStep:
    """Makes the trials of one step after another; what outlives a step is in `state_dict`.

    Parameters
    ----------
    solver : LinearSolver
        Solver of (J'J + mu D^2) p = -J'r: `exact` works in the smaller of the spaces of weights and
        of residuals, `qr`, `lsmr` and `lsqr` with J itself.
    scaling : {"none", "jacobian"} or Tensor, shape (dim,)
        D: ones; the norms of J's columns, by which a change of the parameters' units changes
        nothing; or given. Of the norms the largest so far count (Moré 1978), but a tenth of the
        old ones is forgotten in every step: a start where the model explodes would hold the
        columns down for good.
    acceleration : bool
        Whether to follow the geodesic to second order (Transtrum and Sethna 2012): with r'' the
        second derivative of the residuals along p, p + a / 2 where (J'J + mu D^2) a = -J'r''.
    """

    def __init__(
        self, solver: LinearSolver, scaling: Scaling | Tensor = "none", acceleration: bool = False
    ) -> None:
        self.solver, self.scaling, self.acceleration = solver, scaling, acceleration
        self.damping = LevenbergMarquardtRule()
        self._D = scaling if isinstance(scaling, Tensor) else None
        self._plain = not isinstance(scaling, Tensor) and scaling == "none"

    def trials(self, point: ResidualPoint, rtol: float) -> Iterator[TrialStep]:
        """Try steps with more and more damping; ends after one that is to be made.

        Parameters
        ----------
        point : ResidualPoint
            Point at which to evaluate.
        rtol : float
            Tolerance of the linear solver.

        Yields
        ------
        TrialStep
            At least one.
        """
        A = self._scaled(point, rtol)
        while True:
            trial = self._trial(point, A, rtol)
            yield trial
            if trial.accepted:
                return

    def state_dict(self) -> State:
        """Return what the next step needs."""
        return {"damping": self.damping.state_dict(), "D": self._D}

    def load_state_dict(self, state: State) -> None:
        """Restore a state."""
        self.damping.load_state_dict(state["damping"])
        self._D = state["D"]

    def _scaled(self, point: ResidualPoint, rtol: float) -> GaussNewtonOperator:
        """Return the operator of z = D w, in which the damping is mu I."""
        A = point.normal
        if self._plain:
            return A
        if not isinstance(self.scaling, Tensor):
            norms = A.diagonal().sqrt()
            self._D = norms if self._D is None else torch.maximum(self._D * _FORGET, norms)
            stale = (norms > 0) & (
                _STALE * norms < self._D
            )  # J / D would lose its rank by rounding
            self._D = torch.where(stale, _STALE * norms, self._D)
            self._D = torch.where(self._D > 0, self._D, torch.ones_like(self._D))
        assert self._D is not None
        f = point.objective
        J = Scaled(A.J, columns=self._D.reciprocal())
        scaled = GaussNewtonOperator(J, A.u, f.memory, f.counts, f.share)
        if self.damping.tau is None:
            self._begin(scaled, euclidean(self._D * point.w), rtol)
        return scaled

    def _begin(self, A: GaussNewtonOperator, size: float, rtol: float) -> None:
        """Choose the first damping so that the step is no longer than w itself, as Moré does."""
        mu = self.damping.value(A)
        while 0 < size < euclidean(self.solver(A.affine(shift=mu), -A.b, rtol=rtol).x):
            mu *= 4
        self.damping.tau = mu

    def _trial(self, point: ResidualPoint, A: GaussNewtonOperator, rtol: float) -> TrialStep:
        mu = self.damping.value(A)
        inner = self.solver(A.affine(shift=mu), -A.b, rtol=rtol)
        z, iterations = inner.x, inner.iterations
        # -g'z - |J z|^2 / 2 for z near (J'J + mu I)^-1 (-g), without a difference of large numbers.
        predicted = euclidean(A.image(z)) ** 2 / 2 + mu * euclidean(z) ** 2
        if self.acceleration:
            bend = A.aimed(point.bend(self._unscaled(z)))
            second = self.solver(bend.affine(shift=mu), -bend.b, rtol=rtol)
            iterations += second.iterations
            if euclidean(second.x) <= _BEND * euclidean(z):  # 2 |a / 2| <= bound |z|
                z = z + second.x / 2
        p = self._unscaled(z)
        there = point.objective.at(point.w + p)
        actual = point.decrease(there)
        accepted = self.damping.judge(Trial(-actual, -predicted))
        return TrialStep(there, p, actual, predicted, iterations, accepted)

    def _unscaled(self, z: Tensor) -> Tensor:
        return z if self._D is None else z / self._D


@register("optimizer", "levenberg_marquardt", needs=(SUM_OF_SQUARES,))
class LevenbergMarquardt(ContinuedOptimizer["LevenbergMarquardtMemory"]):
    """Levenberg-Marquardt for residual objectives; its damping needs no setting.

    Levenberg (1944), Marquardt (1963), with Nielsen's rule (see `damping.LevenbergMarquardt`) and,
    if asked for, geodesic acceleration. It ends where no step lowers the loss beyond its rounding.

    Parameters
    ----------
    solver : LinearSolver
        Solver of the damped Gauss-Newton system; gets the forcing term as `rtol`.
    forcing : Forcing
        Chooses the inner tolerance.
    scaling : {"none", "jacobian"}
        What the damping is a multiple of: the identity, or the largest norms so far of J's
        columns, for parameters of different units.
    acceleration : bool
        Geodesic acceleration: one more solve and a second derivative for each trial.
    """

    def __init__(
        self,
        solver: LinearSolver,
        forcing: Forcing,
        scaling: Scaling = "none",
        acceleration: bool = False,
    ) -> None:
        self.solver, self.forcing = solver, forcing
        self.scaling: Scaling = scaling
        self.acceleration = acceleration

    def memory(self, objective: Objective, w0: Tensor) -> "LevenbergMarquardtMemory":
        """Return the damping and the scaling of a new run."""
        return LevenbergMarquardtMemory(
            LevenbergMarquardtStep(self.solver, self.scaling, self.acceleration)
        )

    def iterate(
        self,
        objective: Objective,
        w0: Tensor,
        memory: "LevenbergMarquardtMemory",
        generator: torch.Generator,
    ) -> Steps:
        """Iterate from w0; ends where no step lowers the loss beyond its rounding."""
        point = residual_point(objective.at(w0))
        yield Step(point)
        while point.grad_norm > 0:
            rtol = self.forcing(Outer(point.grad_norm, None))
            tried = iterations = 0
            for trial in memory.step.trials(point, rtol):
                tried, iterations = tried + 1, iterations + trial.iterations
                hopeless = trial.predicted <= objective.rounding(point.value)
                if not trial.accepted and (hopeless or tried == _TRIALS):
                    return "no step lowers the loss beyond its rounding error"
            point = trial.point
            notes = [memory.step.damping.note]
            if tried > 1:
                notes.append(f"{tried - 1} refused")
            yield Step(point, 1.0, iterations, tuple(notes))
        return "the gradient is zero"


class LevenbergMarquardtMemory(Memory):
    """What is carried from one step to the next.

    Parameters
    ----------
    step : LevenbergMarquardtStep
        The step, with its damping and scaling.
    """

    def __init__(self, step: LevenbergMarquardtStep) -> None:
        self.step = step


def residual_point(point: Point) -> ResidualPoint:
    """Return a point of a residual objective.

    Raises
    ------
    UnsupportedError
        If its objective is another.
    """
    if not isinstance(point, ResidualPoint):
        raise UnsupportedError(
            "optimizer=levenberg_marquardt needs residuals: take loss=residual, "
            f"not a {type(point.objective).__name__}."
        )
    return point
