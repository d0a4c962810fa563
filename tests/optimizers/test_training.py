"""The mini-batch loop: its order, its schedules, its record; SGD and Adam against torch itself."""

import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import small_networks
import torch
from problems import assert_close, make
from small_networks import data, fixed, marquardt, module, network, optimizer
from torch.nn import functional as F

from newton_krylov.errors import ConfigError
from newton_krylov.objectives.network.losses import CrossEntropy
from newton_krylov.optimizers.schedule import Progress
from newton_krylov.registry import entry
from newton_krylov.runs.runner import Outcome, Stopping, run

FIRST_ORDER = [
    ("sgd", {"learning_rate": 0.3, "momentum": 0.9, "nesterov": True}),
    ("sgd", {"learning_rate": 0.3, "momentum": 0.0, "schedule": {"name": "cosine", "epochs": 3}}),
    ("adam", {"learning_rate": 0.01, "beta1": 0.8, "schedule": {"name": "linear", "epochs": 4}}),
]
ALL_METHODS = [
    *FIRST_ORDER,
    ("newton", {"damping": marquardt(0.5)}),
    ("layerwise_newton", {"curvature_samples": 10}),
]


def factor(schedule: dict[str, Any], epochs: float) -> float:
    """Return what a schedule multiplies the step by after some epochs."""
    value: float = entry("schedule", schedule["name"]).build(schedule)(Progress(epochs))
    return value


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def torch_alone(name: str, options: dict[str, Any], epochs: int, size: int) -> torch.Tensor:
    """Train the same network by a loop as torch's tutorials write it."""
    net, split = module(), data().train
    X, y = split.X, split.y
    named = {k: v for k, v in options.items() if k in ("momentum", "nesterov")}
    if name == "sgd":
        steps: Any = torch.optim.SGD(net.parameters(), options["learning_rate"], **named)
    else:
        steps = torch.optim.Adam(
            net.parameters(), options["learning_rate"], betas=(options["beta1"], 0.999)
        )
    draw, count = generator(), math.ceil(len(y) / size)
    for epoch in range(epochs):
        for k, index in enumerate(torch.randperm(len(y), generator=draw).split(size)):
            rate = factor(options.get("schedule", {"name": "constant"}), epoch + k / count)
            for group in steps.param_groups:
                group["lr"] = options["learning_rate"] * rate
            steps.zero_grad()
            F.cross_entropy(net(X[index]), y[index]).backward()
            steps.step()
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


@pytest.mark.parametrize(("name", "options"), FIRST_ORDER)
def test_the_steps_are_torch_s(name: str, options: dict[str, Any]) -> None:
    f = network()
    made = optimizer(name, batch_size=32, **options)
    result = run(made, f, f.initial(), Stopping(epochs=3), generator())
    assert_close(result.w, torch_alone(name, options, 3, 32), 1e-10)


@pytest.mark.parametrize(("name", "options"), ALL_METHODS)
def test_a_step_of_the_run_is_one_pass_in_random_order(name: str, options: dict[str, Any]) -> None:
    f = network()
    seen: list[int] = []

    class Watched(CrossEntropy):
        def batch(self, index: torch.Tensor, generator: torch.Generator) -> Any:
            seen.extend(index.tolist())
            return super().batch(index, generator)

    f.__class__ = Watched
    rows = run(
        optimizer(name, batch_size=32, **options), f, f.initial(), Stopping(epochs=2), generator()
    ).rows
    assert [row.iteration for row in rows] == [0, 1, 2]
    if name != "layerwise_newton":
        assert rows[1].gradient_count == pytest.approx(1.0)
    one, two = seen[:90], seen[90:]
    assert sorted(one) == sorted(two) == list(range(90))
    assert one != two and one != sorted(one)


@pytest.mark.parametrize(("name", "options"), ALL_METHODS)
def test_the_record_is_of_all_samples_without_dropout(name: str, options: dict[str, Any]) -> None:
    f = network(dropout=0.5)
    result = run(
        optimizer(name, batch_size=32, **options), f, f.initial(), Stopping(epochs=2), generator()
    )
    assert result.rows[-1].loss == pytest.approx(f.at(result.w).value, rel=1e-12)
    assert math.isnan(result.rows[0].grad_norm) and result.rows[1].grad_norm > 0


