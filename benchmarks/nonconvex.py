"""The paper's network: what a step of `layerwise_newton` costs, by layer and curvature.

As a multiple of one gradient step on all layers at the same batch (forward, backward, update), on
CIFAR-10, or on random pixels where there is no CIFAR-10: times do not depend on what the pictures
show. Steps are interleaved with gradient steps, round by round, and medians are shown, so that what
else the machine does falls on both. What an eigenpair costs is in `eigenpair.py`.

    python benchmarks/nonconvex.py
    python benchmarks/nonconvex.py --batch 200 --rounds 2
    python benchmarks/nonconvex.py --device cuda
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from newton_krylov.data import load_dataset
from newton_krylov.data.dataset import ImageSet, Split
from newton_krylov.data.images import Images
from newton_krylov.data.images import statistics as channel_statistics
from newton_krylov.errors import UserError
from newton_krylov.models import Interface, initialized
from newton_krylov.objectives.network.losses import CrossEntropy
from newton_krylov.objectives.network.objective import Network
from newton_krylov.optimizers.damping import Marquardt
from newton_krylov.optimizers.newton_step import NewtonStep
from newton_krylov.optimizers.stochastic_step import StochasticStep
from newton_krylov.registry import entry
from newton_krylov.runs.parts import register_parts

register_parts()

LAYERS = ("conv1", "conv2", "linear1", "linear2")
CURVATURES: dict[str, dict[str, dict[str, Any]]] = {
    "rank1": {"solver": {"name": "exact"}},
    "rank1_pyhessian": {"solver": {"name": "exact"}},
    "lowrank": {"solver": {"name": "exact"}},
    "diagonal": {"solver": {"name": "exact"}, "hessian_approx": {"probes": 1}},
    "ggn": {"solver": {"name": "cg", "maxiter": 5}},
    "hvp": {"solver": {"name": "cg", "maxiter": 5}},
    "empirical_fisher": {"solver": {"name": "cg", "maxiter": 5}},
}


def images(n: int, device: torch.device) -> ImageSet:
    """Return n training images, on the device."""
    try:
        split = load_dataset("cifar10", {"limit": n, "test_limit": 10}).train
    except UserError as error:
        print(f"random pixels: {error}")
        X = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8)
        split = Split(X, torch.randint(10, (n,)))
    images = Images(*channel_statistics(split.X))
    return ImageSet("pictures", split.to(device), None, "multiclass", 10, "", "", images)


def network(dataset: ImageSet, seed: int = 0) -> CrossEntropy:
    """Return the objective of the paper's network, its dropout in place."""
    build = entry("model", "paper_cnn").build({})
    module = initialized(build, Interface.of(dataset), torch.Generator().manual_seed(seed))
    return CrossEntropy(dataset, module, chunk=500)


def newton_step(name: str, samples: int) -> StochasticStep:
    """Return the step with one of the curvatures."""
    options = CURVATURES[name]
    step = NewtonStep(
        solver=entry("solver", options["solver"]["name"]).build(options["solver"]),
        curvature=entry("hessian_approx", name).build(options.get("hessian_approx", {})),
        line_search=entry("line_search", "none").build({}),
        forcing=entry("forcing", "fixed").build({"eta": 1e-3}),
        preconditioner=entry("preconditioner", "none").build({}),
        damping=Marquardt(0.1),
    )
    return StochasticStep(step, curvature_samples=samples)


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds that work takes, once the device has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


class Steps:
    """Steps of a layer's Newton method on one mini-batch after another."""

    def __init__(self, f: Network, name: str, layer: str, samples: int) -> None:
        self.f, self.layer, self.w = f, layer, f.initial()
        self.step = newton_step(name, samples)
        self.memory = self.step.memory()
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, index: Tensor) -> None:
        """Make one step on the samples of an index."""
        batch = self.f.batch(index, self.generator).restricted([self.layer], self.w)
        own = self.w[self.f.blocks[self.layer]]
        update = self.step.update(batch, own, self.memory, self.generator)
        self.w = batch.embed(update.w)


def gradient_step(f: Network, index: Tensor, generator: torch.Generator) -> None:
    """Make one step of stochastic gradient descent."""
    w = f.initial()
    w.sub_(f.batch(index, generator).at(w).grad, alpha=0.01)


def step_table(f: Network, batch: int, samples: int, rounds: int, layers: list[str]) -> None:
    """Print what steps cost."""
    generator = torch.Generator().manual_seed(1)
    methods = {
        (layer, name): Steps(f, name, layer, samples)
        for layer, name in itertools.product(layers, CURVATURES)
    }
    seconds: dict[Any, list[float]] = {key: [] for key in [None, *methods]}
    for round_ in range(rounds + 1):
        for layer in layers:
            for key in [None, *(k for k in methods if k[0] == layer)]:
                index = torch.randperm(f.n_samples, generator=generator)[:batch].to(f.device)
                work = (
                    (lambda i=index: gradient_step(f, i, generator))
                    if key is None
                    else (lambda i=index, k=key: methods[k](i))
                )
                took = timed(work, f.device)
                if round_ > 0:  # the first one warms up
                    seconds[key].append(took)
    unit = statistics.median(seconds[None])
    print(f"\nOne gradient step at batch {batch}: {unit:.2f} s. Layerwise steps, curvature of")
    print(f"{samples} samples, in gradient steps (step made or refused, damping judged):\n")
    print(f"{'curvature':20}" + "".join(f"{layer:>10}" for layer in layers))
    for name in CURVATURES:
        ratios = [statistics.median(seconds[layer, name]) / unit for layer in layers]
        print(f"{name:20}" + "".join(f"{ratio:>10.2f}" for ratio in ratios), flush=True)


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=1000, help="samples of a gradient")
    parser.add_argument("--samples", type=int, default=250, help="samples of a curvature")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layers", nargs="+", default=list(LAYERS), choices=LAYERS)
    options = parser.parse_args()
    f = network(images(2 * options.batch, torch.device(options.device)))
    step_table(f, options.batch, options.samples, options.rounds, options.layers)


if __name__ == "__main__":
    main()
