"""Kills commands at random moments, resumes them, and compares the results with uninterrupted ones.

    python tests/kills.py --count 200 --log kills.jsonl      # some minutes a hundred
    python tests/kills.py --kinds search,joblib --count 20

The record and MLflow of a command that was killed and resumed must be those of one that was not.
Commands run in forks of a process that has imported everything, so that the kills fall into the
work and not into the imports; `real=True` (and torchrun) starts processes of their own instead.
"""

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from command import CONF, PATIENCE, QUICK, ROOT, environment

NET = (
    "dataset=digits_images", "loss=cross_entropy", "model=mlp", "optimizer=sgd",
    "checkpoint_seconds=0", "tracking.flush_seconds=0.2",
)  # fmt: skip
LINEAR = (*QUICK, "stop.grad_norm=1e-7", "checkpoint_seconds=0")  # not down to rounding


@dataclass(frozen=True)
class Kind:
    """A kind of command.

    Attributes
    ----------
    arguments : tuple of str
        Of the command, its folder included.
    digits : float
        How far apart numbers of two traces may be, relatively; networks' are the same.
    fresh : bool
        Whether MLflow's database is yet to be made.
    torchrun : bool
        Whether two processes share it. It starts over in another folder.
    """

    arguments: tuple[str, ...]
    digits: float = 1e-6
    fresh: bool = False
    torchrun: bool = False


_RUN, _SWEEP = "hydra.run.dir=r", "hydra.sweep.dir=r"
_SEARCH = (
    "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1",
    "hydra.sweeper.sampler.seed=3", "forcing=fixed", "forcing.eta=interval(0.01,0.9)",
)  # fmt: skip
KINDS = {
    "newton": Kind((*LINEAR, _RUN)),
    "gradient descent": Kind((*LINEAR, "optimizer=gd", "stop.epochs=300", _RUN)),
    "network": Kind((*NET, "stop.epochs=12", _RUN), digits=0.0),
    "first moments": Kind((*LINEAR, _RUN), fresh=True),
    "sweep": Kind(("-m", *LINEAR, "solver=cg,cr", _SWEEP)),
    "sweep of networks": Kind(("-m", *NET, "stop.epochs=5", "seed=0,1", _SWEEP), digits=0.0),
    "joblib": Kind(
        ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *LINEAR, "seed=0,1", _SWEEP)
    ),
    "search": Kind(("-m", *_SEARCH, *LINEAR, _SWEEP)),
    "torchrun": Kind(
        (*LINEAR, "optimizer=gd", "stop.epochs=300", "device=distributed", "optimum=none", _RUN),
        torchrun=True,
    ),
}


