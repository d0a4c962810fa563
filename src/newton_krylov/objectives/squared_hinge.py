"""L2-regularized squared hinge loss."""

from functools import cached_property

from torch import Tensor

from newton_krylov.capabilities import CORNERS, LIBLINEAR_LOSS, TABLE
from newton_krylov.objectives.linear_model import SingleOutputModel, SingleOutputTerms
from newton_krylov.registry import register


class SquaredHingeTerms(SingleOutputTerms):
    """max(0, 1 - y z)^2 and its derivatives; targets are y = -1 or 1."""

    loop = "squared_hinge"

    @cached_property
    def _short(self) -> Tensor:
        """By how much the margin is missed, max(0, 1 - y z)."""
        return (1 - self.targets * self.Z).clamp_(min=0)

    @cached_property
    def value(self) -> Tensor:
        """Mean of max(0, 1 - y z)^2."""
        return self.mean(self._short.square())

    @cached_property
    def gradient(self) -> Tensor:
        """-2 y max(0, 1 - y z) / n."""
        return self.averaged(self._short * self.targets, -2.0)

    @cached_property
    def weights(self) -> Tensor:
        """2 [y z < 1] / n."""
        return self.averaged((self._short > 0).to(self.Z.dtype), 2.0)


@register(
    "loss", "squared_hinge", needs=(TABLE,), offers=(LIBLINEAR_LOSS,), needs_with={"l1": (CORNERS,)}
)
class SquaredHinge(SingleOutputModel):
    """L2-loss support vector machine: mean max(0, 1 - y x'w)^2 + l2/2 |w|^2, y = -1 or 1.

    Once differentiable with a Lipschitz gradient; the generalized Hessian (Mangasarian, 2002)
    takes the second derivative 2 where y x'w < 1 and 0 elsewhere, as LIBLINEAR does.

    Parameters
    ----------
    dataset : Dataset
        Data set of two classes; class 1 is y = 1.
    l2, intercept, l1, penalty
        As in `LinearModel`.
    """

    name = "squared_hinge"
    task = "binary"
    terms = SquaredHingeTerms

    def _encode(self, y: Tensor) -> Tensor:
        return self._signs(y)
