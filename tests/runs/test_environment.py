"""Where a run runs: what is recorded of it, and how it is chosen."""

import subprocess

import pytest
import torch

from newton_krylov.device import auto, cpu, cuda
from newton_krylov.errors import UnsupportedError
from newton_krylov.runs.environment import describe


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def test_the_code_s_state_is_told(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("x = 1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    found = describe(tmp_path)
    assert len(found["git_commit"]) == 40 and found["git_dirty"] is False
    assert found["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert found["cpu"] and found["cpu_count"] >= 1 and found["threads"] >= 1
    changed = tmp_path / "changed"
    git(tmp_path, "clone", ".", str(changed))
    (changed / "code.py").write_text("x = 2")
    assert describe(changed)["git_dirty"] is True


def test_code_outside_git_has_no_state(tmp_path):
    found = describe(tmp_path)
    assert found["git_commit"] is None and found["git_dirty"] is None


def test_threads_are_set_and_restored():
    before = torch.get_num_threads()
    try:
        assert cpu(threads=1) == torch.device("cpu")
        assert torch.get_num_threads() == 1
    finally:
        cpu()
    assert torch.get_num_threads() == before


def test_a_gpu_that_is_not_there_is_a_sentence():
    if torch.cuda.is_available():
        with pytest.raises(UnsupportedError, match=r"device\.index=99: there are"):
            cuda(index=99)
        assert auto().type == "cuda"
    else:
        with pytest.raises(UnsupportedError, match="torch finds no NVIDIA GPU here"):
            cuda()
        assert auto() == torch.device("cpu")
