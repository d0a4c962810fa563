"""The dominant eigenpair of each layer's Hessian of the paper's network: ours against PyHessian's.

PyHessian is used as its authors do: the other layers frozen, its own power iteration until lambda
changes by less than 1e-3 (its default). Ours is `hessian_approx=rank1`, until its Ritz residual is
what PyHessian's vector turned out to have: from a random vector (cold), from the eigenvector of
another batch (warm), and with the activations in front of the layer known, as a run that trains
that layer alone knows them. By one layer of this network the Hessian is the Gauss-Newton matrix.

Times include all that a step needs: forward pass, graph, products. They are CPU seconds of the
process, or of a GPU's clock; medians of interleaved repetitions. Images of CIFAR-10 where they
are at hand.

    python benchmarks/eigenpair.py --samples 250 --train 100 --repeats 5
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from pyhessian import hessian
from torch import Tensor, nn

from newton_krylov.curvature.lowrank import Rank1
from newton_krylov.data import load_dataset
from newton_krylov.errors import UserError
from newton_krylov.models.base import Interface
from newton_krylov.models.paper_cnn import paper_cnn
from newton_krylov.objectives.network.objective import Network

LAYERS = ("conv1", "conv2", "linear1", "linear2")


@dataclass(frozen=True)
class Pair:
    """A measured eigenvector."""

    vector: Tensor
    products: float
    seconds: float


def images(count: int) -> tuple[Tensor, Tensor]:
    """Return normalized images and their classes."""
    try:
        dataset = load_dataset("cifar10", {"limit": count, "test_limit": 10})
        assert dataset.images is not None
        return dataset.images.normalize(dataset.train.X, torch.float32), dataset.train.y
    except UserError as error:
        print(f"random images, since {error}")
        generator = torch.Generator().manual_seed(0)
        X = torch.randn(count, 3, 32, 32, generator=generator)
        return X, torch.randint(10, (count,), generator=generator)


def train(net: nn.Module, X: Tensor, y: Tensor, steps: int) -> None:
    """Make some steps of Adam on batches of 100."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        batch = torch.randint(len(X), (100,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(net(X[batch]), y[batch]).backward()
        optimizer.step()
    optimizer.zero_grad()


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Return what some work gives, and its seconds."""
    if device.type == "cpu":
        start = time.process_time()
        result = work()
        return result, time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def peer(net: nn.Module, X: Tensor, y: Tensor, layer: str, seed: int) -> Pair:
    """Use PyHessian on one layer; a product is a call of `torch.autograd.grad`."""
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith(f"{layer}."))
    torch.manual_seed(seed)
    calls, grad = [], torch.autograd.grad
    torch.autograd.grad = lambda *a, **k: calls.append(1) or grad(*a, **k)

    def work() -> Tensor:
        _, ((vector,),) = hessian(net, nn.CrossEntropyLoss(), (X, y), cuda=X.is_cuda).eigenvalues()
        return vector.reshape(-1)

    try:
        vector, seconds = timed(work, X.device)
    finally:
        torch.autograd.grad = grad
        for parameter in net.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
    return Pair(vector / vector.norm(), len(calls), seconds)


def ours(
    f: Network, layer: str, rtol: float, seed: int, *, matrix: str, before: Network | None = None,
    known: Network | None = None,
) -> Pair:  # fmt: skip
    """Use rank1 on one layer, warm from another batch's eigenvector, its activations known."""
    generator = torch.Generator().manual_seed(seed)
    curvature = Rank1(rtol=rtol, maxiter=100, matrix=matrix)
    if before is not None:
        curvature.at(_point(before.restricted([layer], f.initial())), generator)
    count = f.counts.hvp

    def work() -> Tensor:
        part = f.restricted([layer], f.initial()) if known is None else known
        return curvature.at(_point(part), generator).vectors[:, 0]

    vector, seconds = timed(work, f.device)
    return Pair(vector, f.counts.hvp - count, seconds)


def _point(part: Network) -> Any:
    return part.at(part.initial())


def residual(f: Network, layer: str, v: Tensor) -> tuple[float, float]:
    """Return the Rayleigh quotient and the Ritz residual relative to it."""
    Hv = _point(f.restricted([layer], f.initial())).hessian().matvec(v)
    value = float(torch.dot(v, Hv))
    return value, float((Hv - value * v).norm()) / abs(value)


def measure(options: argparse.Namespace) -> None:
    """Print the table."""
    torch.manual_seed(0)
    n, device = options.samples, torch.device(options.device)
    X, y = images(max(2 * n, 1000))
    net = paper_cnn(Interface((3, 32, 32), 10))
    train(net, X, y, options.train)
    net.to(device)
    X, y = X[: 2 * n].to(device), y[: 2 * n].to(device)
    f, before = (Network(net, F.cross_entropy, X[part], y[part], channels_last=True) for part in
                 (slice(n), slice(n, 2 * n)))  # fmt: skip
    unit = median(timed(lambda: f.at(f.initial()).grad, device)[1] for _ in range(5))
    print(f"{n} samples, {options.train} training steps, {device}; a gradient of the whole "
          f"network: {1e3 * unit:.0f} ms")  # fmt: skip
    head = f"{'products':>9}{'ms':>9}{'gradients':>10}{'ratio':>7}{'lambda':>10}{'residual':>10}"
    print(f"{'layer':9}{'method':26}{head}")
    for layer in options.layers:
        known = f.restricted([layer], f.initial())
        known.passes.inputs.span(0, n)
        rows: dict[str, list[Pair]] = {}
        for seed in range(options.repeats):
            theirs = peer(net, X[:n], y[:n], layer, seed)
            rtol = residual(f, layer, theirs.vector)[1]
            rows.setdefault("PyHessian", []).append(theirs)
            for name, keywords in {
                "rank1, cold": {"matrix": "hessian"},
                "rank1, warm": {"matrix": "hessian", "before": before},
                "same, Gauss-Newton": {"matrix": "gauss_newton", "before": before},
                "rank1, warm, cached": {"matrix": "hessian", "before": before, "known": known},
            }.items():
                rows.setdefault(name, []).append(ours(f, layer, rtol, seed, **keywords))
        reference = median(pair.seconds for pair in rows["PyHessian"])
        for name, pairs in rows.items():
            seconds = median(pair.seconds for pair in pairs)
            quality = [residual(f, layer, pair.vector) for pair in pairs]
            print(
                f"{layer:9}{name:26}{median(pair.products for pair in pairs):>9g}"
                f"{1e3 * seconds:>9.1f}{seconds / unit:>10.2f}{reference / seconds:>6.1f}x"
                f"{median(value for value, _ in quality):>10.4g}"
                f"{median(r for _, r in quality):>10.1e}",
                flush=True,
            )


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=250, help="the curvature's")
    parser.add_argument("--train", type=int, default=100, help="steps of Adam before")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=LAYERS)
    parser.add_argument("--device", default="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyHessian's leaking graphs
        measure(parser.parse_args())


if __name__ == "__main__":
    main()
