"""The methods that networks are trained by, on modules that people have, against plain programs.

Each reference is the paper's recurrence on the module's own parameters; a method that torch has is
torch's. A module joins by one line in `MODULES`.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from module_zoo import IMAGES, SEQUENCES, TOKENS, VECTORS, N, Wrap, Y, attended, last, pooled, tied
from optimizer_parts import make_optimizer
from problems import assert_close, randn
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.network.objective import Network
from newton_krylov.optimizers.minibatch import batches
from newton_krylov.optimizers.shampoo import ShampooSteps
from newton_krylov.optimizers.soap import SoapSteps

BATCH, EPOCHS, RATE = 3, 4, 0.03
VOLUMES = randn(N, 2, 3, 3, 3, seed=5)


def numbers(*shape: int, seed: int = 1) -> nn.Parameter:
    return nn.Parameter(0.5 * randn(math.prod(shape), seed=seed).view(shape))


def classed(conv: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.Linear(width, 3))


def tied_embedding() -> nn.Module:
    net = pooled(nn.Embedding(9, 4))
    net.decode = nn.Linear(4, 9)
    net.decode.weight = net.layer.weight
    return Wrap(lambda s, x: s.net.decode(s.net(x) @ s.up), net=net, up=numbers(3, 4))


def frozen(*names: str) -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3))
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in names)
    return net


MODULES: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "a number": (lambda: Wrap(lambda s, x: s.head(x) * s.a, a=numbers(), head=nn.Linear(4, 3)),
                 VECTORS),
    "nothing": (lambda: Wrap(lambda s, x: s.head(x) + s.a.sum() + s.b.sum() + s.c.sum(),
                a=numbers(0), b=numbers(0, 5), head=nn.Linear(4, 3), c=numbers(5, 0)), VECTORS),
    "vectors": (lambda: Wrap(lambda s, x: x[:, :3] * s.a + s.b, a=numbers(3), b=numbers(3)),
                VECTORS),
    "three dimensions": (lambda: Wrap(lambda s, x: s.head((x + s.place).tanh().mean(1)),
                         place=numbers(1, 5, 4), head=nn.Linear(4, 3)), SEQUENCES),
    "wide": (lambda: Wrap(lambda s, x: s.head((x @ s.a.T @ s.b).tanh() @ s.b.T), a=numbers(1, 4),
             b=numbers(1, 1500), head=nn.Linear(1, 3)), VECTORS),
    "conv3d": (lambda: classed(nn.Conv3d(2, 3, 2), 24), VOLUMES),
    "transposed": (lambda: classed(nn.ConvTranspose2d(3, 2, 2), 98), IMAGES),
    "grouped": (lambda: classed(nn.Conv2d(3, 6, 3, groups=3), 96), IMAGES),
    "tied": (tied, VECTORS),
    "tied embedding": (tied_embedding, TOKENS),
    "unused": (lambda: Wrap(lambda s, x: s.head(x), other=nn.Linear(4, 4), head=nn.Linear(4, 3)),
               VECTORS),
    "batch norm": (lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(),
                   nn.Linear(5, 3)), VECTORS),
    "gru": (lambda: last(nn.GRU(4, 3, batch_first=True)), SEQUENCES),
    "attention": (lambda: attended(nn.MultiheadAttention(4, 2, batch_first=True)), SEQUENCES),
    "frozen layer": (lambda: frozen("0.weight", "0.bias"), VECTORS),
    "frozen weights": (lambda: frozen("0.weight", "1.bias", "3.bias"), VECTORS),
}  # fmt: skip


def built(name: str) -> tuple[nn.Module, Tensor]:
    build, X = MODULES[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return build().double(), X


def joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().reshape(-1) for part in parts])


class Training:
    """A plain loop: the same batches, and steps of flat vectors; `hessian` draws as ours does."""

    def __init__(self, net: nn.Module, X: Tensor) -> None:
        self.net, self.X = copy.deepcopy(net), X
        self.parameters = [p for p in self.net.parameters() if p.requires_grad]
        kernels = {m.weight for m in self.net.modules() if isinstance(m, _ConvNd)}
        self.is_kernel = [p in kernels for p in self.parameters]
        self.generator = torch.Generator().manual_seed(0)

    def loss(self) -> Tensor:
        return nn.functional.cross_entropy(self.net(self.X[self.index]), Y[self.index])

    def gradients(self, **options: Any) -> Sequence[Tensor]:
        return torch.autograd.grad(
            self.loss(), self.parameters, materialize_grads=True, allow_unused=True, **options
        )

    def parts(self, v: Tensor) -> list[Tensor]:
        pieces = torch.split(v, [p.numel() for p in self.parameters])
        return [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]

    def put(self, w: Tensor) -> None:
        with torch.no_grad():
            for p, part in zip(self.parameters, self.parts(w), strict=True):
                p.copy_(part)

    def diagonal(self, *, averaged: bool) -> Tensor:
        """Hutchinson's z * (H z), z of random signs; averaged over the kernels of convolutions."""
        w = joined(self.parameters)
        z = torch.randint(0, 2, w.shape, generator=self.generator).to(w) * 2 - 1
        g = torch.cat([part.reshape(-1) for part in self.gradients(create_graph=True)])
        found = torch.autograd.grad(
            g @ z, self.parameters, materialize_grads=True, allow_unused=True
        )
        d = [part * own for part, own in zip(found, self.parts(z), strict=True)]
        if averaged:
            for part, kernel in zip(d, self.is_kernel, strict=True):
                if kernel:
                    part.copy_(part.mean(tuple(range(2, part.ndim)), keepdim=True))
        return joined(d)

    def run(self, step: "Callable[[Training, int], None]") -> Tensor:
        drawn = batches(N, BATCH, self.generator)
        for t in range(1, EPOCHS * math.ceil(N / BATCH) + 1):
            self.index = next(drawn)
            step(self, t)
        return joined(self.parameters)


