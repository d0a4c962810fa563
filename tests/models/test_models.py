"""The models: the paper's sizes, names, seeds, and refusals."""

import pytest
import torch
import torch.nn.functional as F
from problems import assert_close, make_dataset, randn, ulps
from torch import nn

from newton_krylov.errors import ConfigError
from newton_krylov.models import Interface, initialized
from newton_krylov.objectives.network.objective import Network
from newton_krylov.registry import entry, names

CIFAR = Interface((3, 32, 32), 10)
DIGITS = Interface((1, 8, 8), 10)


def build(name, interface=CIFAR, seed=0, **options) -> nn.Module:
    part = entry("model", name).build(options)
    return initialized(part, interface, torch.Generator().manual_seed(seed))


def layers(net: nn.Module) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, p in net.named_parameters():
        layer = name.rpartition(".")[0]
        sizes[layer] = sizes.get(layer, 0) + p.numel()
    return sizes


def test_the_paper_s_network_has_the_paper_s_sizes():
    assert layers(build("paper_cnn")) == {
        "conv1": 864, "conv2": 18_432, "linear1": 8_388_608, "linear2": 5_120,
    }  # fmt: skip


def test_the_paper_s_network_computes_what_the_paper_says():
    net = build("paper_cnn").double()
    x = randn(4, 3, 32, 32, seed=1)
    h = F.relu(F.conv2d(x, net.conv1.weight, padding=1))
    h = F.max_pool2d(F.relu(F.conv2d(h, net.conv2.weight, padding=1)), 2)
    h = F.relu(h.flatten(1) @ net.linear1.weight.T)
    assert_close(net.eval()(x), h @ net.linear2.weight.T, ulps(torch.float64))
    assert [p.p for p in net.modules() if isinstance(p, nn.Dropout)] == [0.25, 0.5]


def test_the_paper_s_network_takes_other_images_and_sizes():
    net = build("paper_cnn", DIGITS, channels=[2, 3], hidden=4, dropout=[0, 0])
    assert layers(net) == {"conv1": 18, "conv2": 54, "linear1": 192, "linear2": 40}
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_perceptron_is_its_layers():
    net = build("mlp", DIGITS, hidden=[7, 5], activation="relu", bias=False, dropout=0.3)
    assert layers(net) == {"linear1": 448, "linear2": 35, "linear3": 50}
    x = randn(3, 1, 8, 8, seed=1, dtype=torch.float32)
    W1, W2, W3 = net.parameters()
    expected = (x.flatten(1) @ W1.T).relu() @ W2.T
    assert_close(net.eval()(x), expected.relu() @ W3.T, ulps(torch.float32, 20))


def test_a_perceptron_without_hidden_layers_is_softmax_regression():
    data = make_dataset("multiclass")
    net = build("mlp", Interface.of(data), hidden=[], bias=False).double()
    f = Network(net, F.cross_entropy, data.train.X, data.train.y, l2=0.01)
    g = entry("loss", "multinomial").target(data, l2=0.01)
    W = randn(7, 4, seed=1)
    assert_close(f.at(W.T.reshape(-1)).value, g.at(W.reshape(-1)).value, ulps(torch.float64))
    assert f.convexity == 0.01


@pytest.mark.parametrize(("blocks", "weights"), [(1, 77_850), (3, 272_282)])
def test_residual_networks_have_he_s_sizes(blocks, weights):
    net = build("resnet_small", blocks=blocks)
    convolutions = [
        p for p in net.modules() if isinstance(p, nn.Conv2d) and p.kernel_size == (3, 3)
    ]
    assert len(convolutions) == 6 * blocks + 1
    assert sum(p.numel() for p in net.parameters()) == weights
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert build("resnet_small", DIGITS)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("name", ["paper_cnn", "mlp", "resnet_small", "auto"])
def test_the_seed_alone_decides_the_weights(name):
    before = torch.get_rng_state()
    one, same, other = (build(name, DIGITS, seed) for seed in (1, 1, 2))
    torch.manual_seed(77)
    again = build(name, DIGITS, 1)
    torch.set_rng_state(before)
    for a, b, c, d in zip(*(m.parameters() for m in (one, same, again, other)), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
        assert a.numel() == 1 or a.std() == 0 or not torch.equal(a, d)


def test_drawing_weights_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    build("mlp", DIGITS)
    assert torch.equal(torch.get_rng_state(), before)


def test_auto_is_the_paper_s_network_for_images_and_a_perceptron_otherwise():
    assert layers(build("auto")) == layers(build("paper_cnn"))
    assert layers(build("auto", DIGITS)) == layers(build("mlp", DIGITS))
    assert layers(build("auto", Interface((7,), 2))) == layers(build("mlp", Interface((7,), 2)))


@pytest.mark.parametrize("name", ["paper_cnn", "resnet_small"])
def test_a_network_of_images_refuses_a_table(name):
    with pytest.raises(ConfigError, match=rf"model={name} needs images.*choose model=mlp"):
        build(name, Interface((7,), 2))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"hidden": [0]}),
        ("mlp", {"activation": "step"}),
        ("mlp", {"dropout": 1.0}),
        ("paper_cnn", {"channels": [3]}),
        ("paper_cnn", {"dropout": [0.5, -0.1]}),
        ("resnet_small", {"blocks": 0}),
        ("auto", {"hidden": 3}),
    ],
)
def test_wrong_options_are_refused(name, options):
    with pytest.raises(ConfigError, match=f"model.{next(iter(options))}"):
        build(name, **options)


def test_every_model_is_a_known_one():
    assert set(names("model")) >= {"auto", "mlp", "paper_cnn", "resnet_small"}
