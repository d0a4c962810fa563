"""The memory that a run takes for its data: peak beyond what an empty run needs, per byte of data.

A process loads a data set and minimizes; its peak resident memory, less what the same process holds
after a run on a small problem, is divided by the size of the data as sparse matrices (8 bytes a
value, 4 a column number) and labels, the held-out samples included. "loaded" is the peak of
loading, "ordered" that of putting the rows in order, which makes a copy, and "run" that of
everything after it, the optimizer's included. Linux only: it asks the kernel to forget the earlier
peak.

    python benchmarks/memory.py               # a minute or two
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import sklearn.datasets
import torch

from newton_krylov.allocator import give_back_freed_memory
from newton_krylov.data import load_dataset
from newton_krylov.data.sparse import by_row_length
from newton_krylov.registry import entry
from newton_krylov.runs.parts import register_parts
from newton_krylov.runs.runner import Stopping, run

register_parts()

METHODS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "newton cr": {},
    "newton cg, preconditioner=auto": {"solver": ("cg", {}), "preconditioner": ("auto", {})},
    "newton cr, float32 products": {"hessian_approx": ("hvp", {"dtype": "float32"})},
    "newton cr, Jacobi": {"preconditioner": ("jacobi", {})},
    "newton cr, sampled Hessian": {"hessian_approx": ("subsampled", {})},
    "newton, automatic": {
        "optimizer": ("enriched_newton", {}),
        "solver": ("cg", {}),
        "forcing": ("fixed", {"eta": 0.1}),
        "preconditioner": ("auto", {}),
    },
}
DEFAULTS: dict[str, tuple[str, dict[str, Any]]] = {
    "optimizer": ("newton", {}),
    "solver": ("cr", {}),
    "hessian_approx": ("hvp", {}),
    "line_search": ("armijo", {}),
    "forcing": ("superlinear", {}),
    "preconditioner": ("none", {}),
    "damping": ("fixed", {}),
}


def resident(which: str) -> float:
    """Return the process's resident memory, `VmRSS` now or `VmHWM` at its peak, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 1024


def forget() -> None:
    """Let the peak be measured from here."""
    Path("/proc/self/clear_refs").write_text("5")


def bytes_of(split: Any) -> int:
    """Return the memory of a split's matrix and labels."""
    if split is None:
        return 0
    X = split.X
    parts = (X.values(), X.col_indices(), X.crow_indices(), split.y)
    return sum(int(part.nbytes) for part in parts)


def minimize(source: str, options: dict[str, Any], method: str) -> tuple[float, float, float]:
    """Load and minimize; return the data's MB and the peaks of loading and of ordering."""
    dataset = load_dataset(source, options)
    size = sum(map(bytes_of, dataset.splits))
    loaded = resident("VmHWM")
    dataset = replace(dataset, train=by_row_length(dataset.train))
    ordered = resident("VmHWM")
    forget()
    objective = entry("loss", "logistic").build({"l2": 0.01}, dataset=dataset)
    chosen = DEFAULTS | METHODS[method]
    name, keys = chosen.pop("optimizer")
    parts = {group: entry(group, part).build(given) for group, (part, given) in chosen.items()}
    parts["curvature"] = parts.pop("hessian_approx")
    optimizer = entry("optimizer", name).build(keys, **parts)
    w0 = torch.zeros(objective.dim, dtype=objective.dtype)
    run(optimizer, objective, w0, Stopping(grad_norm=1e-8, epochs=50), torch.Generator())
    return size / 2**20, loaded, ordered


def child(source: str, path: str, method: str) -> None:
    """Print the ratios of one method."""
    minimize("a9a", {}, method)
    give_back_freed_memory()
    before = resident("VmRSS")
    forget()
    options = {"path": path} if path else {"n": 500_000, "d": 5_000, "density": 0.005}
    size, *peaks = minimize(source, options | ({} if path else {"format": "sparse"}), method)
    ratios = [(peak - before) / size for peak in (*peaks, resident("VmHWM"))]
    cells = "".join(f"{ratio:9.2f}x" for ratio in ratios)
    print(f"{f'{source}, {method}':42}{size:7.0f} MB{cells}", flush=True)


def main() -> None:
    """Measure in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    print(f"{'':42}{'data':>10}{'loaded':>10}{'ordered':>10}{'run':>10}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "large.svm")
        rng = np.random.default_rng(0)
        X = scipy.sparse.random(500_000, 5_000, 0.005, "csr", rng=rng)
        sklearn.datasets.dump_svmlight_file(X, rng.choice([-1, 1], 500_000), path, zero_based=False)
        for source, where in (("synthetic", ""), ("libsvm", path)):
            for method in METHODS:
                arguments = [sys.executable, __file__, "--child", source, where, method]
                subprocess.run(arguments, check=True)


if __name__ == "__main__":
    main()
