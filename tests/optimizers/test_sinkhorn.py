"""Sinkhorn's algorithm against its textbook form, at small and at large eta."""

from itertools import islice, pairwise

import pytest
import torch
from problems import make, randn
from transport_problems import draw, dual, optimum, zeros

from newton_krylov.data.transport import transport
from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.entropic_transport import EntropicTransport
from newton_krylov.optimizers.sinkhorn import Sinkhorn
from newton_krylov.runs.runner import Outcome, Stopping, run

NO_CHANCE = torch.Generator()


def points(f, count, w0=None):
    """Return the points of the first `count` iterations, without the start."""
    steps = Sinkhorn(thinning=0).steps(f, zeros(f) if w0 is None else w0, NO_CHANCE)
    return [step.point for step in islice(steps, 1, count + 1)]


def log_domain(f, count, y):
    """Iterate as the textbook does, by log-sum-exp alone, and yield w."""
    r, c = f.row_marginal, f.column_marginal
    for _ in range(count):
        x = (r.log() - torch.logsumexp(f.log_kernel + f.eta * y, 1)) / f.eta
        y = (c.log() - torch.logsumexp(f.log_kernel + f.eta * x[:, None], 0)) / f.eta
        yield torch.cat([x, y])


@pytest.mark.parametrize("eta", [1.0, 30.0, 1200.0, 1e5])
def test_iterates_are_the_textbook_s_at_any_eta(eta):
    f = dual(40, 30, eta=eta)
    y0 = 0.1 * randn(30, seed=5)
    w0 = torch.cat([torch.zeros(40).double(), y0])
    for point, w in zip(points(f, 60, w0), log_domain(f, 60, y0), strict=True):
        assert (point.w - w).abs().max() <= 1e-13
        # Value and gradient come with the iteration: they are those of a new point.
        fresh = f.at(point.w)
        assert abs(point.value - fresh.value) <= f.rounding(fresh.value)
        assert (point.grad - fresh.grad).abs().max() <= 1e-15 * max(100, eta)


def test_float32_iterates_follow_those_of_float64():
    f, g = dual(40, 30, eta=1200.0), dual(40, 30, eta=1200.0, dtype=torch.float32)
    for single, double in zip(points(g, 100), points(f, 100), strict=True):
        assert (single.w.double() - double.w).abs().max() <= 1e-5


def test_each_iteration_lowers_the_value_and_meets_the_columns_marginal():
    f = dual(eta=100.0)
    values = [point.value for point in points(f, 200)]
    assert all(b <= a + f.rounding(a) for a, b in pairwise(values))
    for point in points(f, 20):
        assert point.grad[9:].abs().max() <= 1e-16
        assert point.grad_norm == pytest.approx(float(point.grad[:9].norm()))


def test_the_start_s_row_potentials_do_not_matter_and_it_may_overflow():
    f = dual(eta=1200.0)
    far = torch.cat([torch.full((9,), 1e3), torch.full((7,), 50.0)]).double()
    near = torch.cat([torch.zeros(9), torch.full((7,), 50.0)]).double()
    for a, b in zip(points(f, 10, far), points(f, 10, near), strict=True):
        assert (a.w - b.w).abs().max() <= 1e-12


def test_the_plan_is_pot_s():
    ot = pytest.importorskip("ot", reason="POT is not installed")
    cost, r, c = draw()
    result = run(
        Sinkhorn(), f := dual(eta=50.0), zeros(f), Stopping(epochs=5000, grad_norm=1e-14), NO_CHANCE
    )
    assert result.outcome is Outcome.CONVERGED
    peer = ot.sinkhorn(r, c, cost, reg=1 / 50, method="sinkhorn_log", stopThr=1e-14)
    assert abs(f.at(result.w).plan.numpy() - peer).max() < 1e-12


def test_the_rate_is_that_of_the_theory():
    """Knight (2008): the squared second singular value of the optimal plan, scaled."""
    f = dual(eta=50.0)
    best = f.at(optimum(f))
    scaled = best.plan / (f.row_marginal.sqrt()[:, None] * f.column_marginal.sqrt())
    rate = float(torch.linalg.svdvals(scaled)[1] ** 2)
    errors = [point.grad_norm for point in points(f, 200)]
    assert errors[150] / errors[149] == pytest.approx(rate, rel=1e-3)
    assert points(f, 500)[-1].value - best.value <= f.rounding(best.value)


def test_an_iteration_costs_one_pass():
    f = EntropicTransport(transport(n=50))
    steps = Sinkhorn(thinning=0).steps(f, zeros(f), NO_CHANCE)
    counts = [f.counts.passes for _ in islice(steps, 300)]
    assert counts[-1] - counts[-101] == 100
    assert f.counts.function == 0


def test_thinning_records_fewer_of_the_same_iterations():
    f = dual(eta=200.0)
    stopping = Stopping(epochs=2000)
    rows = {t: run(Sinkhorn(t), f, zeros(f), stopping, NO_CHANCE).rows for t in (0.0, 0.05)}
    assert [row.iteration for row in rows[0.0]] == list(range(2001))
    thinned = rows[0.05]
    assert len(thinned) < 200
    assert thinned[-1].iteration >= 2000
    for before, row in pairwise(thinned[:-1]):
        assert 1 <= row.iteration - before.iteration <= max(1, 0.05 * before.iteration)
        assert row.loss == rows[0.0][row.iteration].loss


def test_it_is_for_transport_alone():
    f = make("logistic")
    with pytest.raises(UnsupportedError, match="loss=entropic_transport and dataset=transport"):
        next(Sinkhorn().steps(f, torch.zeros(f.dim).double(), NO_CHANCE))
