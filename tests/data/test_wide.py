"""The generated set of many classes, mapped from its file."""

import numpy as np
import pytest
import torch

from newton_krylov.data import load_dataset
from newton_krylov.errors import DataError


def test_the_file_is_the_data_whatever_the_precision(tmp_path, monkeypatch):
    monkeypatch.setenv("NEWTON_KRYLOV_CACHE", str(tmp_path))
    options = {"n": 9000, "n_test": 50, "d": 7, "n_classes": 5}
    data = load_dataset("wide", options)
    again = load_dataset("wide", options)
    half = load_dataset("wide", options, dtype=torch.float32)
    assert (data.train.X.shape, data.test.X.shape) == ((9000, 8), (50, 8))
    assert data.bias and bool((data.train.X[:, -1] == 1).all())
    assert torch.equal(data.train.X, again.train.X) and data.checksum == again.checksum
    assert torch.equal(half.train.X, data.train.X.float()) and half.checksum != data.checksum
    assert len(list((tmp_path / "wide").glob("*.npy"))) == 2
    # Around the classes' means the columns' scales are 1 / j^(1/2).
    X, y = data.train.X[:, :-1], data.train.y
    within = torch.cat([X[y == k] - X[y == k].mean(0) for k in range(5)])
    assert np.allclose(within.std(0), 1 / np.sqrt(np.arange(1, 8)), rtol=0.05)
    assert load_dataset("wide", options | {"seed": 1}).checksum != data.checksum


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NEWTON_KRYLOV_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written"):
        load_dataset("wide", {"n": 20, "d": 2, "n_classes": 3})


@pytest.mark.parametrize("key", ["n", "n_test", "d", "n_classes"])
def test_what_no_memory_holds_is_one_sentence(key):
    with pytest.raises(DataError, match="GiB of memory for it"):
        load_dataset("wide", {"n": 100, "n_test": 10, "d": 3, "n_classes": 3, key: 10**18})
