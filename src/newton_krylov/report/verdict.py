"""The answer to "would a second-order method help here?", computed from the records of a race.

A race has three stages, listed in its plan: `tuning` (every method tries the settings of its
declared space, with one seed), `default` and `tuned` (every method with its first and its best
setting, with fresh seeds). Targets are fixed from the tuning runs of the first-order methods and,
where one is known, from the certified optimum; times are compared over the last two stages.

The rules follow AlgoPerf: Dahl et al., "Benchmarking neural network training algorithms" (2023),
section 4: time to a target, medians over studies, a performance profile integrated up to a ratio
of 4. They differ in that there is one workload with three targets instead of many with one, and
in that the search spaces are short lists instead of random draws.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from newton_krylov.errors import DataError
from newton_krylov.norms import is_bottomless
from newton_krylov.records.record import read_json, write_json
from newton_krylov.report.compare import write_comparison
from newton_krylov.report.panel import seconds_text
from newton_krylov.report.records import ACCURACIES, RunRecord, read_record
from newton_krylov.report.results import busy_text
from newton_krylov.report.study import power_text, setting_text, studies, tied
from newton_krylov.report.tables import Table, count_text, majority_text, number_text

PLAN, DIAGNOSIS, VERDICT = "plan.json", "diagnosis.json", "verdict.json"
"""Files of a race's folder: what is run, what was measured of the problem, what came of it."""

Stage = Literal["tuning", "default", "tuned"]
FAMILIES = ("first order", "quasi-Newton", "second order")

SHARES = {"loose": 1e-2, "medium": 1e-4, "tight": 1e-8}
"""Targets where the optimum is known: shares of the start's suboptimality that are left."""
SHARES_UNKNOWN = {"loose": 0.1, "medium": 0.01, "tight": 1e-8}
"""Where it is not: shares left of the way to the lowest loss of the tuned first-order runs."""

SHARES_ACCURACY = {"loose": 0.2, "medium": 0.1, "tight": 0.02}
"""Where accuracies are the measure: shares left of the way to those runs' highest one."""

COSTS = {"seconds": "second", "iteration": "step", "data_passes": "pass"}
"""Columns of the trace by which methods can be compared, and what readers call one of them."""
MEASURES = ("loss", "train_accuracy", "test_accuracy")
"""Columns of the trace that targets can be of; loss: the suboptimality where it is known."""

LARGEST_RATIO = 4.0
"""Up to which a performance profile is integrated."""
_ROUNDING = 10.0
"""A target is at least this many units of rounding of the optimal value."""
_DONE = ("finished", "failed", "skipped")
"""Statuses of runs that count as done; any other run is still to be done, or to be repeated."""
_NOT_RUN = "not run"
SINGLE_RATIO = 1.5
"""Where each of two methods ran once, there are no ranges: ratios below this one are a tie."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a race.

    Attributes
    ----------
    folder : str
        Below the race's.
    method : str
        As in `method=NAME`.
    stage : {"tuning", "default", "tuned"}
        What it is for.
    setting : sequence of str
        Overrides of the method's preset; none for its defaults.
    seed : int
        Seed of the run.
    """

    folder: str
    method: str
    stage: Stage
    setting: Sequence[str]
    seed: int

    @property
    def title(self) -> str:
        """What tells it from the race's other runs: method, stage and number, setting."""
        what = f"tune {self.folder.rpartition('-')[2]}"
        if self.stage != "tuning":
            what = f"{'best' if self.stage == 'tuned' else 'default'}, seed {self.seed}"
        return " · ".join([self.method, what, *filter(None, [" ".join(self.setting)])])


@dataclass(frozen=True)
class RaceTarget:
    """What a run has to reach.

    Attributes
    ----------
    name : str
        loose, medium or tight.
    column : str
        Column of the trace.
    value : float
        Largest value that counts; of an accuracy the smallest.
    text : str
        Text for a reader.
    cost : str
        One of `COSTS`: what is counted until it is reached.
    """

    name: str
    column: str
    value: float
    text: str
    cost: str = "seconds"

    def cost_text(self, cost: float) -> str:
        """Write what it cost for a reader."""
        if self.cost == "seconds" or not math.isfinite(cost):
            return seconds_text(cost)
        word = COSTS[self.cost]
        return f"1 {word}" if cost == 1 else f"{number_text(cost)} {_plural(word)}"


