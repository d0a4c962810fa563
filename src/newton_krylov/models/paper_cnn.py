"""The paper's network for CIFAR-10."""

import math
from collections import OrderedDict
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import nn

from newton_krylov.errors import ConfigError
from newton_krylov.models.base import Interface
from newton_krylov.registry import register

Probability = Annotated[float, Field(ge=0, lt=1)]


@register("model", "paper_cnn")
def paper_cnn(
    interface: Interface,
    *,
    channels: tuple[PositiveInt, PositiveInt] = (32, 64),
    hidden: PositiveInt = 512,
    dropout: tuple[Probability, Probability] = (0.25, 0.5),
) -> nn.Module:
    """Build two 3 x 3 convolutions and two linear layers, without biases.

    conv1, ReLU, conv2, ReLU, 2 x 2 max-pooling, dropout, linear1, ReLU, dropout, linear2. The
    maximum is taken before the second ReLU, with which it commutes, so that the ReLU sees a
    quarter of the numbers.

    Parameters
    ----------
    interface : Interface
        Interface of an image data set.
    channels : tuple of int
        Channels of the two convolutions.
    hidden : int
        Width of linear1.
    dropout : tuple of float
        Probabilities, in front of linear1 and of linear2.

    Returns
    -------
    nn.Module
        For 3 x 32 x 32 and 10 classes: 864 + 18,432 + 8,388,608 + 5,120 weights.

    Raises
    ------
    ConfigError
        For a data set that is not of images.
    """
    if len(interface.inputs) != 3 or min(interface.inputs[1:]) < 2:
        raise ConfigError(
            f"model=paper_cnn needs images of 2 x 2 pixels at least, but a sample has the shape "
            f"{interface.inputs}; choose model=mlp."
        )
    depth, height, width = interface.inputs
    flat = math.prod((channels[1], height // 2, width // 2))
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(depth, channels[0], 3, padding=1, bias=False),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(channels[0], channels[1], 3, padding=1, bias=False),
            pool=nn.MaxPool2d(2),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            dropout1=nn.Dropout(dropout[0]),
            linear1=nn.Linear(flat, hidden, bias=False),
            relu3=nn.ReLU(),
            dropout2=nn.Dropout(dropout[1]),
            linear2=nn.Linear(hidden, interface.outputs, bias=False),
        )
    )
