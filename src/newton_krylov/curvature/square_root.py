"""Hessians of square-root form, B'B + l2 I with B = D^(1/2) X, which sketches are made of."""

from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Point
from newton_krylov.objectives.linear_model import SingleOutputModel, WeightedGram


def single_output(point: Point, name: str) -> tuple[SingleOutputModel, Tensor]:
    """Return a point's objective and the diagonal of D, or refuse.

    Parameters
    ----------
    point : Point
        Point at which to evaluate.
    name : str
        The curvature that asks, for the message.

    Returns
    -------
    tuple of SingleOutputModel and Tensor, shape (n_samples,)
        D >= 0, from the Gauss-Newton matrix: the Hessian itself for a convex loss.

    Raises
    ------
    UnsupportedError
        If the objective is not a linear model with one output.
    """
    objective, gram = point.objective, point.gauss_newton()
    if not isinstance(objective, SingleOutputModel) or not isinstance(gram, WeightedGram):
        raise UnsupportedError(
            f"hessian_approx={name} needs a Hessian of the form X'DX, which loss="
            f"{getattr(objective, 'name', type(objective).__name__)} does not have; take a linear "
            f"model with one output, or hessian_approx=regularized_subsampled."
        )
    return objective, gram.weights
