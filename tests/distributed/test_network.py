"""A network over several processes: its layers, its noise and its training are those of one."""

import numpy as np
import pytest
import torch
from problems import randn
from processes import together
from torch import nn

from newton_krylov.data import load_dataset
from newton_krylov.distributed import data_parallel, shard
from newton_krylov.objectives.network.objective import Network
from newton_krylov.registry import entry
from newton_krylov.runs.runner import Stopping, run

pytestmark = pytest.mark.slow
N = 90
METHODS = {
    "sgd": ("sgd", {"batch_size": 32}, {}),
    "adam": ("adam", {"batch_size": 32}, {}),
    "newton": (
        "newton",
        {"batch_size": 40, "curvature_samples": 13},
        {"damping": ("fixed", {"tau": 0.1})},
    ),
    "ggn": (
        "newton",
        {"batch_size": 40},
        {"damping": ("fixed", {"tau": 0.1}), "curvature": "ggn", "solver": "cr"},
    ),
    "layerwise": (
        "layerwise_newton",
        # Of fewer samples one process alone would compress the wide layer's Hessian, and its
        # eigenpairs agree with the group's to their tolerance only.
        {"batch_size": N, "layers": ["0", "5"]},
        {"curvature": "rank1", "solver": "exact", "damping": ("marquardt", {"tau": 0.1})},
    ),
    "last layer": (
        "layerwise_newton",
        {"batch_size": 40, "layers": ["5"]},
        {"curvature": "empirical_fisher", "damping": "marquardt"},
    ),
}
DEFAULTS = {
    "solver": "cg",
    "curvature": "hvp",
    "line_search": "armijo",
    "forcing": "superlinear",
    "preconditioner": "none",
    "damping": "fixed",
    "schedule": "constant",
}


def whole():
    options = {"limit": N, "test_limit": 31, "augmentation": "flip_crop"}
    return load_dataset("digits_images", options)


def network(data):
    """Return a small convolutional network with dropout, the same in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Dropout(0.3), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(108, 10),
        )  # fmt: skip
    return Network(
        module, nn.functional.cross_entropy, data.train.X, data.train.y,
        l2=0.01, images=data.images, dtype=torch.float64,
    )  # fmt: skip


def evaluate(f, data):
    w = f.initial() + 0.1 * randn(f.dim, seed=1)
    p = randn(f.dim, seed=2)
    index = torch.tensor([3, 88, 45, 44, 46, 10])
    noisy = f.batch(index, torch.Generator().manual_seed(5))
    part = noisy.restricted(["5"], w)
    known = {
        "value": f.at(w).value,
        "grad": f.at(w).grad,
        "hessian": f.at(w).hessian() @ p,
        "fisher": f.at(w).empirical_fisher() @ p,
        "noisy": [noisy.at(w).grad, noisy.at(w).gauss_newton() @ p],
        "within": noisy.at(w).subset(torch.tensor([1, 4])).grad,
        "restricted": [part.at(w[f.blocks["5"]]).grad, part.embed(w[f.blocks["5"]])],
        "accuracies": [f.accuracy(w, data.train), f.accuracy(w, data.test)],
        "test_loss": f.data_loss(w, data.test),
        "counts": [f.counts.passes, f.counts.hvp, f.counts.gradient],
    }
    for method in METHODS:
        known[method] = trained(method, f, data)
    return known


def trained(method, f, data):
    name, options, chosen = METHODS[method]
    parts = {}
    for part, choice in (DEFAULTS | chosen).items():
        named, settings = choice if isinstance(choice, tuple) else (choice, {})
        parts[part] = entry({"curvature": "hessian_approx"}.get(part, part), named).build(settings)
    found = run(
        entry("optimizer", name).build(options, **parts),
        f,
        f.initial(),
        Stopping(epochs=2),
        torch.Generator().manual_seed(0),
        train=data.train,
        test=data.test,
    )
    rows = [
        [r.loss, r.grad_norm, r.train_accuracy, r.test_accuracy, r.test_loss, r.step_size]
        for r in found.rows
    ]
    return [np.array(rows), found.w]


def in_a_team(group):
    X, data = whole().train.X, shard(whole(), group)
    return evaluate(data_parallel(network(data), group, X), data)


@pytest.fixture(scope="module")
def members():
    return together(2, in_a_team)


@pytest.fixture(scope="module")
def alone():
    data = whole()
    return evaluate(network(data), data)


def flat(value):
    parts = value if isinstance(value, list) else [value]
    return np.concatenate([np.asarray(part, dtype=float).ravel() for part in parts])


WHAT = [
    *("value", "grad", "hessian", "fisher", "noisy", "within", "restricted", "accuracies"),
    *("test_loss", "counts"),
]


@pytest.mark.parametrize("what", [*WHAT, *METHODS])
def test_equal_to_one_process(what, members, alone):
    expected = flat(alone[what])
    for member in members:
        found = flat(member[what])
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)
        assert np.array_equal(found, flat(members[0][what]), equal_nan=True)


def test_the_noise_is_there(alone):
    """Without it, the two tests above would show nothing of masks and augmentation."""
    data = whole()
    f = network(data)
    w = f.initial() + 0.1 * randn(f.dim, seed=1)
    index = torch.tensor([3, 88, 45, 44, 46, 10])
    quiet = f.subset(index).at(w).grad
    assert torch.linalg.vector_norm(quiet - alone["noisy"][0]) > 0.1 * torch.linalg.norm(quiet)
