"""The Gauss-Newton matrix solved for in its samples' space: exactly what the dense one gives."""

import math

import pytest
import torch
from layer_networks import CASES, objective
from networks import network
from problems import assert_close, make, randn
from torch import nn

from newton_krylov.curvature.ggn import GaussNewton
from newton_krylov.errors import UnsupportedError
from newton_krylov.linear_solvers.exact import exact

in_samples = GaussNewton("samples")


def at(case, l2=0.0, n=6):
    build, shape, classes = CASES[case]
    torch.manual_seed(0)
    f = objective(
        build(), nn.CrossEntropyLoss(), randn(n, *shape, seed=1), torch.arange(n) % classes,
        l2=l2, chunk=4,
    )  # fmt: skip
    return f.at(f.initial())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("l2", [0.0, 0.1])
def test_products_and_solutions_are_the_dense_matrix_s(case, l2):
    point = at(case, l2)
    A, dense = in_samples.at(point, torch.Generator()), point.gauss_newton().dense()
    assert_close(A.dense(), dense, 1e-10)
    b = randn(len(dense), seed=2)
    shifted = dense + 0.01 * torch.eye(len(b), dtype=b.dtype)
    result = exact(A.affine(shift=0.01), b, rtol=1e-10)
    assert result.converged
    assert_close(result.x, torch.linalg.solve(shifted, b), 1e-8)
    if l2 == 0.0:
        assert_close(A.solve(b), torch.linalg.pinv(dense, rtol=1e-12, hermitian=True) @ b, 1e-6)


def test_a_step_s_cost_in_memory_is_not_that_of_the_weights_squared():
    """100,000 weights, 8 samples: their matrix would take 80 GB."""
    x, y = randn(8, 300, seed=1).float(), torch.arange(8) % 3
    module = nn.Sequential(nn.Linear(300, 330), nn.Tanh(), nn.Linear(330, 3))
    torch.manual_seed(0)
    f = objective(module, nn.CrossEntropyLoss(), x.double(), y)
    point = f.at(f.initial())
    A = in_samples.at(point, torch.Generator())
    p = A.solve(-point.grad, 1e-3)
    assert_close(A @ p + 1e-3 * p, -point.grad, 1e-9)
    assert_close(A @ p, point.gauss_newton() @ p, 1e-9)


def test_what_has_no_such_rows_is_refused():
    f = network("normed")
    with pytest.raises(UnsupportedError, match="batch norm"):
        in_samples.at(f.at(f.initial()), torch.Generator())
    f = network("looped")
    with pytest.raises(UnsupportedError, match="but not how the network uses scale"):
        in_samples.at(f.at(f.initial()), torch.Generator())
    f = make("logistic")
    with pytest.raises(UnsupportedError, match="needs a network's layers"):
        in_samples.at(f.at(torch.zeros(f.dim).double()), torch.Generator())


def test_outputs_that_are_no_numbers_end_as_a_nan_and_not_in_lapack():
    """Where a run diverges within an epoch its loss says so at the end."""
    f = objective(nn.Linear(4, 3), nn.CrossEntropyLoss(), randn(6, 4, seed=1), torch.arange(6) % 3)
    w = f.initial()
    w[-1] = math.inf
    far = f.at(w)
    assert math.isnan(far.value)
    A = in_samples.at(far, torch.Generator()).affine(shift=1.0)
    assert not A.solve(far.grad).isfinite().all()