Step = Callable[[Training, int], None]


def by_torch(make: Callable[[list[Tensor], list[bool]], list[torch.optim.Optimizer]]) -> Step:
    """torch's optimizers, made of kernels as matrices, and of whether each is the last layer's."""
    kept: list[Any] = []

    def step(at: Training, t: int) -> None:
        if t == 1:
            shown = [
                p.detach().view(len(p), -1) if p.ndim > 1 and p.numel() else p.detach().view(-1)
                for p in at.parameters
            ]
            names = [n.rpartition(".")[0] or n for n, p in at.net.named_parameters()
                     if p.requires_grad]  # fmt: skip
            seen = [v.requires_grad_() for v in shown]
            kept.extend([seen, make(seen, [name == names[-1] for name in names])])
        for view, g in zip(kept[0], at.gradients(), strict=True):
            view.grad = g.reshape(view.shape)
        for made in kept[1]:
            made.step()

    return step


def muon(parameters: list[Tensor], is_last: list[bool]) -> list[torch.optim.Optimizer]:
    both = list(zip(parameters, is_last, strict=True))
    own = [p for p, out in both if p.ndim == 2 and not out]
    rest = [p for p, out in both if p.ndim < 2 or out]
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, RATE, weight_decay=0.01)]
    if own:
        made.append(torch.optim.Muon(own, RATE, 0.01, 0.95, adjust_lr_fn="match_rms_adamw"))
    return made


def adahessian() -> Step:
    m = v = torch.zeros(())

    def step(at: Training, t: int) -> None:
        nonlocal m, v
        w, d, g = joined(at.parameters), at.diagonal(averaged=True), joined(at.gradients())
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * d**2
        at.put(w - RATE * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-4))

    return step


def sophia() -> Step:
    m = h = torch.zeros(())

    def step(at: Training, t: int) -> None:
        nonlocal m, h
        if t % 3 == 1:
            h = 0.99 * h + 0.01 * at.diagonal(averaged=False)
        w, g = joined(at.parameters), joined(at.gradients())
        m = 0.96 * m + 0.04 * g
        at.put((1 - 0.01 * RATE) * w - RATE * (m / (0.01 * h).clamp(min=1e-6)).clamp(-1, 1))

    return step


def schedule_free() -> Step:
    z = v = torch.zeros(())
    total = 0.0

    def step(at: Training, t: int) -> None:
        nonlocal z, v, total
        x = joined(at.parameters)
        z = x if t == 1 else z
        y = 0.1 * z + 0.9 * x
        at.put(y)
        g = joined(at.gradients())
        v = 0.999 * v + 0.001 * g**2
        rate = RATE * math.sqrt(1 - 0.999**t)
        z = z - rate * (g / (v.sqrt() + 1e-8) + 0.01 * y)
        total += rate**2
        at.put(x + rate**2 / total * (z - x))

    return step


