"""Moré, Garbow and Hillstrom's problems: formulas against the published minima."""

import numpy as np
import pytest
import scipy.optimize
import torch
from torch.func import jacfwd

from newton_krylov.data import load_dataset
from newton_krylov.data.catalogue import MGH
from newton_krylov.data.mgh import PROBLEMS


def test_all_are_there():
    assert sorted(MGH) == sorted(PROBLEMS)
    assert len(PROBLEMS) == 35


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_published_minimum_is_found_from_the_published_start(problem: str):
    """By SciPy's least squares, which knows nothing of ours."""
    data = load_dataset(f"mgh_{problem}")
    jacobian = jacfwd(data.residuals)
    found = scipy.optimize.least_squares(
        lambda x: data.residuals(torch.from_numpy(x)).numpy(), data.start.numpy(),
        jac=lambda x: jacobian(torch.from_numpy(x)).numpy(),
        x_scale="jac", ftol=1e-15, xtol=1e-15, gtol=1e-15, max_nfev=2000,
    )  # fmt: skip
    minima = np.array(PROBLEMS[problem].minima)
    assert np.isclose(2 * found.cost, minima, rtol=1e-5, atol=1e-12).any()


def test_formulas_take_single_precision():
    for problem in PROBLEMS.values():
        r = problem.residuals(torch.tensor(problem.start, dtype=torch.float32))
        assert r.dtype == torch.float32
