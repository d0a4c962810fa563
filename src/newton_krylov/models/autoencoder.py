"""The deep autoencoder of Hessian-free optimization and K-FAC."""

import math
from collections import OrderedDict
from itertools import pairwise

from pydantic import PositiveInt
from torch import nn

from newton_krylov.models.base import Interface, numbers
from newton_krylov.models.mlp import ACTIVATIONS, Activation
from newton_krylov.registry import register


@register("model", "autoencoder")
def autoencoder(
    interface: Interface,
    *,
    hidden: tuple[PositiveInt, ...] = (1000, 500, 250, 30),
    activation: Activation = "sigmoid",
) -> nn.Module:
    """Build an encoder of these widths and its mirror image, the decoder.

    784-1000-500-250-30 on digits of 28 x 28 is the network of Hinton and Salakhutdinov (2006) on
    which Martens (2010, section 6) and Martens and Grosse (2015, section 13) compare optimizers.
    The code in the middle is linear. With loss=reconstruction.

    Parameters
    ----------
    interface : Interface
        Images are flattened.
    hidden : tuple of int
        Widths of the encoder's layers; the last is the code's.
    activation : {"tanh", "relu", "gelu", "sigmoid", "softplus"}
        Behind each layer but the code and the last.

    Returns
    -------
    nn.Module
        Returns as many numbers as a sample has, shape (n, numbers): logits of the pixels.

    Raises
    ------
    CombinationError
        For text.
    """
    size = math.prod(numbers(interface, "autoencoder"))
    widths = [size, *hidden, *reversed(hidden[:-1]), size]
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (before, after) in enumerate(pairwise(widths), 1):
        parts[f"linear{number}"] = nn.Linear(before, after)
        if number != len(hidden) and number < len(widths) - 1:
            parts[f"{activation}{number}"] = ACTIVATIONS[activation]()
    return nn.Sequential(parts)
