"""Ours and SciPy's side by side: iterates, residual histories, iteration counts, robustness."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg as peer
import torch
from cases import CASE, CASES, LIMIT, Case, spread, symmetric, true_residual
from problems import randn

from newton_krylov import cg, cr, exact, gcr, gmres, minres, minres_qlp

DEFINITE = ["spd", "identity", "laplacian", "badly_scaled", "semidefinite", "neumann"]
SYMMETRIC = [*DEFINITE, "indefinite", "one_negative", "saddle_point", "swap", "singular"]
GENERAL = [*SYMMETRIC, "positive_real", "convection_diffusion", "general", "shift"]
SAME = 15
"""Iterations compared one by one; later, as orthogonality is lost, rounding takes its own ways."""


def peer_history(method: Callable[..., Any], case: Case, **options: Any) -> list[float]:
    """Residual norms of a SciPy method's iterates, evaluated by us."""
    A, b = case.system
    norms = [float(torch.linalg.vector_norm(b))]

    def callback(x: np.ndarray) -> None:
        norms.append(true_residual(A, b, torch.from_numpy(x)))

    method(A.numpy(), b.numpy(), callback=callback, **options)
    return norms


def assert_same_history(ours: list[float], theirs: list[float], rtol: float = 1e-8) -> None:
    """Same norms in the first iterations, and as many iterations to a tolerance, within 10%."""
    shared = min(SAME, len(ours), len(theirs))
    assert ours[:shared] == pytest.approx(theirs[:shared], rel=1e-6, abs=1e-12 * ours[0])
    mine, peers = (
        next((k for k, norm in enumerate(norms) if norm <= rtol * norms[0]), len(norms))
        for norms in (ours, theirs)
    )
    assert abs(mine - peers) <= 1 + 0.1 * peers


@pytest.mark.parametrize("name", DEFINITE)
def test_cg(name: str) -> None:
    A, b = CASE[name].system
    ours = cg(A, b, rtol=1e-8)
    assert_same_history(ours.residual_norms, peer_history(peer.cg, CASE[name], rtol=1e-8))


@pytest.mark.parametrize("name", SYMMETRIC)
@pytest.mark.parametrize("ours", [minres, minres_qlp], ids=["minres", "minres_qlp"])
def test_minres(ours: Callable[..., Any], name: str) -> None:
    A, b = CASE[name].system
    theirs = peer_history(peer.minres, CASE[name], rtol=1e-13)
    assert_same_history(ours(A, b, rtol=1e-8).residual_norms, theirs)


@pytest.mark.parametrize("name", DEFINITE)
def test_cr_against_their_minres(name: str) -> None:
    """CR and MINRES are one method on a definite system; SciPy has no CR."""
    A, b = CASE[name].system
    theirs = peer_history(peer.minres, CASE[name], rtol=1e-13)
    assert_same_history(cr(A, b, rtol=1e-8).residual_norms, theirs)


