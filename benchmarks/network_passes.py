"""What a gradient and a Hessian product of the paper's network cost: ours against plain torch's.

The gradient of one batch: `Network` (dropout drawn, weights in one flat vector), against the
module in a plain torch loop (the batch at once, channels first, torch's own dropout). Each side
runs in processes of its own, by turns, since it is partly a matter of the process's memory.

A product by each layer and by all: as a multiple of that side's own gradient by the same weights,
the graph being there, and the gradient and the product in seconds. Plain torch is a backward pass
over the graph of `torch.autograd.grad(..., create_graph=True)` of the same batch, as PyHessian and
others do it, with the other layers frozen. What the frozen layers in front compute is known to
ours, as a run that trains that layer alone knows it.

Times are CPU seconds of all threads, the best of the repetitions, medians over the processes.

    python benchmarks/network_passes.py --batch 500 --repeats 5
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from newton_krylov.models import Interface, initialized
from newton_krylov.models.paper_cnn import paper_cnn
from newton_krylov.objectives.network.objective import Network

LAYERS = ("conv1", "conv2", "linear1", "linear2")
PARTS = (*((layer,) for layer in LAYERS), LAYERS)
Times = dict[str, float]


def best(operation: Callable[[], object], repeats: int) -> float:
    """Return the least CPU time, after one run that warms up."""
    operation()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        operation()
        times.append(time.process_time() - start)
    return min(times)


def build() -> nn.Module:
    """Return the paper's network."""
    return initialized(paper_cnn, Interface((3, 32, 32), 10), torch.Generator().manual_seed(0))


def images(count: int) -> tuple[Tensor, Tensor]:
    """Return random images and classes."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(count, 3, 32, 32, generator=generator)
    return X, torch.randint(10, (count,), generator=generator)


def plain(batch: int, repeats: int) -> Times:
    """Measure the module by itself."""
    net, (X, y) = build(), images(batch)
    parameters = list(net.parameters())
    times = {
        "gradient": best(
            lambda: torch.autograd.grad(F.cross_entropy(net(X), y), parameters), repeats
        )
    }
    for part in PARTS:
        free = [p for name, p in net.named_parameters() if name.rpartition(".")[0] in part]
        for p in parameters:
            p.requires_grad_(any(p is other for other in free))

        def gradient(*, graph: bool = False, free: list[nn.Parameter] = free) -> tuple[Tensor, ...]:
            return torch.autograd.grad(F.cross_entropy(net(X), y), free, create_graph=graph)

        g, v = gradient(graph=True), [torch.randn_like(p) for p in free]
        times["+".join(part)] = best(gradient, repeats)
        times["H " + "+".join(part)] = best(
            lambda g=g, v=v, free=free: torch.autograd.grad(g, free, v, retain_graph=True), repeats
        )
    return times


def ours(batch: int, repeats: int) -> Times:
    """Measure the network as an objective."""
    X, y = images(batch)
    f = Network(build(), F.cross_entropy, X, y, channels_last=True)
    w = f.initial()
    noisy = f.subset(torch.arange(batch), noise=1)
    times = {"gradient": best(lambda: noisy.at(w).grad, repeats)}
    for part in PARTS:
        g = noisy if part == LAYERS else noisy.restricted(part, w)
        at, v = g.initial(), torch.randn(g.dim)
        H = g.at(at).hessian()
        times["+".join(part)] = best(lambda g=g, at=at: g.at(at).grad, repeats)
        times["H " + "+".join(part)] = best(lambda H=H, v=v: H @ v, repeats)
    return times


def measured(side: str, arguments: argparse.Namespace) -> Times:
    """Measure one side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--batch", str(arguments.batch)]
    command += ["--repeats", str(arguments.repeats), "--threads", str(arguments.threads)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    times: Times = json.loads(printed)
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=("plain", "ours"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.side is not None:
        measure = plain if arguments.side == "plain" else ours
        print(json.dumps(measure(arguments.batch, arguments.repeats)))
        return
    rounds = [
        [measured(side, arguments) for side in ("plain", "ours")] for _ in range(arguments.rounds)
    ]
    p, o = (
        {key: median(r[side][key] for r in rounds) for key in rounds[0][side]} for side in (0, 1)
    )
    print(f"batch {arguments.batch}, {arguments.threads} thread(s), torch {torch.__version__}")
    first, second = p["gradient"], o["gradient"]
    print(f"gradient: plain {first:.3f} s, ours {second:.3f} s, ratio {first / second:.2f}")
    print(f"{'layers':32}{'gradient':>18}{'product':>18}{'product/gradient':>20}{'product':>9}")
    print(
        f"{'':32}{'plain':>9}{'ours':>9}{'plain':>9}{'ours':>9}{'plain':>10}{'ours':>10}{'ratio':>9}"
    )
    for part in map("+".join, PARTS):
        times = p[part], o[part], p["H " + part], o["H " + part]
        costs = times[2] / times[0], times[3] / times[1]
        ratio = times[2] / times[3]
        print(
            f"{part:32}"
            + "".join(f"{t:9.4f}" for t in times)
            + "".join(f"{c:10.2f}" for c in costs)
            + f"{ratio:9.1f}"
        )


if __name__ == "__main__":
    main()
