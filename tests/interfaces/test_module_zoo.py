"""Modules that people have: the right curvature, or one sentence; never a wrong number."""

import copy

import pytest
import torch
import torch.nn.functional as F
from module_zoo import IMAGES, REFUSED, RIGHT, SEQUENCES, VECTORS, WEIGHTS, N, Wrap, Y, last
from problems import assert_close, randn
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from newton_krylov import empirical_fisher, gauss_newton, hessian, monte_carlo_fisher
from newton_krylov.errors import ConfigError, UnsupportedError
from newton_krylov.objectives.network import chunks
from newton_krylov.objectives.network.objective import Network


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", RIGHT, ids=str)
def test_the_hessian_is_plain_autograd_s(case):
    net = case.module()
    state = copy.deepcopy(net.state_dict())
    before = copy.deepcopy(case.X)
    V = randn(sum(p.numel() for p in net.parameters()), 3, seed=11)
    H = hessian(net, case.criterion, case.X, case.y, **case.options)
    assert_close(H @ V, case.products(net, V), 1e-9)
    again = hessian(net, case.criterion, case.X, case.y, **case.options)
    assert torch.equal(H @ V, again @ V)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert str(before) == str(case.X)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_hessian_is_refused_in_a_sentence(name):
    build, X, message = REFUSED[name]
    net = build()
    if name not in ("lazy", "a part that is a trace"):
        net = net.double()
    with pytest.raises(UnsupportedError, match=message):
        hessian(net, nn.CrossEntropyLoss(), X, Y).dense()


def test_complex_weights_are_refused():
    net = Wrap(lambda s, x: s.layer((x * s.c).abs()), layer=nn.Linear(4, 3))
    net.c = nn.Parameter(torch.ones(4, dtype=torch.complex64))
    with pytest.raises(UnsupportedError, match=r"'c' is torch.complex64.*real numbers"):
        hessian(net, nn.CrossEntropyLoss(), VECTORS, Y)


def test_weights_of_two_types_are_refused():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3).double())
    with pytest.raises(UnsupportedError, match=r"several types, torch.float32, torch.float64"):
        hessian(net, nn.CrossEntropyLoss(), VECTORS, Y)


# -- randomness by a seed -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("batch_first", [True, False])
def test_dropout_between_recurrent_layers_is_drawn_from_the_seed(kind, batch_first):
    def forward(s, x):
        if batch_first:
            return s.head(s.recurrent(x)[0][:, -1])
        return s.head(s.recurrent(x.transpose(0, 1))[0][-1])

    torch.manual_seed(0)
    net = Wrap(
        forward,
        recurrent=kind(4, 3, 3, dropout=0.5, batch_first=batch_first, bidirectional=True),
        head=nn.Linear(6, 3),
    ).double()
    v = randn(sum(p.numel() for p in net.parameters()), seed=3)
    products = [
        hessian(net, nn.CrossEntropyLoss(), SEQUENCES, Y, noise=seed, chunk=chunk) @ v
        for seed, chunk in ((1, None), (1, None), (1, 3), (2, None), (None, None))
    ]
    assert torch.equal(products[0], products[1])
    assert_close(products[2], products[0], 1e-9)  # a mask does not depend on the samples beside
    assert not torch.allclose(products[0], products[3])
    assert not torch.allclose(products[0], products[4])
    # Layer by layer, almost without dropout, it is what torch's own kernel computes.
    net.recurrent.dropout = 1e-9
    layer_by_layer = hessian(net, nn.CrossEntropyLoss(), SEQUENCES, Y, noise=1) @ v
    assert_close(layer_by_layer, products[4], 1e-6)


def test_what_a_seed_cannot_fix_is_refused():
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.5, batch_first=True)
    net = Wrap(lambda s, x: s.head(s.layer(x).mean(1)), layer=layer, head=nn.Linear(4, 3)).double()
    with pytest.raises(UnsupportedError, match="drops attention weights"):
        hessian(net, nn.CrossEntropyLoss(), SEQUENCES, Y, noise=1).dense()


# -- criteria -------------------------------------------------------------------------------------


def test_the_empirical_fisher_of_weighted_classes_is_the_weighted_mean_of_single_gradients():
    torch.manual_seed(0)
    net = nn.Linear(4, 3).double()
    gradients = torch.stack(
        [
            torch.cat(
                [
                    g.reshape(-1)
                    for g in torch.autograd.grad(
                        F.cross_entropy(net(VECTORS[i : i + 1]), Y[i : i + 1]),
                        list(net.parameters()),
                    )
                ]
            )
            for i in range(N)
        ]
    )
    shares = WEIGHTS[Y] / WEIGHTS[Y].sum()
    loss = nn.CrossEntropyLoss(weight=WEIGHTS)
    for chunk in (None, 3):
        E = empirical_fisher(net, loss, VECTORS, Y, chunk=chunk).dense()
        assert_close(E, gradients.T @ (shares[:, None] * gradients), 1e-12)


