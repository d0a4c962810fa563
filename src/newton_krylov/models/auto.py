"""The network that fits a data set."""

from torch import nn

from newton_krylov.models.base import Interface
from newton_krylov.models.mlp import mlp
from newton_krylov.models.paper_cnn import paper_cnn
from newton_krylov.models.transformer import transformer
from newton_krylov.registry import register

_SMALLEST_SIDE = 16  # pixels; below, as for the digits, convolutions have little to find


@register("model", "auto")
def auto(interface: Interface) -> nn.Module:
    """Build the paper's network for images, a perceptron for digits and tables, else a transformer.

    Losses of linear models take no network, and ignore this.

    Parameters
    ----------
    interface : Interface
        What it is for.

    Returns
    -------
    nn.Module
        With the defaults of `paper_cnn`, `mlp` or `transformer`.
    """
    if interface.alphabet:
        return transformer(interface)
    images = len(interface.inputs) == 3 and min(interface.inputs[1:]) >= _SMALLEST_SIDE
    return paper_cnn(interface) if images else mlp(interface)
