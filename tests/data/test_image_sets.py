"""Sets of images: digits, folders, limits and held-out images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_data import encode, pictures
from sklearn.datasets import load_digits

from newton_krylov.data import load_dataset
from newton_krylov.data.image_sets import stratified
from newton_krylov.errors import ConfigError, DataError


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 3))
def test_a_stratified_choice_gives_each_class_its_share(labels, share, seed):
    y = np.array(labels)
    count = round(share * len(y))
    chosen = stratified(y, count, seed)
    assert len(chosen) == count
    assert (np.diff(chosen) > 0).all()  # ascending, none twice
    for label in np.unique(y):
        size = (y == label).sum()
        assert abs((y[chosen] == label).sum() - count * size / len(y)) <= 1
    assert np.array_equal(chosen, stratified(y, count, seed))


def test_a_stratified_choice_is_the_seeds():
    y = np.repeat(np.arange(3), 50)
    assert not np.array_equal(stratified(y, 30, 0), stratified(y, 30, 1))


def test_digits_are_scikit_learns():
    data = load_dataset("digits_images", {"test_fraction": 0})
    digits = load_digits()
    assert data.test is None
    assert data.task == "multiclass"
    assert data.n_classes == 10
    assert data.train.X.shape == (1797, 1, 8, 8)
    assert data.train.X.dtype is torch.uint8
    assert np.array_equal(data.train.y, digits.target)
    scaled = data.train.X[:, 0].numpy() / 255 * 16
    assert abs(scaled - digits.images).max() <= 0.5 / 255 * 16  # to the nearest level


def test_digits_are_held_out_class_by_class():
    data = load_dataset("digits_images")
    assert len(data.train) + len(data.test) == 1797
    assert len(data.test) == 359
    shares = torch.bincount(data.test.y) / torch.bincount(load_dataset_all().train.y)
    assert float((shares - 0.2).abs().max()) < 0.01
    assert data.test.X.dtype is torch.uint8


def load_dataset_all():
    return load_dataset("digits_images", {"test_fraction": 0})


def test_limits_take_fewer_images_and_never_more_than_there_are():
    data = load_dataset("digits_images", {"limit": 100, "test_limit": 10**6})
    assert len(data.train) == 100
    assert len(data.test) == 359
    assert torch.bincount(data.train.y).tolist() == [10] * 10


def test_equal_checksums_mean_equal_images():
    options = [
        {},
        {"limit": 100},
        {"limit": 101},
        {"limit": 100, "seed": 1},
        {"test_limit": 100},
        {"test_fraction": 0.1},
        {"test_fraction": 0},
        {"seed": 1},
    ]
    sums = {load_dataset("digits_images", one).checksum for one in options}
    assert len(sums) == len(options)
    same = [{"limit": 10**6}, {"augmentation": "flip_crop"}, {"limit": None}]
    assert {load_dataset("digits_images", one).checksum for one in same} == {
        load_dataset("digits_images").checksum
    }
    # The seed chose nothing here, so it does not tell equal data apart.
    whole = [{"test_fraction": 0, "seed": seed} for seed in (0, 1)]
    assert len({load_dataset("digits_images", one).checksum for one in whole}) == 1


def test_the_augmentation_reaches_the_images():
    data = load_dataset("digits_images", {"augmentation": "flip_crop"})
    assert data.images.augmentation == "flip_crop"
    Z = data.images.normalize(data.train.X, torch.float64)
    assert float(Z.mean()) == pytest.approx(0, abs=1e-12)
    assert float(Z.var(correction=0)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"test_fraction": 0.0001}, "leaves 0 to test"),
        ({"test_fraction": 0.9999}, "leaves 1797 to test and 0 to train"),
        ({"limit": 0}, r"dataset\.limit=0 is not valid"),
        ({"test_fraction": 1}, r"dataset\.test_fraction=1 is not valid"),
        ({"augmentation": "flips"}, r"dataset\.augmentation='flips' is not valid"),
        ({"limits": 1}, "did you mean 'limit'"),
    ],
)
def test_a_wrong_option_is_one_sentence(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_dataset("digits_images", options)


def make_folder(root, X, classes, splits=("",)):
    """Write the images X[split] one after another into the classes' folders."""
    for part, images in zip(splits, X, strict=True):
        for number, image in enumerate(images):
            folder = root / part / classes[number % len(classes)]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:03}.png").write_bytes(encode(image))
    return {"path": str(root), "test_fraction": 0.0}


