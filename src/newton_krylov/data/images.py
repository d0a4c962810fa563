"""Images: kept as bytes, normalized and augmented where they are used."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Augmentation = Literal["none", "flip", "flip_crop"]


@dataclass(frozen=True)
class Images:
    """How a data set of images becomes a network's input.

    Attributes
    ----------
    mean, std : tuple of float
        Mean and standard deviation of each channel over the train split, pixels in [0, 1].
    augmentation : {"none", "flip", "flip_crop"}
        What `augment` does: `flip` mirrors an image with probability 1/2; `flip_crop` shifts it
        as well, by up to an eighth of its height either way, and fills with black (4 of 32
        pixels, as Krizhevsky and many after him train on CIFAR-10).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation = "none"

    def normalize(self, X: Tensor, dtype: torch.dtype) -> Tensor:
        """Turn bytes into numbers of mean 0 and variance 1, on their device.

        Parameters
        ----------
        X : Tensor, shape (n, channels, height, width), uint8
            Images.
        dtype : torch.dtype
            Floating-point type.

        Returns
        -------
        Tensor, shape (n, channels, height, width)
            (X / 255 - mean) / std, channel by channel.
        """
        mean, std = (
            torch.tensor(values, dtype=dtype, device=X.device).view(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        return X.to(dtype).sub_(255 * mean).div_(255 * std)

    def augment(self, X: Tensor, generator: torch.Generator, rows: Tensor | None = None) -> Tensor:
        """Change each image at random, on its device.

        Parameters
        ----------
        X : Tensor, shape (n, channels, height, width), uint8
            Images; not changed.
        generator : torch.Generator
            The source of randomness, on any device.
        rows : Tensor, shape (n,), int64, optional
            Each image's number; by default 0 to n - 1. With a generator on the CPU, what becomes
            of an image depends on the generator's state and its number alone, so that several
            processes can augment parts of a batch as one would augment the whole.

        Returns
        -------
        Tensor, shape (n, channels, height, width), uint8
            As many images, of the same size; X itself where `augmentation` is none.
        """
        if self.augmentation == "none":
            return X
        n, _, height, width = X.shape
        count = n if rows is None else int(rows.max()) + 1
        drawn = torch.rand(
            count, 3, generator=generator, device=generator.device, dtype=torch.float64
        )
        drawn = (drawn if rows is None else drawn[rows.to(drawn.device)]).to(X.device)
        border = max(1, height // 8) if self.augmentation == "flip_crop" else 0
        offsets = (drawn[:, :2] * (2 * border + 1)).long()
        down = offsets[:, :1] + torch.arange(height, device=X.device)
        across = offsets[:, 1:] + torch.arange(width, device=X.device)
        across = torch.where(drawn[:, 2:] < 0.5, across.flip(1), across)
        padded = torch.nn.functional.pad(X, (border,) * 4)
        images = torch.arange(n, device=X.device)[:, None, None]
        taken = padded.permute(0, 2, 3, 1)[images, down[:, :, None], across[:, None, :]]
        return taken.permute(0, 3, 1, 2).contiguous()


def statistics(X: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the channels' means and standard deviations, pixels in [0, 1].

    Parameters
    ----------
    X : Tensor, shape (n, channels, height, width), uint8
        Images.

    Returns
    -------
    mean, std : tuple of float
        One a channel; a constant channel has std 1.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in X.unbind(1):
        shares = torch.bincount(channel.reshape(-1), minlength=256).double() / channel.numel()
        mean = float(shares @ levels)
        std = float(shares @ (levels - mean).square()) ** 0.5
        means.append(mean)
        stds.append(std if len(shares.nonzero()) > 1 else 1.0)
    return tuple(means), tuple(stds)
