"""A small residual network with batch norm, for images of 32 x 32 pixels or so."""

from collections import OrderedDict

from pydantic import PositiveInt
from torch import Tensor, nn

from newton_krylov.errors import ConfigError
from newton_krylov.models.base import Interface
from newton_krylov.registry import register


class Residual(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and a way around them (He et al., 2016).

    Parameters
    ----------
    before, after : int
        Channels.
    stride : int
        Stride of the first convolution. Where the shape changes, the way around is a 1 x 1
        convolution.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        same = before == after and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to a batch, shape (n, before, height, width)."""
        inner = self.norm1(self.conv1(x)).relu()
        outer: Tensor = self.norm2(self.conv2(inner)) + self.around(x)
        return outer.relu()


@register("model", "resnet_small")
def resnet_small(
    interface: Interface, *, width: PositiveInt = 16, blocks: PositiveInt = 1
) -> nn.Module:
    """Build a residual network of three resolutions, as He et al. (2016) for CIFAR-10.

    Parameters
    ----------
    interface : Interface
        Interface of an image data set.
    width : int
        Channels at full resolution; twice and four times as many at half and a quarter of it.
    blocks : int
        Residual blocks at each resolution: n makes the ResNet of 6 n + 2 layers.

    Returns
    -------
    nn.Module
        78,042 weights for 3 x 32 x 32 and 10 classes.

    Raises
    ------
    ConfigError
        For a data set that is not of images.
    """
    if len(interface.inputs) != 3:
        raise ConfigError(
            f"model=resnet_small needs images, but a sample has the shape {interface.inputs}; "
            f"choose model=mlp."
        )
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(interface.inputs[0], width, 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(width),
        relu=nn.ReLU(),
    )
    before = width
    for number in range(3 * blocks):
        after = width * 2 ** (number // blocks)
        parts[f"block{number + 1}"] = Residual(before, after, 1 if before == after else 2)
        before = after
    parts |= {
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "linear": nn.Linear(before, interface.outputs),
    }
    return nn.Sequential(parts)
