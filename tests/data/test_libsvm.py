"""LIBSVM data sets by path and by name: cached, downloaded, laid in a data folder by hand."""

import bz2
import hashlib
import logging

import numpy as np
import pytest
import torch

from newton_krylov.data import load_dataset
from newton_krylov.data.catalogue import LIBSVM
from newton_krylov.data.libsvm import SITE, find_files
from newton_krylov.errors import ConfigError, DataError

TRAIN = "".join(f"{2 * (k % 2) - 1:+d} {k % 5 + 1}:{k + 1}\n" for k in range(20))
TEST = "-1 7:1\n+1 1:2\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "train").write_text(TRAIN)
    (tmp_path / "test").write_text(TEST)
    return {"path": str(tmp_path / "train"), "test_path": str(tmp_path / "test")}


def test_by_path(files):
    data = load_dataset("libsvm", files | {"format": "sparse"})
    assert data.train.X.shape == (20, 7)  # as wide as the wider file
    assert data.test.X.shape == (2, 7)
    assert data.train.y.tolist() == [0, 1] * 10
    assert data.train.X.to_dense()[3].tolist() == [0, 0, 0, 4, 0, 0, 0]
    assert data.test.X.to_dense()[0].tolist() == [0] * 6 + [1]
    assert (data.task, data.n_classes, data.source) == ("binary", 2, files["path"])
    assert data.train.X.col_indices().dtype is torch.int32


def test_a_path_alone_holds_out_a_fifth(files):
    data = load_dataset("libsvm", {"path": files["path"]})
    assert (len(data.train), len(data.test)) == (16, 4)


def test_a_home_folder_and_a_path_of_nothing(files, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_dataset("libsvm", {"path": "~/train", "test_fraction": 0}).train) == 20
    with pytest.raises(ConfigError, match=r"dataset=libsvm needs a file: dataset\.path=FILE"):
        load_dataset("libsvm")
    with pytest.raises(DataError, match="There is no file"):
        load_dataset("libsvm", {"path": "~/none"})


def test_the_task_asked_for(files, tmp_path):
    regression = load_dataset("libsvm", files | {"task": "regression"})
    assert regression.task == "regression"
    assert regression.train.y.dtype is torch.float64
    assert regression.train.y[:2].tolist() == [-1, 1]
    (tmp_path / "train").write_text("3 1:1\n5 1:2\n# x\n9 1:3\n")
    assert load_dataset("libsvm", {"path": files["path"], "test_fraction": 0}).n_classes == 3
    with pytest.raises(DataError, match="line 4 has the label 9, a third beside 3 and 5"):
        load_dataset("libsvm", {"path": files["path"], "task": "binary"})


def test_a_label_of_the_test_file_is_told_by_its_own_line(files, tmp_path):
    (tmp_path / "test").write_text("# c\n-1 1:1\n7 1:1\n")
    with pytest.raises(DataError, match=r"/test, line 3 has the label 7, a third beside -1 and 1"):
        load_dataset("libsvm", files | {"task": "binary"})


def test_the_number_of_features(files):
    assert load_dataset("libsvm", files | {"n_features": 9}).n_features == 9
    with pytest.raises(DataError, match="/test, line 1 has the feature index 7, beyond 5, n_feat"):
        load_dataset("libsvm", files | {"n_features": 5})
    with pytest.raises(ConfigError, match=r"dataset\.n_features=0 is not valid"):
        load_dataset("libsvm", files | {"n_features": 0})


def test_checksums_of_files_by_path(files):
    sums = {
        key: hashlib.sha256(text.encode()).hexdigest()
        for key, text in (("sha256", TRAIN), ("test_sha256", TEST))
    }
    load_dataset("libsvm", files | sums)
    with pytest.raises(DataError, match=f"has the SHA-256 {sums['test_sha256']}, but 0000"):
        load_dataset("libsvm", files | {"test_sha256": "0" * 64})
    with pytest.raises(ConfigError, match=r"dataset\.sha256='abc' is not valid"):
        load_dataset("libsvm", files | {"sha256": "abc"})


def test_a_file_is_parsed_once_and_again_when_it_changes(files, tmp_path, monkeypatch):
    first = load_dataset("libsvm", files)
    with monkeypatch.context() as patch:
        patch.setattr("newton_krylov.data.libsvm.read_libsvm", None)
        again = load_dataset("libsvm", files)
    assert torch.equal(first.train.X.to_dense(), again.train.X.to_dense())
    assert first.checksum == again.checksum
    (tmp_path / "train").write_text(TRAIN.replace("1:1\n", "1:9\n"))
    changed = load_dataset("libsvm", files)
    assert float(changed.train.X.to_dense()[0, 0]) == 9
    assert changed.checksum != first.checksum