def shampoo() -> Step:
    """L^-1/4 M R^-1/4 as long as Adam's step, of means without bias; roots every third step."""
    states: list[dict[str, Any]] = []

    def root(C: Tensor, power: int) -> Tensor:
        values, Q = torch.linalg.eigh(C)
        values = values.clamp(min=0) + 1e-6 * values[-1].clamp(min=1e-300)
        return Q @ torch.diag(values ** (-1 / power)) @ Q.T

    def one(p: Tensor, g: Tensor, s: dict[str, Any], t: int) -> None:
        G = g.reshape(len(g), -1) if g.ndim > 1 and g.numel() else g
        s["m"] = 0.9 * s.get("m", 0) + 0.1 * G
        s["v"] = 0.99 * s.get("v", 0) + 0.01 * G**2
        m = s["m"] / (1 - 0.9**t)
        adam = m / ((s["v"] / (1 - 0.99**t)).sqrt() + 1e-6)
        sides = [k for k in (0, 1) if G.ndim == 2 and G.numel() and G.shape[k] <= 1024]
        direction = m if sides else adam
        for k in sides:
            s[k] = 0.99 * s.get(k, 0) + 0.01 * (G @ G.T if k == 0 else G.T @ G)
            if t % 3 == 1:
                s["root", k] = root(s[k] / (1 - 0.99**t), 2 * len(sides))
            R = s["root", k]
            direction = R @ direction if k == 0 else direction @ R
        if sides:
            direction = direction * adam.norm() / direction.norm().clamp(min=1e-300)
        with torch.no_grad():
            p.copy_((1 - 0.01 * RATE) * p - RATE * direction.view_as(p))

    def step(at: Training, t: int) -> None:
        states.extend({} for _ in at.parameters[len(states) :])
        for p, g, s in zip(at.parameters, at.gradients(), states, strict=True):
            one(p, g, s, t)

    return step


