"""Dropout by a seed, batch norm by rule, and refusal of every other source of randomness."""

import math

import pytest
import torch
import torch.nn.functional as F
from networks import module, network, samples
from problems import assert_close, randn, ulps
from torch import nn

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.network.forward import FixedForward
from newton_krylov.objectives.network.noise import Noise
from newton_krylov.objectives.network.objective import Network

RTOL = ulps(torch.float64)


# -- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_masks_keep_a_share_of_1_minus_p_and_scale_it_up(p, device):
    n, width = 500, 200
    scale = Noise(1, torch.arange(n)).scale((0, 1), (width,), p, device)
    assert scale.device.type == device.type
    kept = scale > 0
    values = scale[kept]
    assert float(values.min()) == float(values.max()) == pytest.approx(1 / (1 - p), rel=1e-4)
    # Five standard deviations of a binomial share: overall, and the worst sample and unit.
    deviation = math.sqrt(p * (1 - p))
    assert abs(float(kept.double().mean()) - (1 - p)) < 5 * deviation / math.sqrt(n * width)
    for dim, count in ((0, n), (1, width)):
        shares = kept.double().mean(dim)
        assert float((shares - (1 - p)).abs().max()) < 5 * deviation / math.sqrt(count)


def test_masks_of_other_seeds_layers_calls_and_samples_are_independent():
    rows = torch.arange(64)
    base = Noise(1, rows).scale((0, 1), (999,), 0.5) > 0
    others = [
        Noise(2, rows).scale((0, 1), (999,), 0.5) > 0,
        Noise(1, rows).scale((1, 1), (999,), 0.5) > 0,
        Noise(1, rows).scale((0, 2), (999,), 0.5) > 0,
        Noise(1, rows + 64).scale((0, 1), (999,), 0.5) > 0,
        base.roll(1, 0),
        base.roll(1, 1),
    ]
    for other in others:
        agreement = float((base == other).double().mean())
        assert abs(agreement - 0.5) < 5 * 0.5 / math.sqrt(base.numel())


def test_a_sample_s_mask_does_not_depend_on_who_is_with_it(device):
    everyone = Noise(3, torch.arange(300))
    masks = everyone.scale((2, 1), (4, 5), 0.3, device)
    for index in ([5], [299, 0, 130, 130], list(range(64, 128)), list(range(60, 200))):
        some = everyone.take(torch.tensor(index))
        assert torch.equal(some.scale((2, 1), (4, 5), 0.3, device), masks[index])


def test_probabilities_of_0_and_1_are_exact():
    rows = torch.arange(70)
    assert not Noise(1, rows).scale((0, 1), (9,), 1.0).any()
    assert (Noise(1, rows).scale((0, 1), (9,), 0.0) == 1).all()


# -- networks with dropout ----------------------------------------------------------------------


class Masked(nn.Module):
    """Dropout by given numbers."""

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, x):
        return x * self.scale[: len(x)]  # at first two samples pass, to see what happens


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_noisy_objective_is_the_network_with_the_masks_written_out(name):
    X, y = samples()
    noise, net = Noise(5, torch.arange(20)), module(name)
    for place, part in enumerate(net):
        if isinstance(part, nn.Dropout2d):
            net[place] = Masked(noise.scale((place, 1), (2, 1, 1), part.p))
        elif isinstance(part, nn.Dropout):
            width = {"mlp": {3: 4, 6: 5}, "cnn": {7: 4}}[name][place]
            net[place] = Masked(noise.scale((place, 1), (width,), part.p))
    f = network(name).subset(torch.arange(20), noise=5)
    by_hand = Network(net.double(), F.cross_entropy, X, y, chunk=20)
    w = f.initial() + 0.3 * randn(f.dim, seed=1)
    assert_close(f.at(w).value, by_hand.at(w).value, RTOL)
    assert_close(f.at(w).grad, by_hand.at(w).grad, RTOL)
    assert_close(f.at(w).hessian().dense(), by_hand.at(w).hessian().dense(), RTOL)
    assert_close(f.at(w).gauss_newton().dense(), by_hand.at(w).gauss_newton().dense(), RTOL)


def test_without_noise_dropout_is_off_and_with_it_seeds_differ():
    f = network("mlp")
    w, everything = f.initial(), torch.arange(20)
    X, y = samples()
    assert_close(f.at(w).value, F.cross_entropy(module("mlp").eval()(X), y), RTOL)
    values = {f.subset(everything, noise=seed).at(w).value for seed in range(5)}
    assert len(values | {f.at(w).value}) == 6


