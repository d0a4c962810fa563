"""The certified optimum: as exact as it says, solved once, whoever asks."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command import PATIENCE
from optimizer_parts import a9a, optimum_of, small
from problems import CONVEX_LOSSES, make_dataset

from newton_krylov.data import Dataset, load_dataset
from newton_krylov.registry import entry
from newton_krylov.runs.optimum import Optimum, certified_optimum, fingerprint

LOGISTIC = entry("loss", "logistic")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty cache of its own."""
    monkeypatch.setenv("NEWTON_KRYLOV_CACHE", str(tmp_path))
    return tmp_path / "optimum"


def certify(dataset: Dataset, l2: float = 0.01, dtype: torch.dtype = torch.float64) -> Optimum:
    found = certified_optimum(dataset, LOGISTIC, {"l2": l2}, dtype)
    assert found is not None
    return found


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("l2", [1.0, 0.01, 1e-4])
@pytest.mark.parametrize("loss", CONVEX_LOSSES, ids=str)
def test_the_gradient_norm_is_below_1e_12_and_the_bound_says_what_follows(loss, l2, sparse, cache):
    dataset = make_dataset(loss.task, n=150, sparse=sparse)
    optimum = certified_optimum(dataset, entry("loss", loss.name), {"l2": l2}, torch.float64)
    assert optimum is not None and optimum.met
    assert optimum.grad_norm <= 1e-12
    assert optimum.gap_bound == optimum.grad_norm**2 / (2 * l2)


def test_it_is_the_closed_form_s_value_where_there_is_one(cache):
    dataset = make_dataset("regression", n=80)
    X, y, l2 = dataset.train.X, dataset.train.y, 0.05
    w = torch.linalg.solve(X.T @ X / 80 + l2 * torch.eye(7, dtype=X.dtype), X.T @ y / 80)
    value = ((X @ w - y) ** 2).mean() / 2 + l2 / 2 * w @ w
    optimum = certified_optimum(dataset, entry("loss", "least_squares"), {"l2": l2}, torch.float64)
    assert optimum is not None
    assert optimum.value == pytest.approx(float(value), rel=1e-15)


def test_above_two_thousand_parameters_it_is_solved_without_a_matrix(cache):
    dataset = load_dataset("synthetic", {"n": 800, "n_test": 0, "d": 2500, "density": 0.02})
    optimum = certify(dataset, 0.1)
    assert optimum.met


def test_where_nothing_is_certified_there_is_none(cache):
    assert certified_optimum(small(), LOGISTIC, {"l2": 0.0}, torch.float64) is None
    loss = entry("loss", "sigmoid_least_squares")
    assert certified_optimum(small(), loss, {"l2": 0.01}, torch.float64) is None
    assert not cache.exists()


def test_a_float32_run_is_held_against_the_float64_optimum_of_its_rounded_data(cache):
    dataset = small(dtype=torch.float32)
    rounded = certify(dataset, dtype=torch.float32)
    assert rounded.met  # a gradient norm that float32 could not resolve
    widened = replace(
        dataset, train=replace(dataset.train, X=dataset.train.X.double()), checksum="widened"
    )
    assert certify(widened).value == rounded.value
    assert certify(small()).value != rounded.value


# --- the cache ----------------------------------------------------------------------------------


def test_it_is_solved_once(cache):
    first = certify(small())
    (file,) = cache.glob("*.npz")
    stamp = file.stat().st_mtime_ns
    assert certify(small()) == first
    assert file.stat().st_mtime_ns == stamp
    np.savez(file, value=0.5, gap_bound=0.0, grad_norm=0.0)
    assert certify(small()).value == 0.5  # read, not solved


def test_the_fingerprint_is_of_all_that_the_optimum_depends_on():
    dataset, double = small(), torch.float64
    prints = [
        fingerprint(dataset, "logistic", {"l2": 0.01}, double),
        fingerprint(dataset, "logistic", {"l2": 0.02}, double),
        fingerprint(dataset, "squared_hinge", {"l2": 0.01}, double),
        fingerprint(dataset, "logistic", {"l2": 0.01}, torch.float32),
        fingerprint(replace(dataset, checksum="other"), "logistic", {"l2": 0.01}, double),
    ]
    assert len(set(prints)) == len(prints)
    assert all(len(digits) == 64 for digits in prints)
    again = fingerprint(small(), "logistic", {"l2": 0.01}, double)
    assert again == prints[0]


def test_options_that_change_the_data_change_the_optimum(cache):
    values = {
        certify(load_dataset("breast_cancer", options)).value
        for options in ({}, {"bias": True}, {"scaling": "maxabs"})
    }
    assert len(values) == 3


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", b"\0" * 500])
def test_a_damaged_file_is_made_anew(cache, damage):
    value = certify(small()).value
    (file,) = cache.glob("*.npz")
    file.write_bytes(damage)
    assert certify(small()).value == value
    assert file.read_bytes() != damage


def test_without_a_place_for_the_cache_it_is_solved_all_the_same(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("NEWTON_KRYLOV_CACHE", str(blocked))
    assert certify(small()).met


ASK = """
import sys
from pathlib import Path
import torch
from newton_krylov.runs import optimum
from newton_krylov.data import load_dataset
from newton_krylov.registry import entry
from newton_krylov.runs.parts import register_parts

register_parts()
solve = optimum._solve

def logged(*given):
    with Path(sys.argv[1]).open("a") as log:
        log.write("solved\\n")
    return solve(*given)

optimum._solve = logged
found = optimum.certified_optimum(
    load_dataset("a9a"), entry("loss", "logistic"), {"l2": 0.01}, torch.float64
)
print(repr(found.value))
"""


@pytest.mark.slow
def test_of_processes_that_ask_at_the_same_time_one_solves_and_all_get_the_answer(tmp_path):
    log = tmp_path / "log"
    environment = os.environ | {"NEWTON_KRYLOV_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ASK, str(log)]
    asking = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    answers = [process.communicate(timeout=PATIENCE)[0].strip() for process in asking]
    assert len(set(answers)) == 1
    assert float(answers[0]) == pytest.approx(optimum_of(a9a()).value, abs=1e-15)  # its threads
    assert log.read_text() == "solved\n"
