"""Methods that see layers as matrices, and diagonal ones: each against its definition."""

import math

import pytest
import torch
from optimizer_parts import Largest
from problems import assert_close, make, randn
from small_networks import network
from torch import nn
from torch.nn.utils import parametrizations

from newton_krylov.curvature.kfac import EKFAC as EKFACOperator
from newton_krylov.errors import ConfigError
from newton_krylov.objectives.network.kronecker import Covariance
from newton_krylov.objectives.network.objective import Network
from newton_krylov.optimizers.adahessian import AdaHessian
from newton_krylov.optimizers.diagonal_hessian import hutchinson, mean_over_kernels
from newton_krylov.optimizers.ekfac import EKFAC
from newton_krylov.optimizers.kfac import KFAC, _inverse, _times_inverse
from newton_krylov.optimizers.muon import Muon
from newton_krylov.optimizers.schedule_free_adamw import ScheduleFreeAdamW
from newton_krylov.optimizers.shampoo import ShampooSteps, inverse_root
from newton_krylov.optimizers.soap import SoapSteps
from newton_krylov.optimizers.sophia import Sophia


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def trained(build, start, target, steps=12, **options):
    """Follow a method on |A (W - target) B|^2; A and B turn what it may be blind to."""
    W = start.clone().requires_grad_()
    method = build([W], **options)
    for _ in range(steps):
        W.grad = None
        (torch.linspace(1, 3, len(W)).double()[:, None] * (W - target)).square().sum().backward()
        method.step()
    return W.detach()


@pytest.mark.parametrize("shape", [(5, 4), (7,)])
def test_soap_in_the_identity_s_basis_is_adam(shape):
    W, target = randn(*shape, seed=1), randn(*shape, seed=2)
    if len(shape) == 1:
        W, target = W[:, None], target[:, None]
    options = {"lr": 0.05, "betas": (0.9, 0.99), "eps": 1e-8}
    ours = trained(SoapSteps, W, target, largest=0, **options)
    assert_close(ours, trained(torch.optim.Adam, W, target, **options), 1e-12)


def turned_loss(W, target, U, V):
    R = U.T @ (W - target) @ V
    return (torch.linspace(1, 3, R.numel()).double().view(R.shape) * R.square()).sum()


@pytest.mark.parametrize(
    ("build", "blind"), [(SoapSteps, True), (ShampooSteps, True), (torch.optim.Adam, False)]
)
def test_shampoo_and_soap_see_no_rotation_of_a_layer_s_space(build, blind):
    """W -> U W V' turns their iterates alike, and Adam's not."""
    W, target = randn(4, 4, seed=1), randn(4, 4, seed=2)
    eye = torch.eye(4).double()
    U, V = (torch.linalg.qr(randn(4, 4, seed=k))[0] for k in (3, 4))

    def run(W, target, U, V):
        W = W.clone().requires_grad_()
        own = {"grafting": "none", "every": 2, "eps": 1e-8} if build is ShampooSteps else {}
        method = build([W], lr=0.02, **own)
        for _ in range(9):
            W.grad = None
            turned_loss(W, target, U, V).backward()
            method.step()
        return W.detach()

    plain, turned = run(W, target, eye, eye), run(U @ W @ V.T, U @ target @ V.T, U, V)
    assert (float((turned - U @ plain @ V.T).norm()) < 1e-6) == blind


@pytest.mark.parametrize("power", [2, 4])
def test_shampoo_s_root_is_that_of_the_dense_matrix(power):
    X = randn(6, 8, seed=1)
    A = X @ X.T
    root = inverse_root(A, power, 1e-12)
    assert_close(torch.linalg.matrix_power(root, power) @ A, torch.eye(6).double(), 1e-6)


