"""The diagonal: exact where it is known, an unbiased estimate where it is not."""

import pytest
import torch
from problems import LOSSES, assert_close, make, quadratic, randn

from newton_krylov.curvature.diagonal import Diagonal
from newton_krylov.errors import ConfigError
from newton_krylov.operators import FunctionOperator, LinearOperator, ShiftedOperator
from newton_krylov.registry import entry

MIXED = torch.tensor([6.0, 4.0, 1.0, -0.5, -3.0]).double()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_linear_model_s_is_exact_and_costs_half_a_pass(loss):
    f = make(loss)
    point = f.at(randn(f.dim, seed=1))
    _ = point.value, point.grad
    before = f.counts.passes
    A = Diagonal(negative="keep").at(point, generator())
    assert f.counts.passes - before == 0.5
    assert f.counts.hvp == 0
    assert_close(A.diagonal(), point.hessian().dense().diagonal(), 1e-12)


class Opaque:
    """A point whose Hessian is known by its products alone."""

    def __init__(self, H):
        self.H, self.count = H, 0

    def hessian(self) -> LinearOperator:
        def product(v):
            self.count += 1
            return self.H @ v

        return FunctionOperator(product, len(self.H), self.H.dtype, self.H.device)


def test_it_is_estimated_from_the_products_it_may_take():
    H = quadratic(MIXED).at(torch.zeros(5).double()).hessian().dense()
    point = Opaque(H)
    A = Diagonal(probes=20_000, negative="keep").at(point, generator())
    assert point.count == 20_000
    off = (H - H.diagonal().diag()).square().sum(1).sqrt()
    assert bool(((A.diagonal() - H.diagonal()).abs() <= 4 * off / 20_000**0.5).all())


@pytest.mark.parametrize(
    ("negative", "rule"),
    [
        ("absolute", torch.abs),
        ("truncate", lambda d: d.clamp(min=0)),
        ("keep", lambda d: d),
    ],
)
def test_the_rules_for_negative_entries(negative, rule):
    point = Opaque(MIXED.diag())  # of which the estimate is exact
    A = Diagonal(probes=1, negative=negative).at(point, generator())
    assert_close(A.dense(), rule(MIXED).diag(), 1e-15)
    b = randn(5, seed=1)
    assert_close(ShiftedOperator(A, 7.0).solve(b), b / (rule(MIXED) + 7.0), 1e-14)


def test_bad_parameters_are_refused():
    with pytest.raises(ConfigError, match="hessian_approx.probes=0 is not valid"):
        entry("hessian_approx", "diagonal").validate({"probes": 0})