def test_the_file_not_its_name_makes_the_checksum(files, tmp_path):
    first = load_dataset("libsvm", {"path": files["path"]})
    (tmp_path / "copy").write_text(TRAIN)
    copy = load_dataset("libsvm", {"path": str(tmp_path / "copy")})
    assert copy.checksum == first.checksum
    assert copy.source != first.source


# By name: what follows uses "splice", which has a test file, and "phishing", which has none.


def laid(data_dir, files):
    folder = data_dir / "libsvm"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)


def test_by_name_from_the_data_folder(data_dir):
    laid(data_dir, {"splice": TRAIN, "splice.t": TEST})
    data = load_dataset("splice")
    assert (len(data.train), len(data.test), data.n_features) == (20, 2, 7)
    assert data.source == f"{SITE}/binary/splice"
    assert data.name == "splice"


def test_the_data_folder_given_has_the_last_word(data_dir, tmp_path):
    laid(tmp_path / "other", {"phishing": TRAIN})
    assert len(load_dataset("phishing", data_dir=tmp_path / "other").train) == 16


def test_a_file_laid_there_unpacked(data_dir):
    laid(data_dir, {"rcv1_train.binary": TRAIN})
    data = load_dataset("rcv1")
    assert data.n_features == 47_236  # known beforehand
    assert (len(data.train), len(data.test)) == (16, 4)


def test_a_missing_test_file_is_told_not_fetched(data_dir, site, caplog):
    laid(data_dir, {"splice": TRAIN})
    with caplog.at_level(logging.WARNING):
        data = load_dataset("splice", {"mirror": site.address})
    assert data.test is None
    assert "splice.t is not in" in caplog.text
    assert "test_set=own fetches it" in caplog.text
    assert site.asked == []


def test_a_test_file_that_is_not_wanted(data_dir):
    laid(data_dir, {"splice": TRAIN, "splice.t": TEST})
    data = load_dataset("splice", {"test_set": "none", "test_fraction": 0.25})
    assert (len(data.train), len(data.test)) == (15, 5)


def test_both_files_are_downloaded_on_first_use(data_dir, site):
    site.answers |= {"/binary/splice": TRAIN.encode(), "/binary/splice.t": TEST.encode()}
    options = {"mirror": f"{site.address}/"}
    data = load_dataset("splice", options)
    assert (len(data.train), len(data.test)) == (20, 2)
    again = load_dataset("splice", options)
    assert again.checksum == data.checksum
    assert sorted(site.asked) == ["/binary/splice", "/binary/splice.t"]
    assert (data_dir / "libsvm" / "splice.sha256").exists()


def test_a_download_that_was_cut_short_still_gets_its_test_file(data_dir, site):
    """The test file comes first: with only the train file at hand it would not be fetched."""
    site.answers["/binary/splice.t"] = TEST.encode()
    with pytest.raises(DataError, match="splice answered 404"):
        load_dataset("splice", {"mirror": site.address})
    site.answers["/binary/splice"] = TRAIN.encode()
    assert load_dataset("splice", {"mirror": site.address}).test is not None


def test_the_test_file_alone_is_fetched_on_request(data_dir, site):
    laid(data_dir, {"splice": TRAIN})
    site.answers["/binary/splice.t"] = TEST.encode()
    data = load_dataset("splice", {"mirror": site.address, "test_set": "own"})
    assert len(data.test) == 2
    assert site.asked == ["/binary/splice.t"]


def test_a_huge_test_file_is_fetched_only_on_request(data_dir, site):
    site.answers["/binary/rcv1_train.binary.bz2"] = bz2.compress(TRAIN.encode())
    load_dataset("rcv1", {"mirror": site.address})
    assert site.asked == ["/binary/rcv1_train.binary.bz2"]


def test_tasks_have_their_own_folders_on_the_site(data_dir, site):
    site.answers |= {
        "/regression/abalone": b"15 1:1\n7 1:2\n9 1:1\n",
        "/multiclass/usps.bz2": bz2.compress(b"3 1:1\n1 1:2\n2 1:1\n"),
        "/multiclass/usps.t.bz2": bz2.compress(b"3 1:1\n"),
    }
    abalone = load_dataset("abalone", {"mirror": site.address, "test_fraction": 0})
    assert abalone.task == "regression"
    usps = load_dataset("usps", {"mirror": site.address})
    assert usps.train.y.tolist() == [2, 0, 1]
    assert usps.test.y.tolist() == [2]