def test_shampoo_s_first_step_is_the_polar_factor_of_the_gradient():
    """(GG')^-1/4 G (G'G)^-1/4 = U V'."""
    G = randn(4, 3, seed=1)
    W = torch.zeros(4, 3).double().requires_grad_()
    W.grad = G.clone()
    ShampooSteps([W], lr=1.0, grafting="none", eps=1e-14).step()
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    assert_close(-W.detach(), U @ Vh, 1e-3)
    grafted = torch.zeros(4, 3).double().requires_grad_()
    grafted.grad = G.clone()
    ShampooSteps([grafted], lr=1.0, grafting="adam", eps=1e-14).step()
    assert_close(-grafted.detach(), U @ Vh * (math.sqrt(12) / math.sqrt(3)), 1e-3)  # Adam's: signs


def first_step(optimizer, f, w0):
    made = optimizer.steps(f, w0, generator())
    next(made)
    return next(made).point


def test_muon_makes_hidden_matrices_steps_orthogonal_and_the_others_adam_s():
    f = network()
    rate, w0 = 1e-2, f.initial()
    optimizer = Muon(learning_rate=rate, weight_decay=0.0, batch_size=90)
    moved = (first_step(optimizer, f, w0).w - w0) / rate
    for layer, place in f.blocks.items():
        if layer == "last":
            assert_close(moved[place].abs(), torch.ones_like(moved[place]), 1e-3)
    first = moved[f.blocks["first"]].view(6, 5)
    singular = torch.linalg.svdvals(first) / (0.2 * math.sqrt(6))
    assert float(singular[-1]) > 0.6 and float(singular[0]) < 1.3  # Newton and Schulz's range
    with pytest.raises(ConfigError, match="'frist' is not a layer"):
        first_step(Muon(adam_layers=("frist",)), f, w0)


def test_adahessian_averages_over_kernels_and_divides_by_the_diagonal():
    """For a quadratic with a diagonal Hessian the estimate is exact: the first step is g / |h|."""
    f = make("least_squares", n=40)
    f0 = f.subset(torch.arange(f.n_samples))
    point = f0.at(torch.zeros(f.dim).double())
    draws = torch.stack([hutchinson(point, generator(k)) for k in range(2000)])
    assert_close(draws.mean(0), point.hessian().diagonal(), 0.1)
    net = Network(
        nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten(), nn.Linear(8, 2)).double(),
        nn.CrossEntropyLoss(), randn(6, 1, 3, 3, seed=4), torch.arange(6) % 2,
    )  # fmt: skip
    d = randn(net.dim, seed=1)
    averaged = mean_over_kernels(net, d.clone())
    assert_close(averaged[:4], d[:4].mean().expand(4), 1e-12)
    assert_close(averaged[8:], d[8:], 1e-15)
    w0 = randn(net.dim, seed=2) * 0.3
    step = first_step(AdaHessian(learning_rate=0.5, epsilon=1e-30, batch_size=6), net, w0)
    copy = generator()
    torch.randperm(6, generator=copy)
    at = net.at(w0)
    estimate = mean_over_kernels(net, hutchinson(at, copy))
    assert_close(step.w, w0 - 0.5 * at.grad / estimate.abs(), 1e-9)


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_adahessian_averages_what_stands_for_a_kernel(norm):
    """A parametrized convolution's weights belong to no module that is a convolution."""
    net = Network(
        nn.Sequential(norm(nn.Conv2d(1, 2, (2, 3))), nn.Flatten(), nn.Linear(8, 2)).double(),
        nn.CrossEntropyLoss(), randn(6, 1, 3, 4, seed=4), torch.arange(6) % 2,
    )  # fmt: skip
    d = randn(net.dim, seed=1)
    pairs = list(
        zip(net.parameters(mean_over_kernels(net, d.clone())), net.parameters(d), strict=True)
    )
    kernels = [own.shape == (2, 1, 2, 3) for _, own in pairs]
    assert sum(kernels) == 1
    for (averaged, own), kernel in zip(pairs, kernels, strict=True):
        expected = own.mean((2, 3), keepdim=True).expand_as(own) if kernel else own
        assert_close(averaged, expected, 1e-15)


