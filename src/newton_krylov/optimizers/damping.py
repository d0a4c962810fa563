"""Damping: the tau of (A + tau I) p = -g, fixed or adapted to what the last step achieved."""

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat

from newton_krylov.operators import LinearOperator
from newton_krylov.registry import register

Factor = Annotated[float, Field(gt=1)]

_POOR, _GOOD = 0.25, 0.75
_EPS, _TINY = sys.float_info.epsilon, sys.float_info.min
_FIRST = 1e-3
"""The first tau of `levenberg_marquardt`, in units of the curvature's largest diagonal entry."""
_SINKS = 10.0
"""By how much Marquardt's tau may fall on mini-batches, unless its lowest value is chosen."""
_GAIN = 1e-4
"""A step is made where f falls by at least this part of what the model promised."""


@dataclass(frozen=True)
class Trial:
    """What a step would change, by the model and in fact.

    Attributes
    ----------
    actual : float
        f(w + p) - f(w); may be nan or infinite.
    predicted : float
        m(p) = g'p + p'A p / 2, the model without damping.
    curvature : float
        p'A p / p'p.
    """

    actual: float
    predicted: float
    curvature: float = 0.0

    @property
    def ratio(self) -> float:
        """Actual / predicted, the gain ratio; 0 where the model said uphill."""
        return self.actual / self.predicted if self.predicted < 0 else 0.0


class Damping(ABC):
    """What is added to the curvature before a Newton step is solved for, and how that changes.

    Every run, and every layer of one, gets a copy of its own. Attributes that change with the
    steps go into `state_dict`.

    Attributes
    ----------
    adaptive : bool
        Whether steps are tried and judged. Then a step that `judge` refuses is not made, and
        nothing else is tried in its place.
    full_steps : bool
        Whether steps are tried at their full length, in the place of the line search: where the
        damping alone is to answer for a step's length.
    note : str
        What a user should know of it at the end of an epoch; often nothing.
    """

    adaptive: ClassVar[bool] = False
    full_steps: ClassVar[bool] = False
    note: str = ""

    @abstractmethod
    def damped(self, A: LinearOperator, generator: torch.Generator) -> LinearOperator:
        """Return the matrix of the Newton system.

        Parameters
        ----------
        A : LinearOperator
            The curvature, symmetric, n by n.
        generator : torch.Generator
            For what is random; on the CPU.

        Returns
        -------
        LinearOperator
            Symmetric, n by n.
        """

    def on_batches(self) -> None:
        """Learn, before the first step, that each is judged by the mini-batch it was made of."""
        return

    def judge(self, trial: Trial) -> bool:
        """Learn from a step, and say whether it is to be made; asked where `adaptive`.

        Parameters
        ----------
        trial : Trial
            What the step would change.

        Returns
        -------
        bool
            Whether to make it.
        """
        return True

    def relax(self, trial: Trial) -> bool:
        """Become smaller, where that may lengthen a step too short to change f measurably.

        Parameters
        ----------
        trial : Trial
            The step; f did not fall, and was not to fall beyond its rounding error.

        Returns
        -------
        bool
            Whether it has become smaller.
        """
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs: numbers and tensors by name."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        return


@register("damping", "fixed")
class Fixed(Damping):
    """The same tau at every step.

    Parameters
    ----------
    tau : float
        At least 0, which adds nothing.
    """

    def __init__(self, tau: NonNegativeFloat = 0.0) -> None:
        self.tau = tau

    def damped(self, A: LinearOperator, generator: torch.Generator) -> LinearOperator:
        """Return A + tau I."""
        return A.affine(shift=self.tau)


