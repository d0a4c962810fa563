"""Residual problems through the whole pipeline: an equation, a curve, a network, a plug-in."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
from command import command, inside

from newton_krylov.records.trace import Row, read_trace

EQUATION = ("dataset=poisson_2d", "dataset.side=12", "dataset.boundary=40", "loss=residual",
            "model=mlp", "model.hidden=[16]", "tracking=none")  # fmt: skip
GAUSS_NEWTON = ("optimizer=newton", "hessian_approx=ggn", "damping=levenberg_marquardt")


def trace(folder: Path) -> list[Row]:
    return read_trace(folder / "trace.csv")


def test_an_equation_by_the_issue_s_command(tmp_path):
    """In a process of its own; the error of the solution is in the trace and on the screen."""
    folder = tmp_path / "run"
    out, _ = command(
        *EQUATION, *GAUSS_NEWTON, "solver=exact", "stop.epochs=60", f"hydra.run.dir={folder}",
        cwd=tmp_path,
    )  # fmt: skip
    rows = trace(folder)
    assert "relative error of the solution" in out
    assert rows[0].l2_error > 0.5
    assert rows[-1].l2_error < 5e-3
    assert rows[-1].loss < 1e-4 * rows[0].loss


@pytest.mark.parametrize("solver", ["qr", "lsmr", "lsqr", "cg"])
def test_an_equation_by_every_route(solver, tmp_path):
    inside(
        *EQUATION, *GAUSS_NEWTON, f"solver={solver}", "stop.epochs=25",
        f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path,
    )  # fmt: skip
    rows = trace(tmp_path / "run")
    assert rows[-1].loss < 1e-2 * rows[0].loss


def test_a_small_problem_takes_one_thread_unless_the_user_says_more(tmp_path):
    import torch

    before = torch.get_num_threads()
    try:
        for given, threads in (((), 1), (("device.threads=2",), 2)):
            inside(
                *EQUATION, "optimizer=spring", "stop.epochs=2", *given,
                f"hydra.run.dir={tmp_path / str(threads)}", cwd=tmp_path,
            )  # fmt: skip
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


DRAWN = ("dataset=convection", "dataset.points=80", "dataset.start=9", "dataset.boundary=5",
         "loss=residual", "model=mlp", "model.hidden=[8]", "tracking=none",
         "stop.epochs=12")  # fmt: skip


def test_the_window_and_the_loss_at_fresh_points_are_in_the_trace(tmp_path):
    inside(*DRAWN, "method=levenberg_marquardt", f"hydra.run.dir={tmp_path / 'r'}", cwd=tmp_path)
    rows = trace(tmp_path / "r")
    assert math.isfinite(rows[-1].fresh_loss) and rows[-1].fresh_loss != rows[-1].loss
    assert "t up to" in rows[-1].note


def test_a_method_that_cannot_take_new_points_is_refused(tmp_path):
    out, err = inside(*DRAWN, "optimizer=scipy_lbfgsb", cwd=tmp_path, code=2)
    assert "set dataset.resample=0" in out + err


def test_a_network_of_any_kind(tmp_path):
    """GELU has no second derivative of ours: products by nested forward mode."""
    inside(
        *EQUATION, *GAUSS_NEWTON, "solver=exact", "model.activation=gelu", "stop.epochs=25",
        f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path,
    )  # fmt: skip
    rows = trace(tmp_path / "run")
    assert rows[-1].loss < 1e-2 * rows[0].loss


def test_adam_of_networks_runs_where_only_seconds_limit_it(tmp_path):
    """`method=adam` lowers its rate over `stop.epochs`, of which there are none."""
    inside(
        *EQUATION, "method=adam", "stop.epochs=null", "stop.seconds=0.05",
        f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path,
    )  # fmt: skip
    assert math.isfinite(trace(tmp_path / "run")[-1].loss)


def test_first_order_methods_take_the_same_problem(tmp_path):
    inside(
        *EQUATION, "optimizer=lbfgs", "stop.epochs=30", f"hydra.run.dir={tmp_path / 'run'}",
        cwd=tmp_path,
    )  # fmt: skip
    rows = trace(tmp_path / "run")
    assert rows[-1].loss < rows[0].loss
    assert math.isfinite(rows[-1].l2_error)


def test_a_certified_curve(tmp_path):
    inside(
        "dataset=nist_misra1a", "loss=residual", "optimizer=levenberg_marquardt", "solver=qr",
        "optimizer.scaling=jacobian", "tracking=none", f"hydra.run.dir={tmp_path / 'run'}",
        cwd=tmp_path,
    )  # fmt: skip
    assert 2 * trace(tmp_path / "run")[-1].loss == pytest.approx(1.2455138894e-01, rel=1e-9)


def test_a_regression_s_loss_is_that_of_mse(tmp_path):
    common = ("dataset=diabetes", "model=mlp", "model.hidden=[4]", "dtype=float64",
              "optimizer=lbfgs", "stop.epochs=5", "tracking=none")  # fmt: skip
    for loss in ("mse", "residual"):
        inside(*common, f"loss={loss}", f"hydra.run.dir={tmp_path / loss}", cwd=tmp_path)
    mine, theirs = trace(tmp_path / "residual"), trace(tmp_path / "mse")
    for a, b in zip(mine, theirs, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-9)
        assert a.test_loss == pytest.approx(b.test_loss, rel=1e-9)


PLUGIN = '''
import torch
from newton_krylov.registry import register


@register("residual", "slope")
def slope(model, points):
    """u' = -u at the points, u(0) = 1, by autograd's forward mode."""
    x = points[:, :1]
    u, du = torch.func.jvp(model, (x,), (torch.ones_like(x),))
    return {"equation": du + u, "start": 10 * (model(torch.zeros_like(x[:1])) - 1)}
'''


def test_a_user_s_own_residuals_from_a_plug_in(tmp_path):
    (tmp_path / "my_residuals.py").write_text(PLUGIN)
    (tmp_path / "points.txt").write_text("".join(f"0 1:{k / 20}\n" for k in range(1, 21)))
    folder = tmp_path / "run"
    command(
        "dataset=libsvm", f"dataset.path={tmp_path / 'points.txt'}", "dataset.task=regression",
        "loss=residual", "loss.residual=slope", "model=mlp", "model.hidden=[8]",
        *GAUSS_NEWTON, "solver=exact", "stop.epochs=100", "tracking=none",
        f"hydra.run.dir={folder}",
        cwd=tmp_path, NEWTON_KRYLOV_PLUGINS="my_residuals", PYTHONPATH=_with(tmp_path),
    )  # fmt: skip
    assert trace(folder)[-1].loss < 1e-7


def _with(folder: Path) -> str:
    import os

    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("dataset=synthetic", "loss=logistic", "optimizer=levenberg_marquardt"),
         "needs a sum of squares"),
        (("dataset=poisson_2d", "loss=logistic"), "needs a table of features"),
        (("dataset=transport", "loss=residual"), "needs residuals to be made small"),
        (("dataset=iris", "loss=residual"), "needs an equation, a curve or a regression"),
        ((*EQUATION, "loss.residual=slop"), "loss.residual=slop is unknown"),
    ],
)  # fmt: skip
def test_a_senseless_choice_is_one_sentence(overrides, sentence, tmp_path):
    out, err = inside(*overrides, "tracking=none", cwd=tmp_path, code=2)
    assert sentence in out + err


def test_the_solution_s_fields_are_kept_and_drawn(tmp_path):
    """At the test points, where they give the trace's last error; a wrong file is named."""
    import json

    import numpy as np

    from newton_krylov.records.fields import FIELDS, read_fields

    out, _ = inside(
        "dataset=heat_1d_inverse", "dataset.points=60", "loss=residual", "model=mlp",
        "model.hidden=[8]", "method=levenberg_marquardt", "stop.epochs=5", "tracking=none",
        f"hydra.run.dir={tmp_path}", cwd=tmp_path,
    )  # fmt: skip
    found = read_fields(tmp_path)
    exact = found.solution - found.error
    error = np.linalg.norm(found.error) / np.linalg.norm(exact)
    assert error == pytest.approx(trace(tmp_path)[-1].l2_error, rel=0.05)  # every third point
    x, t = found.points.T
    assert np.allclose(exact, np.exp(-(math.pi**2) * t / 4) * np.sin(math.pi * x), atol=1e-6)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "figures/fields.png" in summary["drawn"]
    assert set(summary["found"]) == {"conductivity"}
    assert summary["sought"] == {"conductivity": 0.25}
    off = abs(summary["found"]["conductivity"] - 0.25)
    assert f"(true 0.25, off by {off:.1e})" in out
    (tmp_path / FIELDS).write_bytes(b"no zip file")
    with pytest.raises(ValueError, match="does not hold the fields"):
        read_fields(tmp_path)


