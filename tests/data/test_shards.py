"""Sets larger than memory: written part by part, opened, damaged, generated, run on."""

import json
import logging
import os
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.stats
import torch

from newton_krylov.data import Split, load_dataset
from newton_krylov.data.shards import write_shards
from newton_krylov.data.shards.__main__ import main
from newton_krylov.data.shards.generate import Generator
from newton_krylov.data.sparse import to_numpy
from newton_krylov.data.synthetic import MARGIN
from newton_krylov.errors import ConfigError, DataError, UnsupportedError
from newton_krylov.registry import entry

TRAIN = "".join(f"{k % 3} {k % 5 + 1}:{k + 1} {k % 4 + 6}:-0.5\n" for k in range(50))
TEST = "2 1:1\n# c\n0 9:2\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "train").write_text(TRAIN)
    (tmp_path / "test").write_text(TEST)
    return tmp_path


def convert(files, *options):
    return main(["libsvm", str(files / "train"), str(files / "shards"), *options])


def load(folder, **options):
    return load_dataset("shards", {"path": str(folder)}, **options)


def dense(split):
    X = split.X
    return (X @ torch.eye(X.shape[1], dtype=X.dtype)).numpy() if X.ndim == 2 else X


def test_libsvm_text_becomes_the_same_data(files, capsys):
    assert convert(files, "--test", str(files / "test")) == 0
    said = capsys.readouterr().out
    assert "train: 50 samples, 9 features, 100 nonzeros in 1 shards" in said
    assert f"dataset=shards dataset.path={files / 'shards'}" in said
    disk = load(files / "shards")
    memory = load_dataset(
        "libsvm", {"path": str(files / "train"), "test_path": str(files / "test")}
    )
    for one, other in ((disk.train, memory.train), (disk.test, memory.test)):
        assert np.array_equal(dense(one), other.X.to_dense())
        assert torch.equal(one.y, other.y)
    assert (disk.task, disk.n_classes, disk.n_features) == ("multiclass", 3, 9)
    assert disk.source == str(files / "train")


def test_many_parts_and_many_shards(files, monkeypatch):
    (files / "train").write_text(TRAIN * 300)
    monkeypatch.setattr("newton_krylov.data.shards.__main__.read_parts", _small_parts)
    assert convert(files, "--dtype", "float32") == 0
    memory = load_dataset("libsvm", {"path": str(files / "train"), "test_fraction": 0})
    whole = memory.train.X.to_dense()
    assert np.array_equal(dense(load(files / "shards").train), whole)


def _small_parts(path, **options):
    from newton_krylov.data.libsvm_format import read_parts

    return read_parts(path, **options, size=1000)


def test_equal_files_have_equal_checksums(files):
    convert(files)
    first = load(files / "shards")
    (files / "shards").rename(files / "moved")
    assert load(files / "moved").checksum == first.checksum
    assert load(files / "moved", dtype=torch.float32).checksum != first.checksum
    (files / "train").write_text(TRAIN.replace("-0.5", "-0.25"))
    convert(files)
    assert load(files / "shards").checksum != first.checksum


def test_a_bias_is_the_last_column(files):
    assert convert(files, "--bias", "--n-features", "11") == 0
    X = dense(load(files / "shards").train)
    assert X.shape == (50, 12)
    assert (X[:, 11] == 1).all()
    assert (X[:, 9:11] == 0).all()


