"""Checkpoints: a run that went on from one equals the run that was never interrupted."""

import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import make
from small_networks import marquardt, network, optimizer

from newton_krylov.errors import DataError, UnsupportedError
from newton_krylov.records.checkpoint import Checkpoint, Saver
from newton_krylov.records.trace import Row
from newton_krylov.runs.runner import RunResult, Stopping, run

LM = {"damping": marquardt(0.5)}
SMALL_CURVATURE = {"batch_size": 30, "curvature_samples": 12}
METHODS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("sgd", {"schedule": {"name": "cosine", "epochs": 6}}, {}),
    ("adam", {"batch_size": 16}, {}),
    ("newton", {"batch_size": 30, "momentum": 0.5, **LM}, {"forcing": "eisenstat_walker"}),
    ("newton", {"batch_size": 20, "curvature_every": 2, **LM}, {"hessian_approx": "hvp"}),
    ("newton", LM, {}),
    (
        "layerwise_newton",
        {"batch_size": 30, "curvature_samples": 12},
        {"hessian_approx": "lowrank"},
    ),
    ("layerwise_newton", {"layers": ["last"], "batch_size": 30}, {"hessian_approx": "rank1"}),
    ("gd", {}, {}),
    ("nesterov", {}, {}),
    ("lbfgs", {"memory": 2}, {}),
]


class Kept(list[Checkpoint]):
    """Takes every checkpoint."""

    due = True

    def __call__(self, checkpoint: Checkpoint, /) -> None:
        self.append(checkpoint)


def fresh(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def without_times(rows: list[Row]) -> list[Row]:
    return [replace(row, seconds=0.0, step_seconds=0.0) for row in rows]


def text(rows: list[Row]) -> list[str]:
    return [repr(row) for row in without_times(rows)]  # nan is equal to nan in words


@pytest.mark.parametrize(("name", "options", "parts"), METHODS)
def test_resumed_equals_uninterrupted_bit_for_bit(
    name: str, options: dict[str, Any], parts: dict[str, Any], tmp_path: Path
) -> None:
    def go(epochs: int, **more: Any) -> RunResult:
        f = network(dropout=0.3)  # a new process has a new objective, with counts of its own
        made = optimizer(name, parts=parts, **options)
        start = more.pop("generator", None) or fresh()
        return run(made, f, f.initial(), Stopping(epochs=epochs), start, **more)

    whole = go(6)
    path = tmp_path / "checkpoint.pt"
    go(3, on_checkpoint=Saver(path, 0.0))
    resumed = go(6, resume=Checkpoint.load(path), generator=fresh(99))
    assert torch.equal(resumed.w, whole.w)
    assert text(resumed.rows) == text(whole.rows)
    seconds = [row.seconds for row in resumed.rows]
    assert seconds == sorted(seconds)


def test_a_run_that_had_ended_ends_at_once(tmp_path: Path) -> None:
    f, kept = network(), Kept()
    ended = run(optimizer("sgd"), f, f.initial(), Stopping(epochs=2), fresh(), on_checkpoint=kept)
    again = run(optimizer("sgd"), f, f.initial(), Stopping(epochs=2), fresh(), resume=kept[-1])
    assert again.reason == ended.reason
    assert torch.equal(again.w, ended.w)


def test_a_checkpoint_is_made_after_each_step_and_holds_what_was_then() -> None:
    f, kept = network(), Kept()
    run(optimizer("sgd"), f, f.initial(), Stopping(epochs=3), fresh(), on_checkpoint=kept)
    assert [c.rows[-1].iteration for c in kept] == [1, 2, 3]
    assert [len(c.rows) for c in kept] == [2, 3, 4]
    momenta = [c.optimizer["torch"]["state"][0]["momentum_buffer"] for c in kept]
    assert not torch.equal(momenta[0], momenta[1])
    assert [c.optimizer["epochs"] for c in kept] == [1, 2, 3]


def test_a_method_that_cannot_go_on_makes_no_checkpoint_and_says_so() -> None:
    f, kept = make("logistic"), Kept()
    w0 = torch.zeros(f.dim, dtype=f.dtype)
    run(optimizer("saga"), f, w0, Stopping(epochs=3), fresh(), on_checkpoint=kept)
    assert kept == []
    with pytest.raises(UnsupportedError, match="cannot be continued"):
        optimizer("saga").load_state_dict({})


@pytest.mark.parametrize("name", ["gd", "nesterov", "lbfgs"])
def test_on_a_linear_model_it_goes_on_too(name: str, tmp_path: Path) -> None:
    def go(epochs: int, **more: Any) -> RunResult:
        f = make("logistic")
        w0 = torch.full((f.dim,), 0.5, dtype=f.dtype)
        return run(optimizer(name), f, w0, Stopping(epochs=epochs), fresh(), **more)

    path = tmp_path / "checkpoint.pt"
    go(4, on_checkpoint=Saver(path, 0.0))
    whole, resumed = go(9), go(9, resume=Checkpoint.load(path))
    assert len(resumed.rows) == len(whole.rows)
    # A linear model's margins are carried along a line search, and computed when it goes on.
    for a, b in zip(resumed.rows, whole.rows, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-12)
    assert resumed.rows[-1].data_passes == whole.rows[-1].data_passes


@pytest.mark.parametrize("place", [10, 0.3, 0.5, 0.9, -1])
def test_one_flipped_bit_is_seen(place: float, tmp_path: Path) -> None:
    f, path = make("logistic"), tmp_path / "checkpoint.pt"
    w0 = torch.zeros(f.dim, dtype=f.dtype)
    run(optimizer("gd"), f, w0, Stopping(epochs=2), fresh(), on_checkpoint=Saver(path, 0.0))
    data = bytearray(path.read_bytes())
    data[place if isinstance(place, int) else int(place * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="is not a whole checkpoint"):
        Checkpoint.load(path)


def test_a_diverged_iterate_is_not_kept() -> None:
    f, kept = network(), Kept()
    made = optimizer("sgd", learning_rate=1e200, batch_size=10)
    run(made, f, f.initial(), Stopping(epochs=5), fresh(), on_checkpoint=kept)
    assert all(math.isfinite(c.rows[-1].loss) for c in kept)


def some_checkpoint() -> Checkpoint:
    f, kept = network(), Kept()
    run(optimizer("adam"), f, f.initial(), Stopping(epochs=1), fresh(), on_checkpoint=kept)
    return kept[-1]


def test_it_is_read_back_as_it_was(tmp_path: Path) -> None:
    made = some_checkpoint()
    made.save(tmp_path / "c.pt")
    read = Checkpoint.load(tmp_path / "c.pt")
    assert torch.equal(read.w, made.w) and torch.equal(read.generator, made.generator)
    assert text(read.rows) == text(made.rows) and read.counts == made.counts
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["missing", "cut", "empty", "text", "tensor", "pickle"])
def test_what_is_not_a_checkpoint_is_named_and_nothing_in_it_runs(
    damage: str, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    if damage == "cut":
        some_checkpoint().save(path)
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "tensor":
        torch.save(torch.zeros(2), path)
    elif damage == "pickle":
        path.write_bytes(pickle.dumps(_Touch(str(tmp_path / "executed")), 2))
    elif damage != "missing":
        path.write_bytes(b"" if damage == "empty" else b"w: 1")
    with pytest.raises(DataError, match="checkpoint"):
        Checkpoint.load(path)
    assert not (tmp_path / "executed").exists()


class _Touch:
    """What a hostile file would do."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")
