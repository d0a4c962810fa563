"""Optimizers over several processes make the iterates that one process would make."""

import math

import numpy as np
import pytest
import torch
from problems import BY_NAME, make_dataset
from processes import together

from newton_krylov.distributed import data_parallel, shard
from newton_krylov.registry import entry
from newton_krylov.runs.runner import Stopping, run

N, D = 203, 12
METHODS = {
    "newton-cg": ("newton", {}, {}),
    "newton-cr-jacobi": ("newton", {}, {"solver": "cr", "preconditioner": "jacobi"}),
    "newton-exact": ("newton", {}, {"solver": "exact", "curvature": "exact"}),
    "newton-subsampled": ("newton", {}, {"curvature": "subsampled"}),
    "newton-lowrank": (
        "newton",
        {},
        {"solver": "exact", "curvature": "lowrank", "damping": ("fixed", {"tau": 0.1})},
    ),
    "newton-diagonal": ("newton", {}, {"solver": "exact", "curvature": "diagonal"}),
    "newton-nystrom": ("newton", {}, {"preconditioner": "nystrom"}),
    "newton-minibatch": ("newton", {"batch_size": 40, "curvature_samples": 9}, {}),
    "accelerated_newton": ("accelerated_newton", {}, {"curvature": "regularized_subsampled"}),
    "gd": ("gd", {}, {}),
    "nesterov": ("nesterov", {}, {}),
    "lbfgs": ("lbfgs", {}, {"line_search": "strong_wolfe"}),
    "sgd": ("sgd", {"batch_size": 16}, {}),
    "adam": ("adam", {"batch_size": 16}, {}),
    "scipy_newton_cg": ("scipy_newton_cg", {}, {}),
}
GROUPS = {"curvature": "hessian_approx"}
DEFAULTS = {
    "solver": "cg",
    "curvature": "hvp",
    "line_search": "armijo",
    "forcing": "superlinear",
    "preconditioner": "none",
    "damping": "fixed",
    "schedule": "constant",
}


def trace(method, f, data):
    """Run five steps and return losses, gradient norms, accuracies and the last iterate."""
    name, options, chosen = METHODS[method]
    parts = {}
    for part, choice in (DEFAULTS | chosen).items():
        named, settings = choice if isinstance(choice, tuple) else (choice, {})
        parts[part] = entry(GROUPS.get(part, part), named).build(settings)
    optimizer = entry("optimizer", name).build(options, **parts)
    w0 = torch.ones(f.dim, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    found = run(optimizer, f, w0, Stopping(epochs=5), generator, train=data.train)
    rows = [
        [row.loss, row.grad_norm, row.train_accuracy, row.step_size, row.inner_iterations]
        for row in found.rows
    ]
    counts = [[row.hvp_count, row.data_passes] for row in found.rows]
    return {"rows": rows, "counts": counts, "w": found.w, "seconds": found.rows[-1].seconds}


def whole():
    return make_dataset("binary", N, D, sparse=True, condition=30.0)


def loss_of(data):
    return entry("loss", BY_NAME["logistic"].name).target(data, l2=0.01)


def all_methods(group):
    X, data = whole().train.X, shard(whole(), group)
    return {m: trace(m, data_parallel(loss_of(data), group, X), data) for m in METHODS}


@pytest.fixture(scope="module")
def members():
    return together(2, all_methods)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_make_the_iterates_of_one(method, members):
    data = whole()
    alone = trace(method, loss_of(data), data)
    for member in members:
        found = member[method]
        assert len(found["rows"]) == len(alone["rows"]) > 1
        np.testing.assert_allclose(found["rows"], alone["rows"], rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(found["w"], alone["w"].numpy(), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(found["counts"], alone["counts"], rtol=1e-9)
        assert np.array_equal(found["w"], members[0][method]["w"])
        assert math.isfinite(found["seconds"])


def test_clocks_agree(members):
    """A time that one process measured decides for all, else one would stop and the others wait."""
    for method in METHODS:
        assert len({member[method]["seconds"] for member in members}) == 1
