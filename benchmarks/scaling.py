"""Strong and weak scaling over processes, what they hand over, and where more stop paying.

    python benchmarks/scaling.py                       # 1 and 2 processes
    python benchmarks/scaling.py --processes 1 2 4 --rounds 5

Strong: the same problem divided among more processes. Weak: each process brings a problem's worth
of samples. Every process has one thread, so two of them use two cores as one uses one. Rounds are
interleaved, and the best of all tries reported: what other work on the machine adds is not the
code's, and two processes that wait for each other suffer from it more than one. The processes' sums
are counted per step of Newton-CG (of the network, per gradient and Hessian product): their number,
and their bytes.

The last table is arithmetic: a step on p processes is taken to cost

    compute / p + sums (a log2 p) + 2 (p - 1) / p bytes / b

with compute, sums and bytes as measured, and for latency a and bandwidth b those of an ordinary
cluster's network (30 us, 3 GB/s: 25 Gbit/s Ethernet). It names the p at which half of the
processes' time is lost, and the p beyond which a step gets slower.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from newton_krylov.data import Dataset, ImageSet, Split, load_dataset
from newton_krylov.data.images import Images
from newton_krylov.distributed import DataParallel, ProcessGroup, data_parallel, shard
from newton_krylov.distributed.group import join
from newton_krylov.objectives.features import Features
from newton_krylov.objectives.network.objective import Network
from newton_krylov.registry import entry
from newton_krylov.runs.parts import register_parts
from newton_krylov.runs.runner import Stopping, run

LATENCY, BANDWIDTH = 30e-6, 3e9

register_parts()

STEPS = 4


@dataclass(frozen=True)
class Measured:
    """What one start of some processes found; seconds and bytes are of a step."""

    seconds: float
    sums: float
    bytes: float
    product: float
    all_reduce: float
    dim: int


def a9a(samples: int) -> Dataset:
    """Repeat a9a's samples."""
    whole = load_dataset("a9a")
    index = torch.arange(samples) % len(whole.train)
    train = Split(Features(whole.train.X).rows(index).X, whole.train.y[index])
    return replace(whole, train=train, test=None)


def sparse(samples: int) -> Dataset:
    """Generate a sparse set of 5,000 features, 25 nonzeros a sample."""
    options = {"n": samples, "n_test": 0, "d": 5_000, "density": 0.005, "format": "sparse"}
    return load_dataset("synthetic", options)


def pictures(samples: int) -> Dataset:
    """Draw noise in the shape of CIFAR-10."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randint(256, (samples, 3, 32, 32), generator=generator, dtype=torch.uint8)
    y = torch.randint(10, (samples,), generator=generator)
    images = Images((0.5,) * 3, (0.29,) * 3)
    return ImageSet("noise", Split(X, y), None, "multiclass", 10, "noise", "", images)


CASES: dict[str, tuple[Callable[[int], Dataset], int]] = {
    "logistic, a9a": (a9a, 32_561),
    "logistic, 5,000 features": (sparse, 400_000),
    "convolutional network": (pictures, 256),
}


def main() -> None:
    """Start the processes, round by round, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker[0], int(options.worker[1]))
        return
    for case in options.cases:
        found = measure(case, options.processes, options.rounds)
        show(case, options.processes, found)
        on_paper(found["strong", 1])


def measure(case: str, processes: list[int], rounds: int) -> dict[tuple[str, int], Measured]:
    """Return the best over interleaved rounds, by kind of scaling and number of processes."""
    samples = CASES[case][1]
    tries: dict[tuple[str, int], list[Measured]] = {}
    for _ in range(rounds):
        for p in sorted({1, *processes}):
            tries.setdefault(("strong", p), []).append(start(case, p, samples))
            if p > 1:
                tries.setdefault(("weak", p), []).append(start(case, p, p * samples))
    best = {key: _best(values) for key, values in tries.items()}
    best["weak", 1] = best["strong", 1]
    return best


def _best(values: list[Measured]) -> Measured:
    columns = zip(*(asdict(value).values() for value in values), strict=True)
    return Measured(*map(min, columns))


