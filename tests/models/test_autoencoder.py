"""The autoencoder and its loss: against the formula, and on images, tables and text."""

import pytest
import torch
import torch.nn.functional as F

from newton_krylov.data import load_dataset
from newton_krylov.errors import CombinationError
from newton_krylov.models.autoencoder import autoencoder
from newton_krylov.models.base import Interface, initialized
from newton_krylov.objectives.network.losses import Reconstruction


def built(dataset, **options):
    return initialized(
        lambda of: autoencoder(of, **options), Interface.of(dataset),
        torch.Generator().manual_seed(0),
    ).double()  # fmt: skip


def test_the_classical_network():
    digits = load_dataset("digits_images", {"size": 28, "limit": 3})
    net = built(digits)
    widths = [layer.weight.shape[1] for layer in net if isinstance(layer, torch.nn.Linear)]
    assert widths == [784, 1000, 500, 250, 30, 250, 500, 1000]
    code = list(net).index(net.linear4)
    assert isinstance(net[code + 1], torch.nn.Linear)  # no activation behind the code


def test_upscaled_digits_have_the_same_light():
    small, large = (load_dataset("digits_images", {"size": size}) for size in (None, 28))
    assert large.train.X.shape[1:] == (1, 28, 28)
    assert torch.equal(small.train.y, large.train.y)
    assert large.train.X.double().mean() == pytest.approx(
        float(small.train.X.double().mean()), 0.01
    )


@pytest.mark.parametrize("kind", ["cross_entropy", "squares"])
def test_the_loss_is_the_formula_and_the_test_loss_too(kind):
    digits = load_dataset("digits_images", {"limit": 20})
    net = built(digits, hidden=(5, 3))
    objective = Reconstruction(digits, net, kind)
    for split in (digits.train, digits.test):
        x = split.X.flatten(1).double() / 255
        with torch.no_grad():
            z = net(digits.images.normalize(split.X, torch.float64))
        if kind == "squares":
            expected = ((z - x) ** 2).sum(1).mean() / 2
        else:
            p = torch.sigmoid(z)
            expected = -(x * p.log() + (1 - x) * (1 - p).log()).sum(1).mean()
        loss, accuracy = objective.evaluate(objective.initial(), split)
        assert loss == pytest.approx(float(expected), rel=1e-6)  # targets are single precision
        assert accuracy != accuracy
        if split is digits.train:
            assert objective.at(objective.initial()).value == pytest.approx(loss, rel=1e-12)


def test_the_fisher_matrix_of_the_targets_is_the_gauss_newton_matrix():
    digits = load_dataset("digits_images", {"limit": 8})
    objective = Reconstruction(digits, built(digits, hidden=(2,)))
    point = objective.at(objective.initial())
    v = torch.randn(objective.dim, dtype=torch.float64)
    fisher = point.monte_carlo_fisher(4000, torch.Generator().manual_seed(1)).matvec(v)
    ggn = point.gauss_newton().matvec(v)
    assert (fisher - ggn).norm() <= 0.1 * ggn.norm()


def test_numbers_beyond_one_and_text_are_refused():
    iris = load_dataset("iris")
    with pytest.raises(CombinationError, match=r"loss\.kind=cross_entropy needs numbers between"):
        Reconstruction(iris, built(iris))
    Reconstruction(iris, built(iris), "squares")
    with pytest.raises(CombinationError, match="needs images or a table"):
        Reconstruction(load_dataset("text"), torch.nn.Linear(2, 2))


def test_a_product_is_that_of_automatic_differentiation():
    digits = load_dataset("digits_images", {"limit": 4})
    net = built(digits, hidden=(2,))
    objective = Reconstruction(digits, net, l2=0.1)
    x, w = digits.images.normalize(digits.train.X, torch.float64), objective.initial()
    y = digits.train.X.flatten(1).float().div(255).double()
    names, shapes = zip(*[(n, p.shape) for n, p in net.named_parameters()], strict=True)

    def value(w):
        parts = torch.split(w, [shape.numel() for shape in shapes])
        weights = {n: a.view(s) for n, a, s in zip(names, parts, shapes, strict=True)}
        z = torch.func.functional_call(net, weights, (x,))
        losses = F.binary_cross_entropy_with_logits(z, y, reduction="none")
        return losses.sum(1).mean() + 0.05 * w @ w

    v = torch.randn(objective.dim, dtype=torch.float64)
    expected = torch.autograd.functional.hvp(value, w, v)[1]
    assert (objective.at(w).hessian().matvec(v) - expected).norm() <= 1e-11 * expected.norm()