@dataclass(frozen=True)
class Contestant:
    """A method of a race with its runs.

    Attributes
    ----------
    name, label, family : str
        As in `method=NAME`, for people, and one of `FAMILIES`.
    tuning : list of (PlannedRun, RunRecord)
        One for each setting tried.
    default, tuned : list of RunRecord
        One for each seed.
    setting : sequence of str
        The best of the settings tried; none where the defaults are.
    """

    name: str
    label: str
    family: str
    tuning: Sequence[tuple[PlannedRun, RunRecord]]
    default: Sequence[RunRecord]
    tuned: Sequence[RunRecord]
    setting: Sequence[str]

    @property
    def runs(self) -> Sequence[RunRecord]:
        """The runs by which it is judged."""
        return self.tuned or self.default

    @property
    def raced(self) -> bool:
        """Whether there are runs to judge it by, and all of them are done."""
        return bool(self.runs) and all(record.status in _DONE for record in self.runs)

    @property
    def title(self) -> str:
        """The method's label, with the setting where that is not the default."""
        short = [_without_group(override) for override in self.setting]
        return f"{self.label} ({', '.join(short)})" if short else self.label

    @property
    def tuning_seconds(self) -> float:
        """The optimizer's seconds of all its tuning runs."""
        return sum(_seconds(record) for _, record in self.tuning)

    @property
    def ends(self) -> list[str]:
        """Its judged setting where that is the least or the greatest of three values or more."""
        tuned = dict.fromkeys(o.partition("=")[0] for run, _ in self.tuning for o in run.setting)
        found = []
        for key in tuned:
            values = (_number_at(record, key) for _, record in self.tuning)
            tried = sorted({value for value in values if value is not None})
            best = _number_at(self.runs[0], key)
            if len(tried) >= 3 and best in (tried[0], tried[-1]):
                found.append(f"{key.rpartition('.')[2]}={number_text(best)}")
        return found

    def times(self, target: RaceTarget) -> list[float]:
        """Return what a target cost each judged run; inf: never reached."""
        return costs_to(self.runs, target)

    def time(self, target: RaceTarget) -> float:
        """Return the median of the judged runs' costs of a target; inf without a whole race."""
        return median(self.times(target)) if self.raced else math.inf


@dataclass(frozen=True)
class Comparison:
    """The best second-order method against the best of the others, at one target.

    Attributes
    ----------
    target : RaceTarget
        What was to be reached.
    second, other : Contestant or None
        The fastest of each kind; None where none reaches it.
    winner : {"second order", "others", "tie", "nobody"}
        Winner by the clock.
    """

    target: RaceTarget
    second: Contestant | None
    other: Contestant | None
    winner: Literal["second order", "others", "tie", "nobody"]

    @property
    def ratio(self) -> float:
        """The slower one's time over the faster one's; inf where only one arrives."""
        if self.second is None or self.other is None:
            return math.inf
        times = sorted([self.second.time(self.target), self.other.time(self.target)])
        return times[1] / times[0] if times[0] > 0 else 1.0

    @property
    def sentence(self) -> str:
        """Who is how much faster, without a stop."""
        place = self.target.text
        if self.winner == "nobody":
            return f"nobody reaches {place} in the time given"
        pair = [self.second, self.other]
        if self.winner == "others":
            pair.reverse()
        first, last = pair
        if first is None or last is None:
            only = first or last
            assert only is not None
            time = self.target.cost_text(only.time(self.target))
            if only is self.second:
                return f"only second-order methods reach {place}, {only.label} after {time}"
            return f"no second-order method reaches {place}, {only.label} does after {time}"
        times = [self.target.cost_text(each.time(self.target)) for each in (first, last)]
        if self.winner == "tie":
            return f"at {place} {first.label} and {last.label} tie ({times[0]} and {times[1]})"
        better = "faster" if self.target.cost == "seconds" else "cheaper"
        return (
            f"to {place} {first.label} is {self.ratio:.1f} times {better} than {last.label} "
            f"({times[0]} against {times[1]})"
        )