def test_no_gradient_of_all_samples_is_evaluated_for_the_record() -> None:
    f = network()
    rows = run(optimizer("sgd"), f, f.initial(), Stopping(epochs=3), generator()).rows
    assert rows[-1].gradient_count == pytest.approx(3.0)
    assert rows[-1].data_passes == pytest.approx(3.0)


def test_schedules_go_from_one_to_zero() -> None:
    for schedule in ("linear", "cosine"):
        values = [factor({"name": schedule, "epochs": 1}, k / 10) for k in range(11)]
        assert values[0] == 1.0 and values[-1] == pytest.approx(0.0, abs=1e-15)
        assert values[5] == pytest.approx(0.5)
        assert all(b < a for a, b in pairwise(values))
        assert factor({"name": schedule, "epochs": 1}, 2.0) == pytest.approx(0.0, abs=1e-15)
    assert factor({"name": "constant"}, 0.7) == 1.0


def test_newton_without_curvature_is_sgd_with_momentum() -> None:
    """(H + I / rate)^-1 m -> rate m as rate -> 0."""
    f = make("logistic", n=80)
    w0 = torch.zeros(f.dim, dtype=f.dtype)
    huge = {"damping": fixed(1e6), "momentum": 0.9, "batch_size": 16}
    newton = run(optimizer("newton", **huge), f, w0, Stopping(epochs=2), generator())
    sgd = optimizer("sgd", learning_rate=1e-6, momentum=0.9, batch_size=16)
    assert_close(newton.w, run(sgd, f, w0, Stopping(epochs=2), generator()).w, 1e-5)


def test_the_curvature_is_asked_as_often_as_said_and_of_as_many_samples() -> None:
    f = network()
    for every, expected in ((1, 6), (2, 4), (3, 2)):  # three batches an epoch, two epochs
        f.counts.hvp = 0.0
        made = optimizer(
            "newton",
            parts={"hessian_approx": {"name": "diagonal", "probes": 1}, "solver": "exact"},
            damping=fixed(1.0), batch_size=30, curvature_samples=9, curvature_every=every,
        )  # fmt: skip
        run(made, f, f.initial(), Stopping(epochs=2), generator())
        assert f.counts.hvp == pytest.approx(expected * 9 / 90)


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    f = network()
    made = optimizer("sgd", learning_rate=1e200, batch_size=10)
    result = run(made, f, f.initial(), Stopping(epochs=5), generator())
    assert result.outcome is Outcome.DIVERGED


@pytest.mark.parametrize("name", ["newton", "layerwise_newton"])
def test_hessian_free_works_with_each_krylov_solver(name: str) -> None:
    f = network(n=120)
    for solver in ("cg", "cr", "minres", "gmres"):
        for curvature in ("hvp", "ggn"):
            made = optimizer(
                name, parts={"solver": solver, "hessian_approx": curvature}, batch_size=40,
                damping=marquardt(0.1),
            )  # fmt: skip
            rows = run(made, f, f.initial(), Stopping(epochs=4), generator()).rows
            assert rows[-1].loss < 0.9 * rows[0].loss, (solver, curvature)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "curvature", "options"),
    [
        ("sgd", "hvp", {}),
        ("adam", "hvp", {}),
        ("newton", "hvp", {}),
        ("newton", "rank1_pyhessian", {"damping": {"name": "fixed", "tau": 1.0}}),
    ],
)
def test_nothing_is_imported_while_the_clock_runs(
    method: str, curvature: str, options: dict[str, float]
) -> None:
    """What torch puts off until it is first used takes a second: a hundred of these steps."""
    if curvature == "rank1_pyhessian":
        pytest.importorskip("pyhessian", reason="PyHessian is not installed")
    code = f"""
import sys, torch
from newton_krylov.runs.parts import register_parts
register_parts()
from small_networks import network, optimizer
method = optimizer({method!r}, parts={{"hessian_approx": {curvature!r}}}, **{options!r})
f = network()
steps = method.steps(f, f.initial(), torch.Generator().manual_seed(0))
before = set(sys.modules)
for _ in range(3):
    next(steps)
new = set(sys.modules) - before
assert not new, sorted(new)[:5]
"""
    folder = str(Path(small_networks.__file__).parent)
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.nesterov needs a momentum"):
        optimizer("sgd", momentum=0.0, nesterov=True)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_a_schedule_without_a_known_end_leaves_the_step_as_it_is(name: str) -> None:
    assert factor({"name": name, "epochs": None}, 7.5) == 1.0
