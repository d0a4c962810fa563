"""The methods of a verdict, the settings that each may try, and the plan of its runs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from newton_krylov.errors import ConfigError, listed
from newton_krylov.records.record import write_json
from newton_krylov.report.records import read_record
from newton_krylov.report.verdict import (
    COSTS,
    FAMILIES,
    MEASURES,
    PLAN,
    PlannedRun,
    best_setting,
    targets_of,
)

_TUNING_SEED = 0


@dataclass(frozen=True)
class Method:
    """A method and its search space.

    Attributes
    ----------
    name : str
        As in `method=NAME`.
    family : str
        First order, quasi-Newton or second order.
    settings : sequence of sequence of str
        Overrides to try, in this order; the defaults (no override) come first.
    overrides : sequence of str
        What holds for all of its runs.
    """

    name: str
    family: str
    settings: Sequence[Sequence[str]]
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class Portfolio:
    """What a verdict runs.

    Attributes
    ----------
    trials : int
        Settings that each method tries, at most; the same for all.
    seeds : int
        Fresh seeds with which each method is judged.
    methods : sequence of Method
        The methods of all families.
    untuned : bool
        Whether each method is also run with its defaults where another setting won its tuning.
    measure, cost : str
        What the targets are of, and what is counted until they are reached: see `targets_of`.
    measuring : float
        Of the time that the runs took, the share that measuring the problem may take.
    """

    trials: int
    seeds: int
    methods: Sequence[Method]
    untuned: bool = True
    measure: str = "loss"
    cost: str = "seconds"
    measuring: float = 0.1

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> "Portfolio":
        """Read a configuration's `verdict` node.

        Raises
        ------
        ConfigError
            For what is missing or of another kind.
        """
        trials, seeds = (_count(node, key) for key in ("trials", "seeds"))
        given = node.get("methods")
        if not isinstance(given, Mapping) or not given:
            raise ConfigError("verdict.methods is missing: name at least one method.")
        methods = [_method(str(name), entry, trials) for name, entry in given.items() if entry]
        untuned = node.get("untuned", True)
        if not isinstance(untuned, bool):
            raise ConfigError(f"verdict.untuned={untuned!r} should be true or false.")
        measure, cost = _choice(node, "measure", MEASURES), _choice(node, "cost", tuple(COSTS))
        share = node.get("measuring", cls.measuring)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError(f"verdict.measuring={share!r} should be a share, from 0 to 1.")
        return cls(trials, seeds, methods, untuned, measure, cost, share)

    def tuning(self) -> list[PlannedRun]:
        """Return the runs of the first stage."""
        return [
            PlannedRun(f"{m.name}-tuning-{i}", m.name, "tuning", tuple(setting), _TUNING_SEED)
            for m in self.methods
            for i, setting in enumerate(m.settings)
        ]

    def judged(self, folder: Path) -> list[PlannedRun]:
        """Return the runs of the last stages, from the records of the first.

        A method whose best setting is its default is run once, not twice.
        """
        tried = {run.folder: read_record(folder / run.folder) for run in self.tuning()}
        first = [m for m in self.methods if m.family == FAMILIES[0]]
        targets = targets_of(
            [tried[run.folder] for run in self.tuning() if run.method in {m.name for m in first}],
            self.measure,
            self.cost,
        )
        runs: list[PlannedRun] = []
        for method in self.methods:
            trials = [tried[run.folder] for run in self.tuning() if run.method == method.name]
            if all(record.status == "skipped" for record in trials):
                continue  # it does not apply here, and says why in its record
            best = tuple(method.settings[best_setting(trials, targets)])
            if self.untuned or not best:
                runs += self._seeds(method, "default", ())
            if best:
                runs += self._seeds(method, "tuned", best)
        return runs

    def _seeds(self, method: Method, stage: Any, setting: Sequence[str]) -> list[PlannedRun]:
        return [
            PlannedRun(f"{method.name}-{stage}-{seed}", method.name, stage, setting, seed)
            for seed in range(_TUNING_SEED + 1, _TUNING_SEED + 1 + self.seeds)
        ]

    def write(self, folder: Path, runs: Sequence[PlannedRun]) -> None:
        """Keep the plan with the race."""
        families = {method.name: method.family for method in self.methods}
        rules = {
            "measure": self.measure,
            "cost": self.cost,
            "trials": self.trials,
            "seeds": self.seeds,
        }
        listed_runs = [asdict(run) for run in runs]
        write_json(folder / PLAN, {"families": families, **rules, "runs": listed_runs})

    @property
    def overrides(self) -> list[str]:
        """All that it sets, of all methods."""
        lists = [line for m in self.methods for line in (m.overrides, *m.settings)]
        return [override for line in lists for override in line]

    @property
    def most_runs(self) -> int:
        """How many runs there are at most."""
        return sum(map(self.most_runs_of, self.methods))

    def most_runs_of(self, method: Method) -> int:
        """How many runs a method has at most: its trials, then its first and its best setting."""
        both = self.untuned and len(method.settings) > 1
        return len(method.settings) + (1 + both) * self.seeds


def _method(name: str, entry: Any, trials: int) -> Method:
    if not re.fullmatch(r"[\w-]+", name):  # it names a method and folders
        raise ConfigError(f"verdict.methods: {name!r} is no name of a method.")
    if not isinstance(entry, Mapping):
        raise ConfigError(f"verdict.methods.{name} must have the keys family and settings.")
    family, settings = entry.get("family"), entry.get("settings") or []
    overrides = entry.get("overrides") or []
    if family not in FAMILIES:
        raise ConfigError(
            f"verdict.methods.{name}.family={family!r} should be {listed(FAMILIES, 'or')}."
        )
    if not all(
        isinstance(s, list) and all(isinstance(o, str) for o in s) for s in [overrides, *settings]
    ):
        raise ConfigError(
            f"verdict.methods.{name}.settings should be lists of overrides, such as "
            f"[[optimizer.memory=5], [optimizer.memory=20]], and its overrides one list."
        )
    return Method(name, family, [(), *(tuple(s) for s in settings if s)][:trials], overrides)


def _choice(node: Mapping[str, Any], key: str, choices: Sequence[str]) -> str:
    value = node.get(key, choices[0])
    if value not in choices:
        raise ConfigError(f"verdict.{key}={value!r} should be {listed(choices, 'or')}.")
    return str(value)


def _count(node: Mapping[str, Any], key: str) -> int:
    value = node.get(key)
    if type(value) is not int or value < 1:  # no truth value, which Python counts as one
        raise ConfigError(f"verdict.{key}={value!r} should be a whole number of at least 1.")
    return value