@dataclass(frozen=True)
class Race:
    """All runs of a verdict, with the rules that judge them.

    Attributes
    ----------
    contestants : list of Contestant
        In the order of the portfolio.
    targets : list of RaceTarget
        Loose, medium, tight; fewer where rounding leaves no room.
    facts : dict
        What was measured of the problem.
    missing : str
        Which planned runs are not done, in words; empty where the race is complete.
    """

    contestants: Sequence[Contestant]
    targets: Sequence[RaceTarget]
    facts: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""

    def comparison(self, target: RaceTarget) -> Comparison:
        """Compare the best second-order method with the best other one."""
        second = self._best(target, second=True)
        other = self._best(target, second=False)
        if second is None and other is None:
            return Comparison(target, None, None, "nobody")
        if second is None or other is None:
            return Comparison(target, second, other, "others" if second is None else "second order")
        tie = Comparison(target, second, other, "tie")
        once = len(second.runs) == len(other.runs) == 1
        if tied(second.times(target), other.times(target)) or (once and tie.ratio < SINGLE_RATIO):
            return tie
        faster = second.time(target) < other.time(target)
        return Comparison(target, second, other, "second order" if faster else "others")

    def _best(self, target: RaceTarget, *, second: bool) -> Contestant | None:
        kind = [c for c in self.contestants if (c.family == FAMILIES[2]) is second]
        best = min(kind, key=lambda c: c.time(target), default=None)
        return best if best is not None and math.isfinite(best.time(target)) else None

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """One for each target, the loose one first; none where nothing can be decided."""
        return [] if self.undecided else [self.comparison(target) for target in self.targets]

    @cached_property
    def undecided(self) -> str:
        """Why there is no answer, whoever was faster; empty where there may be one."""
        if self.missing:
            return f"the race is not complete ({self.missing}). Go on by resume=true"
        runs = [(c, record) for c in self.contestants for _, record in c.tuning if record.rows]
        for contestant, record in runs:
            lowest = np.nanmin([0.0, *record.column("loss")])
            if is_bottomless(lowest, abs(record.rows[0].loss)):
                return (
                    f"the loss seems to be unbounded below ({contestant.label} came to "
                    f"{lowest:.3g}), so it has no minimum to run for"
                )
        if self.targets:
            return ""
        first = [c for c in self.contestants if c.family == FAMILIES[0]]
        if not first:
            return "there is no first-order method, from whose runs the targets are fixed"
        why = "; ".join(_endings(first))
        return f"no first-order run made progress, so there is no target ({why})"

    @property
    def answer(self) -> str:
        """Yes, no, or that it makes no difference: by the hardest target that is reached."""
        decided = [c for c in self.comparisons if c.winner != "nobody"]
        if not decided:
            return "Not decided"
        words = {"second order": "Yes", "others": "No", "tie": "No difference"}
        return words[decided[-1].winner]

    @cached_property
    def paragraph(self) -> str:
        """The verdict in plain words."""
        if self.undecided:
            return f"Not decided: {self.undecided}."
        decided = [c for c in reversed(self.comparisons) if c.winner != "nobody"]
        nobody = [c for c in self.comparisons if c.winner == "nobody"]
        sentences = "; ".join(c.sentence for c in [*decided, *nobody])
        return f"{self.answer}: {sentences}."

    def score(self, contestant: Contestant) -> float:
        """Return the share of (target, ratio up to 4) that a method covers, from 0 to 1.

        The performance profile over the targets, integrated over ratios from 1 to 4 and divided
        by 3: 1 for the fastest at every target, 0 for one that is never within 4 times the best.
        """
        reached = [t for t in self.targets if math.isfinite(self._fastest(t))]
        if not reached:
            return 0.0
        areas = [
            max(0.0, LARGEST_RATIO - _ratio(contestant.time(t), self._fastest(t))) for t in reached
        ]
        return sum(areas) / len(reached) / (LARGEST_RATIO - 1)

    def _fastest(self, target: RaceTarget) -> float:
        return min((c.time(target) for c in self.contestants), default=math.inf)

    @cached_property
    def ranked(self) -> list[Contestant]:
        """The fastest to the hardest targets first."""
        return sorted(
            self.contestants, key=lambda c: tuple(c.time(t) for t in reversed(self.targets))
        )

    def short_table(self) -> Table:
        """Tabulate times to the targets alone, for a terminal."""
        return self.table().only("Method", *self._heads, *_worded(self._ends), "Score", "Tuning")

    @property
    def _cost(self) -> str:
        """What is counted: a column of the trace."""
        return self.targets[0].cost if self.targets else "seconds"

    @property
    def _ends(self) -> Sequence[str]:
        """Columns of which the table shows the last values: the accuracies where they count."""
        return ACCURACIES if any(t.column in ACCURACIES for t in self.targets) else ()

    @property
    def _heads(self) -> list[str]:
        return [target.text for target in self.targets]

    def table(self) -> Table:
        """Tabulate times to the targets, with defaults and the cost of tuning beside."""
        heads = ["Method", "Family", *self._heads, *_worded(self._ends)]
        heads += ["Score", "Untuned, hardest", "Settings tried", "Tuning", "Ending"]
        rows = [self._row(contestant) for contestant in self.ranked]
        costs = _plural(COSTS[self._cost])
        remark = (
            f"Medians of the optimizer's {costs} over fresh seeds, evaluation and tuning excluded; "
            f"score: performance profile integrated up to a ratio of 4."
        )
        return Table("Time to target", heads, rows, [remark])

    def _row(self, c: Contestant) -> list[str]:
        hardest = self.targets[-1] if self.targets else None
        untuned = median(costs_to(c.default, hardest)) if hardest and c.default else math.nan
        endings = list(dict.fromkeys(record.ending for record in c.runs)) or [
            record.ending for _, record in c.tuning[:1]
        ]
        return [
            c.title,
            c.family,
            *(t.cost_text(c.time(t)) if c.raced else _NOT_RUN for t in self.targets),
            *(_percent(_last(c.runs, column)) if c.raced else _NOT_RUN for column in self._ends),
            f"{self.score(c):.2f}" if c.raced else _NOT_RUN,
            hardest.cost_text(untuned) if hardest else seconds_text(untuned),
            number_text(len(c.tuning)),
            seconds_text(c.tuning_seconds),
            "; ".join(endings),
        ]

    @cached_property
    def reasons(self) -> list[str]:
        """Why, each with its number."""
        runs = [record for c in self.contestants for record in c.runs]
        busy = busy_text(runs)
        unequal = majority_text(runs[0].summary.get("dataset")) if runs else None
        found = [*_reasons(self.facts), *self._reasons_from_traces(), *filter(None, [unequal])]
        if any(len(c.runs) == 1 for c in self.contestants):
            found.append(
                f"One run each: no ranges of times, so a ratio below {SINGLE_RATIO:g} counts as a "
                f"tie; verdict.seeds=3 gives ranges."
            )
        if ends := [f"{c.label} ({', '.join(c.ends)})" for c in self.ranked if c.raced and c.ends]:
            found.append(
                f"At the end of the values tried, so that a further one may be better: "
                f"{', '.join(ends)}."
            )
        return [*found, busy] if busy else found

    def _reasons_from_traces(self) -> Iterable[str]:
        second = next((c.second for c in reversed(self.comparisons) if c.second is not None), None)
        if second is None:
            return
        records = [record for record in second.runs if record.rows]
        steps = sum(record.rows[-1].iteration for record in records)
        products = sum(record.rows[-1].hvp_count for record in records)
        if steps and products:
            yield (
                f"{second.label} takes {products / steps:.1f} curvature products a step, "
                f"{steps / len(records):.0f} steps in all."
            )

    def plain(self) -> dict[str, Any]:
        """Return everything as plain values, for `verdict.json`."""
        return {
            "answer": self.answer,
            "complete": not self.missing,
            "verdict": self.paragraph,
            "why": self.reasons,
            "facts": dict(self.facts),
            "targets": [asdict(target) for target in self.targets],
            "comparisons": [
                {
                    "target": c.target.name,
                    "winner": c.winner,
                    "second_order": c.second and c.second.name,
                    "other": c.other and c.other.name,
                    "ratio": c.ratio if math.isfinite(c.ratio) else None,
                }
                for c in self.comparisons
            ],
            "methods": [self._plain(c) for c in self.ranked],
        }

    def _plain(self, c: Contestant) -> dict[str, Any]:
        untuned = {t.name: _listed(costs_to(c.default, t)) for t in self.targets}
        return {
            "name": c.name,
            "label": c.label,
            "family": c.family,
            "setting": list(c.setting),
            "score": self.score(c),
            self._cost: {t.name: _listed(c.times(t)) for t in self.targets},
            "last": {name: _listed(_last(c.runs, name)) for name in ("loss", *ACCURACIES)},
            f"default_{self._cost}": untuned,
            "tuning": [
                {
                    "setting": list(run.setting),
                    "seconds": _seconds(record),
                    "to_target": {t.name: _listed(costs_to([record], t))[0] for t in self.targets},
                    "ending": record.ending,
                }
                for run, record in c.tuning
            ],
            "tuning_seconds": c.tuning_seconds,
        }


