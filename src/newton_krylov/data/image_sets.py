"""Data sets of images: from raw bytes to train and test splits; digits and image folders."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from newton_krylov.capabilities import LABELLED
from newton_krylov.data.cache import Arrays, cached
from newton_krylov.data.dataset import ImageSet, Split
from newton_krylov.data.image_files import (
    MAX_SIDE,
    SUFFIXES,
    Pixels,
    Shape,
    decode_all,
    read_bytes,
    size_of,
)
from newton_krylov.data.images import Augmentation, Images, statistics
from newton_krylov.data.prepare import checksum
from newton_krylov.errors import ConfigError, DataError
from newton_krylov.files import expand_home, sha256_file
from newton_krylov.registry import register

Limit = Annotated[int, pydantic.Field(ge=1)]
Fraction = Annotated[float, pydantic.Field(ge=0, lt=1)]
Side = Annotated[int, pydantic.Field(ge=1, le=MAX_SIDE)]

DECODER_VERSION = 1  # part of the cache's keys: raise it when the same file decodes differently
_FORMAT_VERSION = 1  # part of every checksum: raise it when the same source gives other tensors


@dataclass(frozen=True)
class LabelledImages:
    """Images and their classes.

    Attributes
    ----------
    X : ndarray, shape (n, channels, height, width), uint8
        Pixels.
    y : ndarray, shape (n,), int64
        Class indices.
    """

    X: Pixels
    y: NDArray[np.int64]

    def take(self, index: NDArray[np.int64]) -> "LabelledImages":
        """Return some of them.

        Parameters
        ----------
        index : ndarray, shape (m,), int64
            Sample numbers.

        Returns
        -------
        LabelledImages
            Copies.
        """
        return LabelledImages(self.X[index], self.y[index])


@dataclass(frozen=True)
class RawImages:
    """What a source reads, before the common options.

    Attributes
    ----------
    train : LabelledImages
        All images, if the source has no test set.
    test : LabelledImages or None
        The source's own test set.
    n_classes : int
        Number of classes.
    source : str
        Where the images came from.
    fingerprint : str
        A checksum of what defines them.
    """

    train: LabelledImages
    test: LabelledImages | None
    n_classes: int
    source: str
    fingerprint: str


@dataclass(frozen=True)
class ImageOptions:
    """The options that sources of images share.

    Attributes
    ----------
    limit, test_limit : int or None
        At most so many images of a split, each class by its share, drawn by the seed.
    augmentation : {"none", "flip", "flip_crop"}
        See `Images`.
    test_fraction : float
        Share of the images held out for testing, where the source has no test set; each class by
        its share.
    seed : int
        Chooses the images held out and those within the limits.
    """

    limit: int | None
    test_limit: int | None
    augmentation: Augmentation
    test_fraction: float = 0.0
    seed: int = 0


def prepare_images(name: str, raw: RawImages, options: ImageOptions) -> ImageSet:
    """Hold out, limit, measure the channels, and make tensors of bytes.

    Parameters
    ----------
    name : str
        As the user asked for it.
    raw : RawImages
        What the source read.
    options : ImageOptions
        What to do to it.

    Returns
    -------
    ImageSet
        On the CPU; X is uint8, and `images` says how it becomes a network's input. The checksum
        does not depend on the augmentation, which changes no image of the set.

    Raises
    ------
    ConfigError
        For a test fraction that leaves a split empty.
    """
    effective: dict[str, Any] = {"version": _FORMAT_VERSION}
    if raw.test is None and options.test_fraction:
        raw = _hold_out(name, raw, options)
        effective |= {"test_fraction": options.test_fraction, "seed": options.seed}
    splits = [_limited(raw.train, options.limit, options.seed)]
    if raw.test is not None:
        splits.append(_limited(raw.test, options.test_limit, options.seed))
    wholes = (raw.train, raw.test)
    for key, split, whole in zip(("limit", "test_limit"), splits, wholes, strict=False):
        if split is not whole:
            effective |= {key: len(split.y), "seed": options.seed}
    tensors = [Split(torch.from_numpy(s.X), torch.from_numpy(s.y)) for s in splits]
    return ImageSet(
        name=name,
        train=tensors[0],
        test=tensors[1] if len(tensors) > 1 else None,
        task="multiclass",
        n_classes=raw.n_classes,
        source=raw.source,
        checksum=checksum({"data": raw.fingerprint} | effective),
        images=Images(*statistics(tensors[0].X), options.augmentation),
    )


def _hold_out(name: str, raw: RawImages, options: ImageOptions) -> RawImages:
    n = len(raw.train.y)
    n_test = round(options.test_fraction * n)
    if not 0 < n_test < n:
        raise ConfigError(
            f"dataset.test_fraction={options.test_fraction} of the {n} images of '{name}' "
            f"leaves {n_test} to test and {n - n_test} to train; both must be positive."
        )
    held_out = stratified(raw.train.y, n_test, options.seed)
    kept = np.setdiff1d(np.arange(n), held_out)
    return replace(raw, train=raw.train.take(kept), test=raw.train.take(held_out))


def _limited(part: LabelledImages, limit: int | None, seed: int) -> LabelledImages:
    if limit is None or limit >= len(part.y):
        return part
    return part.take(stratified(part.y, limit, seed))


def stratified(y: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Choose samples at random so that each class has its share, to within one.

    Parameters
    ----------
    y : ndarray, shape (n,), int64
        Class indices.
    count : int
        How many to choose, at most n.
    seed : int
        Seed of the random choice.

    Returns
    -------
    ndarray, shape (count,), int64
        Sample numbers, ascending: the source's order costs nothing and is read in sequence.
    """
    rng = np.random.default_rng(seed)
    place = np.empty(len(y))  # of each sample within its class, in (0, 1)
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(np.lexsort((rng.random(len(y)), place))[:count])


