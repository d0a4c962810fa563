"""What the losses of a regression share: the mean that an output predicts, and its measures."""

import torch
from torch import Tensor

from newton_krylov.data.dataset import Split
from newton_krylov.objectives.linear_model import SingleOutputModel, weighted_mean

_MOST_STEPS = 100


class Regression(SingleOutputModel):
    """A linear model of real-valued targets.

    The loss of a sample is 0 where its target is predicted exactly: half the deviance of a
    distribution, or a distance.
    """

    task = "regression"
    _of_a_constant: tuple[Split, float] | None = None

    def mean(self, Z: Tensor) -> Tensor:
        """Return the targets that outputs predict: the link's inverse."""
        return Z

    def link(self, mean: float) -> float:
        """Return the output that predicts a target."""
        return mean

    def _encode(self, y: Tensor) -> Tensor:
        return y.to(self.dtype)

    def measures(self, w: Tensor, split: Split) -> dict[str, float]:
        """Return the explained share of the loss, and the mean absolute error.

        The share is D2 = 1 - loss / (loss of the best model of an intercept alone), which is R2
        for least squares.
        """
        Z, y = self.outputs_on(w, split), self._encode(split.y)
        found = {
            "mean_absolute_error": float(weighted_mean((self.mean(Z) - y).abs(), split.weights))
        }
        if self._of_a_constant is None or self._of_a_constant[0] is not split:
            self._of_a_constant = split, self._loss_of_a_constant(split)
        constant = self._of_a_constant[1]
        if constant > 0:
            loss = float(self.terms(Z, y, split.weights).value)
            found["d2"] = 1 - loss / constant
        return found

    def _loss_of_a_constant(self, split: Split) -> float:
        """Return the least mean loss of an intercept alone beside the offsets."""
        y = self._encode(split.y)
        offset = torch.zeros_like(y) if split.offset is None else split.offset
        b = self.link(float(weighted_mean(y, split.weights))) - float(offset.mean())
        terms = self.terms(offset + b, y, split.weights)
        for _ in range(_MOST_STEPS):
            value, curvature = float(terms.value), float(terms.weights.sum())
            if not curvature > 0:
                return value
            step = -float(terms.gradient.sum()) / curvature
            new = self.terms(offset + (b + step), y, split.weights)
            while not float(new.value) <= value and abs(step) > 1e-12 * (1 + abs(b)):
                step /= 2
                new = self.terms(offset + (b + step), y, split.weights)
            if not float(new.value) < value * (1 - 1e-12):
                return value
            b, terms = b + step, new
        return float(terms.value)