def test_the_benchmark_takes_no_run_of_other_points_for_its_own(tmp_path, capsys, monkeypatch):
    """Nor one of another configuration; its own is there, and not made again."""
    path = Path(__file__).parents[2] / "benchmarks" / "equations.py"
    spec = importlib.util.spec_from_file_location("equations", path)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "equations", benchmark)  # where its dataclasses look
    spec.loader.exec_module(benchmark)
    run = benchmark.Run("small/reaction", "lbfgs", 0, 0.1)
    assert not run.there(tmp_path)
    inside(*run.settings(tmp_path), cwd=tmp_path)
    assert run.there(tmp_path)
    capsys.readouterr()
    benchmark.make(tmp_path, [run])
    assert capsys.readouterr().out == ""

    with monkeypatch.context() as other:
        other.setattr(benchmark, "COMMON", (*benchmark.COMMON, "dataset.points=400"))
        with pytest.raises(SystemExit, match=r"holds a run with dataset.points=500, not 400"):
            benchmark.make(tmp_path, [run])
    summary = run.folder(tmp_path) / "summary.json"
    facts = json.loads(summary.read_text())
    facts["dataset"]["checksum"] = "of a former version"
    summary.write_text(json.dumps(facts))
    with pytest.raises(SystemExit, match="points that are drawn in another way now: remove it"):
        benchmark.make(tmp_path, [run])
