"""Points that are drawn again as a run goes: which draw a step is of, growth, and resumption."""

import math
from itertools import islice
from pathlib import Path

import pytest
import torch

from newton_krylov.data import load_dataset
from newton_krylov.models import Interface, initialized
from newton_krylov.models.mlp import mlp
from newton_krylov.objectives.residual.loss import ResidualLoss
from newton_krylov.optimizers.base import Optimizer
from newton_krylov.records.checkpoint import Checkpoint, Saver
from newton_krylov.registry import entry
from newton_krylov.runs.runner import Stopping, run

SMALL = {"points": 60, "start": 9, "boundary": 5, "seed": 3}
OPTIONS = {
    "adam": {"batch_size": 30},
    "adam_lbfgs": {"batch_size": 30, "switch": 5},
    "adam_lbfgs_nncg": {"batch_size": 30, "switch": 2, "second_switch": 3, "rank": 5},
}


def loss(name: str = "heat_1d", width: int = 6, **options: object) -> ResidualLoss:
    problem = load_dataset(name, {**SMALL, **options})
    generator = torch.Generator().manual_seed(0)
    module = initialized(lambda i: mlp(i, hidden=(width,)), Interface.of(problem), generator)
    return ResidualLoss(problem, module.double())


def optimizer(name: str) -> Optimizer:
    parts = {
        "solver": entry("solver", "exact").build({}),
        "curvature": entry("hessian_approx", "ggn").build({}),
        "line_search": entry("line_search", "strong_wolfe").build({}),
        "forcing": entry("forcing", "superlinear").build({}),
        "preconditioner": entry("preconditioner", "none").build({}),
        "damping": entry("damping", "levenberg_marquardt").build({}),
        "schedule": entry("schedule", "constant").build({}),
    }
    made: Optimizer = entry("optimizer", name).build(OPTIONS.get(name, {}), **parts)
    return made


def walk(made: Optimizer, f: ResidualLoss, w: torch.Tensor, generator: torch.Generator):
    for step in made.steps(f, w, generator):
        yield step.evaluated()


METHODS = pytest.mark.parametrize(
    "name",
    [
        "levenberg_marquardt",
        "newton",
        "bfgs",
        "lbfgs",
        "adam",
        "spring",
        "adam_lbfgs",
        "adam_lbfgs_nncg",
    ],
)


@METHODS
def test_a_step_is_of_the_draw_that_its_number_says(name: str):
    f = loss(resample=2)
    steps = list(islice(walk(optimizer(name), f, f.initial(), torch.Generator()), 8))
    for number, step in enumerate(steps):
        w, draw = step.point.w, max(0, number - 1) // 2
        assert step.point.value == pytest.approx(
            f.restored({"number": draw, "window": 1.0}).at(w).value
        )
    assert f.fresh_loss(steps[-1].point.w) < f.fresh_loss(steps[0].point.w)


@METHODS
def test_resume_equals_uninterrupted(name: str):
    f, generator = loss(resample=3), torch.Generator().manual_seed(1)
    made = optimizer(name)
    kept, expected = None, []
    for number, step in enumerate(walk(made, f, f.initial(), generator)):
        if number == 4:
            kept = made.state_dict(), step.point.w.clone(), generator.get_state()
        if number > 4:
            expected.append(step.point.w)
        if number == 12:
            break
    again = optimizer(name)
    again.load_state_dict(kept[0])
    steps = walk(again, loss(resample=3), kept[1], generator)
    next(steps)
    generator.set_state(kept[2])
    for w, step in zip(expected, steps, strict=False):
        assert torch.allclose(w, step.point.w, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["adam", "lbfgs"])
def test_a_run_that_is_resumed_between_two_rows_has_the_rows_of_an_uninterrupted_one(
    name: str, tmp_path: Path
):
    def go(epochs: int, **more: object):
        f = loss(resample=3)
        stopping, generator = Stopping(epochs=epochs), torch.Generator().manual_seed(1)
        return run(optimizer(name), f, f.initial(), stopping, generator, **more)

    path, kept = tmp_path / "checkpoint.pt", []
    go(67, on_checkpoint=Saver(path, 0.0), on_row=kept.append)
    assert [row.iteration for row in kept][-4:] == [63, 64, 66, 67]
    cut = Checkpoint.load(path)
    assert cut.rows[-1].iteration == 67  # of a limit's last row: the steps after it go on as ever
    whole, resumed = go(70), go(70, resume=cut)
    assert torch.allclose(resumed.w, whole.w, rtol=1e-9, atol=1e-12)
    assert all(math.isfinite(row.l2_error) for row in whole.rows)
    numbers = [row.iteration for row in whole.rows]
    assert numbers[-4:] == [64, 66, 68, 70]
    assert [r.iteration for r in resumed.rows if r.iteration != 67] == numbers