@pytest.mark.parametrize("shape", ["(n,)", "(n, 1)"])
def test_the_fisher_of_a_regression_of_either_shape(shape):
    torch.manual_seed(0)
    net, y = nn.Sequential(nn.Linear(4, 1), nn.Tanh()).double(), randn(N, seed=1)
    if shape == "(n,)":
        net.append(nn.Flatten(0))
    else:
        y = y[:, None]
    E = empirical_fisher(net, nn.MSELoss(), VECTORS, y).dense()
    X = torch.cat([VECTORS, torch.ones(N, 1)], 1)
    z = torch.tanh(X @ torch.cat([net[0].weight[0], net[0].bias]).detach())
    G = (2 * (z - y.view(-1)) * (1 - z**2))[:, None] * X
    assert_close(E, G.T @ G / N, 1e-12)


def test_no_gradients_of_single_samples_where_they_know_of_one_another():
    def contrast(z, y):
        return F.cross_entropy(z @ z.T, torch.arange(len(z)))

    with pytest.raises(UnsupportedError, match="not a mean over samples"):
        empirical_fisher(nn.Linear(4, 3).double(), contrast, VECTORS, Y)


def test_constants_of_a_criterion_keep_their_type():
    weights = torch.tensor([1.0, 5.0, 0.2])
    seen = set()

    def criterion(z, y):
        seen.add(z.dtype)
        return F.cross_entropy(z, y, weight=weights)

    torch.manual_seed(0)
    net, X = nn.Linear(4, 3), VECTORS.float()
    H = hessian(net, criterion, X, Y).dense()
    expected = hessian(net, nn.CrossEntropyLoss(weight=weights), X, Y).dense()
    assert_close(H, expected, 1e-5)
    assert torch.float32 in seen
    assert weights.dtype == torch.float32


def test_a_criterion_that_draws_or_returns_no_number_is_refused():
    net = nn.Linear(4, 3).double()
    with pytest.raises(UnsupportedError, match="another gradient at the same outputs"):
        hessian(net, lambda z, y: F.cross_entropy(F.dropout(z), y), VECTORS, Y)
    with pytest.raises(UnsupportedError, match="must return one number"):
        hessian(net, lambda z, y: F.cross_entropy(z, y, reduction="none"), VECTORS, Y)


def test_samples_that_must_pass_together_and_do_not_fit_are_refused(monkeypatch):
    monkeypatch.setattr(chunks, "_free_bytes", lambda device: 0.0)
    contrast = Network(
        nn.Linear(4, 3).double(), lambda z, y: F.cross_entropy(z @ z.T, y), VECTORS, Y, memory=99.0
    )
    with pytest.raises(UnsupportedError, match=r"All 8 samples must .* criterion .* GiB"):
        _ = contrast.at(contrast.initial()).value
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    normed = Network(net, F.cross_entropy, VECTORS, Y, memory=99.0, together=None)
    with pytest.raises(UnsupportedError, match=r"All 8 samples must .* batch norm.*`chunk`"):
        _ = normed.at(normed.initial()).value


def test_batch_norm_takes_the_statistics_of_all_samples_or_of_the_chunks_that_are_asked_for():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    X, y = randn(600, 3, seed=1), torch.arange(600) % 2
    H = hessian(net, nn.CrossEntropyLoss(), X, y).dense()
    parts = [
        hessian(net, nn.CrossEntropyLoss(), X[a : a + 300], y[a : a + 300]).dense()
        for a in (0, 300)
    ]
    chunked = hessian(net, nn.CrossEntropyLoss(), X, y, chunk=300).dense()
    assert_close(chunked, sum(parts) / 2, 1e-12)
    assert not torch.allclose(chunked, H, rtol=1e-3)


