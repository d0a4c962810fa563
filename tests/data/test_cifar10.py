"""CIFAR-10 by its three layouts, small ones made here and the real one where it is at hand."""

import hashlib
import io
import os
import pickle
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from image_data import encode, pictures
from torchvision.datasets import CIFAR10

from newton_krylov.data import load_dataset
from newton_krylov.errors import DataError


def draw(n, seed):
    return pictures(n, 3, 32, 32, seed), np.arange(n) % 10


TRAIN, TEST = draw(40, 0), draw(20, 1)


def write_parquet(folder, X, y, name):
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": encode(image), "path": None} for image in X]
    pq.write_table(pa.table({"img": images, "label": y}), folder / name)


@pytest.fixture
def parquet(data_dir):
    write_parquet(data_dir / "cifar10", *TRAIN, "train.parquet")
    write_parquet(data_dir / "cifar10", *TEST, "test.parquet")
    return data_dir / "cifar10"


class Archive:
    """The author's archive with small batches, and torchvision's checksums changed to its own."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        X, y = TRAIN
        self.files = {
            f"data_batch_{k + 1}": self.batch(X[8 * k : 8 * k + 8], y[8 * k : 8 * k + 8])
            for k in range(5)
        }
        self.files["test_batch"] = self.batch(*TEST)
        self.files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")}, 2)
        self.sign(monkeypatch)

    @staticmethod
    def batch(X, y):
        return pickle.dumps({"data": X.reshape(len(X), -1), "labels": list(map(int, y))}, 2)

    def sign(self, monkeypatch):
        md5 = {name: hashlib.md5(data).hexdigest() for name, data in self.files.items()}
        train = [[name, md5[name]] for name in sorted(md5) if name.startswith("data")]
        monkeypatch.setattr(CIFAR10, "train_list", train)
        monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
        monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5["batches.meta"]})

    def unpack(self):
        unpacked = self.folder / CIFAR10.base_folder
        unpacked.mkdir(parents=True)
        for name, data in self.files.items():
            (unpacked / name).write_bytes(data)

    def packed(self):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            for name, data in self.files.items():
                member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return stream.getvalue()

    def pack(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / CIFAR10.filename).write_bytes(self.packed())


@pytest.fixture
def archive(data_dir, monkeypatch):
    return Archive(data_dir / "cifar10", monkeypatch)


def assert_whole(data):
    for split, (X, y) in ((data.train, TRAIN), (data.test, TEST)):
        assert np.array_equal(split.X, X)
        assert np.array_equal(split.y, y)
        assert split.X.dtype is torch.uint8
    assert data.n_classes == 10
    assert data.task == "multiclass"


@pytest.mark.usefixtures("parquet")
def test_by_parquet_whatever_the_dtype_of_the_run():
    for dtype in (torch.float32, torch.float64):
        assert_whole(load_dataset("cifar10", {}, dtype=dtype))


def test_by_an_image_folder(data_dir):
    for part, (X, y) in (("train", TRAIN), ("test", TEST)):
        for number, (image, label) in enumerate(zip(X, y, strict=True)):
            folder = data_dir / "cifar10" / part / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:03}.png").write_bytes(encode(image))
    data = load_dataset("cifar10")
    order = np.argsort(TRAIN[1], kind="stable")
    assert np.array_equal(data.train.X, TRAIN[0][order])
    assert np.array_equal(data.train.y, TRAIN[1][order])


def test_as_torchvision_unpacks_it_and_reads_it(archive):
    archive.unpack()
    assert_whole(load_dataset("cifar10"))
    theirs = CIFAR10(str(archive.folder), train=True)
    assert np.array_equal(theirs.data.transpose(0, 3, 1, 2), TRAIN[0])
    assert theirs.targets == TRAIN[1].tolist()


def test_as_its_author_packs_it(archive):
    archive.pack()
    assert_whole(load_dataset("cifar10"))
    assert sorted(p.name for p in archive.folder.iterdir() if p.name[0] != ".") == [
        CIFAR10.filename  # nothing is unpacked
    ]


def test_downloaded_where_nothing_is_at_hand(archive, site, monkeypatch):
    packed = archive.packed()
    site.answers["/c.tar.gz"] = packed
    monkeypatch.setattr(CIFAR10, "url", f"{site.address}/c.tar.gz")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(packed).hexdigest())
    assert_whole(load_dataset("cifar10"))
    assert_whole(load_dataset("cifar10"))
    assert site.asked == ["/c.tar.gz"]


def test_a_download_of_another_content_is_refused(archive, site, monkeypatch):
    site.answers["/c.tar.gz"] = archive.packed()
    monkeypatch.setattr(CIFAR10, "url", f"{site.address}/c.tar.gz")
    with pytest.raises(DataError, match=f"but {CIFAR10.tgz_md5} is published for it"):
        load_dataset("cifar10")
    assert not (archive.folder / CIFAR10.filename).exists()


def test_without_a_network_the_sentence_says_where_the_file_goes(archive, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:1/c.tar.gz")
    with pytest.raises(DataError, match=r"put the file there by hand: .*cifar10/"):
        load_dataset("cifar10")


def test_a_changed_batch_is_refused_before_it_is_read(archive):
    archive.files["data_batch_3"] += b"."
    archive.unpack()
    with pytest.raises(DataError, match="data_batch_3 has the MD5"):
        load_dataset("cifar10")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    "content", [Evil(), {"data": Evil(), "labels": [0]}, {"data": np.zeros(7)}, [], b"x"]
)
def test_nothing_of_a_pickle_runs_even_with_the_right_checksum(
    archive, monkeypatch, tmp_path, content
):
    monkeypatch.chdir(tmp_path)
    archive.files["data_batch_1"] = pickle.dumps(content, 2)
    archive.sign(monkeypatch)
    archive.unpack()
    with pytest.raises(DataError, match="data_batch_1 is not a batch of images"):
        load_dataset("cifar10")
    assert not (tmp_path / "evil").exists()


def test_paths_in_an_archive_name_no_file_of_this_machine(archive, tmp_path):
    archive.files["../../../escaped"] = b"x"
    archive.pack()
    assert_whole(load_dataset("cifar10"))
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("damage", [lambda b: b[:200], lambda b: b"", lambda b: b"x" * 999])
def test_a_damaged_archive(archive, damage):
    archive.folder.mkdir(parents=True)
    (archive.folder / CIFAR10.filename).write_bytes(damage(archive.packed()))
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is damaged"):
        load_dataset("cifar10")


def test_an_archive_that_lacks_a_batch(archive, monkeypatch):
    del archive.files["data_batch_2"]
    archive.pack()
    with pytest.raises(DataError, match="holds no data_batch_2"):
        load_dataset("cifar10")


@pytest.mark.usefixtures("parquet")
def test_images_are_decoded_once(monkeypatch):
    first = load_dataset("cifar10", {"limit": 20})
    monkeypatch.setattr("newton_krylov.data.cifar10.read_parquet", None)
    again = load_dataset("cifar10", {"limit": 10})
    assert len(first.train) == 20
    assert torch.bincount(again.train.y).tolist() == [1] * 10


def test_a_source_that_is_asked_for_and_not_there(data_dir):
    with pytest.raises(DataError, match=r"There is no file .*cifar10/train\.parquet"):
        load_dataset("cifar10", {"source": "parquet"})
    with pytest.raises(DataError, match=r"There is no folder .*cifar10"):
        load_dataset("cifar10", {"source": "folder"})


def test_a_missing_test_file(parquet):
    (parquet / "test.parquet").unlink()
    with pytest.raises(DataError, match=r"There is no file .*test\.parquet"):
        load_dataset("cifar10")


@pytest.mark.slow
def test_the_real_images(shared_file):
    """Class counts and channel means as every paper that uses CIFAR-10 gives them."""
    data = load_dataset("cifar10", data_dir=shared_file("cifar10", "train.parquet").parents[1])
    assert data.train.X.shape == (50_000, 3, 32, 32)
    assert data.test.X.shape == (10_000, 3, 32, 32)
    assert torch.bincount(data.train.y).tolist() == [5000] * 10
    assert torch.bincount(data.test.y).tolist() == [1000] * 10
    assert data.images.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-4)
    assert data.images.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=3e-3)  # JPEG smooths


def test_torchvisions_checksums_are_the_published_ones():
    """Against a torchvision that would trust other files."""
    assert CIFAR10.tgz_md5 == "c58f30108f718f92721af3b95e74349a", torchvision.__version__
