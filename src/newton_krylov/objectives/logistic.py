"""L2-regularized binary logistic regression."""

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from newton_krylov.data.dataset import Dataset
from newton_krylov.objectives.linear_model import SingleOutputModel
from newton_krylov.registry import register


@register("loss", "logistic")
class Logistic(SingleOutputModel):
    """Binary logistic regression: mean log(1 + exp(-y x'w)) + l2/2 |w|^2, y = -1 or 1.

    The paper's convex objective (section 0.3.1). Exact at any margin: log(1 + exp(-m)) is
    evaluated as max(-m, 0) + log1p(exp(-|m|)), and the second derivative as the product of the
    two probabilities, neither of which cancels.

    Parameters
    ----------
    dataset : Dataset
        Of two classes; class 1 is y = 1.
    l2 : float
        lambda >= 0.
    """

    name = "logistic"
    task = "binary"

    def __init__(self, dataset: Dataset, l2: NonNegativeFloat = 0.01) -> None:
        super().__init__(dataset, l2)

    def _encode(self, y: Tensor) -> Tensor:
        return (2 * y - 1).to(self.dtype)

    def loss(self, Z: Tensor) -> Tensor:
        """Return the mean of log(1 + exp(-y z))."""
        return -torch.nn.functional.logsigmoid(self._targets * Z).mean()

    def loss_gradient(self, Z: Tensor) -> Tensor:
        """Return -y sigmoid(-y z) / n."""
        wrong = torch.sigmoid_(-self._targets * Z)
        return wrong.mul_(self._targets).mul_(-1 / self.n_samples)

    def weights(self, Z: Tensor) -> Tensor:
        """Return sigmoid(z) sigmoid(-z) / n."""
        return torch.sigmoid(Z).mul_(torch.sigmoid_(-Z)).mul_(1 / self.n_samples)
