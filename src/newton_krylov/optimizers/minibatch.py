"""What the stochastic first-order methods share: batches, variance reduction, step sizes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.base import Objective
from newton_krylov.objectives.linear_model import LinearModel
from newton_krylov.optimizers.gd import largest_curvature


def batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of sample numbers without end: one permutation of them all after another.

    Parameters
    ----------
    n : int
        Samples.
    size : int
        Size of a batch; the last one of a permutation may be smaller.
    generator : torch.Generator
        On the CPU.

    Yields
    ------
    Tensor, shape (size,), int64
        Distinct numbers.
    """
    while True:
        yield from torch.split(torch.randperm(n, generator=generator), size)


class GradientTable:
    """Estimates the loss's gradient from a batch and from what is remembered of every sample.

    A linear model's sample gradient is x_i times a number (or a row) d_i, so d_i is all that has
    to be remembered (Schmidt, Le Roux and Bach, "Minimizing finite sums with the stochastic
    average gradient", 2017). With remembered d and their mean gradient G the estimate at w from a
    batch B is mean_B x_i (d_i(w) - d_i) + G, without bias.

    Parameters
    ----------
    objective : LinearModel
        The function; its regularizer is not part of the estimate.
    w : Tensor, shape (dim,)
        Where all samples are first evaluated: one pass.
    """

    def __init__(self, objective: LinearModel, w: Tensor) -> None:
        self._objective = objective
        self.refresh(w)

    def refresh(self, w: Tensor) -> None:
        """Remember every sample as it is at w: one pass."""
        f = self._objective
        f.counts.add(gradient=f.share)
        per_sample = f.at(w).terms.gradient
        self.mean = f.adjoint(per_sample)
        self._d = per_sample * f.n_samples

    def estimate(self, w: Tensor, index: Tensor, *, remember: bool) -> Tensor:
        """Estimate the gradient of the mean loss at w from a batch.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters at which to evaluate.
        index : Tensor, shape (m,), int64
            The batch.
        remember : bool
            Whether these samples are from now on remembered as they are at w.

        Returns
        -------
        Tensor, shape (dim,)
            Without the regularizer.
        """
        index = index.to(w.device)
        part = self._objective.subset(index)
        part.counts.add(gradient=part.share)
        change = part.at(w).terms.gradient * len(index) - self._d[index]
        new = part.adjoint(change).mul_(1 / len(index))
        estimate = new + self.mean
        if remember:
            self._d[index] += change
            self.mean.add_(new, alpha=len(index) / self._objective.n_samples)
        return estimate


def linear_model(objective: Objective, optimizer: str) -> LinearModel:
    """Return the objective, if it is a linear model.

    Parameters
    ----------
    objective : Objective
        What is to be minimized.
    optimizer : str
        Who asks, for the message.

    Returns
    -------
    LinearModel
        The same.

    Raises
    ------
    UnsupportedError
        If it is not one.
    """
    if not isinstance(objective, LinearModel):
        raise UnsupportedError(
            f"optimizer={optimizer} remembers one number for each sample, which needs a linear "
            f"model such as loss=logistic."
        )
    return objective


def smoothness(objective: LinearModel, generator: torch.Generator) -> tuple[float, float]:
    """Return Lipschitz constants of the gradients, of f and of the worst of its samples.

    Parameters
    ----------
    objective : LinearModel
        What is to be minimized.
    generator : torch.Generator
        For Lanczos.

    Returns
    -------
    tuple of float
        L and L_max, the regularizer included.

    Raises
    ------
    ConfigError
        If no bound is known for this loss.
    """
    times, bounds = objective.curvature_bounds()
    of_samples = bounds * objective.features.row_square_norms * objective.n_samples
    steepest = largest_curvature(objective, generator) - objective.l2
    return times * steepest + objective.l2, float(of_samples.max()) + objective.l2


def batch_smoothness(L: float, L_max: float, n: int, size: int) -> tuple[float, float]:
    """Return the expected smoothness of batches and the constant of their noise.

    For batches of b samples without replacement (Gower, Loizou, Qian, Sailanbayev, Shulgin and
    Richtarik, "SGD: general analysis and improved rates", 2019, proposition 3.8).

    Parameters
    ----------
    L, L_max : float
        As in `smoothness`.
    n, size : int
        Samples, and samples in a batch.

    Returns
    -------
    tuple of float
        (n / b) (b - 1) / (n - 1) L + (1 / b) (n - b) / (n - 1) L_max, and its second term alone.
    """
    b = min(size, n)
    if n == 1:
        return L, 0.0
    noise = (n - b) / (b * (n - 1)) * L_max
    return n * (b - 1) / (b * (n - 1)) * L + noise, noise