def by_class(images, count):
    """The order in which a folder is read: class by class."""
    return np.concatenate([images[label::count] for label in range(count)])


def test_a_folder_is_read_class_by_class(tmp_path):
    X = pictures(7)
    options = make_folder(tmp_path / "f", [X], ["cat", "dog", "emu"])
    (tmp_path / "f" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "f" / "README.md").write_text("not a class")
    data = load_dataset("image_folder", options)
    assert data.n_classes == 3
    assert data.test is None
    assert np.array_equal(data.train.X, by_class(X, 3))
    assert data.train.y.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert data.source == str(tmp_path / "f")


def test_a_folder_of_two_splits_has_the_same_classes_in_both(tmp_path):
    train, test = pictures(6), pictures(2, seed=1)
    make_folder(tmp_path / "f", [train], ["a", "b", "c"], ["train"])
    options = make_folder(tmp_path / "f", [test], ["c", "a"], ["test"])
    data = load_dataset("image_folder", options | {"test_fraction": 0.5})
    assert data.n_classes == 3
    assert len(data.train) == 6  # the fraction has no say where there is a test set
    assert data.test.y.tolist() == [0, 2]
    assert np.array_equal(data.test.X, test[[1, 0]])


def test_part_of_a_folder_is_held_out(tmp_path):
    options = make_folder(tmp_path / "f", [pictures(10)], ["a", "b"])
    data = load_dataset("image_folder", options | {"test_fraction": 0.4})
    assert torch.bincount(data.train.y).tolist() == [3, 3]
    assert torch.bincount(data.test.y).tolist() == [2, 2]


def test_images_are_resized_on_request(tmp_path):
    options = make_folder(tmp_path / "f", [[*pictures(1), *pictures(3, height=9)]], ["a", "b"])
    with pytest.raises(DataError, match=r"a/002\.png has 4 x 9 pixels, not 4 x 6"):
        load_dataset("image_folder", options)
    data = load_dataset("image_folder", options | {"size": 5, "color": "gray"})
    assert data.train.X.shape == (4, 1, 5, 5)


def test_a_folder_is_decoded_once(tmp_path, monkeypatch):
    options = make_folder(tmp_path / "f", [pictures(4)], ["a", "b"])
    first = load_dataset("image_folder", options)
    with monkeypatch.context() as patch:
        patch.setattr("newton_krylov.data.image_sets.decode_all", None)
        again = load_dataset("image_folder", options)
        assert torch.equal(first.train.X, again.train.X)
    (tmp_path / "f" / "a" / "000.png").write_bytes(encode(pictures(1, seed=9)[0]))
    changed = load_dataset("image_folder", options)
    assert np.array_equal(changed.train.X[0], pictures(1, seed=9)[0])
    assert changed.checksum != first.checksum


def test_a_renamed_class_is_other_data(tmp_path):
    options = make_folder(tmp_path / "f", [pictures(4)], ["a", "b"])
    first = load_dataset("image_folder", options)
    (tmp_path / "f" / "a").rename(tmp_path / "f" / "c")
    renamed = load_dataset("image_folder", options)
    assert renamed.checksum != first.checksum
    assert np.array_equal(renamed.train.X, np.concatenate([first.train.X[2:], first.train.X[:2]]))


def test_folders_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match=r"dataset\.path=FOLDER"):
        load_dataset("image_folder")
    with pytest.raises(DataError, match="There is no folder"):
        load_dataset("image_folder", {"path": str(tmp_path / "none")})
    (tmp_path / "f" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="must have a subfolder for each class, two or more"):
        load_dataset("image_folder", {"path": str(tmp_path / "f")})
    make_folder(tmp_path / "f", [pictures(4)], ["a"])
    with pytest.raises(DataError, match="must have a subfolder for each class, two or more"):
        load_dataset("image_folder", {"path": str(tmp_path / "f")})
    make_folder(tmp_path / "g", [pictures(4)], ["a", "b"], ["train"])
    (tmp_path / "g" / "test" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"g/test must have a subfolder for each class"):
        load_dataset("image_folder", {"path": str(tmp_path / "g")})


def test_a_damaged_image_is_told_by_its_path(tmp_path):
    options = make_folder(tmp_path / "f", [pictures(4)], ["a", "b"])
    (tmp_path / "f" / "b" / "001.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b/001\.png is not a sound JPEG or PNG image"):
        load_dataset("image_folder", options)
