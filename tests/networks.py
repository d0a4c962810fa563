"""The zoo of networks that the tests of network objectives share.

A new kind of layer joins every test by one line in `NETWORKS`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from problems import randn
from torch import Tensor, nn
from torch.func import functional_call

from newton_krylov.objectives.network.objective import Network

CLASSES = 3


class Looped(nn.Module):
    """Not a sequence, and one layer is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.last = nn.Linear(6, CLASSES, bias=False)
        self.scale = nn.Parameter(torch.tensor([1.5]))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inner(x.flatten(1)[:, :6]))
        return self.last(h + self.scale * torch.tanh(self.inner(h)))


class Normed(nn.Module):
    """A residual part with batch norm, inside a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(self.norm(self.conv(x)) + x)


def _mlp() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            first=nn.Linear(16, 4),
            tanh=nn.Tanh(),
            drop1=nn.Dropout(0.3),
            middle=nn.Linear(4, 5, bias=False),
            softplus=nn.Softplus(),
            drop2=nn.Dropout(0.5),
            last=nn.Linear(5, CLASSES),
        )
    )


def _cnn() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 2, 3, padding=1),
            tanh=nn.Tanh(),
            drop1=nn.Dropout2d(0.4),
            conv2=nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=False),
            pool=nn.MaxPool2d(2),
            relu=nn.ReLU(),
            flatten=nn.Flatten(),
            drop2=nn.Dropout(0.25),
            last=nn.Linear(4, CLASSES, bias=False),
        )
    )


def _normed() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 2, 3, stride=2, padding=1),
            norm=nn.BatchNorm2d(2, track_running_stats=False),
            tanh=nn.Tanh(),
            block=Normed(),
            flatten=nn.Flatten(),
            last=nn.Linear(8, CLASSES),
        )
    )


@dataclass(frozen=True)
class Case:
    """A network and which of its layers there are.

    Attributes
    ----------
    name : str
        For the tests' names.
    build : callable
        Makes the module, in training mode.
    layers : sequence of str
        Names of the modules that own weights.
    chunk : int
        Samples in a forward pass; those of batch norm belong together.
    random : bool
        Whether there is dropout.
    per_sample : bool
        Whether each sample's outputs depend on that sample alone.
    """

    name: str
    build: Callable[[], nn.Module]
    layers: Sequence[str]
    chunk: int
    random: bool = False
    per_sample: bool = True

    def __str__(self) -> str:
        return self.name


NETWORKS = [
    Case("mlp", _mlp, ("first", "middle", "last"), 7, random=True),
    Case("cnn", _cnn, ("conv1", "conv2", "last"), 7, random=True),
    Case("looped", Looped, ("scale", "inner", "last"), 7),
    Case(
        "normed", _normed, ("conv", "norm", "block.conv", "block.norm", "last"), 10,
        per_sample=False,
    ),
]  # fmt: skip
BY_NAME = {case.name: case for case in NETWORKS}


def module(case: Case | str, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """Build a network with drawn weights; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return (BY_NAME[case] if isinstance(case, str) else case).build().to(dtype)


def samples(n: int = 20, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Draw images of 4 x 4 pixels and their classes."""
    return randn(n, 1, 4, 4, seed=3, dtype=dtype), randn(n, CLASSES, seed=4).argmax(1)


def network(
    case: Case | str,
    *,
    l2: float = 0.0,
    n: int = 20,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    **options: object,
) -> Network:
    """Bind a network of the zoo to drawn samples."""
    case = BY_NAME[case] if isinstance(case, str) else case
    X, y = samples(n, dtype)
    options = {"chunk": case.chunk} | options
    return Network(
        module(case, dtype), F.cross_entropy, X.to(device), y.to(device), l2=l2, **options
    )


def parameters(f: Network, net: nn.Module, w: Tensor) -> dict[str, Tensor]:
    """Return w's parts under the module's names."""
    return dict(zip([n for n, _ in net.named_parameters()], f.layout.views(w), strict=True))


def outputs(f: Network, net: nn.Module, w: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    """Return the outputs by the module itself, span by span, as autograd differentiates them."""
    X, _ = samples(spans[-1][1])
    own = parameters(f, net, w)
    return torch.cat([functional_call(net, own, (X[a:b],)) for a, b in spans])


def plain(f: Network, net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return w -> f(w) by the textbook, without noise, for autograd."""
    _, y = samples(f.n_samples)

    def value(w: Tensor) -> Tensor:
        return F.cross_entropy(outputs(f, net, w, f.passes.spans), y) + f.l2 / 2 * (w @ w)

    return value


def still(net: nn.Module) -> nn.Module:
    """Turn dropout off, and nothing else."""
    for part in net.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.eval()
    return net
