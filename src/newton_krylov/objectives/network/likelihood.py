"""Targets drawn from the model's own predictions, for the Fisher matrix by Monte Carlo.

Where a loss is a negative log-likelihood, its Fisher matrix is the expectation of g g' over targets
drawn from the model. Of a mean over several outputs of a sample the draws are scaled so that the
expectation is the Gauss-Newton matrix of that very mean.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Draw = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor | float]]
"""(outputs, targets, generator) -> drawn targets, and by what each row's gradient is scaled."""


def likelihood(criterion: Any) -> Draw | None:
    """Return how targets are drawn for one of torch's losses, or a criterion's own `draw`.

    None for a criterion that is not known to be a likelihood.
    """
    if hasattr(criterion, "draw"):
        own: Draw = criterion.draw
        return own
    function, options = criterion, {}
    if isinstance(criterion, nn.Module):
        function = _FUNCTIONS.get(type(criterion))
        options = {name: value for name, value in vars(criterion).items() if name in _MATTERS}
        options |= {name: value for name, value in criterion._buffers.items() if name in _MATTERS}
    elif isinstance(criterion, functools.partial):
        function, options = criterion.func, criterion.keywords
    weighted, smoothed = options.get("weight") is not None, options.get("label_smoothing", 0) > 0
    if function not in _DRAWS or weighted or smoothed:
        return None
    draw: Draw = _DRAWS[function]
    if "ignore_index" in options:
        of_classes: Any = draw  # the only losses that leave out a class
        return functools.partial(of_classes, ignored=options["ignore_index"])
    return draw


def drawn_gradient(
    loss: Callable[[Tensor, Tensor], Tensor],
    draw: Draw,
    outputs: Tensor,
    y: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the gradient by the outputs of a loss at drawn targets, each row's scaled."""
    z = outputs.detach().double()
    targets, scale = draw(z, y, generator)
    with torch.enable_grad():
        free = z.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(free, targets), free)
    return gradient * scale


def gaussian(variance: float) -> Draw:
    """Return draws of normal targets, for squared errors whose Hessian is 1 / variance."""

    def draw(z: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        return z.reshape(y.shape) + variance**0.5 * _normal(z.reshape(y.shape), generator), 1.0

    return draw


def _squares(z: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | float]:
    """Draw for the mean of squares over each row's outputs, whose Hessian is 2 / count."""
    return gaussian(math.prod(z.shape[1:]) / 2)(z, y, generator)


def _bernoulli(p: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    return (_uniform(p, generator) < p).to(y.dtype), math.prod(p.shape[1:]) ** 0.5


def bernoulli_of_logits(z: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """Draw targets of 0 and 1 from logits, for the mean over all of a sample's outputs."""
    return _bernoulli(torch.sigmoid(z), y, generator)


def _class(
    p: Tensor, y: Tensor, generator: torch.Generator, ignored: int = -100
) -> tuple[Tensor, Tensor | float]:
    """Draw classes, dimension 1 of p, by the inverse of their distribution function."""
    u = _uniform(p[:, :1], generator)
    drawn = (p.cumsum(1)[:, :-1] < u).sum(1)
    if y.is_floating_point():  # classes as vectors of probabilities
        one_hot = F.one_hot(drawn, p.shape[1]).movedim(-1, 1)
        return one_hot.to(y.dtype), drawn[0].numel() ** 0.5
    counted = y != ignored
    places = counted.reshape(len(y), -1).sum(1).double()
    return torch.where(counted, drawn, y), places.sqrt().view(-1, *[1] * (p.ndim - 1))


def _class_of_logits(
    z: Tensor, y: Tensor, generator: torch.Generator, ignored: int = -100
) -> tuple[Tensor, Tensor | float]:
    return _class(torch.softmax(z, 1), y, generator, ignored)


def _class_of_logarithms(
    z: Tensor, y: Tensor, generator: torch.Generator, ignored: int = -100
) -> tuple[Tensor, Tensor | float]:
    return _class(z.exp(), y, generator, ignored)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float64)
    return drawn.to(like.device)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return drawn.to(like.device)


_MATTERS = ("weight", "ignore_index", "label_smoothing")
_FUNCTIONS: dict[type, Any] = {
    nn.CrossEntropyLoss: F.cross_entropy,
    nn.NLLLoss: F.nll_loss,
    nn.MSELoss: F.mse_loss,
    nn.BCELoss: F.binary_cross_entropy,
    nn.BCEWithLogitsLoss: F.binary_cross_entropy_with_logits,
}
_DRAWS: dict[Any, Any] = {
    F.cross_entropy: _class_of_logits,
    F.nll_loss: _class_of_logarithms,
    F.mse_loss: _squares,
    F.binary_cross_entropy: _bernoulli,
    F.binary_cross_entropy_with_logits: bernoulli_of_logits,
}
