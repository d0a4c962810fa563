"""Time to accuracy on differential equations, and the error of the rivals after a minute.

`python benchmarks/equations.py FOLDER` makes each run by run.py, two at a time on one thread each,
and prints two tables of what the traces in FOLDER say: about 9 minutes on two quiet cores for
Levenberg-Marquardt, then half an hour or more for the rivals, whose every step is looked at outside
the clock. Runs that are there already are not made again. Seconds are of processor time;
`--seeds 0` takes one seed of Levenberg-Marquardt, `--fixed` lets the rivals have fixed points over
all of the time, too.
"""

import argparse
import csv
import math
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMON = (
    "loss=residual", "model=mlp", "device.threads=1", "clock=processor", "tracking=none",
    "quiet=true", "stop.epochs=null", "stop.grad_norm=null", "checkpoint_seconds=600",
)  # fmt: skip
LM = "levenberg_marquardt"
RIVALS = ("pinn/adam_1e2", "pinn/adam_1e3", "lbfgs", "pinn/adam_lbfgs_1e2", "pinn/adam_lbfgs_1e3")
MINUTE = 60


@dataclass(frozen=True)
class Problem:
    """An equation, its network, and what is asked of Levenberg-Marquardt.

    Attributes
    ----------
    hidden : tuple of int
        Widths of the network.
    targets : dict of float to float
        Relative L2 error to the seconds in which it is asked.
    """

    hidden: tuple[int, ...]
    targets: dict[float, float]


PROBLEMS = {
    "poisson_2d": Problem((64,), {1e-6: 5}),
    "heat_1d": Problem((64,), {1e-5: 5, 1e-6: 15}),
    "poisson_5d": Problem((64,), {1e-5: 30, 1e-6: 60}),
    "small/reaction": Problem((40, 40, 40), {1e-4: 15}),
    "small/wave": Problem((40, 40, 40), {1e-3: 45}),
    "small/convection": Problem((40, 40, 40), {1e-3: 45}),
}
HARD = tuple(name for name in PROBLEMS if name.startswith("small/"))


@dataclass(frozen=True)
class Run:
    """One run of the pipeline.

    Attributes
    ----------
    problem, method : str
        What is chosen as `dataset` and `method`.
    seed : int
        Of the network's first weights and of the points.
    seconds : float
        Its limit.
    fixed : bool
        Whether the points stay where they are drawn at first, over all of the time.
    """

    problem: str
    method: str
    seed: int
    seconds: float
    fixed: bool = False

    def folder(self, top: Path) -> Path:
        """Return where its record lies."""
        name = f"{self.problem}-{self.method}-{self.seed}{'-fixed' * self.fixed}"
        return top / name.replace("/", "_")

    def make(self, top: Path) -> None:
        """Make the run, if it is not there."""
        folder = self.folder(top)
        if (folder / "summary.json").exists():
            return
        hidden = ",".join(map(str, PROBLEMS[self.problem].hidden))
        own = ("dataset.resample=0", "dataset.window=1") if self.fixed else ()
        command = (
            sys.executable, str(ROOT / "run.py"), f"dataset={self.problem}",
            f"method={self.method}", f"model.hidden=[{hidden}]",
            f"seed={self.seed}", f"dataset.seed={self.seed}",
            f"stop.seconds={self.seconds:g}", f"hydra.run.dir={folder}", *COMMON, *own,
        )  # fmt: skip
        threads = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=False, env=threads, capture_output=True, text=True)
        print(folder.name, "" if done.returncode == 0 else done.stderr.strip(), flush=True)

    def errors(self, top: Path) -> list[tuple[float, float]]:
        """Return the seconds and the relative L2 error of every row; none of a run that failed."""
        trace = self.folder(top) / "trace.csv"
        if not trace.exists():
            return []
        with trace.open() as file:
            return [(float(row["seconds"]), float(row["l2_error"])) for row in csv.DictReader(file)]


def targeted(seeds: tuple[int, ...]) -> list[Run]:
    """Return Levenberg-Marquardt's runs: as long as the latest target allows."""
    return [
        Run(name, LM, seed, max(problem.targets.values()))
        for name, problem in PROBLEMS.items()
        for seed in seeds
    ]


def rivals(fixed: bool) -> list[Run]:
    """Return the rivals' runs on the hard problems, a minute each."""
    kinds = (False, True) if fixed else (False,)
    return [Run(name, method, 0, MINUTE, f) for name in HARD for method in RIVALS for f in kinds]


def reached(rows: list[tuple[float, float]], error: float) -> float:
    """Return the first second at which an error is reached; inf where it is not."""
    return min((seconds for seconds, found in rows if found <= error), default=math.inf)


def last(rows: list[tuple[float, float]]) -> float:
    """Return the error at the end; inf of a run that failed."""
    return rows[-1][1] if rows else math.inf


def report(top: Path, runs: list[Run], others: list[Run]) -> None:
    """Print both tables."""
    print("\n| problem | error | asked | reached, median | each seed | error at the end, median |")
    print("| --- | --- | --- | --- | --- | --- |")
    ends = {}
    for name, problem in PROBLEMS.items():
        traces = [run.errors(top) for run in runs if run.problem == name]
        ends[name] = statistics.median(map(last, traces))
        for error, asked in problem.targets.items():
            times = [reached(rows, error) for rows in traces]
            each = ", ".join(f"{t:.1f}" for t in times)
            print(f"| `{name}` | {error:g} | {asked:g} s | {statistics.median(times):.1f} s "
                  f"| {each} | {ends[name]:.1e} |")  # fmt: skip
    print("\n| problem | method | error after a minute | times that of Levenberg-Marquardt |")
    print("| --- | --- | --- | --- |")
    for run in others:
        error = last(run.errors(top))
        method = run.method.removeprefix("pinn/") + ", fixed points" * run.fixed
        print(f"| `{run.problem}` | {method} | {error:.1e} | {error / ends[run.problem]:.0f} |")


def main() -> None:
    """Make the runs, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fixed", action="store_true")
    options = parser.parse_args()
    top = options.folder.resolve()
    runs, others = targeted(tuple(options.seeds)), rivals(options.fixed)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: run.make(top), [*runs, *others]))
    report(top, runs, others)


if __name__ == "__main__":
    main()
