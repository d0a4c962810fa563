"""L2-regularized binary logistic regression."""

from functools import cached_property

import torch
from torch import Tensor

from newton_krylov.capabilities import CORNERS, LIBLINEAR_LOSS, LIKELIHOOD, SKLEARN_LOGISTIC, TABLE
from newton_krylov.objectives.linear_model import SingleOutputModel, SingleOutputTerms
from newton_krylov.registry import register


class LogisticTerms(SingleOutputTerms):
    """log(1 + exp(-y z)) and its derivatives; targets are y = -1 or 1."""

    loop = "logistic"

    @cached_property
    def value(self) -> Tensor:
        """Mean of log(1 + exp(-y z))."""
        return -self.mean(torch.nn.functional.logsigmoid(self.targets * self.Z))

    @cached_property
    def _wrong(self) -> Tensor:
        """The probability of the wrong class, sigmoid(-y z)."""
        return torch.sigmoid_((self.targets * self.Z).neg_())

    @cached_property
    def gradient(self) -> Tensor:
        """-y sigmoid(-y z) / n."""
        return self.averaged(self._wrong * self.targets, -1.0)

    def drawn(self, generator: torch.Generator) -> Tensor:
        """Return 1 with probability sigmoid(z), else -1."""
        u = torch.rand(len(self.Z), generator=generator, dtype=torch.float64).to(self.Z.device)
        return torch.where(u < torch.sigmoid(self.Z), 1, -1).to(self.Z.dtype)

    @cached_property
    def weights(self) -> Tensor:
        """sigmoid(z) sigmoid(-z) / n."""
        return self.averaged(self._wrong.square().neg_().add_(self._wrong))


@register(
    "loss",
    "logistic",
    needs=(TABLE,),
    offers=(LIKELIHOOD, SKLEARN_LOGISTIC, LIBLINEAR_LOSS),
    needs_with={"l1": (CORNERS,)},
)
class Logistic(SingleOutputModel):
    """Binary logistic regression: mean log(1 + exp(-y x'w)) + l2/2 |w|^2, y = -1 or 1.

    The paper's convex objective (section 0.3.1). Safe at any margin: log(1 + exp(-m)) is
    evaluated as max(-m, 0) + log1p(exp(-|m|)), which neither overflows nor cancels.

    Parameters
    ----------
    dataset : Dataset
        Data set of two classes; class 1 is y = 1.
    l2, intercept, l1, penalty
        As in `LinearModel`.
    """

    name = "logistic"
    task = "binary"
    terms = LogisticTerms

    def _encode(self, y: Tensor) -> Tensor:
        return self._signs(y)
