"""How long a comparison takes: 200 runs with 100 steps each, from their folders to every file.

The runs are written in three layouts: 20 methods with 10 seeds on one problem; 200 methods on one
problem; 8 methods with 5 seeds on 5 problems. The whole command is timed in a process of its own,
with Python's start and all imports; "CPU" is what that process used of its processor, which a busy
machine does not stretch as it does the wall clock's.

    python benchmarks/compare.py
"""

import csv
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path

import yaml

from newton_krylov.records.trace import Row

RUNS, STEPS, TARGET_SECONDS = 200, 100, 10.0
LAYOUTS = {  # problems, methods, seeds
    "1 problem, 20 methods, 10 seeds": (1, 20, 10),
    "1 problem, 200 methods": (1, 200, 1),
    "5 problems, 8 methods, 5 seeds": (5, 8, 5),
}
COMMAND = [sys.executable, str(Path(__file__).parents[1] / "compare.py")]


def write_run(folder: Path, problem: int, method: int, seed: int) -> None:
    """Write a run's folder, with a configuration and an environment of the usual length."""
    folder.mkdir(parents=True)
    names = [field.name for field in fields(Row)]
    with (folder / "trace.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval=1.0)
        writer.writeheader()
        for k in range(STEPS):
            gap = math.exp(-k * (0.1 + 0.02 * (method % 20))) * (1 + 0.1 * seed)
            writer.writerow(
                {
                    "iteration": k, "loss": 0.3 + gap, "suboptimality": gap,
                    "grad_norm": math.sqrt(gap), "train_accuracy": 0.85 - 0.2 * 0.9**k,
                    "test_accuracy": 0.84 - 0.2 * 0.9**k, "hvp_count": 7.0 * k,
                    "data_passes": 1 + 9.0 * k, "seconds": 1e-3 * k * (1 + 0.3 * seed), "note": "",
                }
            )  # fmt: skip
    groups = ("hessian_approx", "optimizer", "line_search", "forcing", "preconditioner", "device")
    config = {
        "name": "benchmark", "label": f"method {method}", "seed": seed, "repeat": 0,
        "dataset": {"name": f"data {problem}"}, "loss": {"name": "logistic", "l2": 0.01},
        **{group: {f"key {i}": i for i in range(6)} for group in groups},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    described = {"name": f"data {problem}", "n_samples": 1000, "n_features": 50, "checksum": "0"}
    summary = {"label": config["label"], "status": "finished", "reason": "100 epochs"}
    summary |= {"optimum": 0.3, "dtype": "float64", "dataset": described}
    (folder / "summary.json").write_text(json.dumps(summary))
    environment = {"python": "3.11", "packages": {f"package {i}": "1.0" for i in range(10)}}
    (folder / "environment.json").write_text(json.dumps(environment))


def seconds(folder: Path) -> tuple[float, float]:
    """Return the wall-clock and the processor time of the command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run([*COMMAND, str(folder)], check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Time every layout and print a table."""
    print(f"{f'{RUNS} runs of {STEPS} steps':<34} {'wall':>8} {'CPU':>8}   of {TARGET_SECONDS:g} s")
    with tempfile.TemporaryDirectory() as place:
        for name, (problems, methods, seeds) in LAYOUTS.items():
            folder = Path(place) / name
            for i in range(RUNS):
                j, seed = divmod(i, seeds)
                write_run(folder / str(i), j // methods, j % methods, seed)
            assert problems * methods * seeds == RUNS
            wall, cpu = seconds(folder)
            print(f"{name:<34} {wall:6.2f} s {cpu:6.2f} s   {wall / TARGET_SECONDS:.2f}")


if __name__ == "__main__":
    main()