def test_a_checksum_of_a_download(data_dir, site):
    site.answers["/binary/phishing"] = TRAIN.encode()
    with pytest.raises(DataError, match="was asked for"):
        load_dataset("phishing", {"mirror": site.address, "sha256": "0" * 64})
    assert not (data_dir / "libsvm" / "phishing").exists()


def test_a_changed_file_in_the_data_folder_is_refused(data_dir, site):
    site.answers["/binary/phishing"] = TRAIN.encode()
    load_dataset("phishing", {"mirror": site.address})
    (data_dir / "libsvm" / "phishing").write_text(TRAIN + "1 1:1\n")
    with pytest.raises(DataError, match="was recorded in"):
        load_dataset("phishing", {"mirror": site.address})


def test_without_a_network(data_dir):
    with pytest.raises(DataError) as error:
        load_dataset("phishing", {"mirror": "http://127.0.0.1:1"})
    assert "cannot be reached" in str(error.value)
    assert f"put the file there by hand: {data_dir / 'libsvm' / 'phishing'}." in str(error.value)


@pytest.mark.parametrize("mirror", ["file:///etc", "/etc", ""])
def test_a_mirror_is_on_the_web(data_dir, mirror):
    with pytest.raises(DataError, match="is not an http or https address"):
        load_dataset("phishing", {"mirror": mirror})


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize("name", LIBSVM)
def test_names_of_the_site_are_names_of_files(name, tmp_path):
    known = LIBSVM[name]
    for file in filter(None, (known.train, known.test)):
        assert "/" not in file
    laid(tmp_path, {known.train: TRAIN})
    assert find_files(name, tmp_path, test_set="none").train.name == known.train
    assert known.summary.startswith(known.summary[0].upper())


@pytest.mark.parametrize(("name", "n", "d", "nnz"), [("w8a", 49_749, 300, 579_586)])
def test_real_sets(shared_file, name, n, d, nnz):
    data = load_dataset(name, data_dir=shared_file("libsvm", name).parents[1])
    assert data.train.X.shape == (n, d)
    assert data.train.X.values().numel() == nnz
    assert np.isin(data.train.y, [0, 1]).all()


class TestWeights:
    def load(self, files, tmp_path, text, dtype=torch.float64, **options):
        (tmp_path / "weights").write_text(text)
        chosen = {"path": files["path"], "weights_path": str(tmp_path / "weights")}
        return load_dataset("libsvm", chosen | {"test_fraction": 0} | options, dtype=dtype)

    def test_a_file_of_them(self, files, tmp_path):
        text = "\n".join(str(k) for k in range(20))
        data = self.load(files, tmp_path, text)
        assert torch.allclose(data.train.weights, torch.arange(20).double() / 9.5)
        plain = load_dataset("libsvm", {"path": files["path"], "test_fraction": 0})
        assert plain.train.weights is None
        assert plain.checksum != data.checksum
        assert data.checksum != self.load(files, tmp_path, text.replace("19", "20")).checksum
        held = self.load(files, tmp_path, text, test_fraction=0.5, dtype=torch.float32)
        assert held.train.weights.dtype is torch.float32
        assert len(held.train.weights) == len(held.test.weights) == 10
        assert float(held.train.weights.mean()) == pytest.approx(1)

    @pytest.mark.parametrize("scaling", ["standardize", "maxabs"])
    @pytest.mark.parametrize("format", ["dense", "sparse"])
    def test_scaling_counts_a_weight_as_repetitions(self, files, tmp_path, scaling, format):
        times = [k % 3 for k in range(20)]
        options = {"scaling": scaling, "format": format}
        data = self.load(files, tmp_path, "\n".join(map(str, times)), **options)
        rows = [line for line, k in zip(TRAIN.splitlines(), times, strict=True) for _ in range(k)]
        (tmp_path / "copies").write_text("\n".join(rows) + "\n")
        copies = load_dataset(
            "libsvm", {"path": str(tmp_path / "copies"), "test_fraction": 0} | options
        )
        index = torch.repeat_interleave(torch.tensor(times))
        if scaling == "standardize":
            ours, theirs = (
                d.train.X.to_dense() if format == "sparse" else d.train.X for d in (data, copies)
            )
            assert torch.allclose(ours[index], theirs)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("1\n2\n", "has 2 weights, but there are 20 samples"),
            ("1\nx\n", "weight 2 is 'x'; it should be a number of at least 0"),
            ("-1\n" * 20, "weight 1 is '-1'"),
            ("inf\n" * 20, "weight 1 is 'inf'"),
            ("0\n" * 20, "no weight above 0"),
        ],
    )
    def test_mistakes(self, files, tmp_path, text, message):
        with pytest.raises(DataError, match=message):
            self.load(files, tmp_path, text)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "t.svm"
    for text in (TRAIN, "# a comment\n" + TRAIN, "\n" + TRAIN):
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert len(load_dataset("libsvm", {"path": str(path), "test_fraction": 0}).train) == 20
    path.write_bytes(b"\xef\xbb\xbf" + TRAIN.encode().replace(b"1:1\n", b"1:x\n", 1))
    with pytest.raises(DataError, match="line 1 has '1:x'"):
        load_dataset("libsvm", {"path": str(path)})
    path.write_text(TRAIN, encoding="utf-16")
    with pytest.raises(DataError, match="is UTF-16 text; save it as UTF-8"):
        load_dataset("libsvm", {"path": str(path)})


