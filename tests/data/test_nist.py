"""NIST's certified problems: the formulas at the certified parameters give the certified sums."""

import pytest
import torch
from torch.func import jacrev

from newton_krylov.data import load_dataset
from newton_krylov.data.catalogue import nist_tables
from newton_krylov.data.nist import FORMULAS

PROBLEMS = sorted(FORMULAS)


def test_all_are_there():
    assert sorted(nist_tables()) == PROBLEMS
    assert len(PROBLEMS) == 27


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_certified_parameters_give_the_certified_sum_of_squares(problem: str):
    table, data = nist_tables()[problem], load_dataset(f"nist_{problem}")
    r = data.residuals(data.certified)
    # Lanczos1 is exact data: what is left of it is the rounding of eleven digits.
    rtol = 1.0 if problem == "lanczos1" else 1e-4 if problem.startswith("lanczos") else 1e-9
    assert float(r @ r) == pytest.approx(table["residual_sum_of_squares"], rel=rtol, abs=1e-20)
    freedom = len(r) - len(data.certified)
    deviation = (table["residual_sum_of_squares"] / freedom) ** 0.5
    assert deviation == pytest.approx(table["residual_deviation"], rel=1e-8)


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if not p.startswith("lanczos")])
def test_and_the_certified_standard_deviations(problem: str):
    """s sqrt(diag (J'J)^-1) at the certified parameters."""
    table, data = nist_tables()[problem], load_dataset(f"nist_{problem}")
    J = jacrev(data.residuals)(data.certified)
    scale = torch.linalg.vector_norm(J, dim=0)
    inverse = torch.linalg.inv((J / scale).T @ (J / scale))
    found = table["residual_deviation"] * inverse.diagonal().sqrt() / scale
    assert found.tolist() == pytest.approx(table["deviations"], rel=1e-4)


def test_both_starts():
    first, second = (load_dataset("nist_misra1a", {"start": k}) for k in (1, 2))
    assert first.start.tolist() == [500.0, 0.0001]
    assert second.start.tolist() == [250.0, 0.0005]
    assert first.checksum != second.checksum