def test_the_window_grows_as_it_is_solved():
    f = loss("convection", resample=1, window=0.05, speed=1.0)
    windows = []
    for number, step in enumerate(
        walk(optimizer("levenberg_marquardt"), f, f.initial(), torch.Generator())
    ):
        windows.append(step.point.objective.state_dict()["window"])
        if number == 80:
            break
    assert windows == sorted(windows)
    assert windows[0] == 0.05 and windows[-1] > 0.3
    assert f.renewed(f.initial()).state_dict() == {"number": 1, "window": 0.05}


def test_the_window_grows_to_the_whole_and_a_run_resumed_in_its_midst_is_the_same():
    def convection() -> ResidualLoss:
        return loss("convection", 10, resample=1, window=0.4, speed=1.0)

    f, generator = convection(), torch.Generator().manual_seed(1)
    made, kept, expected = optimizer("levenberg_marquardt"), None, []
    for number, step in enumerate(walk(made, f, f.initial(), generator)):
        window = step.point.objective.state_dict()["window"]
        if kept is None and 0.5 < window < 1:
            kept = made.state_dict(), step.point.w.clone(), generator.get_state()
        elif kept is not None:
            expected.append((window, step.point.w))
        if window == 1.0 or number == 300:
            break
    assert window == 1.0
    assert step.notes[-1] != "t up to 1"
    again = optimizer("levenberg_marquardt")
    again.load_state_dict(kept[0])
    steps = walk(again, convection(), kept[1], generator)
    next(steps)
    generator.set_state(kept[2])
    for (window, w), step in zip(expected, steps, strict=False):
        assert step.point.objective.state_dict()["window"] == window
        assert torch.allclose(w, step.point.w, rtol=1e-9, atol=1e-12)


def test_a_subset_is_evaluated_at_its_points_alone():
    f = loss(resample=2)
    w, index = f.initial(), torch.tensor([70, 3, 61, 12, 78])
    part = f.subset(index)
    r = f.residuals(w)[index.sort().values] * (f.n_samples / 5) ** 0.5
    assert torch.allclose(part.residuals(w), r)
    assert torch.allclose(part.at(w).jacobian.dense().T @ r, part.at(w).grad)
    assert torch.allclose(part.at(w).r, r)


def test_an_unknown_coefficient_is_found_with_the_solution():
    f = loss("heat_1d_inverse", 12, resample=0)
    w = f.initial()
    assert f.found(w) == {"conductivity": 1.0}
    J = torch.func.jacrev(f.residuals)(w)
    point = f.at(w)
    v, u = torch.randn(len(w)).double(), torch.randn(f.n_residuals).double()
    assert torch.allclose(point.jacobian.dense(), J)
    assert torch.allclose(point.jacobian.matvec(v), J @ v)
    assert torch.allclose(point.jacobian.rmatvec(u), J.T @ u)
    for step in islice(walk(optimizer("levenberg_marquardt"), f, w, torch.Generator()), 150):
        w = step.point.w
    assert f.found(w)["conductivity"] == pytest.approx(0.25, rel=2e-2)


@pytest.mark.parametrize("hard", [False, True])
def test_the_second_derivative_along_a_step_is_nearly_forward_mode_s(hard: bool):
    f = loss(hard=hard)
    w = f.initial()
    point, p = (
        f.at(w),
        0.01 * torch.randn(f.dim, generator=torch.Generator().manual_seed(2)).double(),
    )
    exact = super(ResidualLoss, f).bend(point, p)
    assert torch.allclose(point.bend(p), exact, rtol=0.05, atol=0.01 * float(exact.norm()))
    J = torch.func.jacrev(f.residuals)(w)
    assert torch.allclose(point.jacobian.dense(), J)
