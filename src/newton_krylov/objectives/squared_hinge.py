"""L2-regularized squared hinge loss."""

from pydantic import NonNegativeFloat
from torch import Tensor

from newton_krylov.data.dataset import Dataset
from newton_krylov.objectives.linear_model import SingleOutputModel
from newton_krylov.registry import register


@register("loss", "squared_hinge")
class SquaredHinge(SingleOutputModel):
    """L2-loss support vector machine: mean max(0, 1 - y x'w)^2 + l2/2 |w|^2, y = -1 or 1.

    Once differentiable with a Lipschitz gradient; the generalized Hessian (Mangasarian, 2002)
    takes the second derivative 2 where y x'w < 1 and 0 elsewhere, as LIBLINEAR does.

    Parameters
    ----------
    dataset : Dataset
        Of two classes; class 1 is y = 1.
    l2 : float
        lambda >= 0.
    """

    name = "squared_hinge"
    task = "binary"

    def __init__(self, dataset: Dataset, l2: NonNegativeFloat = 0.01) -> None:
        super().__init__(dataset, l2)

    def _encode(self, y: Tensor) -> Tensor:
        return (2 * y - 1).to(self.dtype)

    def loss(self, Z: Tensor) -> Tensor:
        """Return the mean of max(0, 1 - y z)^2."""
        return (1 - self._targets * Z).clamp_(min=0).square_().mean()

    def loss_gradient(self, Z: Tensor) -> Tensor:
        """Return -2 y max(0, 1 - y z) / n."""
        short = (1 - self._targets * Z).clamp_(min=0)
        return short.mul_(self._targets).mul_(-2 / self.n_samples)

    def weights(self, Z: Tensor) -> Tensor:
        """Return 2 [y z < 1] / n."""
        return (self._targets * Z < 1).to(self.dtype).mul_(2 / self.n_samples)
