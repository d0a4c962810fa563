"""Files that appear whole or not at all, and memory that is asked for before it is taken."""

import hashlib
import os
import shlex
from pathlib import Path

import pytest

from newton_krylov.errors import DataError
from newton_krylov.files import (
    atomic_write,
    cache_dir,
    default_data_dir,
    is_regular,
    override,
    require_file,
    require_memory,
    sha256_file,
)


def test_a_file_is_not_there_before_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    with atomic_write(path) as stream:
        stream.write(b"part one ")
        stream.flush()
        assert not path.exists()
        stream.write(b"part two")
    assert path.read_bytes() == b"part one part two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_goes_wrong_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(path) as stream:
        stream.write(b"new")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # the last to end


def test_checksums(tmp_path):
    (tmp_path / "file").write_bytes(b"content" * 10**6)
    expected = hashlib.sha256(b"content" * 10**6).hexdigest()
    assert sha256_file(tmp_path / "file") == expected


def test_what_is_no_file_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(DataError, match=r"There is no file .*none \(looked in "):
        require_file(tmp_path / "none")
    with pytest.raises(DataError, match="is not a regular file"):
        require_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # would be read for ever
    with pytest.raises(DataError, match="is not a regular file"):
        sha256_file(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "file").touch(0o000)
    with pytest.raises(DataError, match=r"cannot be read: Permission denied\."):
        sha256_file(tmp_path / "file")


def test_memory_that_no_machine_has_is_refused():
    require_memory(2**20, "A small matrix")
    with pytest.raises(DataError, match=r"^A large matrix takes 1,048,576\.0 GiB, but this"):
        require_memory(2**50, "A large matrix")


def test_folders_come_from_the_environment_or_are_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("NEWTON_KRYLOV_DATA", str(tmp_path))
    monkeypatch.setenv("NEWTON_KRYLOV_CACHE", "~/cache")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_data_dir() == tmp_path
    assert str(cache_dir()) == "/home/somebody/cache"
    monkeypatch.delenv("NEWTON_KRYLOV_DATA")
    monkeypatch.setenv("NEWTON_KRYLOV_CACHE", "")
    monkeypatch.setenv("XDG_DATA_HOME", "/home/somebody/data")
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/somebody/xdg")
    assert default_data_dir().name == cache_dir().name == "newton-krylov"
    assert default_data_dir() != cache_dir()


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("a/b-1.svm", "dataset.path=a/b-1.svm"),
        ("my file.svm", "'dataset.path=\"my file.svm\"'"),
        ("a,b=(1).svm", "'dataset.path=\"a,b=(1).svm\"'"),
        ("it's.svm", "'dataset.path=\"it'\"'\"'s.svm\"'"),
        ("~x", "'dataset.path=\"~x\"'"),
    ],
)
def test_an_override_is_quoted_where_it_must_be(path, line):
    assert override("dataset.path", path) == line
    (word,) = shlex.split(line)
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(word).value() == path


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="a file of Linux's")
@pytest.mark.parametrize("kind", ["pipe", "device", "kernel", "circle", "folder", "nothing"])
def test_what_could_be_read_for_ever_is_no_file(kind, tmp_path):
    path = tmp_path / "data"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "nothing":
        path.symlink_to({"device": "/dev/zero", "kernel": "/proc/kmsg", "circle": path}[kind])
    assert not is_regular(path)
    with pytest.raises(DataError, match=r"is not a regular file|There is no file"):
        require_file(path)
    (tmp_path / "empty").touch()
    assert is_regular(tmp_path / "empty")