def test_sophia_clips_newton_s_step_by_the_diagonal():
    f = make("least_squares", n=40)
    w0 = randn(f.dim, seed=1)
    optimizer = Sophia(
        learning_rate=0.1, beta1=0.0, beta2=0.0, gamma=1.0, weight_decay=0.0, batch_size=40
    )
    step = first_step(optimizer, f, w0)
    copy = generator()
    torch.randperm(40, generator=copy)
    point = f.at(w0)
    h = hutchinson(point, copy).clamp_min(1e-12)
    assert_close(step.w, w0 - 0.1 * (point.grad / h).clamp(-1, 1), 1e-9)
    assert float((step.w - w0).abs().max()) <= 0.1 + 1e-12


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_gauss_newton_bartlett_is_its_definition_and_unbiased(kind):
    """Liu et al., algorithm 2: B g * g at drawn labels, in the mean the Gauss-Newton diagonal."""
    f = make("logistic", n=30, l2=0.0) if kind == "linear" else network(l2=0.0)
    w, n = (0.3 * randn(f.dim, seed=1)).to(f.dtype), f.n_samples
    optimizer = Sophia(0.1, 0.0, 0.0, 1.0, 1e-12, 0.0, "gauss_newton_bartlett", batch_size=n)
    step = first_step(optimizer, f, w)
    copy = generator()
    batch = f.batch(torch.randperm(n, generator=copy), copy).at(w)
    h = (n * batch.drawn_gradient(copy).square()).clamp_min(1e-12)
    assert_close(step.w, w - 0.1 * (f.at(w).grad / h).clamp(-1, 1), 1e-9)
    point, draw = f.at(w), generator(3)
    draws = torch.stack([n * point.drawn_gradient(draw).square() for _ in range(1500)])
    error = (draws.mean(0) - point.gauss_newton().diagonal()).abs()
    assert bool((error <= 5 * draws.std(0) / 1500**0.5 + 1e-12).all())


def test_schedule_free_adamw_is_its_paper_s_recurrence():
    f = make("logistic", n=50)
    rate, beta, beta2, decay = 0.05, 0.9, 0.99, 0.1
    optimizer = ScheduleFreeAdamW(
        rate, beta, beta2, weight_decay=decay, warmup=3, batch_size=50
    )  # fmt: skip
    made = optimizer.steps(f, torch.zeros(f.dim).double(), generator())
    next(made)
    z = x = v = torch.zeros(f.dim).double()
    total = 0.0
    for t in range(1, 8):
        y = (1 - beta) * z + beta * x
        g = f.at(y).grad
        v = beta2 * v + (1 - beta2) * g**2
        gamma = rate * math.sqrt(1 - beta2**t) * min(1, t / 3)
        z = z - gamma * (g / (v.sqrt() + 1e-8) + decay * y)
        total += gamma**2
        x = x + gamma**2 / total * (z - x)
        assert_close(next(made).point.w, x, 1e-12)


def test_kfac_s_inverse_is_the_dense_one_by_matrix_and_by_woodbury():
    G, X = randn(3, 40, seed=1), randn(12, 40, seed=2)
    B, gamma = torch.eye(3).double() * 2, torch.tensor(0.3).double()
    A = X.T @ X / len(X)
    inverse = torch.linalg.inv(A + gamma * torch.eye(40).double())
    wide = {"B": B, "U": X, "K": _inverse(X @ X.T, gamma * len(X)), "gamma": gamma}
    narrow = {"B": B, "A": _inverse(A, gamma)}
    for own in (wide, narrow):
        assert_close(_times_inverse(own, G), B @ G @ inverse, 1e-9)