class Process:
    """A command under way, with whatever it has started."""

    def __init__(self, kind: Kind, arguments: Sequence[str], cwd: Path, *, real: bool) -> None:
        self._begun = time.monotonic()
        self._log = (cwd / "out").open("ab")
        if kind.torchrun or real:
            launcher = [str(Path(sys.executable).parent / "torchrun"), "--standalone"]
            by = [*launcher, "--nproc-per-node=2"] if kind.torchrun else [sys.executable]
            self._popen: subprocess.Popen[bytes] | None = subprocess.Popen(
                [*by, str(ROOT / "run.py"), *arguments],
                cwd=cwd, env=environment(cwd), stdout=self._log, stderr=self._log,
                start_new_session=True,
            )  # fmt: skip
            self.pid = self._popen.pid
        else:
            self._popen, self.pid = None, _fork(partial(_command, arguments), cwd, self._log)
        self._code: int | None = None

    @property
    def code(self) -> int | None:
        """The exit code, or None while it runs."""
        if self._code is None:
            if self._popen is not None:
                self._code = self._popen.poll()
            else:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code

    def wait(self) -> float:
        """Wait for its end; return its seconds."""
        while self.code is None:
            if time.monotonic() - self._begun > PATIENCE:
                self.kill(self.family())
                raise TimeoutError(f"no end within {PATIENCE} s")
            time.sleep(0.02)
        return time.monotonic() - self._begun

    def family(self) -> list[int]:
        """The processes of its session, itself first."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.getsid(int(entry.name)) == self.pid:
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    found += [int(entry.name)] if state != "Z" else []
            except OSError:
                continue
        return sorted(found, key=lambda pid: (pid != self.pid, pid))

    @staticmethod
    def kill(pids: Sequence[int]) -> None:
        """Send SIGKILL."""
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _fork(action: Callable[[], int], cwd: Path, log: Any) -> int:
    """Do something in a fork with a session of its own; return its identifier."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        os.chdir(cwd)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        os.environ.clear()
        os.environ.update(_ENVIRONMENT | environment(cwd))
        code = action()
        sys.stdout.flush()
    except BaseException as error:
        print(f"raised {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(code)


_ENVIRONMENT = dict(os.environ)


def _command(arguments: Sequence[str]) -> int:
    from newton_krylov.cli.main import main

    return main(CONF, list(arguments))


# What there is


def state(cwd: Path, folder: str) -> dict[str, Any]:
    """Return what a command left, without what two runs of it need not share (times, names)."""
    place = cwd / folder
    names = {path.parent for name in ("summary.json", "sweep.json") for path in place.rglob(name)}
    found = {str(path.relative_to(place)): _record(path) for path in names}
    results = place / "optimization_results.yaml"
    return {
        "records": found,
        "results": results.read_text() if results.exists() else None,
        "files": sorted(str(p.relative_to(place)) for p in place.rglob("*") if _counts(p)),
        "notes": sorted(p.name for p in (cwd / ".cache" / "unfinished").glob("*")),
        "tracked": _tracked(cwd, place),
    }


def _counts(path: Path) -> bool:
    return path.is_file() and ".hydra" not in path.parts and path.suffix not in (".svg", ".pdf")


def _record(folder: Path) -> dict[str, Any]:
    from newton_krylov.records.trace import read_trace

    sweep = folder / "sweep.json"
    summary = json.loads((sweep if sweep.exists() else folder / "summary.json").read_text())
    keys = ("status", "outcome", "iteration", "loss", "members", "failed_members")
    trace = folder / "trace.csv"
    rows = read_trace(trace) if trace.exists() else []
    return {
        **{key: summary.get(key) for key in keys},
        "trace": [[row.iteration, row.loss, row.grad_norm] for row in rows],
    }


def _tracked(cwd: Path, place: Path) -> list[Any]:
    """Return what MLflow has of the runs in a folder, in the order of their folders."""
    from mlflow import MlflowClient

    from newton_krylov.tracking.mlflow_sender import wanted

    if not (cwd / "mlflow.db").exists():
        return []
    client = MlflowClient(f"sqlite:///{cwd / 'mlflow.db'}")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = {run.info.run_id: run for run in client.search_runs(ids, max_results=1000)}
    found = []
    for number, run in runs.items():
        where = Path(run.data.tags["folder"])
        parent = runs.get(run.data.tags.get("mlflow.parentRunId", ""))
        losses = client.get_metric_history(number, "loss")
        if where.is_relative_to(place):
            found.append(
                {
                    "folder": str(where.relative_to(place)),
                    "in": parent and str(Path(parent.data.tags["folder"]).relative_to(place)),
                    "status": run.info.status,
                    "metrics": sorted(run.data.metrics),
                    "steps": run.data.tags.get("steps"),
                    "loss": sorted([m.step, m.value] for m in losses if wanted(m.step, 128)),
                    "params": {k: v for k, v in run.data.params.items() if k != "resume"},
                    "files": sorted(file.path for file in client.list_artifacts(number)),
                }
            )
    return sorted(found, key=lambda one: (one["folder"], one["status"]))


def differences(here: Any, there: Any, digits: float, at: str = "") -> list[str]:
    """Say where two states differ; numbers by more than so much, relatively."""
    if isinstance(here, dict) and isinstance(there, dict):
        keys = sorted({*here, *there})
        pairs = [(here.get(key), there.get(key), f"{at}.{key}") for key in keys]
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        pairs = [(a, b, f"{at}[{k}]") for k, (a, b) in enumerate(zip(here, there, strict=True))]
    elif isinstance(here, list) and isinstance(there, list) and not _numbers([*here, *there]):
        more = [f"{_short(x)} is there" for x in here if x not in there]
        less = [f"{_short(x)} is missing" for x in there if x not in here]
        return [f"{at}: {line}" for line in more + less]
    elif isinstance(here, float) and isinstance(there, float):
        near = math.isclose(here, there, rel_tol=digits, abs_tol=digits)
        return (
            []
            if near or (math.isnan(here) and math.isnan(there))
            else [f"{at}: {here!r}, not {there!r}"]
        )
    else:
        return [] if here == there else [f"{at}: {_short(here)}, not {_short(there)}"]
    return [line for a, b, place in pairs for line in differences(a, b, digits, place)]


def _numbers(values: list[Any]) -> bool:
    return any(isinstance(value, list) for value in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 300 else f"{text[:200]} ... {text[-80:]}"


# Kills


class Trials:
    """Kills commands in folders of their own; each kind's uninterrupted run is made once."""

    def __init__(self, place: Path, *, real: bool = False) -> None:
        self.place, self.real = place, real
        self._whole: dict[str, tuple[dict[str, Any], float]] = {}

    def whole(self, name: str) -> tuple[dict[str, Any], float]:
        """Return what a command leaves that nobody kills, and its seconds."""
        if name not in self._whole:
            cwd = self._folder(f"whole {name}", KINDS[name])
            process = Process(KINDS[name], KINDS[name].arguments, cwd, real=self.real)
            seconds = process.wait()
            assert process.code == 0, (cwd / "out").read_text()
            self._whole[name] = self._state(cwd), seconds
        return self._whole[name]

    def trial(self, name: str, dice: random.Random, number: int) -> dict[str, Any]:
        """Kill a command once or twice, resume it, and return what was lost."""
        kind = KINDS[name]
        whole, seconds = self.whole(name)
        cwd = self._folder(f"{number} {name}", kind)
        moments = [dice.uniform(0, seconds) for _ in range(dice.choice([1, 1, 2]))]
        lost: list[str] = []
        for attempt, moment in enumerate(moments):
            process = Process(kind, _attempt(kind, attempt), cwd, real=self.real)
            _kill_after(moment, process, kind, dice)
            lost += _left(process)
        process = Process(kind, _attempt(kind, len(moments)), cwd, real=self.real)
        try:
            process.wait()
        except TimeoutError as error:
            lost.append(str(error))
        if process.code != 0:
            lost.append(f"exit code {process.code}")
        *dead, last = [f"r{k}" for k in range(len(moments) + 1)] if kind.torchrun else ["r"]
        lost += differences(self._state(cwd, last), whole, kind.digits)
        for folder in dead:
            lost += _of_killed(self._state(cwd, folder), whole)
        if lost:
            lost.append((cwd / "out").read_text()[-1500:])
        else:
            shutil.rmtree(cwd)
        after = [round(moment, 3) for moment in moments]
        return {"kind": name, "number": number, "killed after": after, "lost": lost}

    def _folder(self, name: str, kind: Kind) -> Path:
        cwd = self.place / name.replace(" ", "-")
        cwd.mkdir(parents=True)
        if not kind.fresh:
            shutil.copy(self._database(), cwd / "mlflow.db")
        return cwd

    def _database(self) -> Path:
        path = self.place / "empty" / "mlflow.db"
        if not path.exists():
            path.parent.mkdir()
            with (path.parent / "out").open("ab") as log:
                os.waitpid(_fork(partial(_prepare, path), path.parent, log), 0)
        return path

    def _state(self, cwd: Path, folder: str = "r") -> dict[str, Any]:
        """Look in a fork: a connection to a database is not for two processes."""
        answer = cwd / "state.json"
        with (cwd / "out").open("ab") as log:
            os.waitpid(_fork(partial(_write_state, cwd, folder, answer), cwd, log), 0)
        found: dict[str, Any] = json.loads(answer.read_text())
        answer.unlink()
        return found


def _attempt(kind: Kind, number: int) -> list[str]:
    """Return the arguments of the first, second, ... attempt at a command."""
    if kind.torchrun:
        return [*kind.arguments[:-1], f"{_RUN}{number}"]
    return [*kind.arguments, *(["resume=true"] if number else [])]


def _kill_after(seconds: float, process: Process, kind: Kind, dice: random.Random) -> None:
    """Kill a process and all it has started, or it (of torchrun's: one of them) alone."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.code is None:
        time.sleep(0.005)
    family = process.family()
    alone = [dice.choice(family) if kind.torchrun else process.pid] if family else []
    process.kill(family if dice.random() < 0.5 else alone)
    process.wait()


def _left(process: Process) -> list[str]:
    """Wait for what a killed process started; say what does not end by itself."""
    for _ in range(10 * PATIENCE):  # a process of joblib's that has got no work yet waits for 300 s
        if not process.family():
            return []
        time.sleep(0.1)
    left = process.family()
    process.kill(left)
    return [f"{len(left)} processes stay"]


def _prepare(path: Path) -> int:
    from newton_krylov.tracking.database import prepare

    prepare(f"sqlite:///{path}")
    return 0


def _write_state(cwd: Path, folder: str, answer: Path) -> int:
    answer.write_text(json.dumps(state(cwd, folder)))
    return 0


def _of_killed(found: dict[str, Any], whole: dict[str, Any]) -> list[str]:
    """Say what is wrong with the record of a run that is not resumed: it is a beginning."""
    lost = []
    steps = whole["records"]["."]["trace"]
    for record in found["records"].values():
        if record["status"] not in ("killed", "failed", "finished"):
            lost.append(f"a dead run says {record['status']}")
        lost += differences(record["trace"], steps[: len(record["trace"])], 1e-6, ".dead")
    for run in found["tracked"]:
        if run["status"] not in ("KILLED", "FAILED", "FINISHED"):
            lost.append(f"a dead run is {run['status']} in MLflow")
    if len(found["tracked"]) > len(found["records"]):
        lost.append("more runs in MLflow than records")
    return lost


def main() -> int:
    """Make trials; exit with 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--log", type=Path, help="a line of JSON for each trial")
    parser.add_argument("--place", type=Path, help="a folder for the trials; lost ones stay in it")
    options = parser.parse_args()
    import mlflow  # noqa: F401 - before the forks

    from newton_krylov.cli.offers import offer

    offer(CONF)
    place = options.place or Path(tempfile.mkdtemp(prefix="kills-"))
    trials, dice, lost = Trials(place), random.Random(options.seed), 0
    kinds = options.kinds.split(",")
    for number in range(options.count):
        result = trials.trial(kinds[number % len(kinds)], dice, number)
        lost += bool(result["lost"])
        print(json.dumps(result)[:2000], flush=True)
        if options.log:
            with options.log.open("a") as log:
                log.write(json.dumps(result) + "\n")
    print(f"{options.count} killed, {lost} lost; what is lost lies in {place}")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
