"""Small images that the tests of the data share."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def pictures(
    n: int, channels: int = 3, height: int = 6, width: int = 4, seed: int = 0
) -> NDArray[np.uint8]:
    """Draw n images of noise, shape (n, channels, height, width)."""
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(n, channels, height, width), dtype=np.uint8)


def encode(pixels: NDArray[np.uint8], kind: str = "PNG", **options: object) -> bytes:
    """Encode one image of shape (channels, height, width)."""
    image = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, kind, **options)
    return stream.getvalue()