def test_kfac_s_wide_factor_keeps_rows_that_are_evenly_spread():
    X = randn(37, 6, seed=1)
    matrix, wide = Covariance(6, 6), Covariance(6, 5)
    for start in range(0, 37, 3):
        matrix.add(X[start : start + 3])
        wide.add(X[start : start + 3])
    assert_close(matrix.matrix(), X.T @ X / 37, 1e-12)
    assert_close(wide.kept(), X[::8], 1e-15)
    values, Q = wide.eigen(whole=True)
    assert_close((Q * values) @ Q.T, X[::8].T @ X[::8] / 5, 1e-12)


def gaussian():
    x, y = randn(60, 5, seed=1) * torch.logspace(-1, 1, 5).double(), randn(60, 2, seed=2)
    return Network(nn.Linear(5, 2).double(), nn.MSELoss(), x, y)


@pytest.mark.parametrize("window", [1024, 4], ids=["matrix", "wide"])
def test_kfac_makes_newton_s_step_where_it_is_exact(window):
    f = gaussian()
    w0 = f.initial()
    optimizer = KFAC(
        1.0, 0.0, damping=1e-14, clip=None, window=window, fisher="ggn", batch_size=60,
        curvature_samples=None,
    )  # fmt: skip
    end = first_step(optimizer, f, w0)
    gap = f.at(w0).grad_norm
    assert (end.grad_norm < 1e-5 * gap) == (window == 1024)


@pytest.mark.parametrize(("fisher", "window"), [("mc", 1024), ("empirical", 1024), ("mc", 5)])
def test_kfac_s_step_is_martens_and_grosse_s_with_the_pi_rule(fisher, window):
    """Their equations 6.3 and 6.6: (A + pi sqrt(damping) I) and (B + sqrt(damping) / pi I).

    Of more outputs than `window` B is its diagonal, of as many inputs A is of some rows.
    """
    f, damping = network(), 0.3
    w0 = f.initial()
    optimizer = KFAC(
        0.7, 0.0, damping, clip=None, fisher=fisher, batch_size=90, curvature_samples=None,
        window=window,
    )  # fmt: skip
    step = first_step(optimizer, f, w0)
    copy = generator()
    point = f.batch(torch.randperm(90, generator=copy), copy).at(w0)
    factors = point.kronecker_passes(optimizer.how, copy).factors()
    expected = torch.zeros_like(w0)
    for layer, covariance in factors.inputs.items():
        A, B = covariance.matrix(), factors.gradients[layer]
        B = torch.diag(B) if B.ndim == 1 else B
        pi = math.sqrt(float(A.trace() / len(A)) / float(B.trace() / len(B)))
        A = A + pi * math.sqrt(damping) * torch.eye(len(A)).to(A)
        B = B + math.sqrt(damping) / pi * torch.eye(len(B)).to(B)
        G = layer.joined(f.passes.split(point.grad))
        layer.separate(torch.linalg.inv(B) @ G @ torch.linalg.inv(A), f.passes.split(expected))
    assert not factors.diagonals
    assert_close(step.w, w0 - 0.7 * expected, 1e-9)


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_a_wide_layer_is_noted_and_forms_no_matrix_of_its_sides(kind):
    f = Network(
        nn.Sequential(nn.Linear(4, 300), nn.Tanh(), nn.Linear(300, 3)).double(),
        nn.CrossEntropyLoss(), randn(40, 4, seed=1), torch.arange(40) % 3,
    )  # fmt: skip
    steps = kind(0.1, window=16, batch_size=20).steps(f, f.initial(), generator())
    first = next(steps).evaluated().point.value
    with Largest() as seen:
        step = [next(steps) for _ in range(3)][-1]
    assert seen.numbers < 300 * 300 / 10
    assert step.notes == ("wider than window: 0.weight, 2.weight",)
    assert step.evaluated().point.value < first


@pytest.mark.parametrize("kind", [ShampooSteps, SoapSteps])
def test_a_long_side_forms_no_matrix(kind):
    W = torch.zeros(30_000, 8).requires_grad_()
    W.grad = torch.ones(30_000, 8)
    with Largest() as seen:
        kind([W], lr=0.1).step()
    assert seen.numbers == W.numel()