def targets_of(
    first_order: Sequence[RunRecord], measure: str = "loss", cost: str = "seconds"
) -> list[RaceTarget]:
    """Fix the targets, from runs of first-order methods.

    Parameters
    ----------
    first_order : sequence of RunRecord
        Tuning runs.
    measure : str
        One of `MEASURES`; the loss stands in for an accuracy that a problem does not have.
    cost : str
        One of `COSTS`.

    Returns
    -------
    list of RaceTarget
        Loose, medium and tight. With a certified optimum: 1e-2, 1e-4 and 1e-8 of the start's
        suboptimality. Without: losses at which 10, 1 and 1e-6 % are left of the way from the
        start's loss to the lowest one of these runs. Of an accuracy: those at which 20, 10 and 2 %
        are left of the way to the highest. None where no run made progress.
    """
    runs = [record for record in first_order if record.rows]
    if measure in ACCURACIES:
        measured = [record for record in runs if np.isfinite(record.column(measure)).any()]
        if measured:
            return _accuracies(measured, measure, cost)
    known = next((record for record in runs if record.optimum is not None), None)
    if known is not None and known.optimum is not None:
        start = max(record.rows[0].loss for record in runs) - known.optimum
        floor = _ROUNDING * known.problem.eps * max(abs(known.optimum), 1e-300)
        values = {name: share * start for name, share in SHARES.items()}
        return [
            RaceTarget(name, "suboptimality", value, f"f − f* ≤ {power_text(value)}", cost)
            for name, value in values.items()
            if value > floor
        ]
    losses = [row.loss for record in runs for row in record.rows if math.isfinite(row.loss)]
    if not losses:
        return []
    start, lowest = max(record.rows[0].loss for record in runs), min(losses)
    if not lowest < start:
        return []
    values = {name: lowest + left * (start - lowest) for name, left in SHARES_UNKNOWN.items()}
    return [
        RaceTarget(name, "loss", value, f"f ≤ {number_text(value, digits=4)}", cost)
        for name, value in values.items()
    ]