REFERENCES: dict[str, tuple[dict[str, Any], Callable[[], Step]]] = {
    "adamw": ({}, lambda: by_torch(lambda p, _: [torch.optim.AdamW(p, RATE)])),
    "sgd": ({"nesterov": True}, lambda: by_torch(
        lambda p, _: [torch.optim.SGD(p, RATE, momentum=0.9, nesterov=True)])),
    "muon": ({}, lambda: by_torch(muon)),
    "adahessian": ({}, adahessian),
    "sophia": ({"every": 3, "epsilon": 1e-6}, sophia),
    "schedule_free_adamw": ({}, schedule_free),
    "shampoo": ({"every": 3}, shampoo),
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("method", REFERENCES)
def test_a_method_trains_a_module_as_its_paper_says(method: str, module: str) -> None:
    if method == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch's Muon came with 2.9")
    net, X = built(module)
    options, reference = REFERENCES[method]
    f = Network(net, nn.functional.cross_entropy, X, Y)
    optimizer = make_optimizer(method, learning_rate=RATE, batch_size=BATCH, **options)
    steps = optimizer.steps(f, f.initial(), torch.Generator().manual_seed(0))
    *_, end = [next(steps).point.w for _ in range(EPOCHS + 1)]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = Training(net, X).run(reference())
    assert_close(end, expected, 1e-8)


def test_soap_is_adam_in_the_basis_that_orthogonal_iteration_turns() -> None:
    """Vyas et al., algorithms 3 and 4, without a bias of the means towards the first gradient."""
    W = nn.Parameter(randn(4, 4, seed=1))
    steps = SoapSteps([W], RATE, betas=(0.9, 0.8), eps=1e-8, weight_decay=0.1, every=2)
    w, m, v = W.detach().clone(), torch.zeros(4, 4), torch.zeros(4, 4)
    L = R = torch.zeros(4, 4).double()
    for t in range(1, 8):
        G = randn(4, 4, seed=10 + t)
        if t == 1:
            P, Q = (torch.linalg.eigh(C)[1].flip(1) for C in (G @ G.T, G.T @ G))
        m, v = 0.9 * m + 0.1 * G, 0.8 * v + 0.2 * (P.T @ G @ Q) ** 2
        adam = (P.T @ m @ Q / (1 - 0.9**t)) / ((v / (1 - 0.8**t)).sqrt() + 1e-8)
        w = (1 - 0.1 * RATE) * w - RATE * P @ adam @ Q.T
        L, R = 0.8 * L + 0.2 * G @ G.T, 0.8 * R + 0.2 * G.T @ G
        if t % 2 == 0:
            rows, columns = ((B.T @ C @ B).diagonal().argsort(descending=True)
                             for B, C in ((P, L), (Q, R)))  # fmt: skip
            v = v[rows][:, columns]
            P, Q = torch.linalg.qr(L @ P[:, rows])[0], torch.linalg.qr(R @ Q[:, columns])[0]
        W.grad = G
        steps.step()
        assert_close(W.detach(), w, 1e-7)  # Adam divides roundings by 1e-8


@pytest.mark.parametrize("method", [*REFERENCES, "soap", "kfac", "ekfac", "nesterov"])
def test_a_dead_layer_in_single_precision_stops_no_other(method: str) -> None:
    """Its gradient is zero at every step, as that of a layer which is not used."""
    dead = nn.Sequential(nn.Linear(4, 5), nn.Threshold(100.0, 0.0), nn.Linear(5, 3))
    net = Wrap(lambda s, x: s.dead(x) + s.live(x), dead=dead, live=nn.Linear(4, 3))
    f = Network(net, nn.functional.cross_entropy, VECTORS.float(), Y)
    options = {"learning_rate": RATE, "batch_size": BATCH} if method != "nesterov" else {}
    steps = make_optimizer(method, **options).steps(
        f, f.initial(), torch.Generator().manual_seed(0)
    )
    values = [next(steps).evaluated().point.value for _ in range(EPOCHS + 1)]
    assert values[-1] < values[0]


@pytest.mark.parametrize("kind", [ShampooSteps, SoapSteps])
def test_layers_steps_are_an_optimizer_of_torch(kind: type[torch.optim.Optimizer]) -> None:
    """Groups, closures, schedulers, gradients that are not there, and states that are kept."""
    weights = [nn.Parameter(randn(4, 3, seed=1)), nn.Parameter(randn(3, seed=2)), numbers(2)]

    def made(own: list[nn.Parameter]) -> tuple[Any, Any]:
        optimizer = kind([{"params": own[:1], "lr": 0.1}, {"params": own[1:]}], lr=0.02, every=2)
        return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)

    def trained(own: list[nn.Parameter], pair: tuple[Any, Any], steps: int) -> None:
        def loss() -> Tensor:
            pair[0].zero_grad(set_to_none=True)
            value = ((own[0] - 1) ** 2).sum() + ((own[0].sum(0) + own[1]) ** 2).sum()
            value.backward()
            return value

        for _ in range(steps):
            assert pair[0].step(loss) > 0
            pair[1].step()

    whole, parts = copy.deepcopy(weights), copy.deepcopy(weights)
    trained(whole, made(whole), 7)
    pair = made(parts)
    trained(parts, pair, 4)
    other = made(parts)
    for ours, theirs in zip(other, pair, strict=True):
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    trained(parts, other, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    assert torch.equal(whole[2], weights[2])  # it had no gradient
    assert not torch.allclose(whole[0], weights[0], atol=0.1)


class Spoiled(nn.Module):
    """Finite at the start alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.layer(x)
        return torch.where(self.layer.weight.abs().max() > 1, z * torch.nan, z)


@pytest.mark.parametrize(("method", "every"), [
    ("shampoo", {"every": 1}), ("soap", {"every": 1}), ("muon", {}), ("sophia", {}),
    ("kfac", {"factors_every": 1, "inverses_every": 1, "clip": None}),
    ("ekfac", {"factors_every": 1, "inverses_every": 1, "clip": None}),
])  # fmt: skip
def test_a_gradient_that_is_no_number_ends_as_one_and_in_no_error(
    method: str, every: dict[str, Any]
) -> None:
    """LAPACK makes errors of nan; the runner sees a loss that is none, and says so."""
    f = Network(Spoiled().double(), nn.functional.cross_entropy, VECTORS, Y)
    optimizer = make_optimizer(method, learning_rate=1e3, batch_size=1, **every)
    steps = optimizer.steps(f, f.initial(), torch.Generator().manual_seed(0))
    next(steps)
    assert math.isnan(next(steps).point.value)


def test_a_network_whose_weights_are_all_frozen_is_refused() -> None:
    net = nn.Linear(4, 3).double().requires_grad_(False)
    with pytest.raises(UnsupportedError, match="are frozen"):
        Network(net, nn.functional.cross_entropy, VECTORS, Y)


@pytest.mark.parametrize(
    ("method", "options"),
    [("kfac", {}), ("ekfac", {}), ("layerwise_newton", {"damping": "marquardt"}),
     ("newton", {"damping": "marquardt"}), ("lbfgs", {})],
)  # fmt: skip
def test_what_is_frozen_stays_as_it_is(method: str, options: dict[str, Any]) -> None:
    """A held bias is no part of a layer's Kronecker factor, nor of a block."""
    net, X = built("frozen weights")
    f = Network(net, nn.functional.cross_entropy, X, Y)
    assert f.dim == sum(p.numel() for p in net.parameters() if p.requires_grad) == 25
    optimizer = make_optimizer(method, **options)
    steps = optimizer.steps(f, f.initial(), torch.Generator().manual_seed(0))
    values = [next(steps).point.value for _ in range(4)]
    assert values[-1] < values[0]
    nn.utils.vector_to_parameters(f.initial(), [p for p in net.parameters() if p.requires_grad])
    assert f.at(f.initial()).value == pytest.approx(float(nn.functional.cross_entropy(net(X), Y)))
