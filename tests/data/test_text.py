"""Text: what is cut, what is held out, and files that are none."""

import pytest
import torch

from newton_krylov.data import load_dataset
from newton_krylov.errors import ConfigError, DataError


def test_the_target_of_each_character_is_the_next():
    text = load_dataset("text", {"context": 16})
    read = [text.alphabet[k] for k in text.train.X.flatten()]
    assert "".join(read).startswith("\tAS YOU LIKE IT\n\n\n\tDRAMATIS PERSONAE")
    assert torch.equal(text.train.X.flatten()[1:], text.train.y.flatten()[:-1])
    n = len(text.train) + len(text.test)
    assert n == (125_179 - 1) // 16
    assert len(text.test) == round(0.1 * n)
    assert text.facts() == {
        "n_samples": len(text.train), "n_features": 16, "nnz": text.train.X.numel(),
        "task": "multiclass",
    }  # fmt: skip


def test_an_own_file_a_limit_and_the_checksum(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("äbc" * 20, encoding="utf-8")
    whole = load_dataset("text", {"path": str(file), "context": 4})
    assert whole.alphabet == "bcä"
    assert whole.n_classes == 3
    part = load_dataset("text", {"path": str(file), "context": 4, "limit": 5})
    assert len(part.train) == 5
    assert torch.equal(part.test.X, whole.test.X)
    assert part.checksum != whole.checksum


def test_no_text_is_one_sentence(tmp_path):
    file = tmp_path / "mine.bin"
    file.write_bytes(b"abc\xff\xfe")
    with pytest.raises(DataError, match=r"mine\.bin, byte 3: dataset=text reads text in UTF-8"):
        load_dataset("text", {"path": str(file)})
    with pytest.raises(DataError, match="There is no file"):
        load_dataset("text", {"path": str(tmp_path / "none.txt")})
    file.write_text("short")
    with pytest.raises(ConfigError, match="cuts the 5 characters into 0 pieces"):
        load_dataset("text", {"path": str(file)})