@register("dataset", "digits_images", offers=(LABELLED,))
def digits_images(
    *,
    test_fraction: Fraction = 0.2,
    limit: Limit | None = None,
    test_limit: Limit | None = None,
    augmentation: Augmentation = "none",
    seed: pydantic.NonNegativeInt = 0,
    size: Side | None = None,
) -> ImageSet:
    """Handwritten digits as images, 1,797 x 1 x 8 x 8, ten classes.

    Parameters
    ----------
    test_fraction : float
        Share of the images held out for testing.
    limit, test_limit : int, optional
        At most so many images of a split.
    augmentation : {"none", "flip", "flip_crop"}
        For training.
    seed : int
        Chooses the images held out and those within the limits.
    size : int, optional
        Pixels of a side, by linear interpolation: 28 is MNIST's. None leaves the eight there are.

    Returns
    -------
    ImageSet
        Grey images; their 17 levels are spread over 0 to 255.
    """
    import sklearn
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images if size is None else _resized(digits.images, size)
    X = np.round(images * (255 / 16)).astype(np.uint8)[:, None]
    y = digits.target.astype(np.int64)
    raw = RawImages(
        train=LabelledImages(X, y),
        test=None,
        n_classes=10,
        source=f"scikit-learn {sklearn.__version__}, sklearn.datasets.load_digits",
        fingerprint=hashlib.sha256(X.tobytes() + y.tobytes()).hexdigest(),
    )
    options = ImageOptions(limit, test_limit, augmentation, test_fraction, seed)
    return prepare_images("digits_images", raw, options)


