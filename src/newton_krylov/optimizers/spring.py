"""Natural gradients in the residuals' space, with momentum: SPRING."""

import torch
from pydantic import PositiveFloat
from torch import Tensor

from newton_krylov.capabilities import SUM_OF_SQUARES
from newton_krylov.objectives.base import Objective
from newton_krylov.optimizers.base import ContinuedOptimizer, Memory, Step, Steps
from newton_krylov.optimizers.levenberg_marquardt import residual_point
from newton_krylov.optimizers.line_search import LineSearch
from newton_krylov.optimizers.training import Momentum
from newton_krylov.registry import register


class LastStep(Memory):
    """The last step, shape (dim,); None before the first."""

    def __init__(self) -> None:
        self.p: Tensor | None = None


@register("optimizer", "spring", needs=(SUM_OF_SQUARES,))
class Spring(ContinuedOptimizer[LastStep]):
    """Subsampled projected-increment natural gradient descent, for residuals.

    Goldshlager, Abrahamsen and Lin, "A Kaczmarz-inspired approach to accelerate the optimization of
    neural network wavefunctions" (2024); for differential equations Guzman-Cordero, Dangel,
    Goldshlager and Zeinhofer, "Improving energy natural gradient descent through Woodbury, momentum
    and randomization" (2025). With q the last step times the momentum, the direction

        p = argmin |r + J p|^2 + mu |p - q|^2 = q - J' (J J' + mu I)^-1 (r + J q)

    keeps of the last step what the new residuals do not speak against. Without momentum it is the
    damped Gauss-Newton direction, which for the square of an equation's residuals is the energy
    natural gradient of Mueller and Zeinhofer (2023). Whichever of J J' and J'J is smaller is
    factored.

    Parameters
    ----------
    line_search : LineSearch
        Chooses the step size along p; where it finds none, the last step is forgotten.
    momentum : float
        In [0, 1).
    damping : float
        mu as a multiple of the loss, so that it vanishes as the equation is solved.
    """

    def __init__(
        self, line_search: LineSearch, momentum: Momentum = 0.5, damping: PositiveFloat = 1e-3
    ) -> None:
        self.line_search, self.momentum, self.damping = line_search, momentum, damping

    def memory(self, objective: Objective, w0: Tensor) -> LastStep:
        """Return a memory without a step."""
        return LastStep()

    def iterate(
        self, objective: Objective, w0: Tensor, memory: LastStep, generator: torch.Generator
    ) -> Steps:
        """Iterate from w0; ends where not even a direction without momentum leads down."""
        point = residual_point(objective.at(w0))
        yield Step(point)
        while point.grad_norm > 0:
            A, mu = point.normal, max(self.damping * point.value, torch.finfo(w0.dtype).tiny)
            if memory.p is None or self.momentum == 0:
                memory.p, p = None, -A.solve(A.b, mu)
            else:
                q = self.momentum * memory.p
                seen = A.aimed(point.r + A.J.matvec(q))
                p = q - seen.solve(seen.b, mu)
            found = self.line_search(point.ray(p))
            if not found.accepted:
                if memory.p is None:
                    return "no step along the natural gradient lowers the loss"
                memory.p = None
                continue
            memory.p, point = found.alpha * p, residual_point(found.point)
            yield Step(point, found.alpha)
        return "the gradient is zero"