def start(case: str, processes: int, samples: int) -> Measured:
    """Let torchrun start the processes; return what the first of them found."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", __file__, "--worker", case, str(samples)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | _ONE_THREAD
    )
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def work(case: str, samples: int) -> None:
    """Measure in this process, one of several; the first prints what it found."""
    group = join("gloo", 1)
    whole = CASES[case][0](samples)
    dataset = shard(whole, group)
    f = objective(whole, dataset, group)
    found = measured(f, group)
    if group.rank == 0:
        print(json.dumps(asdict(found)))


def objective(whole: Dataset, dataset: Dataset, group: ProcessGroup) -> DataParallel:
    """Bind the loss, or the paper's network, to this process's samples."""
    if whole.images is None:
        local: Any = entry("loss", "logistic").target(dataset)
    else:
        from newton_krylov.models import Interface, initialized

        generator = torch.Generator().manual_seed(0)
        module = initialized(entry("model", "paper_cnn").build({}), Interface.of(whole), generator)
        local = entry("loss", "cross_entropy").build({}, dataset=dataset, model=module)
        assert isinstance(local, Network)
    return data_parallel(local, group, whole.train.X)


def measured(f: DataParallel, group: ProcessGroup) -> Measured:
    """Time a step, a Hessian product and a sum of a vector of the parameters' length."""
    network = isinstance(f.local, Network)
    w0 = f.initial() if network else torch.zeros(f.dim, dtype=f.dtype)

    def step() -> float:
        """Make a gradient and a product, or steps of Newton-CG; return the seconds of one."""
        if not network:
            return newton(f, w0, STEPS) / STEPS
        f.from_rank_zero(0.0)
        begin = time.perf_counter()
        point = f.at(w0)
        _ = point.grad, point.value, point.hessian() @ w0
        return time.perf_counter() - begin

    step()
    calls, sent = group.traffic.calls, group.traffic.bytes
    seconds = [step()]
    steps = 1 if network else STEPS
    sums, volume = (group.traffic.calls - calls) / steps, (group.traffic.bytes - sent) / steps
    seconds += [step() for _ in range(1 if network else 9)]
    H = f.at(w0).hessian()
    x = torch.ones_like(w0)
    product = timed(lambda: H @ x, f, 3 if network else 30)
    all_reduce = timed(lambda: group.sum(x), f, 30)
    return Measured(f.from_rank_zero(min(seconds)), sums, volume, product, all_reduce, f.dim)


def newton(f: DataParallel, w0: torch.Tensor, steps: int) -> float:
    """Make some steps of Newton-CG and return their seconds."""
    chosen = {"solver": "cg", "line_search": "armijo", "forcing": "superlinear"}
    parts = {group: entry(group, name).build({}) for group, name in chosen.items()}
    parts["curvature"] = entry("hessian_approx", "hvp").build({})
    parts["preconditioner"] = entry("preconditioner", "none").build({})
    parts["damping"] = entry("damping", "fixed").build({})
    optimizer = entry("optimizer", "newton").build({}, **parts)
    f.from_rank_zero(0.0)
    result = run(optimizer, f, w0, Stopping(epochs=steps), torch.Generator())
    return result.rows[-1].seconds


def timed(action: Callable[[], object], f: DataParallel, times: int) -> float:
    """Return the least seconds of an action that all processes make together."""
    action()
    seconds = []
    for _ in range(times):
        f.from_rank_zero(0.0)
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return f.from_rank_zero(min(seconds))


def show(case: str, processes: list[int], found: dict[tuple[str, int], Measured]) -> None:
    """Print a case's table."""
    one = found["strong", 1]
    samples = CASES[case][1]
    print(f"\n{case}: {samples:,} samples, {one.dim:,} parameters")
    print(
        f"{'':9}{'processes':>10}{'step':>11}{'speedup':>9}{'product':>11}{'speedup':>9}"
        f"{'sum':>10}{'sums/step':>11}{'kB/step':>10}"
    )
    for kind in ("strong", "weak"):
        for p in sorted({1, *processes}):
            m = found[kind, p]
            grown = p if kind == "weak" else 1  # as many samples as processes
            print(
                f"{kind:9}{p:10}{1e3 * m.seconds:9.2f}ms{grown * one.seconds / m.seconds:8.2f}x"
                f"{1e3 * m.product:9.2f}ms{grown * one.product / m.product:8.2f}x"
                f"{1e3 * m.all_reduce:8.2f}ms{m.sums:11.1f}{m.bytes / 1e3:10.1f}"
            )


def on_paper(one: Measured) -> None:
    """Print where more processes stop paying, by the formula above."""

    def step(p: int) -> float:
        if p == 1:
            return one.seconds
        waves = one.sums * LATENCY * math.log2(p) + 2 * (p - 1) / p * one.bytes / BANDWIDTH
        return one.seconds / p + waves

    counts = [2**k for k in range(13)]
    efficient = [p for p in counts if one.seconds / step(p) >= 0.5 * p]
    best = min(counts, key=step)
    print(
        f"on paper, {1e6 * LATENCY:.0f} us and {BANDWIDTH / 1e9:.0f} GB/s: half of the processes' "
        f"time is lost beyond {efficient[-1]}; a step is fastest on {best} "
        f"({one.seconds / step(best):.0f} times)"
    )
    print("  " + ", ".join(f"{p}: {one.seconds / step(p):.1f}x" for p in counts if p <= 2 * best))


if __name__ == "__main__":
    main()
