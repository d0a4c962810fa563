"""How often a step asks for a number: on a GPU each time is a wait for all that was launched.

Counted on the processor, where the same calls are made: `float`, `bool` and `item` of a tensor.
"""

from importlib import import_module

import pytest
import torch
from optimizer_parts import make_optimizer
from problems import make, randn
from small_networks import network
from torch.utils._python_dispatch import TorchDispatchMode

from newton_krylov.operators import MatrixOperator

EPOCH = 30
"""Mini-batches of one epoch."""
OWN = {"adam": 1, "adamw": 1, "muon": 2}
"""Looks of torch's own at a counter of steps, which it keeps in the processor's memory."""
EVERY = {
    "sgd": 0, "adam": 0, "adamw": 0, "muon": 0, "schedule_free_adamw": 0, "shampoo": 0, "soap": 0,
    "sophia": 0.25,  # a Hessian product every tenth step
    "adahessian": 2,  # one at every step, which sees to it that the network is one function
    "kfac": 1, "ekfac": 1,  # the factors' update, and their inverses' success
}  # fmt: skip


class Looks(TorchDispatchMode):
    """Counts the numbers that are asked for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", EVERY)
def test_a_mini_batch_method_seldom_looks(name):
    f = network()
    steps = make_optimizer(name, batch_size=f.n_samples // EPOCH).steps(
        f, f.initial(), torch.Generator().manual_seed(0)
    )
    for _ in range(2):
        next(steps)
    with Looks() as looks:
        next(steps)
    seen = 2 + 1  # at the loss, twice in so many steps, and at the last gradient's norm
    assert looks.count - OWN.get(name, 0) * EPOCH <= seen + EVERY[name] * EPOCH


@pytest.mark.parametrize("name", ["cg", "cr", "gcr", "gmres", "minres", "minres_qlp"])
def test_a_linear_solver_looks_less_than_once_an_iteration(name):
    X = randn(80, 40, seed=1)
    A = MatrixOperator(X.T @ X / 80 + 0.01 * torch.eye(40).double())
    with Looks() as looks:
        result = getattr(import_module(f"newton_krylov.linear_solvers.{name}"), name)(
            A, randn(40, seed=2), rtol=1e-8
        )
    assert result.converged and looks.count <= result.iterations / 3


@pytest.mark.parametrize("solver", ["cg", "cr"])
def test_a_newton_step_looks_at_most_once_an_iteration_of_its_solver_and_a_few_times_besides(
    solver,
):
    f = make("logistic", n=200)
    optimizer = make_optimizer("newton", curvature="hvp", solver=solver)
    steps = optimizer.steps(f, torch.zeros(f.dim).double(), torch.Generator().manual_seed(0))
    next(steps).evaluated()
    for _ in range(4):
        with Looks() as looks:
            step = next(steps).evaluated()
        assert looks.count <= step.inner_iterations + 12
