"""The dominant eigenpair of each layer's Hessian of the paper's network: ours against PyHessian's.

PyHessian is used as its authors do: the other layers frozen, its own power iteration until lambda
changes by less than 1e-3 (its default). Ours is Lanczos until its Ritz residual is what PyHessian's
vector turned out to have, from a random vector (cold) and from the pair of the weights ten
training steps before (warm). Times include all that a step needs: the forward pass, the graph,
the products. Medians of interleaved repetitions; images of CIFAR-10 where they are at hand.

    python benchmarks/eigenpair.py --samples 250 --train 100 --repeats 5
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from pyhessian import hessian
from torch import Tensor, nn

from newton_krylov.curvature.rank1_pyhessian import top_eigenpair
from newton_krylov.data import load_dataset
from newton_krylov.errors import UserError
from newton_krylov.linear_solvers.lanczos import lanczos
from newton_krylov.models.base import Interface
from newton_krylov.models.paper_cnn import paper_cnn
from newton_krylov.objectives.network import Network

LAYERS = ("conv1", "conv2", "linear1", "linear2")
BASIS = 9  # vectors kept, as hessian_approx=rank1 does


@dataclass(frozen=True)
class Pair:
    """A measured eigenpair."""

    value: float
    vector: Tensor
    products: int
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


def peer(net: nn.Module, X: Tensor, y: Tensor, layer: str, seed: int) -> Pair:
    """Use PyHessian on one layer; its products are counted from its calls of autograd."""
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith(f"{layer}."))
    torch.manual_seed(seed)
    start = time.perf_counter()
    with Counting() as counting:
        computer = hessian(net, nn.CrossEntropyLoss(), (X, y), cuda=X.is_cuda)
        (value,), ((vector,),) = computer.eigenvalues()
    seconds = time.perf_counter() - start
    for parameter in net.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    return Pair(value, vector.reshape(-1) / vector.norm(), counting.count, seconds)


class Counting:
    """Counts calls of `torch.autograd.grad`, one a Hessian product of PyHessian's."""

    def __enter__(self) -> "Counting":
        self.count, self._grad = 0, torch.autograd.grad

        def grad(*args: object, **keywords: object) -> object:
            self.count += 1
            return self._grad(*args, **keywords)

        torch.autograd.grad = grad
        return self

    def __exit__(self, *_: object) -> None:
        torch.autograd.grad = self._grad


def ours(f: Network, layer: str, seed: int, rtol: float, v0: Tensor | None) -> Pair:
    """Use Lanczos on one layer."""
    start = time.perf_counter()
    w = f.initial()
    part = f.restricted([layer], w)
    H = part.at(part.initial()).hessian()
    pairs = lanczos(
        H, 1, which="magnitude", generator=torch.Generator().manual_seed(seed), rtol=rtol,
        maxiter=100, basis_size=BASIS, v0=v0,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    return Pair(float(pairs.values[0]), pairs.vectors[:, 0], pairs.matvecs, seconds)


def adapted(f: Network, layer: str, seed: int) -> Pair:
    """Use PyHessian's iteration with our products: hessian_approx=rank1_pyhessian."""
    start = time.perf_counter()
    part = f.restricted([layer], f.initial())
    pair = top_eigenpair(part.at(part.initial()), torch.Generator().manual_seed(seed))
    seconds = time.perf_counter() - start
    return Pair(float(pair.values[0]), pair.vectors[:, 0], pair.matvecs, seconds)


def residual(f: Network, layer: str, v: Tensor) -> tuple[float, float]:
    """Return the Rayleigh quotient and the Ritz residual relative to it."""
    part = f.restricted([layer], f.initial())
    Hv = part.at(part.initial()).hessian().matvec(v)
    value = float(torch.dot(v, Hv))
    return value, float((Hv - value * v).norm()) / abs(value)


def gradient(f: Network) -> float:
    """Time a gradient of the whole network on the same samples."""
    start = time.perf_counter()
    _ = f.at(f.initial()).grad
    return time.perf_counter() - start


def measure(options: argparse.Namespace) -> None:
    """Print the table."""
    torch.manual_seed(0)
    X, y = images(max(options.samples, 1000))
    net = paper_cnn(Interface((3, 32, 32), 10))
    train(net, X, y, options.train)
    before = Network(net, F.cross_entropy, X[: options.samples], y[: options.samples])
    train(net, X, y, 10)
    net.to(options.device)
    X, y = X[: options.samples].to(options.device), y[: options.samples].to(options.device)
    f = Network(net, F.cross_entropy, X, y)
    steps = median(gradient(f) for _ in range(5))
    print(f"{options.samples} samples, {options.train} training steps, {options.device}; "
          f"a gradient of the whole network: {1e3 * steps:.0f} ms")  # fmt: skip
    head = f"{'products':>9}{'ms':>9}{'gradients':>10}{'ratio':>7}{'lambda':>10}{'residual':>10}"
    print(f"{'layer':9}{'method':26}{head}")
    for layer in LAYERS:
        old = ours(before, layer, 99, 1e-2, None).vector.to(options.device)
        rows: dict[str, list[Pair]] = {}
        for seed in range(options.repeats):
            theirs = peer(net, X, y, layer, seed)
            accuracy = residual(f, layer, theirs.vector)[1]
            methods: dict[str, Callable[[], Pair]] = {
                "PyHessian": lambda found=theirs: found,
                "rank1_pyhessian": lambda: adapted(f, layer, seed),
                "Lanczos, cold": lambda: ours(f, layer, seed, accuracy, None),
                "Lanczos, warm": lambda: ours(f, layer, seed, accuracy, old),
            }
            for name, method in methods.items():
                rows.setdefault(name, []).append(method())
        reference = median(pair.seconds for pair in rows["PyHessian"])
        for name, pairs in rows.items():
            seconds = median(pair.seconds for pair in pairs)
            quality = [residual(f, layer, pair.vector) for pair in pairs]
            print(
                f"{layer:9}{name:26}{median(pair.products for pair in pairs):>9g}"
                f"{1e3 * seconds:>9.1f}{seconds / steps:>10.2f}{reference / seconds:>6.1f}x"
                f"{median(value for value, _ in quality):>10.4g}"
                f"{median(r for _, r in quality):>10.1e}",
                flush=True,
            )


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=250)
    parser.add_argument("--train", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        measure(parser.parse_args())


if __name__ == "__main__":
    main()
