"""L2-regularized probit regression."""

import math
from functools import cached_property

import torch
from torch import Tensor

from newton_krylov.capabilities import CORNERS, LIKELIHOOD, TABLE
from newton_krylov.objectives.linear_model import (
    SingleOutputModel,
    SingleOutputTerms,
    averaged,
)
from newton_krylov.registry import register

_FAR = -2.0
_FRACTIONS = 80
"""At a margin of -2 or below, so many make the continued fraction right to the last bits."""


class ProbitTerms(SingleOutputTerms):
    """-log Phi(y z) and its derivatives, Phi the normal distribution's; targets are y = -1 or 1."""

    @cached_property
    def _margins(self) -> Tensor:
        return self.targets * self.Z

    @cached_property
    def value(self) -> Tensor:
        """Mean of -log Phi(y z)."""
        return -self.mean(torch.special.log_ndtr(self._margins))

    @cached_property
    def _ratio(self) -> Tensor:
        """phi(m) / Phi(m), the inverse of Mills' ratio at -m."""
        mills: Tensor = torch.special.erfcx(self._margins * -math.sqrt(0.5))
        return math.sqrt(2 / math.pi) / mills

    @cached_property
    def gradient(self) -> Tensor:
        """-y phi(y z) / Phi(y z) / n."""
        return self.averaged(self._ratio * self.targets, -1.0)

    @cached_property
    def weights(self) -> Tensor:
        """R (m + r) / n, r = phi(m) / Phi(m)."""
        m, r = self._margins, self._ratio
        excess = m + r
        far = m < _FAR
        excess[far] = _excess(-m[far])
        return self.averaged(r * excess)

    def drawn(self, generator: torch.Generator) -> Tensor:
        """Return 1 with probability Phi(z), else -1."""
        e = torch.randn(len(self.Z), generator=generator, dtype=torch.float64)
        return torch.where(e.to(self.Z.device) < self.Z, 1, -1).to(self.Z.dtype)


def _excess(x: Tensor) -> Tensor:
    """Return phi(x) / Phi(-x) - x without cancellation: 1 / (x + 2 / (x + 3 / (x + ...)))."""
    tail = x.clone()
    for k in range(_FRACTIONS, 1, -1):
        tail = x + k / tail
    return 1 / tail


@register("loss", "probit", needs=(TABLE,), offers=(LIKELIHOOD,), needs_with={"l1": (CORNERS,)})
class Probit(SingleOutputModel):
    """Probit regression: mean -log Phi(y x'w) + l2/2 |w|^2, y = -1 or 1.

    Phi is the standard normal distribution function. Right at any margin: log Phi by the scaled
    complementary error function, its derivatives by that and by Laplace's continued fraction.

    Parameters
    ----------
    dataset : Dataset
        Data set of two classes; class 1 is y = 1.
    l2, intercept, l1, penalty
        As in `LinearModel`.
    """

    name = "probit"
    task = "binary"
    terms = ProbitTerms

    def _encode(self, y: Tensor) -> Tensor:
        return (2 * y - 1).to(self.dtype)

    def largest_curvatures(self) -> Tensor:
        """Return 1 / n, the limit far on the wrong side."""
        return averaged(torch.ones_like(self._targets), self.sample_weight)