@pytest.mark.parametrize("restart", [5, 100])
@pytest.mark.parametrize("name", GENERAL)
def test_gmres(name: str, restart: int) -> None:
    A, b = CASE[name].system
    restart = min(restart, len(b))
    ours = gmres(A, b, rtol=1e-8, restart=restart, maxiter=60)
    norms = [float(torch.linalg.vector_norm(b))]
    peer.gmres(
        A.numpy(), b.numpy(), rtol=1e-8, restart=restart, maxiter=-(-60 // restart),
        callback_type="pr_norm", callback=lambda relative: norms.append(relative * norms[0]),
    )  # fmt: skip
    if name != "shift" or restart == len(b):  # ours gives up when a restart gains nothing
        assert_same_history(ours.residual_norms, norms)


@pytest.mark.parametrize("name", ["spd", "positive_real", "convection_diffusion"])
def test_gcr_against_their_gmres(name: str) -> None:
    """GCR(m) and GMRES(m) are one method where the symmetric part is definite."""
    A, b = CASE[name].system
    ours = gcr(A, b, rtol=1e-8, restart=5, maxiter=40)
    norms = [float(torch.linalg.vector_norm(b))]
    peer.gmres(
        A.numpy(), b.numpy(), rtol=1e-8, restart=5, maxiter=8,
        callback_type="pr_norm", callback=lambda relative: norms.append(relative * norms[0]),
    )  # fmt: skip
    assert_same_history(ours.residual_norms, norms)


REGULAR = [case for case in CASES if case.kind in ("definite", "indefinite", "general")]


@pytest.mark.parametrize("case", REGULAR, ids=str)
def test_exact(case: Case) -> None:
    A, b = case.system
    x = scipy.linalg.solve(A.numpy(), b.numpy())
    theirs = true_residual(A, b, torch.from_numpy(x))
    ours = exact(A, b, rtol=1e-15)
    eps = float(torch.finfo(b.dtype).eps * torch.linalg.vector_norm(b))
    assert true_residual(A, b, ours.x) <= 2 * theirs + 4 * eps


@pytest.mark.parametrize("name", ["semidefinite", "singular"])
@pytest.mark.parametrize("suffix", ["", "_inconsistent"])
def test_minres_qlp_finds_their_lstsq(name: str, suffix: str) -> None:
    A, b = CASE[name + suffix].system
    shortest = torch.from_numpy(scipy.linalg.lstsq(A.numpy(), b.numpy(), cond=1e-12)[0])
    ours = minres_qlp(A, b, rtol=1e-13).x
    assert torch.linalg.vector_norm(ours - shortest) <= 1e-6 * torch.linalg.vector_norm(shortest)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(cg, peer.cg), (minres, peer.minres), (minres_qlp, peer.minres), (cr, peer.minres)],
    ids=["cg", "minres", "minres_qlp", "cr"],
)
def test_ill_conditioned_no_worse_than_theirs(
    ours: Callable[..., Any], theirs: Callable[..., Any]
) -> None:
    """Condition 1e12: what rounding leaves of the methods is as good as what it leaves of SciPy's.

    The best iterate so far is compared: at one iteration the residuals of CG are a matter of luck.
    """
    A, b = CASE["ill_conditioned"].system
    mine: list[float] = []
    ours(A, b, rtol=0.0, maxiter=400, callback=lambda x, _: mine.append(true_residual(A, b, x)))
    their: list[float] = []
    theirs(
        A.numpy(), b.numpy(), rtol=1e-16, maxiter=400,
        callback=lambda x: their.append(true_residual(A, b, torch.from_numpy(x))),
    )  # fmt: skip
    for maxiter in (50, 100, 200, 400):
        assert min(mine[:maxiter]) <= 5 * min(their[:maxiter])


@pytest.mark.parametrize("preconditioned", [False, True])
def test_stops_on_the_true_residual_where_their_minres_does_not(preconditioned: bool) -> None:
    """SciPy's MINRES stops on |r| <= tol |A| |x|, in norms of its own with a preconditioner."""
    A = symmetric(spread(30, 1e6))
    b = randn(30, seed=1)
    M = torch.diag(1 / A.diagonal()) if preconditioned else None
    rtol, norm_b = 1e-8, float(torch.linalg.vector_norm(b))
    theirs, info = peer.minres(A.numpy(), b.numpy(), M=None if M is None else M.numpy(), rtol=rtol)
    assert info == 0
    assert true_residual(A, b, torch.from_numpy(theirs)) > 100 * rtol * norm_b
    ours = minres(A, b, M=M, rtol=rtol, maxiter=LIMIT)
    assert ours.converged
    assert true_residual(A, b, ours.x) <= 1.1 * rtol * norm_b


def test_gmres_counts_products_not_restarts() -> None:
    """SciPy's `maxiter` counts restarts; ours counts iterations, one product each."""
    A, b = CASE["convection_diffusion"].system
    products = 0

    def multiply(v: torch.Tensor) -> torch.Tensor:
        nonlocal products
        products += 1
        return A @ v

    result = gmres(multiply, b, restart=5, maxiter=12)
    assert products == result.iterations == result.matvecs == 12
