"""A multilayer perceptron."""

import math
from collections import OrderedDict
from typing import Annotated, Literal

from pydantic import Field, PositiveInt
from torch import nn

from newton_krylov.models.base import Interface, numbers
from newton_krylov.registry import register

Activation = Literal["tanh", "relu", "gelu", "sigmoid", "softplus"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}


@register("model", "mlp")
def mlp(
    interface: Interface,
    *,
    hidden: tuple[PositiveInt, ...] = (32, 32),
    activation: Activation = "tanh",
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    bias: bool = True,
) -> nn.Module:
    """Build linear layers (linear1, linear2, ...) with a smooth or a rectifying activation.

    Parameters
    ----------
    interface : Interface
        Images are flattened.
    hidden : tuple of int
        Widths of the hidden layers; none makes the network linear.
    activation : {"tanh", "relu", "gelu", "sigmoid", "softplus"}
        Behind each hidden layer.
    dropout : float
        Probability, behind each activation.
    bias : bool
        Whether the layers have one.

    Returns
    -------
    nn.Module
        The network.

    Raises
    ------
    CombinationError
        For text.
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = math.prod(numbers(interface, "mlp"))
    for number, size in enumerate(hidden, 1):
        parts[f"linear{number}"] = nn.Linear(width, size, bias=bias)
        parts[f"{activation}{number}"] = ACTIVATIONS[activation]()
        if dropout > 0:
            parts[f"dropout{number}"] = nn.Dropout(dropout)
        width = size
    parts[f"linear{len(hidden) + 1}"] = nn.Linear(width, interface.outputs, bias=bias)
    return nn.Sequential(parts)
