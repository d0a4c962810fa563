"""What a training step of a network costs: ours against plain PyTorch, in the same process.

    python benchmarks/network_step.py                    # the processor
    python benchmarks/network_step.py --device cuda
    python benchmarks/network_step.py --method adam --batch 128 --rounds 3

The paper's network with dropout, on random images. Ours is the optimizer of `optimizer=sgd` or
`adam` in its mini-batch loop; plain is the loop that everyone writes, with torch's own dropout.
Rounds of some steps each by turns; the median over the rounds of the seconds a step: CPU seconds of
all threads, or on a GPU those of the clock.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from newton_krylov.models import Interface, initialized
from newton_krylov.models.paper_cnn import paper_cnn
from newton_krylov.objectives.network.objective import Network
from newton_krylov.optimizers.adam import Adam
from newton_krylov.optimizers.sgd import SGD

OURS = {
    "sgd": lambda batch: SGD(0.01, batch_size=batch),
    "adam": lambda batch: Adam(1e-3, batch_size=batch),
}
PLAIN = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, 1e-3),
}


def build() -> nn.Module:
    """Return the paper's network."""
    return initialized(paper_cnn, Interface((3, 32, 32), 10), torch.Generator().manual_seed(0))


def ours(method: str, X: Tensor, y: Tensor, batch: int) -> Callable[[], object]:
    """Return what makes an epoch of our optimizer's steps."""
    f = Network(build().to(X.device), F.cross_entropy, X, y)
    steps = OURS[method](batch).steps(f, f.initial(), torch.Generator().manual_seed(0))
    next(steps)
    return lambda: next(steps)


def plain(method: str, X: Tensor, y: Tensor, batch: int) -> Callable[[], object]:
    """Return what makes an epoch of the plain loop's steps."""
    net = build().to(X.device)
    optimizer = PLAIN[method](net.parameters())

    def epoch() -> None:
        for index in torch.randperm(len(X)).to(X.device).split(batch):
            loss = F.cross_entropy(net(X[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Return how long it takes."""
    if device.type != "cuda":
        start = time.process_time()
        action()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def measured(
    method: str, batch: int, steps: int, rounds: int, device: torch.device
) -> tuple[float, float]:
    """Return the seconds of a step, ours and plain."""
    X = torch.randn(batch * steps, 3, 32, 32, device=device)
    y = torch.randint(10, (len(X),), device=device)
    sides = [make(method, X, y, batch) for make in (ours, plain)]
    for side in sides:
        side()
    times = [[seconds(side, device) / steps for side in sides] for _ in range(rounds)]
    return median(t[0] for t in times), median(t[1] for t in times)


def rows(options: argparse.Namespace) -> Iterator[str]:
    """Yield the table's lines."""
    yield "method  batch  ours (ms)  plain (ms)  ratio"
    for method in options.method:
        for batch in options.batch:
            steps = max(1, options.samples // batch)
            a, b = measured(method, batch, steps, options.rounds, torch.device(options.device))
            yield f"{method:6}  {batch:5d}  {1e3 * a:9.1f}  {1e3 * b:10.1f}  {a / b:5.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--method", nargs="+", default=["adam", "sgd"], choices=list(OURS))
    parser.add_argument("--batch", nargs="+", type=int, default=[32, 128, 1000])
    parser.add_argument("--samples", type=int, default=1000, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    for line in rows(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