def _resized(images: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Interpolate square images linearly."""
    scaled = F.interpolate(torch.from_numpy(images)[:, None], size=(size, size), mode="bilinear")
    return scaled[:, 0].numpy()


@register("dataset", "image_folder", offers=(LABELLED,))
def image_folder(
    *,
    path: str | None = None,
    size: Side | None = None,
    color: Literal["rgb", "gray"] = "rgb",
    test_fraction: Fraction = 0.2,
    limit: Limit | None = None,
    test_limit: Limit | None = None,
    augmentation: Augmentation = "none",
    seed: pydantic.NonNegativeInt = 0,
) -> ImageSet:
    """JPEG and PNG images by their path, a subfolder for each class.

    Parameters
    ----------
    path : str
        The folder: `CLASS/IMAGE`, or `train/CLASS/IMAGE` and perhaps `test/CLASS/IMAGE`.
    size : int, optional
        Resize every image to size x size pixels; by default all must be of the first one's size.
    color : {"rgb", "gray"}
        Three channels or one.
    test_fraction : float
        Share of the images held out for testing, where there is no test folder.
    limit, test_limit : int, optional
        At most so many images of a split.
    augmentation : {"none", "flip", "flip_crop"}
        For training.
    seed : int
        Chooses the images held out and those within the limits.

    Returns
    -------
    ImageSet
        Classes in the order of their names.

    Raises
    ------
    ConfigError
        Without a path.
    """
    if path is None:
        raise ConfigError("dataset=image_folder needs a folder: dataset.path=FOLDER.")
    raw = read_folder(expand_home(path), color, (size, size) if size else None)
    options = ImageOptions(limit, test_limit, augmentation, test_fraction, seed)
    return prepare_images("image_folder", raw, options)


def read_folder(
    root: Path, color: Literal["rgb", "gray"], size: tuple[int, int] | None
) -> RawImages:
    """Read a folder that has a subfolder for each class.

    Parameters
    ----------
    root : Path
        With the classes, or with `train` and perhaps `test` that have them.
    color : {"rgb", "gray"}
        Three channels or one.
    size : tuple of int, optional
        Height and width to resize to; by default all images must be of the first one's size.

    Returns
    -------
    RawImages
        Classes in the order of their names.

    Raises
    ------
    DataError
        If there are not two classes at least, or an image cannot be read.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root} (looked in {root.parent.absolute()}).")
    folders = [root / part for part in ("train", "test") if (root / part).is_dir()]
    if root / "train" not in folders:
        folders = [root]
    listed = [_listed(folder) for folder in folders]
    classes = sorted({file.parent.name for files in listed for file in files})
    if len(classes) < 2 or not all(listed):
        raise DataError(
            f"{' and '.join(map(str, folders))} must have a subfolder for each class, two or "
            f"more, with its images ({', '.join(SUFFIXES)}) in it."
        )
    height, width = size or size_of(read_bytes(listed[0][0]), str(listed[0][0]))
    shape = Shape(color, height, width, resize=size is not None)
    sums = [_checksum(files, folder) for files, folder in zip(listed, folders, strict=True)]
    parts = [_decoded(f, c, shape, classes) for f, c in zip(listed, sums, strict=True)]
    return RawImages(
        train=parts[0],
        test=parts[1] if len(parts) > 1 else None,
        n_classes=len(classes),
        source=str(root),
        fingerprint=checksum({"files": sums, "classes": classes, "shape": vars(shape)}),
    )


def _listed(folder: Path) -> list[Path]:
    """Return the images of every class, class by class, in the order of their names."""
    try:
        classes = sorted(child for child in folder.iterdir() if child.is_dir())
        return [
            file
            for child in classes
            for file in sorted(child.iterdir())
            if file.suffix.lower() in SUFFIXES
        ]
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}).") from error


def _checksum(files: list[Path], folder: Path) -> str:
    return checksum({str(file.relative_to(folder)): sha256_file(file) for file in files})


def _decoded(files: list[Path], digest: str, shape: Shape, classes: list[str]) -> LabelledImages:
    def encoded() -> Iterator[tuple[bytes, str]]:
        return ((read_bytes(file), str(file)) for file in files)

    def compute() -> Arrays:
        return {"X": decode_all(encoded(), len(files), shape)}

    key = checksum({"files": digest, "shape": vars(shape), "decoder": DECODER_VERSION})
    y = np.array([classes.index(file.parent.name) for file in files], dtype=np.int64)
    return LabelledImages(cached("images", key, compute)["X"], y)
