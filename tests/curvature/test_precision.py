"""Curvature in single precision inside an optimization in double."""

from pathlib import Path

import pytest
import torch
from problems import LOSSES, assert_close, make, randn
from small_networks import network

from newton_krylov.curvature.hvp import HessianProduct
from newton_krylov.curvature.subsampled import SubsampledHessian
from newton_krylov.errors import UnsupportedError
from newton_krylov.operators import CastOperator
from newton_krylov.optimizers.base import Optimizer
from newton_krylov.records.checkpoint import Checkpoint, Saver
from newton_krylov.registry import entry
from newton_krylov.runs.runner import Outcome, RunResult, Stopping, run


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_products_agree_to_single_precision_and_no_better(loss, sparse) -> None:
    f = make(loss, sparse=sparse)
    point, V = f.at(0.3 * randn(f.dim, seed=1)), randn(f.dim, 3, seed=2)
    exact, single = point.hessian(), HessianProduct("float32").at(point, generator())
    assert isinstance(single, CastOperator) and single.dtype == torch.float64
    size = float(exact.dense().abs().max())
    for ours, theirs in (
        (single @ V[:, 0], exact @ V[:, 0]),
        (single @ V, exact @ V),
        (single.diagonal(), exact.diagonal()),
        (single.dense(), exact.dense()),
    ):
        assert ours.dtype == torch.float64
        assert float((ours - theirs).abs().max()) <= 1e-5 * size * float(V.abs().max()) * f.dim
    assert not torch.equal(single @ V, exact @ V)


def test_products_and_samples_are_counted_as_the_objective_s() -> None:
    f = make("logistic", n=40)
    point = f.at(randn(f.dim, seed=1))
    v = randn(f.dim, seed=2)
    _ = HessianProduct("float32").at(point, generator()) @ v
    assert f.counts.hvp == 1
    _ = SubsampledHessian(0.25, dtype="float32").at(point, generator()) @ v
    assert f.counts.hvp == pytest.approx(1.25)


def newton(**options: object) -> Optimizer:
    return entry("optimizer", "newton").build(
        {},
        solver=entry("solver", "cr").build({}),
        curvature=entry("hessian_approx", "hvp").build(options),
        line_search=entry("line_search", "armijo").build({}),
        forcing=entry("forcing", "superlinear").build({}),
        preconditioner=entry("preconditioner", "subsampled").build({"samples": 30}),
        damping=entry("damping", "fixed").build({}),
    )


def test_the_solution_has_double_precision() -> None:
    f = make("logistic", sparse=True, n=200)
    result = run(
        newton(dtype="float32"), f, torch.zeros(f.dim, dtype=f.dtype),
        Stopping(grad_norm=1e-13, epochs=50), generator(),
    )  # fmt: skip
    assert result.outcome is Outcome.CONVERGED
    assert len(result.rows) < 15


def test_resumed_equals_uninterrupted_with_the_preconditioner_that_was_in_use(
    tmp_path: Path,
) -> None:
    def go(epochs: int, **more: object) -> RunResult:
        f = make("logistic", n=200)
        w0 = torch.zeros(f.dim, dtype=f.dtype)
        draw = more.pop("generator", generator())
        return run(newton(), f, w0, Stopping(epochs=epochs), draw, **more)

    whole = go(6)
    go(3, on_checkpoint=Saver(tmp_path / "checkpoint.pt", 0.0))
    resume = Checkpoint.load(tmp_path / "checkpoint.pt")
    resumed = go(6, resume=resume, generator=generator(9))
    # The outputs X w are computed again, so not bit for bit as where nothing is carried along.
    assert_close(resumed.w, whole.w, 1e-12)
    inner = [[row.inner_iterations for row in r.rows] for r in (whole, resumed)]
    assert inner[0] == inner[1]


def test_a_network_is_refused_in_a_sentence() -> None:
    f = network()
    point = f.at(f.initial())
    other = "float32" if f.dtype == torch.float64 else None
    assert other is not None
    with pytest.raises(UnsupportedError, match="for linear models"):
        HessianProduct(other).at(point, generator())