def _accuracies(runs: Sequence[RunRecord], measure: str, cost: str) -> list[RaceTarget]:
    start = min(float(record.column(measure)[0]) for record in runs)
    highest = max(float(np.nanmax(record.column(measure))) for record in runs)
    if not highest > start:
        return []
    what = measure.replace("_", " ")
    targets = []
    for name, left in SHARES_ACCURACY.items():
        value = highest - left * (highest - start)
        targets.append(RaceTarget(name, measure, value, f"{value:.1%} {what}", cost))
    return targets


def best_setting(trials: Sequence[RunRecord], targets: Sequence[RaceTarget]) -> int:
    """Return which of a method's trials is the best: by the hardest target, then easier ones.

    Parameters
    ----------
    trials : sequence of RunRecord
        One for each setting; the first has the defaults. The earlier one wins ties: last losses
        that are equal to four digits, of settings that reach the same targets at the same cost.
    targets : sequence of RaceTarget
        The easiest first.

    Returns
    -------
    int
        Number of the trial.
    """

    def place(record: RunRecord) -> tuple[float, ...]:
        times = [costs_to([record], target)[0] for target in reversed(targets)]
        losses = record.column("loss")
        if targets and targets[0].column in ACCURACIES:
            losses = -record.column(targets[0].column)
        known = losses[np.isfinite(losses)]
        return (*times, float(f"{known[-1]:.4g}") if known.size else math.inf)

    return min(range(len(trials)), key=lambda i: place(trials[i]))


