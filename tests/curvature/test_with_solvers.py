"""Any curvature with any linear solver: the damped system is solved, by a layer or all of w."""

import re

import pytest
import torch
from problems import assert_close, make, randn
from small_networks import fixed, network, optimizer

from newton_krylov.operators import AffineOperator
from newton_krylov.registry import entry, names
from newton_krylov.runs.runner import Stopping, run

CURVATURES = ["hvp", "exact", "ggn", "empirical_fisher", "monte_carlo_fisher", "diagonal",
              "rank1", "lowrank", "rank1_pyhessian", "subsampled",
              "thresholded_sparse"]  # fmt: skip
SOLVERS = [name for name in sorted(names("solver")) if not entry("solver", name).needs]


def point_of(where):
    if where == "logistic":
        f = make("logistic")
        return f.at(randn(f.dim, seed=1))
    f = network(l2=0.01)
    w = f.initial() + 0.2 * randn(f.dim, seed=1)
    return f.at(w) if where == "network" else f.restricted([where], w).at(w[f.blocks[where]])


@pytest.mark.parametrize("where", ["logistic", "middle"])
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_damped_system_is_solved(curvature, solver, where):
    point = point_of(where)
    if curvature == "rank1_pyhessian":
        pytest.importorskip("pyhessian", reason="PyHessian is not installed")
    A = entry("hessian_approx", curvature).build({}).at(
        point, torch.Generator().manual_seed(0)
    )  # fmt: skip
    dense = A.dense()
    assert_close(dense, dense.T, 1e-10, "symmetry")
    tau = 1.0 + 2 * max(0.0, -float(torch.linalg.eigvalsh(dense)[0]))
    b = -point.grad
    result = entry("solver", solver).build({"rtol": 1e-8})(AffineOperator(A, shift=tau), b)
    assert result.converged, result.status.remedy
    assert_close(result.x, torch.linalg.solve(dense + tau * torch.eye(len(b)).to(b), b), 1e-6)
    assert float(torch.dot(point.grad, result.x)) < 0  # a direction of descent


@pytest.mark.parametrize("name", ["diagonal", "rank1", "lowrank", "rank1_pyhessian",
                                  "kfac", "ekfac"])  # fmt: skip
def test_a_closed_form_is_used_and_forms_no_matrix(name, monkeypatch):
    point = point_of("network")
    A = entry("hessian_approx", name).build({}).at(point, torch.Generator().manual_seed(0))
    damped = AffineOperator(A, shift=0.5)
    monkeypatch.setattr(type(A), "dense", lambda self: pytest.fail("a matrix was formed"))
    result = entry("solver", "exact").build({"rtol": 1e-8})(damped, point.grad)
    assert result.converged
    assert result.iterations == 1


@pytest.mark.parametrize("curvature", ["rank1", "lowrank", "rank1_pyhessian"])
@pytest.mark.parametrize(
    ("name", "options", "beginning"),
    [
        ("newton", {"damping": fixed(0.5)}, "lambda "),
        ("newton", {"damping": fixed(0.5), "batch_size": 30}, "lambda "),
        ("layerwise_newton", {"layers": ["first", "last"], "batch_size": 30}, "first damping "),
    ],
    ids=["all samples", "mini-batches", "layers"],
)
def test_a_run_s_trace_tells_each_eigenvalue_with_its_residual(name, options, beginning, curvature):
    if curvature == "rank1_pyhessian":
        pytest.importorskip("pyhessian", reason="PyHessian is not installed")
    parts = {"solver": "exact", "hessian_approx": curvature, "line_search": "armijo"}
    f = network()
    result = run(
        optimizer(name, parts=parts, **options), f, f.initial(), Stopping(epochs=2),
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    for row in result.rows[1:]:
        assert row.note.startswith(beginning)
        pairs = re.findall(r"-?[\d.e+-]+ \(residual [\d.e-]+\)", row.note)
        layers = len(options.get("layers", [0]))
        assert len(pairs) == layers * (5 if curvature == "lowrank" else 1)