def test_a_regression(files):
    assert convert(files, "--task", "regression") == 0
    data = load(files / "shards", dtype=torch.float32)
    assert data.task == "regression"
    assert data.train.y.dtype is torch.float32
    assert data.train.y[:4].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("options", "text", "sentence"),
    [
        ([], "1 1:1\n1 2:x\n", "train, line 2 has '2:x', whose value is not a finite number"),
        ([], "1 1:1\n2 1000000000000:1\n", "line 2 has the feature index 1000000000000, beyond"),
        (["--n-features", "1"], "1 1:1\n2 2:1\n", "line 2 has the feature index 2, beyond 1"),
        (["--task", "binary"], "1 1:1\n# c\n2 1:1\n3 1:1\n", "line 4 has the label 3, a third"),
        (["--bias"], TRAIN, "--bias appends a column after the last one: give --n-features"),
        (["--n-features", "0"], TRAIN, "--n-features 0 is not a number of columns"),
        (["--shard-mib", "0"], TRAIN, "--shard-mib is at least 1"),
        (["--test", "nowhere"], TRAIN, "There is no file nowhere"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(files, capsys, options, text, sentence):
    (files / "train").write_text(text)
    assert convert(files, *options) == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: ")
    assert sentence in said
    assert sorted(path.name for path in files.iterdir()) == ["test", "train"]


def test_a_folder_that_exists_is_not_overwritten(files, capsys):
    (files / "shards").mkdir()
    assert convert(files) == 2
    assert "shards exists; give a folder that does not" in capsys.readouterr().err


def test_a_full_disk_leaves_nothing(files, capsys, full_disk):
    (files / "train").write_text(TRAIN * 10)
    with full_disk:
        assert convert(files) == 2
    assert "shards cannot be written" in capsys.readouterr().err
    assert sorted(path.name for path in files.iterdir()) == ["test", "train"]


def test_what_is_no_folder_of_shards(files):
    with pytest.raises(ConfigError, match=r"dataset=shards needs a folder: dataset\.path=FOLDER"):
        load_dataset("shards")
    with pytest.raises(DataError, match=r"dataset\.json cannot be read .*python -m newton_krylov"):
        load(files)


def edit(folder, change):
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c.update(format=9), "has the format 9, but 1 is read"),
        (lambda c: c.update(n_features=0), "is damaged: n_features: "),
        (lambda c: c.update(n_features=2**40), "is damaged: n_features: "),
        (lambda c: c.update(task="ranking"), "is damaged: task: "),
        (lambda c: c["splits"].update(dev=c["splits"]["train"]), "is damaged: splits"),
        (lambda c: c["splits"]["train"]["shards"].clear(), "speaks of no samples to train with"),
        (lambda c: c["splits"].clear(), "speaks of no samples to train with"),
        (lambda c: c["splits"]["train"]["shards"][0].update(rows=10**12), "is damaged: splits"),
        (lambda c: c["splits"]["train"]["shards"][0].update(rows=51), "holds .* not 52 of int32"),
        (lambda c: c["splits"]["train"]["shards"][0].update(nnz=2**31 - 1), "holds .* not 2,147"),
        (lambda c: c["splits"]["train"]["shards"][0].update(sha256="0" * 64), "has changed since"),
        (lambda c: c["splits"]["train"].update(labels_sha256="0" * 64), "labels.npy has changed"),
        (lambda c: c.update(n_features=8), "names a column beyond the 8 there are"),
        (lambda c: c.update(n_classes=2), "holds a class beyond the 2 there are"),
        (lambda c: c.update(dtype="float32"), "holds .* not 100 of float32"),
    ],
)
def test_a_description_is_not_believed(files, change, sentence):
    convert(files)
    edit(files / "shards", change)
    with pytest.raises(DataError, match=sentence):
        load(files / "shards")


def test_labels_of_another_kind(files):
    convert(files)
    path = files / "shards" / "train" / "labels.npy"
    for content in (np.zeros(50), np.zeros(49, np.int64), np.array([None] * 50)):
        np.save(path, content, allow_pickle=True)
        with pytest.raises(DataError, match=r"labels\.npy (does not hold|cannot be read)"):
            load(files / "shards")


def test_damaged_json(files):
    convert(files)
    for content in ("", "[]", "{", '{"format": 1}'):
        (files / "shards" / "dataset.json").write_text(content)
        with pytest.raises(DataError, match=r"dataset\.json is damaged"):
            load(files / "shards")


# Generated sets.


def test_a_generated_set_has_the_moments_that_were_asked_for():
    made = Generator(d=40, density=0.1, condition_number=1e3, seed=1)
    parts = list(made.parts(60_000, 0))
    assert len(parts) == 1
    ((X, y),) = parts
    assert X.nnz == pytest.approx(0.1 * X.shape[0] * 40, rel=0.01)
    diagonal = np.sort(X.multiply(X).sum(axis=0)) / len(y)
    assert diagonal.mean() == pytest.approx(1, rel=0.05)
    assert diagonal[-1] / diagonal[0] == pytest.approx(1e3, rel=0.1)
    margins = X @ made._model()[1]
    assert margins.std() == pytest.approx(MARGIN, rel=0.02)
    for low, high in ((-9, -3), (-1, 0), (0.5, 2), (2, 9)):
        inside = (low < margins) & (margins < high)
        predicted = scipy.stats.logistic.cdf(margins[inside]).mean()
        assert y[inside].mean() == pytest.approx(predicted, abs=0.02)


