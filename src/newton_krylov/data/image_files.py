"""Read images from untrusted files: bounded before they are decoded, refused in one sentence.

Pillow reads an image's size from its header, so nothing is allocated for a picture that is not of
the size wanted; formats are those two that data sets use.
"""

import io
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from newton_krylov.errors import DataError
from newton_krylov.files import require_file, require_memory

Pixels = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG")
SUFFIXES = (".jpeg", ".jpg", ".png")
MAX_SIDE = 4096
"""Pixels of a side, of what is made smaller; a decoded image then takes 50 MB at most."""

MAX_FILE = 64 * 2**20
"""Bytes of one image file."""

_MAX_EXPANSION = 200  # Parquet's pages; those of encoded images do not shrink at all
_BATCH = 1024  # rows read at a time


@dataclass(frozen=True)
class Shape:
    """What every image of a data set is.

    Attributes
    ----------
    color : {"rgb", "gray"}
        Images of another kind are converted.
    height, width : int
        In pixels.
    resize : bool
        Whether images of another size are resized (bilinear, with antialiasing) or refused.
    """

    color: Literal["rgb", "gray"]
    height: int
    width: int
    resize: bool = False

    @property
    def array(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (3 if self.color == "rgb" else 1, self.height, self.width)


def decode(data: bytes, shape: Shape, where: str) -> Pixels:
    """Decode one image.

    Parameters
    ----------
    data : bytes
        A JPEG or PNG file.
    shape : Shape
        What it must be, or is made to be.
    where : str
        The beginning of a message.

    Returns
    -------
    ndarray, shape (channels, height, width), uint8
        Its pixels.

    Raises
    ------
    DataError
        If it is damaged, of another format, or of a size that is not wanted.
    """
    from PIL import Image

    try:
        with _quiet_about_size(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.size, shape, where)
            converted = image.convert("RGB" if shape.color == "rgb" else "L")
            if converted.size != (shape.width, shape.height):
                converted = converted.resize((shape.width, shape.height), Image.Resampling.BILINEAR)
            pixels = np.asarray(converted, dtype=np.uint8)
    except Image.DecompressionBombError:
        raise DataError(f"{where} has more than {MAX_SIDE} pixels a side.") from None
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{where} is not a sound JPEG or PNG image ({error}).") from None
    return pixels.reshape(shape.height, shape.width, -1).transpose(2, 0, 1)


@contextmanager
def _quiet_about_size() -> Iterator[None]:
    """Silence Pillow's own warning: the size is checked here, to a smaller limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_size(size: tuple[int, int], shape: Shape, where: str) -> None:
    if max(size) > MAX_SIDE:
        raise DataError(
            f"{where} has {size[0]:,} x {size[1]:,} pixels, more than {MAX_SIDE} a side."
        )
    if not shape.resize and size != (shape.width, shape.height):
        raise DataError(
            f"{where} has {size[0]} x {size[1]} pixels, not {shape.width} x {shape.height}."
        )


def read_bytes(path: Path) -> bytes:
    """Read an image file, unless it is too large to be one.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    bytes
        The file's content.

    Raises
    ------
    DataError
        If it cannot be read, or has more than `MAX_FILE` bytes.
    """
    require_file(path)
    if path.stat().st_size > MAX_FILE:
        raise DataError(f"{path} has more than {MAX_FILE >> 20} MiB; an image file has less.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error


def size_of(data: bytes, where: str) -> tuple[int, int]:
    """Return an image's height and width from its header.

    Parameters
    ----------
    data : bytes
        A JPEG or PNG file.
    where : str
        The beginning of a message.

    Returns
    -------
    tuple of int
        Height and width.

    Raises
    ------
    DataError
        If it is no image.
    """
    from PIL import Image

    try:
        with _quiet_about_size(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.size[1], image.size[0]
    except Exception as error:
        raise DataError(f"{where} is not a sound JPEG or PNG image ({error}).") from None


def decode_all(encoded: Iterable[tuple[bytes, str]], count: int, shape: Shape) -> Pixels:
    """Decode many images into one array.

    Parameters
    ----------
    encoded : iterable of (bytes, str)
        Each image's file, and the beginning of a message about it.
    count : int
        How many there are at most.
    shape : Shape
        Shape of each image.

    Returns
    -------
    ndarray, shape (count, channels, height, width), uint8
        All images; fewer than `count` if so many came.

    Raises
    ------
    DataError
        If one is not as it should be, or they do not fit into memory.
    """
    require_memory(
        count * math.prod(shape.array), f"{count:,} images of {shape.width} x {shape.height} pixels"
    )
    X = np.empty((count, *shape.array), dtype=np.uint8)
    number = 0
    for number, (data, where) in enumerate(encoded, 1):
        X[number - 1] = decode(data, shape, where)
    return X[:number]


def read_parquet(path: Path, shape: Shape, n_classes: int) -> tuple[Pixels, NDArray[np.int64]]:
    """Read images and labels in the layout of Hugging Face's data sets.

    Parameters
    ----------
    path : Path
        A Parquet file with the columns `img` (a struct whose `bytes` is a JPEG or PNG file) and
        `label` (a class index).
    shape : Shape
        Shape of each image.
    n_classes : int
        Labels are below it.

    Returns
    -------
    X : ndarray, shape (n, channels, height, width), uint8
        The images, in the file's order.
    y : ndarray, shape (n,), int64
        The labels.

    Raises
    ------
    DataError
        If the file is missing, damaged, of another layout, or one of its rows is wrong.
    """
    from pyarrow import parquet
    from pyarrow.lib import ArrowException

    require_file(path)
    labels: list[int] = []
    try:
        with parquet.ParquetFile(path) as file:  # type: ignore[no-untyped-call]
            _check_layout(path, file)
            rows = file.metadata.num_rows
            X = decode_all(_rows(path, file, n_classes, labels), rows, shape)
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a sound Parquet file ({_first_line(error)}).") from None
    return X, np.array(labels, dtype=np.int64)


def _check_layout(path: Path, file: Any) -> None:
    found = {file.schema.column(number).path for number in range(len(file.schema))}
    missing = sorted({"img.bytes", "label"} - found)
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]}; images come as img.bytes and label "
            f"(its columns: {', '.join(sorted(found))})."
        )
    metadata = file.metadata
    unpacked = sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))
    if metadata.num_rows < 1:
        raise DataError(f"{path} holds no image.")
    if unpacked > _MAX_EXPANSION * path.stat().st_size:
        raise DataError(f"{path} expands to more than {_MAX_EXPANSION} times its size.")


def _rows(path: Path, file: Any, n_classes: int, labels: list[int]) -> Iterator[tuple[bytes, str]]:
    """Yield each row's image and its place, and append its label."""
    for batch in file.iter_batches(batch_size=_BATCH, columns=["img.bytes", "label"]):
        images = batch.column("img").field("bytes")
        for image, label in zip(images, batch.column("label"), strict=True):
            data, y, where = image.as_py(), label.as_py(), f"{path}, row {len(labels) + 1}"
            if not isinstance(data, bytes):
                raise DataError(f"{where} has no image.")
            if not (isinstance(y, int) and 0 <= y < n_classes):
                raise DataError(f"{where} has the label {y!r}, not one of 0 to {n_classes - 1}.")
            labels.append(y)
            yield data, where


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