def costs_to(records: Sequence[RunRecord], target: RaceTarget) -> list[float]:
    """Return what a target cost each run; inf: never reached."""
    return [record.cost_to(target.value, target.cost, target.column) for record in records]


def read_plan(folder: Path) -> tuple[list[PlannedRun], dict[str, str], dict[str, str]]:
    """Read a race's plan.

    Parameters
    ----------
    folder : Path
        Folder of the race.

    Returns
    -------
    tuple of (list of PlannedRun, dict, dict)
        The runs, each method's family, and what the targets are of: `measure` and `cost`.

    Raises
    ------
    DataError
        Where it is missing or damaged.
    """
    try:
        plan = read_json(folder / PLAN)
        runs = [PlannedRun(**run) for run in plan["runs"]]
        rules: dict[str, str] = {key: plan[key] for key in ("measure", "cost") if key in plan}
        return runs, dict(plan["families"]), rules
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / PLAN} is no plan of a verdict: {error}.") from None


def read_rules(folder: Path) -> dict[str, Any]:
    """Return what a race is of, in the words of the configuration.

    Parameters
    ----------
    folder : Path
        Folder of the race.

    Returns
    -------
    dict
        Dotted key to value.

    Raises
    ------
    UserError
        Where the plan is missing or damaged.
    """
    plan = read_json(folder / PLAN)
    rules = {"methods": list(plan.get("families") or [])}
    rules |= {key: plan[key] for key in ("trials", "seeds", "measure", "cost") if key in plan}
    return {f"verdict.{key}": value for key, value in rules.items()}


def read_race(folder: Path) -> Race:
    """Read a race from its folder.

    Parameters
    ----------
    folder : Path
        Holds the plan and the runs' folders.

    Returns
    -------
    Race
        Race of the runs that exist.

    Raises
    ------
    DataError
        Where the plan is missing or damaged.
    """
    plan, families, rules = read_plan(folder)
    records = {run.folder: read_record(folder / run.folder) for run in plan}
    first = [
        records[run.folder]
        for run in plan
        if run.stage == "tuning" and families[run.method] == FAMILIES[0]
    ]
    targets = targets_of(first, **rules)
    contestants = [
        _contestant(name, family, [(r, records[r.folder]) for r in plan if r.method == name])
        for name, family in families.items()
    ]
    facts = read_json(folder / DIAGNOSIS) if (folder / DIAGNOSIS).exists() else {}
    return Race(contestants, targets, facts, _missing(plan, records))


def write_verdict(folder: Path) -> list[Path]:
    """Judge a race: write `verdict.json`, and the comparison of the judged runs with it on top.

    Parameters
    ----------
    folder : Path
        The race's; gets the files.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    DataError
        Where the plan is missing or damaged.
    """
    race = read_race(folder)
    write_json(folder / VERDICT, race.plain())
    judged = [
        record for c in race.contestants for record in (*c.default, *c.tuned) if record.config
    ]
    judged = judged or [record for c in race.contestants for _, record in c.tuning]
    files = write_comparison(studies(judged), folder, race)
    return [folder / VERDICT, *files]


def _missing(plan: Sequence[PlannedRun], records: Mapping[str, RunRecord]) -> str:
    """Say how many of the planned runs are done, where some are not."""
    done = [run for run in plan if records[run.folder].status in _DONE]
    if any(run.stage != "tuning" for run in plan):
        return "" if len(done) == len(plan) else f"{len(done)} of {len(plan)} runs"
    # The race is planned once the tuning is done, unless no method applies.
    if plan and all(records[run.folder].status == "skipped" for run in plan):
        return ""
    return f"{len(done)} of {len(plan)} tuning runs, the race itself not begun"


