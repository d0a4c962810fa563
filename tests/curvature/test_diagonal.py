"""The diagonal: exact where it is known, an unbiased estimate where it is not."""

import pytest
import torch
from problems import LOSSES, assert_close, make, quadratic, randn

from newton_krylov.curvature.diagonal import Diagonal
from newton_krylov.errors import ConfigError
from newton_krylov.operators import AffineOperator, FunctionOperator, LinearOperator
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
    assert_close(AffineOperator(A, shift=7.0).solve(b), b / (rule(MIXED) + 7.0), 1e-14)


def test_a_running_mean_is_that_of_all_steps_with_falling_weights():
    curvature, decay = Diagonal(probes=1, negative="keep", decay=0.8), 0.8
    diagonals = randn(5, 4, seed=2)
    for t in range(1, 6):
        A = curvature.at(Opaque(diagonals[t - 1].diag()), generator())
        weights = torch.tensor([decay ** (t - k) for k in range(1, t + 1)], dtype=torch.float64)
        expected = (weights[:, None] * diagonals[:t]).sum(0) / weights.sum()
        assert_close(A.diagonal(), expected, 1e-12)
    assert_close(diagonals[0], Diagonal(decay=0.9, negative="keep").at(
        Opaque(diagonals[0].diag()), generator()).diagonal(), 1e-12)  # fmt: skip


def test_a_state_goes_on_where_another_curvature_was():
    points = [Opaque(randn(4, seed=k).diag()) for k in range(3)]
    one, other = Diagonal(decay=0.5), Diagonal(decay=0.5)
    for point in points[:2]:
        one.at(point, generator())
    other.load_state_dict(one.state_dict())
    ours, theirs = (c.at(points[2], generator()).diagonal() for c in (one, other))
    assert torch.equal(ours, theirs)
    assert Diagonal(decay=0.5).state_dict() == {}


def test_bad_parameters_are_refused():
    for key, value in {"probes": 0, "decay": 1.0, "negative": "ignore"}.items():
        with pytest.raises(ConfigError, match=rf"hessian_approx\.{key}={value!r} is not valid"):
            entry("hessian_approx", "diagonal").validate({key: value})
