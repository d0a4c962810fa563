"""Time to accuracy on differential equations, and the error of the rivals after a minute.

    python benchmarks/equations.py FOLDER           # Levenberg-Marquardt, 9 minutes
    python benchmarks/equations.py FOLDER --rivals  # beside Adam, L-BFGS and both, 19 minutes

Each makes its runs by run.py, two at a time on one thread each, and prints a table of what the
traces in FOLDER say; times are on two quiet cores. Runs that are there already are not made again;
where one has another configuration than it would have now, or other points, the script ends.
Seconds are of processor time.

The rivals have the same first weights, points, block weights and windows as Levenberg-Marquardt,
which stops after the seconds that its target allows. Adam's rate is tuned for each problem: three
rates, a quarter of a run's seconds each, with a seed of their own; the lowest error of the solution
wins (the judge's own figure, to the rivals' advantage), and serves before L-BFGS, too.
`--seconds 5` makes all of it shorter, `--seeds 0` takes one seed, `--fixed` lets the rivals have
fixed points over all of the time, too.
"""

import argparse
import csv
import math
import os
import re
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from newton_krylov.cli.session import compose_run
from newton_krylov.errors import TakenError, UserError
from newton_krylov.runs.config import check
from newton_krylov.runs.experiment import dataset_of
from newton_krylov.runs.resume import earlier

ROOT = Path(__file__).resolve().parents[1]
COMMON = (
    "loss=residual", "model=mlp", "device.threads=1", "clock=processor", "tracking=none",
    "quiet=true", "stop.epochs=null", "stop.grad_norm=null", "checkpoint_seconds=600",
)  # fmt: skip
LM = "levenberg_marquardt"
ADAM, LBFGS, BOTH = "pinn/adam_1e2", "lbfgs", "pinn/adam_lbfgs_1e2"
RIVALS = {ADAM: "Adam", LBFGS: "L-BFGS", BOTH: "Adam, then L-BFGS"}
RATES = (1e-2, 3e-3, 1e-3)
MINUTE = 60.0
TUNING_SEED, TUNING_SHARE = 100, 0.25
AT_ITS_END = "trace_every=1000000000"  # the error at the last step is all that is asked


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
    own : tuple of str
        What else is set.
    """

    problem: str
    method: str
    seed: int
    seconds: float
    own: tuple[str, ...] = ()

    def folder(self, top: Path) -> Path:
        """Return where its record lies."""
        own = "".join(f"-{setting}" for setting in self.own if setting != AT_ITS_END)
        name = f"{self.problem}-{self.method}-{self.seed}-{self.seconds:g}s{own}"
        return top / re.sub(r"[^\w.-]", "_", name)  # = would be grammar of the command

    def settings(self, top: Path) -> list[str]:
        """Return what the command is given."""
        hidden = ",".join(map(str, PROBLEMS[self.problem].hidden))
        return [
            f"dataset={self.problem}", f"method={self.method}", f"model.hidden=[{hidden}]",
            f"seed={self.seed}", f"dataset.seed={self.seed}", f"stop.seconds={self.seconds:g}",
            f"hydra.run.dir={self.folder(top)}", "resume=true", *COMMON, *self.own,
        ]  # fmt: skip

    def there(self, top: Path) -> bool:
        """Return whether it has been made as it would be now; refuse another one in its place."""
        folder = self.folder(top)
        if not folder.exists():
            return False
        config = check(compose_run(self.settings(top)).plain)
        before = earlier(folder, config.plain, resume=True)
        if before is None or not before.finished:
            return False
        if before.record.summary["dataset"]["checksum"] != dataset_of(config).checksum:
            raise TakenError(
                f"{folder} holds a run on points that are drawn in another way now: remove it, or "
                f"choose another folder."
            )
        return True

    def make(self, top: Path) -> None:
        """Make the run, or what is left of it."""
        folder = self.folder(top)
        command = (sys.executable, str(ROOT / "run.py"), *self.settings(top))
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


def rate(value: float) -> str:
    """Return the setting of Adam's rate."""
    return f"optimizer.learning_rate={value:g}"


def tuning(seconds: float) -> list[Run]:
    """Return Adam's runs at each rate."""
    share = TUNING_SHARE * seconds
    return [
        Run(name, ADAM, TUNING_SEED, share, (rate(value), AT_ITS_END))
        for name in HARD
        for value in RATES
    ]