@pytest.mark.parametrize("kind", [ShampooSteps, SoapSteps])
@pytest.mark.parametrize("shape", [(4, 3), (1, 5), (2000, 3), (5,), (), (0, 3), (3, 0)])
def test_in_single_precision_no_gradient_is_no_step_and_later_ones_are_as_long_as_adam_s(
    kind, shape
):
    """As of a layer that is dead, or not used at first; powers of tiny numbers would overflow."""
    W = torch.zeros(shape).requires_grad_()
    steps = kind([W], lr=0.1, betas=(0.0, 0.99), eps=1e-8, every=3)
    for scale in (0.0, 0.0, 1e-30, 0.0):
        W.grad = torch.full(shape, scale)
        steps.step()
    assert float(W.detach().norm()) < 1e-6
    for _ in range(4):
        before, W.grad = W.detach().clone(), torch.ones(shape)
        steps.step()
    assert W.isfinite().all()
    if W.numel():
        assert 1e-3 < float((W.detach() - before).norm()) / math.sqrt(W.numel()) < 1


def test_kfac_s_inverses_are_as_old_as_asked_for():
    f = network()
    optimizer = KFAC(0.01, factors_every=2, inverses_every=4, batch_size=f.n_samples)
    memory = optimizer.memory(f, f.initial())
    made = optimizer.iterate(f, f.initial(), memory, generator())
    next(made)
    inverses, factors = [], []
    for _ in range(25):
        next(made)
        inverses.append(memory.inverses.copy())
        factors.append(memory.seen)
    first = next(iter(inverses[0]))
    renewed = [
        t for t in range(1, 25) if inverses[t][first]["B"] is not inverses[t - 1][first]["B"]
    ]
    assert renewed == [2, 4, 6, 8, 10, 12, 16, 20, 24]  # every second of the first ten steps
    assert [t for t in range(1, 25) if factors[t] != factors[t - 1]] == list(range(2, 25, 2))


@pytest.mark.parametrize(("fisher", "sharing"), [("ggn", "expand"), ("empirical", "reduce")])
def test_ekfac_s_step_is_that_of_its_operator(fisher, sharing):
    f = network()
    w0 = f.initial()
    options = {"clip": None, "batch_size": 90, "curvature_samples": None}
    optimizer = EKFAC(0.7, 0.0, 0.1, fisher=fisher, sharing=sharing, **options)
    A = EKFACOperator(fisher, sharing=sharing).at(f.at(w0), generator())
    expected = w0 - 0.7 * A.solve(f.at(w0).grad, 0.1)
    assert_close(first_step(optimizer, f, w0).w, expected, 1e-9)
    narrow = EKFAC(0.7, 0.0, 0.1, fisher=fisher, sharing=sharing, window=2, **options)
    end = first_step(narrow, f, w0)  # of a wide layer the last inputs alone
    assert end.value < f.at(w0).value


def test_kfac_s_clip_bounds_the_change_and_its_damping_adapts_by_what_came_true():
    f = network()
    w0 = f.initial()
    bounded, free = (
        first_step(KFAC(0.5, 0.0, clip=clip, batch_size=90), f, w0).w - w0 for clip in (1e-4, None)
    )
    ratio = bounded.norm() / free.norm()
    assert_close(bounded, ratio * free, 1e-9)
    change = -0.5 * ratio**2 * torch.dot(free, f.at(w0).grad)  # rate^2 p'g of what is left of p
    assert float(change) == pytest.approx(1e-4, rel=1e-9)
    good = KFAC(1.0, 0.0, damping=10.0, adapt_every=1, clip=None, batch_size=90)
    made = good.steps(f, w0, generator())
    next(made)
    notes = [next(made).notes for _ in range(3)]
    dampings = [float(note.split()[1]) for (note,) in notes]
    assert 10.0 > dampings[0] > dampings[1] > dampings[2]  # the model is right: less damping