def _contestant(name: str, family: str, runs: Sequence[tuple[PlannedRun, RunRecord]]) -> Contestant:
    stages: dict[str, list[tuple[PlannedRun, RunRecord]]] = {
        "tuning": [],
        "default": [],
        "tuned": [],
    }
    for run, record in runs:
        stages[run.stage].append((run, record))
    labels = [record.label for _, record in runs if record.config]
    tuned = stages["tuned"]
    return Contestant(
        name,
        labels[0] if labels else name,
        family,
        stages["tuning"],
        [record for _, record in stages["default"]],
        [record for _, record in tuned],
        tuned[0][0].setting if tuned else (),
    )


def _reasons(facts: Mapping[str, Any]) -> Iterable[str]:
    """Say what was measured of the problem."""
    if facts.get("samples"):
        counts = [count_text(facts["parameters"], "parameter")]
        if facts["samples"] > 1:  # a function of a program's own has none
            counts.append(count_text(facts["samples"], "sample"))
        yield f"{', '.join(counts)}."
    if facts.get("condition_number"):
        yield (
            f"Condition number of the Hessian at the solution {facts['condition_number']:.2g} "
            f"(eigenvalues {facts['smallest_eigenvalue']:.2g} to {facts['largest_eigenvalue']:.2g})"
            f": a first-order method needs steps in proportion to it, or to its root."
        )
        if flat := facts.get("flat_directions"):
            yield (
                f"Left out there: {count_text(flat, 'direction')} along which the loss does not "
                f"change."
            )
    elif facts.get("largest_eigenvalue"):
        largest = facts["largest_eigenvalue"]
        yield f"Largest eigenvalue of the Hessian at the solution {largest:.2g}."
    if facts.get("negative_curvature"):
        yield "The Hessian there has negative eigenvalues: the problem is not convex."
    if facts.get("effective_dimension"):
        yield (
            f"Effective dimension (trace over largest eigenvalue) "
            f"{facts['effective_dimension']:.3g} of {facts['parameters']:,}."
        )
    if facts.get("product_in_gradients"):
        yield f"A curvature product costs {facts['product_in_gradients']:.2f} gradients."
    if facts.get("gradient_noise_scale"):
        yield (
            f"Gradient noise scale at the start {facts['gradient_noise_scale']:.3g} samples: "
            f"batches beyond that gain little."
        )
    if facts.get("left_out"):
        yield (
            f"Not measured in {seconds_text(facts['measuring_seconds'])}, the share of the time "
            f"that verdict.measuring allows: {', '.join(facts['left_out'])}."
        )
    if "dtype" in facts:
        yield f"Arithmetic in {facts['dtype']}."


def _endings(contestants: Sequence[Contestant]) -> Iterable[str]:
    """Say how the tuning runs ended, each ending with the methods that had it."""
    methods: dict[str, dict[str, None]] = {}
    for contestant in contestants:
        for _, record in contestant.tuning:
            methods.setdefault(record.ending, {})[contestant.label] = None
    return (f"{', '.join(labels)}: {ending}" for ending, labels in methods.items())


def _without_group(override: str) -> str:
    key, _, value = override.partition("=")
    return setting_text(key.rpartition(".")[2], value)


def _number_at(record: RunRecord, key: str) -> float | None:
    value = record.settings.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _seconds(record: RunRecord) -> float:
    return record.rows[-1].seconds if record.rows else 0.0


def _plural(word: str) -> str:
    return f"{word}es" if word.endswith("s") else f"{word}s"


def _worded(columns: Sequence[str]) -> list[str]:
    return [f"Last {column.replace('_', ' ')}" for column in columns]


def _percent(shares: Sequence[float]) -> str:
    return f"{median(shares):.1%}" if shares else "–"


def _last(records: Sequence[RunRecord], column: str) -> list[float]:
    return [float(record.column(column)[-1]) for record in records if record.rows]


def _listed(times: Sequence[float]) -> list[float | None]:
    return [time if math.isfinite(time) else None for time in times]


def _ratio(time: float, fastest: float) -> float:
    if time == fastest:
        return 1.0
    return time / fastest if fastest > 0 else math.inf
