"""CIFAR-10: 60,000 colour images of 32 x 32 pixels, ten classes.

Krizhevsky, "Learning multiple layers of features from tiny images", 2009. As the author's archive
under torchvision's checksums, in Hugging Face's Parquet layout, or as a folder of images.
"""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from numpy.typing import NDArray

from newton_krylov.capabilities import LABELLED
from newton_krylov.data.cache import Arrays, cached
from newton_krylov.data.dataset import ImageSet
from newton_krylov.data.download import fetch
from newton_krylov.data.image_files import Pixels, Shape, read_parquet
from newton_krylov.data.image_sets import (
    DECODER_VERSION,
    ImageOptions,
    LabelledImages,
    Limit,
    RawImages,
    prepare_images,
    read_folder,
)
from newton_krylov.data.images import Augmentation
from newton_krylov.data.prepare import checksum
from newton_krylov.errors import DataError
from newton_krylov.files import require_file, sha256_file
from newton_krylov.registry import register

Source = Literal["auto", "parquet", "torchvision", "folder"]

CLASSES = 10
SHAPE = Shape("rgb", 32, 32)

_MAX_BATCH = 64 * 2**20  # bytes of one of the archive's files; 10,000 images take 31 MB


@register("dataset", "cifar10", offers=(LABELLED,))
def cifar10(
    *,
    data_dir: Path,
    source: Source = "auto",
    limit: Limit | None = None,
    test_limit: Limit | None = None,
    augmentation: Augmentation = "none",
    seed: pydantic.NonNegativeInt = 0,
) -> ImageSet:
    """CIFAR-10, 50,000 x 3 x 32 x 32 images, ten classes, 10,000 test images.

    Parameters
    ----------
    data_dir : Path
        The data folder; everything lies in its `cifar10`.
    source : {"auto", "parquet", "torchvision", "folder"}
        `parquet`: `train.parquet` and `test.parquet` in Hugging Face's layout; `torchvision`:
        the author's archive, packed or unpacked, as torchvision leaves it, downloaded on first
        use; `folder`: `train/CLASS/IMAGE` and `test/CLASS/IMAGE`. `auto` takes the first of these
        that is there, and downloads if none is.
    limit, test_limit : int, optional
        At most so many images of a split, each class by its share.
    augmentation : {"none", "flip", "flip_crop"}
        For training.
    seed : int
        Chooses the images within the limits.

    Returns
    -------
    ImageSet
        Bytes; decoded once, and kept in the cache.
    """
    folder = data_dir / "cifar10"
    read = _READERS[_at_hand(folder) if source == "auto" else source]
    options = ImageOptions(limit, test_limit, augmentation, seed=seed)
    return prepare_images("cifar10", read(folder), options)


def _at_hand(folder: Path) -> str:
    if (folder / "train.parquet").exists():
        return "parquet"
    if (folder / "train").is_dir():
        return "folder"
    return "torchvision"


def _parquet(folder: Path) -> RawImages:
    paths = [folder / "train.parquet", folder / "test.parquet"]
    sums = [sha256_file(path) for path in paths]
    parts = [_unpacked(path, digest) for path, digest in zip(paths, sums, strict=True)]
    return RawImages(parts[0], parts[1], CLASSES, str(paths[0]), checksum({"files": sums}))


def _unpacked(path: Path, digest: str) -> LabelledImages:
    def compute() -> Arrays:
        X, y = read_parquet(path, SHAPE, CLASSES)
        return {"X": X, "y": y}

    key = checksum({"file": digest, "shape": vars(SHAPE), "decoder": DECODER_VERSION})
    kept = cached("images", key, compute)
    return LabelledImages(kept["X"], kept["y"])


def _folder(folder: Path) -> RawImages:
    return read_folder(folder, SHAPE.color, None)


def _torchvision(folder: Path) -> RawImages:
    """Read the archive, or what torchvision unpacked of it; fetch it where there is neither."""
    try:
        from torchvision.datasets import CIFAR10
    except (ImportError, RuntimeError) as error:  # the latter: it is made for another torch
        reason = " ".join(str(error).split())
        raise DataError(
            f"dataset.source=torchvision needs a torchvision that goes with torch "
            f"{torch.__version__} ({reason}); dataset.source=parquet and folder need none."
        ) from error

    def compute() -> Arrays:
        files = _files(folder, CIFAR10)
        arrays: Arrays = {}
        for part, listed in (("train", CIFAR10.train_list), ("test", CIFAR10.test_list)):
            batches = [_batch(files(name), md5, name) for name, md5 in listed]
            arrays[f"{part}_X"] = np.concatenate([X for X, _ in batches])
            arrays[f"{part}_y"] = np.concatenate([y for _, y in batches])
        return arrays

    defining = {"md5": [md5 for _, md5 in CIFAR10.train_list + CIFAR10.test_list]}
    kept = cached("images", checksum(defining), compute)
    train, test = (LabelledImages(kept[f"{p}_X"], kept[f"{p}_y"]) for p in ("train", "test"))
    return RawImages(train, test, CLASSES, CIFAR10.url, checksum(defining))


def _files(folder: Path, torchvisions: Any) -> Callable[[str], bytes]:
    """Return what reads a file of the archive by its name."""
    unpacked, archive = folder / torchvisions.base_folder, folder / torchvisions.filename
    if unpacked.is_dir():
        return _in_folder(unpacked)
    fetch(torchvisions.url, archive, md5=torchvisions.tgz_md5)
    return _in_archive(archive)


def _in_folder(folder: Path) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        require_file(folder / name)
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read ({error.strerror}).") from error

    return read


def _in_archive(archive: Path) -> Callable[[str], bytes]:
    """Read members without unpacking: no path in the archive names a file of this machine."""
    try:
        with tarfile.open(archive) as tar:
            members = {Path(m.name).name: m for m in tar if m.isfile() and m.size <= _MAX_BATCH}
            content = {
                name: extracted.read()
                for name, member in members.items()
                if (extracted := tar.extractfile(member)) is not None
            }
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive} is damaged ({error}); fetch it again.") from error

    def read(name: str) -> bytes:
        if name not in content:
            raise DataError(f"{archive} holds no {name}; fetch it again.")
        return content[name]

    return read


_OF_ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"),  # NumPy 1's name
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _ArraysOnly(pickle.Unpickler):
    """Reads an array pickled by an old NumPy, and refuses everything else that a pickle can do."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _OF_ARRAYS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _batch(data: bytes, md5: str, name: str) -> tuple[Pixels, NDArray[np.int64]]:
    """Take the images and labels out of one of the archive's files."""
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(f"CIFAR-10's {name} has the MD5 {found}, but the original has {md5}.")
    try:
        batch = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
        X = np.ascontiguousarray(batch["data"], dtype=np.uint8).reshape(-1, *SHAPE.array)
        y = np.array(batch["labels"], dtype=np.int64)
    except Exception as error:
        raise DataError(f"CIFAR-10's {name} is not a batch of images ({error}).") from None
    return X, y


_READERS: dict[str, Callable[[Path], RawImages]] = {
    "parquet": _parquet,
    "torchvision": _torchvision,
    "folder": _folder,
}
