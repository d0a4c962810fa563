"""The runner: when a run stops, what it keeps, and what its clock counts."""

import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from optimizer_parts import make_optimizer
from problems import make, make_dataset

from newton_krylov.data.dataset import Split
from newton_krylov.errors import ConfigError, UnsupportedError
from newton_krylov.optimizers.base import Optimizer, Step
from newton_krylov.registry import entry
from newton_krylov.runs.runner import Outcome, RunResult, Stopping, run, spacing


class Halving(Optimizer):
    """Halves w at each step; does something at a step on request."""

    def __init__(self, at: int = -1, what: Callable[[], Any] = lambda: None, last: int = 10**6):
        self.at, self.what, self.last = at, what, last

    def steps(self, objective, w0, generator) -> Iterator[Step]:
        w, number = w0, 0
        while True:
            if number == self.at:
                self.what()
            if number == self.last:
                return "nothing is left to halve"
            yield Step(objective.at(w))
            w, number = w / 2, number + 1


def go(
    optimizer: Optimizer, w0: float = 1.0, *, every: int | None = None, costly: bool = False,
    **stopping: Any,
) -> RunResult:  # fmt: skip
    objective = make("logistic")
    objective.quickly_measured = not costly
    start = torch.full((objective.dim,), w0, dtype=objective.dtype)
    made = Stopping(**({"epochs": 30} | stopping))
    return run(optimizer, objective, start, made, torch.Generator(), every=every)


def raiser(error: BaseException) -> Callable[[], None]:
    def strike() -> None:
        raise error

    return strike


@pytest.mark.parametrize("epochs", [0, 1, 5])
def test_epochs_count_the_steps_after_the_start(epochs):
    result = go(Halving(), epochs=epochs)
    assert [row.iteration for row in result.rows] == list(range(epochs + 1))
    assert (result.outcome, result.reason) == (Outcome.LIMIT, f"{epochs} epochs")


def test_a_certified_gap_converges():
    """By the duality gap of a lasso, which bounds how far its value is above the minimum."""
    data = make_dataset("regression")
    lasso = entry("loss", "least_squares").target(data, l2=0.0, l1=0.05)
    start = torch.zeros(lasso.dim, dtype=lasso.dtype)
    ends = [
        run(make_optimizer("proximal_newton"), lasso, start, stopping, torch.Generator())
        for stopping in (Stopping(gap=1e-3), Stopping(gap=1e-12))
    ]
    assert [end.reason for end in ends] == ["certified gap <= 0.001", "certified gap <= 1e-12"]
    gaps = [lasso.suboptimality_bound(lasso.at(end.w)) for end in ends]
    assert ends[0].rows[-1].loss - ends[1].rows[-1].loss <= gaps[0] <= 1e-3
    assert gaps[1] <= 1e-12


def test_the_gradient_norm_and_the_change_of_the_loss_converge():
    objective = make("logistic")
    limit = float(objective.at(torch.zeros(objective.dim, dtype=objective.dtype)).grad_norm) * 1.01
    result = go(Halving(), epochs=None, grad_norm=limit)
    assert result.outcome is Outcome.CONVERGED and result.rows[-1].grad_norm <= limit
    assert all(row.grad_norm > limit for row in result.rows[:-1])
    result = go(Halving(), epochs=None, loss_change=1e-6)
    changes = [abs(b.loss - a.loss) for a, b in zip(result.rows, result.rows[1:], strict=False)]
    assert changes[-1] <= 1e-6 < min(changes[:-1])


def test_an_optimizer_may_end_by_itself():
    result = go(Halving(last=3))
    assert (result.outcome, result.reason) == (Outcome.ENDED, "nothing is left to halve")
    assert len(result.rows) == 3


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (KeyboardInterrupt(), Outcome.INTERRUPTED, "interrupted by the user"),
        (MemoryError("too large"), Outcome.OUT_OF_MEMORY, "out of memory: too large"),
        (torch.OutOfMemoryError("CUDA"), Outcome.OUT_OF_MEMORY, "out of memory: CUDA"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            Outcome.OUT_OF_MEMORY,
            "out of memory: DefaultCPUAllocator",
        ),
        (ZeroDivisionError("by\n zero"), Outcome.ERROR, "ZeroDivisionError: by zero"),
        (ConfigError("a sentence."), Outcome.ERROR, "a sentence."),
    ],
)
def test_what_was_computed_before_a_fault_is_kept(error, outcome, reason):
    result = go(Halving(at=3, what=raiser(error)))
    assert result.outcome is outcome and result.reason.startswith(reason)
    assert [row.iteration for row in result.rows] == [0, 1, 2]
    assert result.w[0] == 0.25  # the last good point
    assert outcome.failed == (outcome is not Outcome.INTERRUPTED)


def test_what_interrupts_a_run_when_a_row_is_kept_leaves_the_row_s_weights():
    """So comes a signal that waited for a row to be written."""
    objective, kept = make("logistic"), []

    def keep(row):
        kept.append(row.loss)
        if len(kept) == 3:
            raise KeyboardInterrupt

    start = torch.ones(objective.dim, dtype=objective.dtype)
    result = run(Halving(), objective, start, Stopping(), torch.Generator(), on_row=keep)
    assert result.outcome is Outcome.INTERRUPTED
    assert objective.at(result.w).value == kept[-1] == result.rows[-1].loss