def test_parts_are_those_of_the_seed_and_each_split_has_its_own(monkeypatch):
    monkeypatch.setattr("newton_krylov.data.shards.generate._ENTRIES", 100)
    made = Generator(d=20, density=0.2, seed=1)
    parts = list(made.parts(97, 0))
    assert len(parts) == 4
    assert sum(len(y) for _, y in parts) == 97
    again, other = (
        sp.vstack([X for X, _ in Generator(20, 0.2, seed=seed).parts(97, split)]).toarray()
        for seed, split in ((1, 0), (1, 1))
    )
    assert np.array_equal(sp.vstack([X for X, _ in parts]).toarray(), again)
    assert not np.array_equal(again, other)


def test_a_generated_set_from_the_command(tmp_path, capsys):
    size = ["--n", "300", "--n-test", "50", "--d", "30", "--density", "0.1"]
    assert main(["synthetic", str(tmp_path / "g"), *size]) == 0
    data = load(tmp_path / "g")
    assert (len(data.train), len(data.test), data.n_features) == (300, 50, 30)
    assert (data.task, data.source) == ("binary", "synthetic")
    assert "dataset=shards" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--density", "1"], ["--n", "1"], ["--seed", "-1"]])
def test_a_generated_set_of_nonsense(tmp_path, capsys, wrong):
    size = ["--n", "9", "--d", "3", "--density", "0.5", *wrong]
    assert main(["synthetic", str(tmp_path / "g"), *size]) == 2
    assert capsys.readouterr().err.startswith("Error: ")


# What is done with them.


@pytest.mark.parametrize("loss", ["logistic", "squared_hinge"])
def test_an_objective_is_that_of_the_same_data_in_memory(tmp_path, loss):
    generator = Generator(d=25, density=0.2)
    write_shards(
        tmp_path / "g", {"train": generator.parts(400, 0)}, task="auto", source="here",
        n_features=25, shard_bytes=3000,
    )  # fmt: skip
    disk = load(tmp_path / "g")
    X = np.vstack([X.toarray() for X, _ in generator.parts(400, 0)])
    assert np.array_equal(dense(disk.train), X)
    memory = replace(disk, train=Split(torch.from_numpy(X), disk.train.y))
    w, v = (torch.from_numpy(np.random.default_rng(k).standard_normal(25)) for k in (0, 1))
    index = torch.tensor([399, 3, 200])
    answers = []
    for data in (disk, memory):
        f = entry("loss", loss).target(data, l2=0.1)
        point = f.at(w)
        H = point.hessian()
        answers.append(
            [
                *(torch.tensor(point.value), point.grad, H @ v, H.dense(), H.diagonal()),
                torch.tensor(point.ray(v).value(0.3)),
                *(point.subset(index).grad, point.subset(index).hessian() @ v),
                torch.tensor([f.accuracy(w, data.train), f.data_loss(w, data.train)]),
            ]
        )
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_a_library_that_needs_all_in_memory_is_refused(files):
    convert(files)
    with pytest.raises(UnsupportedError, match=r"stays on disk \(dataset=shards\)"):
        to_numpy(load(files / "shards").train.X)


def test_no_other_warning_than_ours(files, caplog, recwarn):
    convert(files)
    with caplog.at_level(logging.WARNING):
        data = load(files / "shards")
        entry("loss", "multinomial").target(data).at(torch.zeros(27, dtype=torch.float64)).grad  # noqa: B018
    assert not caplog.records
    assert not recwarn.list


@pytest.mark.parametrize("name", ["dataset.json", "train/00000.values.npy", "train/labels.npy"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
def test_what_is_no_file_of_the_folder_is_refused_before_it_is_read(files, name, kind):
    convert(files)
    path = files / "shards" / name
    path.rename(files / "outside")
    if kind == "pipe":
        os.mkfifo(path)  # whoever opens it waits for ever
    else:
        path.symlink_to("/dev/zero" if kind == "device" else files / "outside")
    expected = "is a link to a file outside of" if kind == "link" else "is not a regular file"
    with pytest.raises(DataError, match=f"{path.name} {expected}"):
        load(files / "shards")


def test_a_split_s_folder_is_no_link_out_of_the_data_set(files):
    convert(files)
    (files / "shards" / "train").rename(files / "outside")
    (files / "shards" / "train").symlink_to(files / "outside")
    with pytest.raises(DataError, match="train is a link out of"):
        load(files / "shards")


def test_the_data_set_s_folder_may_itself_be_a_link(files):
    convert(files)
    (files / "there").symlink_to(files / "shards")
    assert len(load(files / "there").train) == 50