def test_dropout_that_the_module_has_turned_off_stays_off():
    net = module("mlp")
    net.drop1.eval()
    net.drop2.eval()
    X, y = samples()
    f = Network(net, F.cross_entropy, X, y)
    w = f.initial()
    assert f.subset(torch.arange(20), noise=1).at(w).value == f.at(w).value
    assert f.noise_seed(torch.Generator()) is None


def test_dropout_called_as_a_function_is_fixed_as_well():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 3)

        def forward(self, x):
            return self.linear(F.dropout(x.flatten(1), 0.5, training=True))

    X, y = samples()
    f = Network(Functional().double(), F.cross_entropy, X, y, chunk=6)
    w = f.initial()
    noisy = f.subset(torch.arange(20), noise=1)
    assert noisy.at(w).value == noisy.at(w).value != f.at(w).value
    index = torch.tensor([3, 17])
    assert noisy.subset(index).at(w).value == pytest.approx(
        (noisy.subset(index[:1]).at(w).value + noisy.subset(index[1:]).at(w).value) / 2
    )


def test_the_global_generator_is_left_alone():
    f = network("cnn")
    before = torch.get_rng_state()
    _ = f.batch(torch.arange(20), torch.Generator()).at(f.initial()).grad
    assert torch.equal(torch.get_rng_state(), before)


class Random(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.linear(x.flatten(1)))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda z: z + torch.randn_like(z), "randn_like"),
        (lambda z: z + torch.rand(3), "rand"),
        (lambda z: z * torch.bernoulli(torch.sigmoid(z)), "bernoulli"),
        (lambda z: z + torch.empty_like(z).normal_(), "normal_"),
        (lambda z: F.alpha_dropout(z, 0.5, training=True), "alpha_dropout"),
        (lambda z: F.rrelu(z, training=True), "rrelu"),
        (F.gumbel_softmax, "gumbel_softmax"),
        (
            lambda z: F.scaled_dot_product_attention(z[None], z[None], z[None], dropout_p=0.5)[0],
            "scaled_dot_product_attention",
        ),
    ],
)
def test_any_other_randomness_is_refused_by_name(function, name):
    X, y = samples()
    with pytest.raises(UnsupportedError, match=rf"The network calls {name}\(\)"):
        Network(Random(function).double(), F.cross_entropy, X, y)


@pytest.mark.parametrize(
    "function",
    [
        lambda z: F.alpha_dropout(z, 0.5, training=False),
        lambda z: F.rrelu(z, training=False),
        lambda z: F.scaled_dot_product_attention(z[None], z[None], z[None])[0],
    ],
)
def test_functions_that_are_random_in_training_alone_pass_in_evaluation(function):
    X, y = samples()
    f = Network(Random(function).double(), F.cross_entropy, X, y)
    assert f.at(f.initial()).value == f.at(f.initial()).value


def test_samples_must_come_first_for_masks():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(16, 3)
            self.drop = nn.Dropout(0.5)

        def forward(self, x):
            return self.linear(self.drop(x.flatten(1).T).T)

    X, y = samples(15)
    f = Network(Turned().double(), F.cross_entropy, X, y)
    with pytest.raises(UnsupportedError, match="a tensor of 16 rows in a batch of 15 samples"):
        _ = f.subset(torch.arange(15), noise=1).at(f.initial()).value


# -- batch norm ---------------------------------------------------------------------------------


def test_batch_norm_normalizes_each_span_by_its_own_statistics():
    X, y = samples()
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    f = Network(net, F.cross_entropy, X, y, chunk=10)
    z = torch.cat([net(X[:10]), net(X[10:])])
    assert_close(f.at(f.initial()).value, F.cross_entropy(z, y), RTOL)


def test_batch_norm_that_the_module_has_put_in_evaluation_keeps_its_running_statistics():
    X, y = samples()
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    net[1].running_mean.fill_(0.3)
    net[1].running_var.fill_(2.0)
    net[1].eval()
    f = Network(net, F.cross_entropy, X, y, chunk=3)
    assert_close(f.at(f.initial()).value, F.cross_entropy(net(X), y), RTOL)


def test_statistics_that_were_collected_give_the_same_outputs():
    X, _ = samples()
    norm = nn.BatchNorm2d(1, track_running_stats=False).double()
    found = {}
    collecting, given = FixedForward(collect=found), FixedForward(statistics=found)
    with collecting:
        collecting.enter(4)
        first = norm(X)
    with given:
        given.enter(4)
        again = norm(X)
        part = given.enter(4) or norm(X[:3])
    assert_close(first, norm(X), RTOL)
    assert_close(again, first, RTOL)
    assert_close(part, first[:3], RTOL)