@register("damping", "marquardt")
class Marquardt(Damping):
    """A tau that a factor moves by what the last step achieved (Marquardt, 1963).

    The step is judged by the gain ratio of trust-region methods (Nocedal and Wright, "Numerical
    Optimization", 2006, algorithm 4.1; for networks Martens, "Deep learning via Hessian-free
    optimization", 2010),

        rho = (f(w + p) - f(w)) / m(p).

    Below 1/4 the model is not to be trusted that far, and tau grows by `factor`; above 3/4 it
    shrinks by it. A step that does not lower f is not made, and tau grows by `factor` squared.

    Parameters
    ----------
    tau : float
        The first value, above 0.
    factor : float
        By how much tau moves, above 1.
    lowest : float or None
        tau never falls below it. On mini-batches this is what keeps a step from fitting the
        batch: rho judges by the same samples as the model was made of, and sees no fault in it.
        None takes a tenth of the first tau there, and 0 where a step sees all samples.
    """

    adaptive = True

    def __init__(
        self,
        tau: PositiveFloat = 1.0,
        factor: Factor = 2.0,
        lowest: NonNegativeFloat | None = None,
    ) -> None:
        self.chosen = lowest is not None
        self.lowest = lowest or 0.0
        self.tau = max(tau, self.lowest)
        self.factor = factor
        self.refused = False  # the last step

    @property
    def note(self) -> str:  # type: ignore[override]
        """What tau is now."""
        return f"damping {self.tau:.3g}"

    def on_batches(self) -> None:
        """Have a lowest tau, where none was chosen."""
        if not self.chosen:
            self.lowest = self.tau / _SINKS

    def damped(self, A: LinearOperator, generator: torch.Generator) -> LinearOperator:
        """Return A + tau I."""
        return A.affine(shift=self.tau)

    def judge(self, trial: Trial) -> bool:
        """Move tau, and say whether f went down.

        Where it did though m(p) > 0 (the model is not convex along p), the step is good and the
        model is not.
        """
        self.refused = not trial.actual < 0
        if self.refused:
            # From where it changed nothing any more it rises at once to where it may.
            self.tau = max(self.tau * self.factor**2, _EPS * abs(trial.curvature), _TINY)
            return False
        if trial.ratio < _POOR:
            self.tau *= self.factor
        elif trial.ratio > _GOOD:
            self.tau = max(self.tau / self.factor, self.lowest)
        return True

    def relax(self, trial: Trial) -> bool:
        """Go down to the curvature along the step, where tau was above that for no reason."""
        size = max(abs(trial.curvature) / self.factor**2, self.lowest, _TINY)
        if self.refused or not self.tau > max(abs(trial.curvature), size):
            return False
        self.tau = size
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return tau, and whether it was raised last."""
        return {"tau": self.tau, "refused": self.refused}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        self.tau, self.refused = state["tau"], state["refused"]


@register("damping", "levenberg_marquardt")
class LevenbergMarquardt(Damping):
    """A tau that no one has to choose, and that follows the gain ratio rho smoothly.

    Nielsen, "Damping parameter in Marquardt's method" (1999): a step that is made multiplies tau
    by max(1/3, 1 - (2 rho - 1)^3), a continuous function in place of thresholds; each refused one
    multiplies it by nu, and doubles nu, which begins at 2. The first tau is a thousandth of the
    largest diagonal entry of the curvature A; where that would cost a matrix, of b'A b / b'b for a
    random b. The line search is not asked: a step is made at its full length, or not at all.

    Attributes
    ----------
    tau : float or None
        None before the first step.
    nu : float
        The factor of the next refusal.
    """

    adaptive = True
    full_steps = True

    def __init__(self) -> None:
        self.tau: float | None = None
        self.nu = 2.0

    @property
    def note(self) -> str:  # type: ignore[override]
        """What tau is now."""
        return "" if self.tau is None else f"damping {self.tau:.3g}"

    def value(self, A: LinearOperator, generator: torch.Generator | None = None) -> float:
        """Return tau, chosen by the curvature where there is none yet.

        Parameters
        ----------
        A : LinearOperator
            The curvature, symmetric, n by n.
        generator : torch.Generator, optional
            Draws b; on the CPU. A fixed one by default.

        Returns
        -------
        float
            Above 0.
        """
        if self.tau is None:
            if A.has_diagonal:
                size = float(A.diagonal().max())
            else:
                generator = generator or torch.Generator().manual_seed(0)
                b = torch.randn(A.shape[0], generator=generator, dtype=torch.float64)
                b = b.to(A.device, A.dtype)
                size = float(torch.dot(b, A @ b) / torch.dot(b, b))
            tiny = torch.finfo(A.dtype).tiny
            self.tau = _FIRST * max(size, tiny)
        return self.tau

    def damped(self, A: LinearOperator, generator: torch.Generator) -> LinearOperator:
        """Return A + tau I."""
        return A.affine(shift=self.value(A, generator))

    def judge(self, trial: Trial) -> bool:
        """Move tau, and say whether f fell by enough of what was promised."""
        assert self.tau is not None
        if trial.ratio > _GAIN:
            self.tau *= max(1 / 3, 1 - (2 * trial.ratio - 1) ** 3)
            self.nu = 2.0
            return True
        self.tau *= self.nu
        self.nu *= 2.0
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return tau and nu."""
        return {"tau": self.tau, "nu": self.nu}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take tau and nu from a checkpoint."""
        self.tau, self.nu = state["tau"], state["nu"]