# -- data -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [hessian, gauss_newton, empirical_fisher, monte_carlo_fisher])
def test_batches_are_the_samples_they_hold(make):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    loader = DataLoader(TensorDataset(VECTORS, Y), batch_size=3)
    whole = make(net, nn.CrossEntropyLoss(), VECTORS, Y)
    v = randn(whole.shape[0], seed=2)
    batches = make(net, nn.CrossEntropyLoss(), loader)
    assert_close(batches.matvec(v), whole.matvec(v), 1e-12)
    shuffled = make(
        net, nn.CrossEntropyLoss(), DataLoader(TensorDataset(VECTORS, Y), 3, shuffle=True)
    )
    assert torch.equal(shuffled.matvec(v), shuffled.matvec(v))  # it is read once
    pairs = [({"features": VECTORS[:5]}, Y[:5]), ({"features": VECTORS[5:]}, Y[5:])]
    named = Wrap(lambda s, batch: s.net(batch["features"]), net=net)
    assert_close(make(named, nn.CrossEntropyLoss(), pairs).matvec(v), whole.matvec(v), 1e-12)


def test_data_of_which_one_cannot_tell_the_samples():
    net, loss = nn.Linear(4, 3).double(), nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match="targets are missing"):
        hessian(net, loss, VECTORS)
    with pytest.raises(ValueError, match=r"batches of two"):
        hessian(net, loss, [(VECTORS, Y, Y)])
    with pytest.raises(ValueError, match=r"have 7 and 8 samples"):
        hessian(net, loss, (VECTORS, VECTORS[1:]), Y)
    with pytest.raises(ValueError, match=r"must be a tensor, or a tuple or dict"):
        hessian(net, loss, "text", Y)


def test_inputs_of_inference_mode_are_data_like_others():
    with torch.inference_mode():
        X, y = VECTORS.clone(), Y.clone()
    net = nn.Linear(4, 3).double()
    H = hessian(net, nn.CrossEntropyLoss(), X, y).dense()
    assert torch.equal(H, hessian(net, nn.CrossEntropyLoss(), VECTORS, Y).dense())


def test_images_keep_their_layout():
    seen = []

    def forward(s, x):
        seen.append(x.is_contiguous())
        return s.head(s.conv(x).tanh().flatten(1))

    net = Wrap(forward, conv=nn.Conv2d(3, 2, 3), head=nn.Linear(32, 3)).double()
    _ = hessian(net, nn.CrossEntropyLoss(), IMAGES, Y).dense()
    assert all(seen)
    last_ = IMAGES.contiguous(memory_format=torch.channels_last)
    seen.clear()
    _ = hessian(net, nn.CrossEntropyLoss(), last_, Y).dense()
    assert not any(seen)


# -- layers ---------------------------------------------------------------------------------------


def test_a_container_s_name_frees_all_its_layers():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5))
    net = Wrap(lambda s, x: s.head(s.encoder(x)), encoder=encoder, head=nn.Linear(5, 3)).double()
    H = hessian(net, nn.CrossEntropyLoss(), VECTORS, Y).dense()
    n = sum(p.numel() for p in encoder.parameters())
    for layers in (["encoder"], ["encoder.2", "encoder.0"], ["encoder", "encoder.0"]):
        part = hessian(net, nn.CrossEntropyLoss(), VECTORS, Y, layers=layers)
        assert_close(part.dense(), H[:n, :n], 1e-12)
    with pytest.raises(ConfigError, match="'coder' is not a layer"):
        hessian(net, nn.CrossEntropyLoss(), VECTORS, Y, layers=["coder"])


def test_a_module_with_weights_of_its_own_and_of_parts_is_freed_whole():
    net = Wrap(
        lambda s, x: s.head(s.mix(x, x, x)[0].mean(1)),
        mix=nn.MultiheadAttention(4, 2, batch_first=True),
        head=nn.Linear(4, 3),
    ).double()
    H = hessian(net, nn.CrossEntropyLoss(), SEQUENCES, Y, layers=["mix"])
    assert H.shape[0] == sum(p.numel() for p in net.mix.parameters())


def test_on_a_gpu_recurrent_layers_and_attention_have_second_derivatives(device):
    torch.manual_seed(0)
    attention = Wrap(
        lambda s, x: s.head(s.mix(x, x, x, need_weights=False)[0].mean(1)),
        mix=nn.MultiheadAttention(4, 2, batch_first=True),
        head=nn.Linear(4, 3),
    )
    for net in (last(nn.LSTM(4, 3, 2, batch_first=True)), last(nn.GRU(4, 3)), attention):
        H, exact = (
            hessian(
                copy.deepcopy(net).to(where, dtype),
                nn.CrossEntropyLoss(),
                SEQUENCES.to(where, dtype),
                Y.to(where),
            ).dense()
            for where, dtype in ((device, torch.float32), ("cpu", torch.float64))
        )
        assert_close(H.cpu().double(), exact, 1e-3)
