"""Networks of linear layers and convolutions alone, for tests of what is made of layers' calls."""

from itertools import pairwise

from torch import nn

from newton_krylov.objectives.network.objective import Network


class Tokens(nn.Module):
    """Linear layers on sequences; the outputs are a sample's mean over its positions."""

    def __init__(self, turn, *, bias=True):
        super().__init__()
        self.first, self.turn = nn.Linear(3, 4, bias=bias), turn
        self.last = nn.Linear(4, 2, bias=bias)

    def forward(self, x):
        return self.last(self.turn(self.first(x))).mean(1)


def images(*, bias=True):
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=bias),
        nn.Tanh(),
        nn.Conv2d(3, 2, (2, 1), dilation=(1, 2), bias=bias),
        nn.Flatten(),
        nn.Linear(12, 3, bias=bias),
    )


def deep(turn, *widths, bias=True):
    layers = [nn.Linear(a, b, bias=bias) for a, b in pairwise(widths)]
    parts = [part for layer in layers for part in (layer, turn)]
    return nn.Sequential(*parts[:-1])


def objective(module, criterion, x, y, **options):
    return Network(module.double(), criterion, x, y, **options)


CASES = {
    "perceptron": (lambda: deep(nn.Tanh(), 4, 5, 3), (4,), 3),
    "images": (images, (2, 5, 6), 3),
    "no biases": (lambda: images(bias=False), (2, 5, 6), 3),
    "even images": (images, (2, 6, 6), 3),
    "tokens": (lambda: Tokens(nn.Tanh()), (5, 3), 2),
}