def test_a_name_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~data.svm").write_text(TRAIN)
    assert len(load_dataset("libsvm", {"path": "~data.svm", "test_fraction": 0}).train) == 20
    with pytest.raises(DataError, match=r"There is no file ~none\.svm"):
        load_dataset("libsvm", {"path": "~none.svm"})


class TestPrecision:
    """What float32 cannot hold is named by its line, whatever sample of which split it is."""

    @pytest.mark.parametrize("format", ["dense", "sparse"])
    def test_a_value_that_overflows(self, tmp_path, format):
        path = tmp_path / "big.svm"
        path.write_text("# one\n+1 1:1\n\n-1 1:2 2:1e39\n+1 2:3\n")
        options = {"path": str(path), "test_fraction": 0, "format": format}
        match = r"line 4 has a value of 1e\+39 .*which float32 cannot hold; take dtype=float64, or"
        with pytest.raises(DataError, match=match):
            load_dataset("libsvm", options, dtype=torch.float32)
        assert load_dataset("libsvm", options).train.X.dtype is torch.float64
        scaled = load_dataset("libsvm", options | {"scaling": "maxabs"}, dtype=torch.float32)
        assert scaled.train.X.to_dense().max() == 1

    def test_of_a_held_out_sample(self, tmp_path):
        rows = [f"{2 * (k % 2) - 1:+d} 1:{1 if k != 7 else 1e200}\n" for k in range(20)]
        (tmp_path / "big.svm").write_text("".join(rows))
        for seed in range(4):
            options = {"path": str(tmp_path / "big.svm"), "test_fraction": 0.5, "seed": seed}
            with pytest.raises(DataError, match="line 8 has a value"):
                load_dataset("libsvm", options, dtype=torch.float32)

    def test_a_target_that_overflows(self, tmp_path):
        (tmp_path / "big.svm").write_text("1.5 1:1\n1e39 1:2\n2.5 1:3\n")
        options = {"path": str(tmp_path / "big.svm"), "test_fraction": 0, "task": "regression"}
        with pytest.raises(DataError, match=r"line 2 has a target of 1e\+39"):
            load_dataset("libsvm", options, dtype=torch.float32)

    def test_a_column_that_vanishes(self, tmp_path):
        (tmp_path / "small.svm").write_text("+1 1:1 2:1e-60\n-1 1:2 2:-3e-60\n")
        options = {"path": str(tmp_path / "small.svm"), "test_fraction": 0}
        match = "Column 2 of 'libsvm' has values of at most 3e-60, which float32 rounds to zero"
        with pytest.raises(DataError, match=match):
            load_dataset("libsvm", options, dtype=torch.float32)
        scaled = load_dataset("libsvm", options | {"scaling": "standardize"}, dtype=torch.float32)
        assert scaled.train.X.to_dense().abs().min() > 0.4


def test_a_width_beyond_the_memory_is_told_by_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr("newton_krylov.data.libsvm.usable_memory", lambda: 2**20)
    monkeypatch.setattr("newton_krylov.files.usable_memory", lambda: 2**20)
    (tmp_path / "few").write_text("1 1:1\n# c\n-1 90000000:1\n1 2:1\n-1 1:1\n1 2:1\n")
    given = {"path": str(tmp_path / "few")}
    with pytest.raises(DataError, match=r"few, line 3 has the feature index 90,000,000: training"):
        load_dataset("libsvm", given)
    with pytest.raises(DataError, match=r"few with n_features=2,000,000,000: training with"):
        load_dataset("libsvm", given | {"n_features": 2_000_000_000})
