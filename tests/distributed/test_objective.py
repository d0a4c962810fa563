"""The objective over several processes is the one that a single process would have."""

from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest
import torch
from problems import LOSSES, make_dataset, randn
from processes import together

from newton_krylov.data.dataset import Split
from newton_krylov.distributed import data_parallel, shard
from newton_krylov.registry import entry

N, D = 61, 7


def dataset_of(loss, sparse):
    data = make_dataset(loss.task, N, D, sparse=sparse, seed=3)
    test = make_dataset(loss.task, 23, D, sparse=sparse, seed=4)
    return replace(data, test=Split(test.train.X, test.train.y))


def make(loss, data):
    return entry("loss", loss.name).target(data, l2=0.03)


def evaluate(f, data):
    """Everything that an objective can be asked, by name."""
    w, p, V = (randn(f.dim, seed=1), randn(f.dim, seed=2), randn(f.dim, 3, seed=4))
    point = f.at(w)
    H, G = point.hessian(), point.gauss_newton()
    ray = point.ray(p)
    known = {
        "grad": point.grad,
        "value": point.value,
        "grad_norm": point.grad_norm,
        "matvec": H @ p,
        "matmat": H @ V,
        "dense": H.dense(),
        "diagonal": H.diagonal(),
        "has_diagonal": H.has_diagonal,
        "gauss_newton": G @ p,
        "slope": ray.slope,
        "along": [ray.value(a) for a in (0.0, 0.5, 0.5, 2.0)],
        "derivatives": [ray.derivative(a) for a in (0.0, 0.5, 2.0)],
        "there": ray.point(2.0).grad,
        "beyond": ray.point(0.5).extrapolate(point, 0.7).value,
        "rounding": f.rounding(point.value),
        "convexity": f.convexity,
        "n_samples": f.n_samples,
        "train_accuracy": f.accuracy(w, data.train),
        "test_accuracy": f.accuracy(w, data.test),
        "test_loss": f.data_loss(w, data.test),
    }
    for name, index in SUBSETS.items():
        part = point.subset(torch.tensor(index))
        known[f"{name} of a point"] = [part.value, part.grad, part.hessian() @ p]
        part = f.subset(torch.tensor(index)).at(p)
        known[f"{name} elsewhere"] = [part.value, part.grad, part.hessian() @ w]
        within = part.subset(torch.tensor([0, len(index) - 1]))
        known[f"{name} within"] = [within.value, within.grad]
    known["counts"] = asdict(f.counts)
    return known


SUBSETS = {
    "one": [5],
    "of the first process": [6, 0, 54],
    "of the last process": [59, 11, 5],
    "of all, in any order": [60, 0, 30, 31, 29, 7],
    "repeated": [4, 4, 57],
    "everything": list(range(N)),
}


CASES = [(loss, sparse) for loss in LOSSES for sparse in (False, True)]


def in_a_team(group):
    answers = []
    for loss, sparse in CASES:
        whole = dataset_of(loss, sparse)
        data = shard(whole, group)
        answers.append(evaluate(data_parallel(make(loss, data), group, whole.train.X), data))
    return answers


@cache
def members(size):
    return together(size, in_a_team)


def flat(value):
    parts = value if isinstance(value, list) else [value]
    return np.concatenate([np.asarray(part, dtype=float).ravel() for part in parts])


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{a}-{b}" for a, b in CASES])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_equal_to_one_process_and_the_same_bits_in_each(size, case):
    loss, sparse = CASES[case]
    data = dataset_of(loss, sparse)
    alone = evaluate(make(loss, data), data)
    group = [answers[case] for answers in members(size)]
    for rank, member in enumerate(group):
        for name, expected in alone.items():
            if name == "counts":
                assert member[name] == pytest.approx(expected, rel=1e-12)
            elif expected is None or isinstance(expected, bool):
                assert member[name] is expected
            else:
                e, a = flat(_numpy(expected)), flat(member[name])
                tolerance = 2 if name == "rounding" else 1e-12
                assert np.linalg.norm(a - e) <= tolerance * np.linalg.norm(e) + 1e-15, name
                if rank:
                    assert np.array_equal(a, flat(group[0][name])), f"{name} differs in bits"


def _numpy(value):
    if isinstance(value, list):
        return [_numpy(part) for part in value]
    return value.numpy() if isinstance(value, torch.Tensor) else value
