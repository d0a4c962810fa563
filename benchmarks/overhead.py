"""What the pipeline costs beside the optimizer: imports, configuration, tracking, figures.

    python benchmarks/overhead.py            # some minutes
    python benchmarks/overhead.py --quick

Prints a table with the targets: beyond its imports a run costs at most 1.5 s, the whole command at
most 8 s; in a sweep a further run on a9a costs at most 0.5 s; two processes do at least 1.7 times
the work of one; tracking adds at most 5 % to a run of a second or more. Everything lies in a
temporary folder, whose database is new; medians.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
RUN = ("solver=cr", "dataset=a9a")
IMPORTS = (
    "import newton_krylov.cli.main, newton_krylov.cli.compose, newton_krylov.runs.experiment;"
    "import newton_krylov.report.figures; from mlflow import MlflowClient;"
    "MlflowClient('sqlite:///imports.db').search_experiments(max_results=1)"
)
"""What a run imports, MLflow's lazy parts included: those come with its first request."""

# A second of the optimizer's time in few steps, and in many.
FEW_STEPS = (
    "dataset=synthetic", "dataset.n=100000", "dataset.d=200", "dataset.condition_number=1e3",
    "loss.l2=1e-4", "solver=exact",
)  # fmt: skip
MANY_STEPS = ("dataset=a9a", "optimizer=gd", "stop.epochs=3000", "stop.grad_norm=1e-12")


def seconds(action: Callable[[], Any]) -> float:
    """Return how long it takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def process(*arguments: str) -> None:
    """Run Python in a process of its own."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


class Inside:
    """Runs the command in this process, where everything has been imported."""

    def __init__(self) -> None:
        sys.path.insert(0, str(ROOT / "src"))
        from newton_krylov.cli.main import main

        self._main, self._number = main, 0
        self.parts: dict[str, list[float]] = defaultdict(list)

    def __call__(self, *arguments: str) -> tuple[float, float]:
        """Run; return the wall seconds and those of them that were the optimizer's."""
        from newton_krylov.records.record import Record

        self._number += 1
        folder = Path("inside") / str(self._number)
        given = [*arguments, f"hydra.run.dir={folder}"]
        with redirect_stdout(io.StringIO()):
            took = seconds(lambda: self._main(ROOT / "conf", given))
        return took, float(Record.load(folder).summary["seconds"])

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Take the time of the pipeline's own parts."""
        from newton_krylov.cli.compose import CheckedLoader
        from newton_krylov.runs import experiment
        from newton_krylov.tracking.mlflow_tracker import MLflowTracker

        inner = experiment._Experiment
        watched = [
            ("configuration", CheckedLoader, "load_configuration"),
            ("data, from the cache", inner, "_dataset"),
            ("certified optimum, from the cache", inner, "_optimum"),
            ("tracking: start", MLflowTracker, "start"),
            ("tracking: end", MLflowTracker, "finish"),
            ("figures", inner, "_draw"),
            ("record on disk", experiment.Record, "update"),
        ]
        before = [(owner, name, getattr(owner, name)) for _, owner, name in watched]
        for title, owner, name in watched:
            setattr(owner, name, self._watch(title, getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name, original in before:
                setattr(owner, name, original)

    def _watch(self, title: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.parts[title].append(time.perf_counter() - start)

        return watched


def share_of_tracking(
    inside: Inside, arguments: tuple[str, ...], repeats: int
) -> tuple[float, ...]:
    """Return medians of the wall time without and with tracking, run by turns."""
    walls: dict[str, list[float]] = {"none": [], "mlflow": []}
    for _ in range(repeats):
        for tracking, found in walls.items():
            found.append(inside(*arguments, f"tracking={tracking}")[0])
    return tuple(statistics.median(found) for found in walls.values())


def throughput(jobs: int) -> float:
    """Return how many times as much two processes do as one, a thread each, once they run.

    The difference of a long and a short sweep, so that what a start costs (the imports, twice with
    joblib) is not in it.
    """

    def sweep(launcher: str, count: int) -> float:
        seeds = ",".join(map(str, range(count)))
        return seconds(
            lambda: process(
                str(ROOT / "run.py"),
                "-m",
                *FEW_STEPS,
                "device.threads=1",
                "tracking=none",
                "start=normal",
                f"seed={seeds}",
                f"hydra/launcher={launcher}",
                *(["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []),
            )
        )

    short = 4
    basic = sweep("basic", short + jobs) - sweep("basic", short)
    return basic / (sweep("joblib", short + jobs) - sweep("joblib", short))


def measure(repeats: int, members: int) -> list[tuple[str, str, str]]:
    """Return what, how much, and what was aimed at."""
    rows = []

    def add(title: str, value: float, target: float | None = None, unit: str = "s") -> None:
        sign = ">=" if unit == "times" else "<="
        aim = "" if target is None else f"{sign} {target:g} {unit}"
        rows.append((title, f"{value:.3f} {unit}" if unit == "s" else f"{value:.1f} {unit}", aim))

    run = [str(ROOT / "run.py"), *RUN]
    add("whole command, new database and caches", seconds(lambda: process(*run)))
    whole = statistics.median(seconds(lambda: process(*run)) for _ in range(repeats))
    add("whole command", whole, 8)
    imports = statistics.median(seconds(lambda: process("-c", IMPORTS)) for _ in range(repeats))
    add("of it imports", imports)

    inside = Inside()
    inside(*RUN)
    times = [inside(*RUN) for _ in range(repeats + 2)]
    add("run in a process that has imported all", statistics.median(t for t, _ in times))
    add("of it the optimizer", statistics.median(own for _, own in times))
    beyond = statistics.median(took - own for took, own in times)
    add("beyond imports and optimizer", beyond, 1.5)
    with inside.timed():
        for _ in range(repeats):
            inside(*RUN)
    for title, found in inside.parts.items():
        add(f"  {title}", sum(found) / repeats)

    sweep = ["-m", *RUN, "start=normal"]

    def sweep_of(count: int) -> float:
        seeds = ",".join(map(str, range(count)))
        return seconds(lambda: process(run[0], *sweep, f"seed={seeds}"))

    sweeps = [(sweep_of(members + 1), sweep_of(1)) for _ in range(max(1, repeats // 2))]
    marginal = statistics.median((many - one) / members for many, one in sweeps)
    add("a further run in a sweep", marginal, 0.5)

    add("two processes against one", throughput(4 * repeats), 1.7, "times")

    for title, arguments in (("few steps", FEW_STEPS), ("thousands of steps", MANY_STEPS)):
        inside(*arguments, "tracking=none")
        _, own = inside(*arguments, "tracking=none")
        without, with_it = share_of_tracking(inside, arguments, repeats)
        add(f"run of {title}: the optimizer", own)
        add(f"run of {title}: without tracking", without)
        add(f"run of {title}: tracking adds", 100 * (with_it / without - 1), 5, "%")
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    quick = parser.parse_args().quick
    table = Table("what", "median", "target")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.environ["NEWTON_KRYLOV_CACHE"] = str(Path(folder) / "cache")
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        for row in measure(*((2, 4) if quick else (7, 12))):
            table.add_row(*row)
        os.chdir(ROOT)
    Console().print(table)


if __name__ == "__main__":
    main()
