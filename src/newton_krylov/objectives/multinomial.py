"""L2-regularized multinomial logistic regression."""

from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from newton_krylov.capabilities import CORNERS, LIKELIHOOD, SKLEARN_LOGISTIC, TABLE
from newton_krylov.objectives.features import Features
from newton_krylov.objectives.free_intercept import class_means, softmax_reach
from newton_krylov.objectives.linear_model import (
    LinearModel,
    LinearModelPoint,
    Terms,
    averaged,
)
from newton_krylov.operators import LinearOperator, add_diagonal
from newton_krylov.registry import register


class MultinomialTerms(Terms):
    """Cross entropy of logits and its derivatives; targets are class indices."""

    @cached_property
    def value(self) -> Tensor:
        """Mean of logsumexp(z) - z_y."""
        if self.sample_weight is None:
            return torch.nn.functional.cross_entropy(self.Z, self.targets)
        return self.mean(torch.nn.functional.cross_entropy(self.Z, self.targets, reduction="none"))

    @cached_property
    def probabilities(self) -> Tensor:
        """softmax(z), shape (n_samples, n_classes)."""
        return torch.softmax(self.Z, 1)

    @cached_property
    def gradient(self) -> Tensor:
        """(softmax(z) - e_y) / n."""
        G = self.probabilities.clone()
        G[torch.arange(len(G), device=G.device), self.targets] -= 1
        return self.averaged(G)

    def drawn(self, generator: torch.Generator) -> Tensor:
        """Return classes drawn with the probabilities softmax(z)."""
        u = torch.rand(len(self.Z), 1, generator=generator, dtype=torch.float64)
        return (self.probabilities.cumsum(1)[:, :-1] < u.to(self.Z.device)).sum(1)


@register(
    "loss",
    "multinomial",
    needs=(TABLE,),
    offers=(LIKELIHOOD, SKLEARN_LOGISTIC),
    needs_with={"l1": (CORNERS,)},
)
class Multinomial(LinearModel):
    """Softmax regression: mean(logsumexp(W'x) - (W'x)_y) + l2/2 |W|^2.

    W has a column for each class and lies in w row by row: shape (n_features, n_classes). The
    parametrization is symmetric (no class is the reference), so without l2 the optimum is not
    unique.

    Parameters
    ----------
    dataset : Dataset
        Data set of more than two classes.
    l2, intercept, l1, penalty
        As in `LinearModel`.
    """

    name = "multinomial"
    task = "multiclass"
    terms = MultinomialTerms

    def _bind(
        self,
        features: Features,
        y: Tensor,
        weights: Tensor | None,
        offset: Tensor | None,
        targets: Tensor | None = None,
    ) -> None:
        super()._bind(features, y, weights, offset, targets)
        vars(self).pop("_class_means", None)  # of other data

    def hessian_at(self, point: LinearModelPoint) -> LinearOperator:
        """Return the Hessian of f at a point."""
        return SoftmaxGram(self, cast(MultinomialTerms, point.terms).probabilities)

    def curvature_bounds(self) -> tuple[float, Tensor]:
        """Bound diag(p) - p p' by (I - 1 1'/K) / 2; at w = 0, where p is 1/K, it is 2/K of that.

        Boehning, "Multinomial logistic regression algorithm" (1992).
        """
        halves = torch.full_like(self.features.row_square_norms, 0.5)
        return self.n_outputs / 2, averaged(halves, self.sample_weight)

    def reach(self, point: LinearModelPoint, radius: float, enough: float) -> float:
        """Bound how far free intercepts are from their values at a minimum W*, |W*| <= radius."""
        return softmax_reach(point.w[-self.n_outputs :], point.value, radius, self._class_means)

    @cached_property
    def _class_means(self) -> list[tuple[float, float]]:
        return class_means(self.features, self.y, self.sample_weight, self.n_outputs)


class SoftmaxGram(LinearOperator):
    """The Hessian of the mean cross entropy of linear logits plus diag(ridge), matrix-free.

    Per sample the block of logits is (diag(p) - p p') / n.

    Parameters
    ----------
    objective : Multinomial
        Gives X, the L2 term and the counts.
    P : Tensor, shape (n_samples, n_classes)
        Probabilities.
    """

    def __init__(self, objective: Multinomial, P: Tensor) -> None:
        super().__init__(objective.dim, objective.dtype, objective.device)
        self._objective = objective
        self._P = P

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (dim,): one pass over the data."""
        f = self._objective
        f.counts.add(hvp=f.share)
        T = f.outputs(v).mul_(self._P)
        T.addcmul_(self._P, T.sum(1, keepdim=True), value=-1)
        return add_diagonal(f.adjoint(averaged(T, f.sample_weight)), v, f.ridge)

    def of_columns(self, columns: Tensor) -> "SoftmaxGram | None":
        """Return the same sum with some of the columns."""
        part = self._objective.of_columns(columns)
        return None if part is None else SoftmaxGram(cast(Multinomial, part), self._P)

    def dense(self) -> Tensor:
        """Form the matrix, shape (dim, dim), block by block of two classes."""
        f, P, K = self._objective, self._P, self._P.shape[1]
        f.counts.add(hessian=f.share, passes=f.share)
        d = f.dim // K
        blocks = torch.empty(d, K, d, K, dtype=self.dtype, device=self.device)
        for a in range(K):
            for b in range(a, K):
                own = P[:, a] if a == b else torch.zeros_like(P[:, a])
                block = f.features.gram(averaged(own - P[:, a] * P[:, b], f.sample_weight))
                blocks[:, a, :, b] = block
                blocks[:, b, :, a] = block
        matrix = blocks.reshape(f.dim, f.dim)
        matrix.diagonal().add_(f.ridge)
        return matrix

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (dim,): half a pass over the data."""
        f = self._objective
        f.counts.add(passes=0.5 * f.share)
        weights = averaged(self._P - self._P.square(), f.sample_weight)
        return f.features.column_square_sums(weights).reshape(-1).add_(f.ridge)
