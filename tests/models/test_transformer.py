"""The transformer and its text: derivatives against automatic differentiation, layers, refusals."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from newton_krylov.data import load_dataset
from newton_krylov.errors import ConfigError
from newton_krylov.models.base import Interface, initialized
from newton_krylov.models.transformer import transformer
from newton_krylov.objectives.network.losses import CrossEntropy
from newton_krylov.registry import entry


def build(interface, **options):
    options = {"width": 6, "depth": 1, "heads": 2} | options
    generator = torch.Generator().manual_seed(0)
    net = initialized(lambda of: transformer(of, **options), interface, generator)
    with torch.no_grad():  # attention that is not uniform, norms that are not one
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return net.double()


@pytest.fixture(scope="module")
def problem():
    text = load_dataset("text", {"context": 4, "limit": 6})
    net = build(Interface.of(text))
    return text, net, CrossEntropy(text, net, l2=0.01)


def outputs(net, X):
    """Return the logits as a function of the flat vector of weights."""
    names, shapes = zip(*[(n, p.shape) for n, p in net.named_parameters()], strict=True)

    def function(w):
        parts = torch.split(w, [shape.numel() for shape in shapes])
        with sdpa_kernel([SDPBackend.MATH]):
            return functional_call(
                net, {n: a.view(s) for n, a, s in zip(names, parts, shapes, strict=True)}, (X,)
            )

    return function


def test_value_gradient_and_products_are_those_of_the_whole_text(problem):
    text, net, objective = problem
    z, y, w = outputs(net, text.train.X), text.train.y, objective.initial()

    def value(w):
        return F.cross_entropy(z(w), y) + 0.005 * w @ w

    point, v = objective.at(w), torch.randn(objective.dim, dtype=torch.float64)
    grad = torch.autograd.functional.jacobian(value, w)
    product = torch.autograd.functional.hvp(value, w, v)[1]
    assert point.value == pytest.approx(float(value(w)), rel=1e-13)
    assert (point.grad - grad).norm() <= 1e-12 * grad.norm()
    assert (point.hessian().matvec(v) - product).norm() <= 1e-11 * product.norm()

    J = jacrev(z)(w).movedim(1, 2).reshape(-1, text.n_classes, objective.dim)
    p = torch.softmax(z(w).transpose(1, 2).reshape(-1, text.n_classes), 1)
    S = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    ggn = torch.einsum("nij,nik,nkl->jl", J, S, J) / len(J) @ v + 0.01 * v
    assert (point.gauss_newton().matvec(v) - ggn).norm() <= 1e-11 * ggn.norm()


def test_a_layer_s_curvature_is_the_block_of_the_whole(problem):
    _, _, objective = problem
    w = objective.initial()
    whole = objective.at(w).hessian()
    for layer in ("characters", "blocks.0.attention.qkv"):
        block = objective.blocks[layer]
        alone = objective.restricted([layer], w)
        v = torch.randn(alone.dim, dtype=torch.float64)
        u = torch.zeros(objective.dim, dtype=torch.float64)
        u[block] = v
        own = alone.at(w[block]).hessian().matvec(v)
        assert (own - whole.matvec(u)[block]).norm() <= 1e-11 * own.norm()


def test_no_character_sees_a_later_one():
    net = build(Interface((5,), 7, 7))
    x = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 3, 6, 6]])
    z = net(x)
    assert torch.equal(z[0, :, :3], z[1, :, :3])
    assert not torch.allclose(z[0, :, 3], z[1, :, 3])


def test_tied_weights_are_counted_once_and_the_default_has_millions():
    interface = Interface((128,), 68, 68)
    sizes = [
        sum(p.numel() for p in transformer(interface, tied=tied).parameters())
        for tied in (True, False)
    ]
    assert 1e6 < sizes[0] < 5e6
    assert sizes[1] - sizes[0] == 68 * 192


def test_the_accuracy_is_the_share_of_characters(problem):
    text, net, objective = problem
    with torch.no_grad():
        right = (net(text.test.X).argmax(1) == text.test.y).double().mean()
    loss, accuracy = objective.evaluate(objective.initial(), text.test)
    assert accuracy == pytest.approx(float(right), rel=1e-12)
    with torch.no_grad():
        assert loss == pytest.approx(float(F.cross_entropy(net(text.test.X), text.test.y)))


def test_text_and_models_that_do_not_fit_are_refused():
    interface = Interface((8,), 5, 5)
    for name in ("mlp", "autoencoder"):
        with pytest.raises(ConfigError, match=f"model={name} reads numbers.*model=transformer"):
            entry("model", name).build({})(interface)
    with pytest.raises(ConfigError, match="model=transformer needs text"):
        transformer(Interface((8,), 2))
    with pytest.raises(ConfigError, match=r"width=7 must be a multiple of model\.heads=2"):
        transformer(interface, width=7, heads=2)