def tuned(top: Path, seconds: float) -> dict[str, str]:
    """Return for each problem the setting of the rate that was best."""
    runs = tuning(seconds)
    best = {
        name: min((run for run in runs if run.problem == name), key=lambda r: last(r.errors(top)))
        for name in HARD
    }
    return {name: run.own[0] for name, run in best.items()}


def rivals(
    rates: dict[str, str], seeds: tuple[int, ...], seconds: float, *, fixed: bool
) -> dict[str, list[Run]]:
    """Return the runs of each method by what the table calls it, Levenberg-Marquardt first."""
    found = {
        "Levenberg-Marquardt": [
            Run(name, LM, seed, min(seconds, max(PROBLEMS[name].targets.values())), (AT_ITS_END,))
            for name in HARD
            for seed in seeds
        ]
    }
    held = ("dataset.resample=0", "dataset.window=1")
    for points, what in (((), ""), (held, ", fixed points"))[: 1 + fixed]:
        for method, called in RIVALS.items():
            found[called + what] = [
                Run(name, method, seed, seconds,
                    (*([] if method == LBFGS else [rates[name]]), *points, AT_ITS_END))
                for name in HARD
                for seed in seeds
            ]  # fmt: skip
    return found


def reached(rows: list[tuple[float, float]], error: float) -> float:
    """Return the first second at which an error is reached; inf where it is not."""
    return min((seconds for seconds, found in rows if found <= error), default=math.inf)


def last(rows: list[tuple[float, float]]) -> float:
    """Return the error at the end; inf of a run that failed."""
    return rows[-1][1] if rows else math.inf


def median(top: Path, runs: list[Run], problem: str) -> float:
    """Return the median of the errors at the end of the runs of a problem."""
    return statistics.median(last(run.errors(top)) for run in runs if run.problem == problem)


def report(top: Path, runs: list[Run]) -> None:
    """Print the times to Levenberg-Marquardt's targets."""
    print("\n| problem | error | asked | reached, median | each seed | error at the end, median |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, problem in PROBLEMS.items():
        traces = [run.errors(top) for run in runs if run.problem == name]
        for error, asked in problem.targets.items():
            times = [reached(rows, error) for rows in traces]
            each = ", ".join(f"{t:.1f}" for t in times)
            print(f"| `{name}` | {error:g} | {asked:g} s | {statistics.median(times):.1f} s "
                  f"| {each} | {median(top, runs, name):.1e} |")  # fmt: skip


def compare(top: Path, methods: dict[str, list[Run]], rates: dict[str, str]) -> None:
    """Print the errors at the end, medians of the seeds, and the best rival's by ours."""
    print("\n| problem | rate |", " | ".join(methods), "| best of rivals / ours |")
    print("| --- " * (len(methods) + 3) + "|")
    for name in HARD:
        ours, *others = (median(top, runs, name) for runs in methods.values())
        errors = " | ".join(f"{error:.1e}" for error in (ours, *others))
        value = rates[name].split("=")[1]
        print(f"| `{name}` | {value} | {errors} | {min(others) / ours:,.0f} |")
    print("\nEach seed's, in the same order:")
    for called, runs in methods.items():
        each = ", ".join(f"{last(run.errors(top)):.1e} ({run.seconds:g} s)" for run in runs)
        print(f"{called}: {each}")


def make(top: Path, runs: list[Run]) -> None:
    """Make the runs that are not there, two at a time."""
    try:
        missing = [run for run in runs if not run.there(top)]
    except UserError as error:
        sys.exit(str(error))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda run: run.make(top), missing))


def main() -> None:
    """Make the runs, and print their table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--seconds", type=float, default=MINUTE)
    parser.add_argument("--fixed", action="store_true")
    options = parser.parse_args()
    top, seeds, seconds = options.folder.resolve(), tuple(options.seeds), options.seconds
    if not options.rivals:
        make(top, runs := targeted(seeds))
        return report(top, runs)
    make(top, tuning(seconds))
    rates = tuned(top, seconds)
    methods = rivals(rates, seeds, seconds, fixed=options.fixed)
    make(top, [run for runs in methods.values() for run in runs])
    return compare(top, methods, rates)


if __name__ == "__main__":
    main()