def test_a_real_lack_of_memory_is_told_from_an_error():
    result = go(Halving(at=1, what=lambda: torch.empty(2**50)))
    assert result.outcome is Outcome.OUT_OF_MEMORY


def test_parts_that_do_not_go_together_are_no_result():
    for at in (0, 2):
        with pytest.raises(UnsupportedError, match="not together"):
            go(Halving(at=at, what=raiser(UnsupportedError("not together"))))
    with pytest.raises(ConfigError, match="no such layer"):  # before the first step
        go(Halving(at=0, what=raiser(ConfigError("no such layer"))))


@pytest.mark.parametrize("start", [1e200, math.nan])
def test_a_loss_that_is_not_finite_ends_the_run(start):
    result = go(Halving(), w0=start)
    assert result.outcome is Outcome.DIVERGED and "the loss is" in result.reason
    assert len(result.rows) == 1


def test_the_clock_runs_only_while_the_optimizer_does():
    objective = make("logistic")
    w0 = torch.zeros(objective.dim, dtype=objective.dtype)
    began = time.perf_counter()
    result = run(
        Halving(), objective, w0, Stopping(epochs=5), torch.Generator(),
        on_row=lambda row: time.sleep(0.05),
    )  # fmt: skip
    took = time.perf_counter() - began
    assert took - result.rows[-1].seconds >= 6 * 0.05  # the sleep is in no step
    slow = go(Halving(at=1, what=lambda: time.sleep(0.1)), epochs=1)
    assert slow.rows[1].step_seconds >= 0.1
    assert slow.rows[1].seconds >= slow.rows[0].seconds + 0.1


def test_metrics_cost_no_counted_evaluation():
    objective = make("logistic")
    w0 = torch.zeros(objective.dim, dtype=objective.dtype)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(20, objective.dim, generator=generator, dtype=objective.dtype)
    y = (X[:, 0] > 0).long()
    plain = run(Halving(), objective, w0, Stopping(epochs=3), generator)
    measured = run(
        Halving(), make("logistic"), w0, Stopping(epochs=3), generator,
        train=Split(X, y), test=Split(X, y), optimum=0.0,
    )  # fmt: skip
    assert [row.data_passes for row in plain.rows] == [row.data_passes for row in measured.rows]
    assert math.isnan(plain.rows[0].test_accuracy) and math.isnan(plain.rows[0].suboptimality)
    assert 0 <= measured.rows[0].test_accuracy <= 1
    assert measured.rows[0].suboptimality == measured.rows[0].loss


@pytest.mark.parametrize("clock", ["wall", "processor"])
def test_what_seconds_are_of(clock):
    """A step that waits for a second takes that by the wall's clock alone."""

    go(Halving(last=2))  # what is computed for the first time takes longer
    waiting = Halving(at=1, what=lambda: time.sleep(1), last=2)
    objective = make("logistic")
    start = torch.zeros(objective.dim, dtype=objective.dtype)
    result = run(waiting, objective, start, Stopping(), torch.Generator(), clock_of=clock)
    assert (result.rows[-1].seconds >= 1) == (clock == "wall")


def test_rows_are_at_most_a_thirty_second_of_the_steps_apart():
    """And depend on a step's number alone: each spacing divides the next one."""
    scheduled = [k for k in range(100_000) if k % spacing(k) == 0]
    assert scheduled[:65] == list(range(65))
    assert all(32 * (b - a) <= max(32, a) for a, b in pairwise(scheduled))
    assert len(scheduled) < 64 + 32 * math.log2(100_000 / 64) + 1


@pytest.mark.parametrize("every", [None, 7])
@pytest.mark.parametrize("epochs", [20, 63, 150, 301])
def test_where_a_row_is_costly_only_some_steps_have_one_and_the_last_one_always(every, epochs):
    whole = go(Halving(), epochs=epochs).rows
    rows = go(Halving(), epochs=epochs, every=every, costly=True).rows
    apart = (lambda k: every) if every else spacing
    wanted = [k for k in range(epochs) if k % apart(k) == 0] + [epochs]
    assert [row.iteration for row in rows] == wanted
    for row in rows:
        assert (row.loss, row.data_passes) == (
            whole[row.iteration].loss, whole[row.iteration].data_passes
        )  # fmt: skip
    assert sum(row.step_seconds for row in rows) == pytest.approx(rows[-1].seconds)


def test_criteria_that_cost_nothing_are_looked_at_after_each_step_whatever_has_a_row():
    f = make("logistic")
    norm = 1.01 * f.at(torch.zeros(f.dim, dtype=f.dtype)).grad_norm
    for criterion in ({"grad_norm": norm}, {"loss_change": 1e-20}, {"epochs": 77}):
        whole = go(Halving(), **({"epochs": None} | criterion))
        found = go(Halving(), every=50, **({"epochs": None} | criterion))
        assert (found.reason, found.rows[-1].loss) == (whole.reason, whole.rows[-1].loss)
        assert len(found.rows) == 2 + (whole.rows[-1].iteration - 1) // 50
    ended = go(Halving(last=70), every=50, epochs=None)
    assert [row.iteration for row in ended.rows] == [0, 50, 69]
    assert torch.equal(ended.w, go(Halving(last=70), epochs=None).w)
