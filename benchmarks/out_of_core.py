"""A data set several times the memory that a run may have, streamed from disk through Newton-CG.

    python benchmarks/out_of_core.py
    python benchmarks/out_of_core.py --budget 64 --times 10   # MiB, and multiples of it on disk

Generates sparse shards `times` the budget in size. Then, each in a process of its own:

- streamed under the budget: after everything is imported, the system is set to refuse more
  private memory than `budget` beyond what is there (RLIMIT_DATA), and Newton-CG runs;
- in memory under the same budget: the same data as one matrix, which the system must refuse;
- in memory without a limit: the same steps, for their time and to see the same losses.

The peak is that of the resident set (VmHWM, reset after the imports), mapped files included.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from newton_krylov.data import Dataset, Split, load_dataset
from newton_krylov.data.shards import read_shards, write_shards
from newton_krylov.data.shards.generate import Generator
from newton_krylov.records.trace import Row
from newton_krylov.registry import entry
from newton_krylov.runs.parts import register_parts
from newton_krylov.runs.runner import Stopping
from newton_krylov.runs.runner import run as drive

register_parts()

MIB = 2**20
DENSITY, D, STEPS = 0.005, 20_000, 6


def main() -> None:
    """Generate, run the three processes, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--budget", type=int, default=128, help="MiB that a run may take")
    parser.add_argument("--times", type=float, default=8.0, help="the data's size in budgets")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, folder = options.worker
        print(json.dumps(work(kind, Path(folder), options.budget * MIB)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "shards"
        facts = generate(folder, int(options.times * options.budget * MIB), options.budget)
        figures = {kind: run(kind, folder, options.budget) for kind in KINDS}
    show(options.budget, facts, figures)
    if options.json:
        options.json.write_text(json.dumps({"facts": facts, "figures": figures}))


def generate(folder: Path, size: int, budget: int) -> dict[str, float]:
    """Write shards of `size` bytes, each a sixteenth of the budget."""
    n = int(size / (12 * DENSITY * D))
    start = time.perf_counter()
    write_shards(
        folder,
        {"train": Generator(D, DENSITY).parts(n, 0)},
        task="binary",
        source="synthetic",
        n_features=D,
        shard_bytes=budget * MIB // 16,
    )
    seconds = time.perf_counter() - start
    written = sum(path.stat().st_size for path in folder.rglob("*"))
    return {"n": n, "d": D, "mib": written / MIB, "seconds": seconds}


def run(kind: str, folder: Path, budget: int) -> dict[str, object]:
    """Run one process and return its figures."""
    command = [sys.executable, __file__, "--budget", str(budget), "--worker", kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"outcome": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout)


def work(kind: str, folder: Path, budget: int) -> dict[str, object]:
    """Run Newton-CG on the data, in this process, within the budget or without."""
    tiny = {"n": 50, "n_test": 0, "d": 5, "density": 0.5, "format": "sparse"}
    newton_cg(load_dataset("synthetic", tiny), 1)  # whatever is imported late, is now
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before = status()
    if kind != "in memory":
        limit = before["VmData"] + budget
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    started = time.perf_counter()
    try:
        data = read_shards(folder, torch.float64)
        if kind != "streamed":
            data = _in_memory(data)
        loaded = time.perf_counter()
        rows = newton_cg(data, STEPS)
    except (MemoryError, RuntimeError) as error:
        return {"outcome": f"refused: {str(error).splitlines()[0][:60]}"}
    last = rows[-1]
    return {
        "outcome": "finished",
        "losses": [row.loss for row in rows],
        "grad_norm": last.grad_norm,
        "passes": last.data_passes,
        "load": loaded - started,
        "seconds": last.seconds,
        "peak_mib": (status()["VmHWM"] - before["VmRSS"]) / MIB,
        "private_mib": (status()["VmData"] - before["VmData"]) / MIB,
    }


KINDS = ("streamed", "in memory, within the budget", "in memory")


def newton_cg(data: Dataset, steps: int) -> list[Row]:
    """Run Newton-CG for some steps from zero."""
    chosen = {"solver": "cg", "line_search": "armijo", "forcing": "superlinear"}
    parts = {group: entry(group, name).build({}) for group, name in chosen.items()}
    parts["curvature"] = entry("hessian_approx", "hvp").build({})
    parts["preconditioner"] = entry("preconditioner", "none").build({})
    parts["damping"] = entry("damping", "fixed").build({})
    optimizer = entry("optimizer", "newton").build({}, **parts)
    f = entry("loss", "logistic").build({}, dataset=data)
    w0 = torch.zeros(f.dim, dtype=torch.float64)
    result = drive(optimizer, f, w0, Stopping(epochs=steps), torch.Generator())
    if result.outcome.failed:
        raise MemoryError(result.reason)
    return result.rows


def _in_memory(data: Dataset) -> Dataset:
    """Read the whole matrix."""
    everything = torch.arange(len(data.train))
    return replace(data, train=Split(data.train.X[everything], data.train.y))


def status() -> dict[str, int]:
    """Return this process's memory in bytes, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(kib) for name, kib, _ in sizes}


def show(budget: int, facts: dict, figures: dict) -> None:
    """Print the table."""
    print(
        f"{facts['n']:,} x {facts['d']:,}, {facts['mib']:,.0f} MiB on disk: "
        f"{facts['mib'] / budget:.1f} times the budget of {budget} MiB "
        f"(generated in {facts['seconds']:.1f} s)"
    )
    for kind, found in figures.items():
        if found["outcome"] != "finished":
            print(f"  {kind:30} {found['outcome']}")
            continue
        print(
            f"  {kind:30} loss {found['losses'][-1]:.12f}, {found['passes']:.0f} passes in "
            f"{found['seconds']:.2f} s ({found['seconds'] / found['passes']:.3f} s each), "
            f"read and checked in {found['load']:.2f} s, peak {found['peak_mib']:,.0f} MiB, "
            f"private {found['private_mib']:,.0f} MiB"
        )
    both = [figures[kind]["losses"] for kind in ("streamed", "in memory")]
    off = max(abs(a - b) / abs(b) for a, b in zip(*both, strict=True))
    print(f"  losses of all steps, streamed against in memory: equal to {off:.1e}")


if __name__ == "__main__":
    main()
