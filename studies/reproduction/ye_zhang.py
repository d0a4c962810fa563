"""Accelerated approximate Newton: with and without momentum, and against the classical methods."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from newton_krylov.report.figures import draw_against_costs
from newton_krylov.report.panel import EPOCH, SUBOPTIMALITY, draw_panel, seconds_text
from newton_krylov.report.records import RunRecord
from newton_krylov.report.sheet import sheet
from newton_krylov.report.study import Entry, Study, studies
from newton_krylov.report.style import line_styles
from newton_krylov.report.tables import Table, number_text
from studies.reproduction.margins import (
    all_of,
    best,
    by_label,
    costs,
    less,
    on_problem,
    typical,
    unreached,
)
from studies.reproduction.page import Claim, Records, Section, Verdict

STUDY, THEOREM = ("ye_zhang_2017", "ye_zhang_2017_grid"), "ye_zhang_2017_theorem"
TUNED = "ye_zhang_2017_newton_cg", "ye_zhang_2017_svrg"
PLAIN, ACCELERATED = "RSSN (plain)", "ARSSN (accelerated)"
RIVALS = ("Exact Newton", "Newton-CG", "Gradient descent", "Nesterov", "SVRG")
_FIRST_ORDER = ("Gradient descent", "Nesterov", "SVRG")
_PAPER = "Ye and Zhang (2017), Ye, Luo and Zhang (2020)"
_TARGET = 1e-6
_Key = tuple[float, float]
_TAIL = 1e-3, 1e-9
"""Between these suboptimalities a rate of convergence is read off."""


def section(records: Records, figures: Path) -> Section | None:
    """Make the section of accelerated approximate Newton; None where it was not run."""
    theorem = records.get(THEOREM, ())
    tuned = [record for name in TUNED for record in records.get(name, ())]
    raced = [record for name in STUDY for record in records.get(name, ())]
    found = [_facts(study, theorem, tuned) for study in studies(raced)]
    facts = [each for each in found if each.pairs]
    if not facts:
        return None
    claims = [claim for each in facts for claim in _claims(each, several=len(facts) > 1)]
    text = [paragraph for each in facts for paragraph in _text(each, figures)]
    return Section(
        "Accelerated approximate Newton (Ye and Zhang, 2017)", [_protocol(facts[0]), *text], claims
    )


def _protocol(facts: "_Facts") -> str:
    settings = facts.pairs[0].plain.records[0].settings
    eta = settings.get("forcing.eta")
    tolerance = f" to a relative residual of {eta:g}" if eta else ""
    return (
        f"Regularized sub-sampled Newton (RSSN): the gradient of all samples, the Hessian of |S| "
        f"random ones plus α I, drawn again for every step, its system solved by conjugate "
        f"gradients{tolerance}, Armijo's rule. ARSSN is the same step, made at Nesterov's "
        f"extrapolated point, with growing momentum and restarts (`theta=adaptive`). From w₀ = 0; "
        f"medians of the seeds. The mathematics, and what is a reconstruction: "
        f"[accelerated_newton.md](accelerated_newton.md)."
    )


@dataclass(frozen=True)
class _Pair:
    """The plain and the accelerated method with one sample size and one regularizer."""

    fraction: float
    alpha: float
    plain: Entry
    accelerated: Entry

    @property
    def name(self) -> str:
        return f"|S| = {100 * self.fraction:g}% of n, α = {self.alpha:g}"

    @property
    def gain(self) -> float:
        """How many times fewer steps the accelerated method takes to the target.

        A run that does not get there counts with all its steps.
        """
        return _steps(self.plain) / _steps(self.accelerated)

    @property
    def gain_text(self) -> str:
        """The gain in words, with what is known of it where the target is not reached."""
        plain, accelerated = (
            math.isfinite(_cost(entry, "iteration")) for entry in (self.plain, self.accelerated)
        )
        if not accelerated:
            return "–"
        return _times(self.gain) if plain else f"≥ {_times(self.gain)}"


@dataclass(frozen=True)
class _Facts:
    """A study, its pairs by size and regularizer, and the other methods."""

    study: Study
    pairs: Sequence[_Pair]
    rivals: Sequence[Entry]
    theorem: dict[_Key, Entry]
    tuned: Sequence[Entry]

    @property
    def l2(self) -> float:
        return float(dict(self.study.problem.parameters)["l2"])

    def best(self, which: str) -> Entry:
        """Return the entry of `plain` or `accelerated` that is the first at the target."""
        return best(self.settings(which), _TARGET)

    def settings(self, which: str) -> list[Entry]:
        """Return the entries of `plain` or `accelerated`, one a setting."""
        return [getattr(pair, which) for pair in self.pairs]


def _facts(study: Study, theorem: Iterable[RunRecord], tuned: Iterable[RunRecord]) -> _Facts:
    groups: dict[_Key, dict[str, Entry]] = {}
    for entry in study.entries:
        if (key := _key(entry)) is not None:
            groups.setdefault(key, {})[str(entry.records[0].settings["optimizer.name"])] = entry
    pairs = [
        _Pair(
            *key,
            Entry(PLAIN, both["newton"].records),
            Entry(ACCELERATED, both["accelerated_newton"].records),
        )
        for key, both in sorted(groups.items())
        if {"newton", "accelerated_newton"} <= set(both)
    ]
    constant = [*(pair.accelerated for pair in pairs), *on_problem(theorem, study.problem)]
    return _Facts(
        study,
        pairs,
        [e for label in RIVALS if (e := study.entry(label)) is not None],
        {key: e for e in constant if _theta(e) != "adaptive" and (key := _key(e)) is not None},
        on_problem(tuned, study.problem),
    )


def _key(entry: Entry) -> _Key | None:
    """Return the sample's share and the regularizer; None for a method that has none."""
    settings = entry.records[0].settings
    if settings.get("hessian_approx.name") != "regularized_subsampled":
        return None
    return float(settings["hessian_approx.fraction"]), float(settings["hessian_approx.alpha"])


def _theta(entry: Entry) -> str:
    return str(entry.records[0].settings.get("optimizer.theta"))


def _cost(entry: Entry, cost: str, target: float = _TARGET) -> float:
    """Return the median cost of the target; inf where it is not reached."""
    return float(np.median(costs(entry, target, cost)))


def _steps(entry: Entry) -> float:
    """Return the median of steps to the target, or made in vain."""
    return float(
        np.median(
            [min(r.cost_to(_TARGET, "iteration"), r.column("iteration")[-1]) for r in entry.records]
        )
    )


# --- text, tables, figures ------------------------------------------------------------------


def _text(facts: _Facts, figures: Path) -> Iterator[str]:
    yield _table(facts).markdown()
    name = f"ye-zhang-{facts.study.problem.dataset}"
    yield _image(f"With and without acceleration, {facts.study.problem.dataset}",
                 _draw_pairs(facts, figures, name))  # fmt: skip
    yield _rivals_table(facts).markdown()
    best = [facts.best("plain"), facts.best("accelerated"), *facts.rivals]
    drawn = draw_against_costs(
        Study(facts.study.problem, best), [SUBOPTIMALITY], figures, f"{name}-rivals", ("png",)
    )
    yield _image(
        f"The quickest settings against other methods, {facts.study.problem.dataset}", drawn
    )


def _image(caption: str, files: Sequence[Path]) -> str:
    return "\n\n".join(f"![{caption}](figures/{file.name})" for file in files)


def _draw_pairs(facts: _Facts, folder: Path, name: str) -> list[Path]:
    """Draw suboptimality by step, a row of panels for each sample size, as the paper does."""
    sizes = sorted({pair.fraction for pair in facts.pairs})
    alphas = sorted({pair.alpha for pair in facts.pairs})
    styles = line_styles([PLAIN, ACCELERATED])
    title = "Sub-sampled Newton with and without Nesterov's acceleration"
    key = list(styles.items())
    shape = len(sizes), len(alphas)
    with sheet(*shape, title, facts.study.problem.title, key=key) as page:
        axes: dict[Any, Any] = dict(
            zip([(size, alpha) for size in sizes for alpha in alphas], page.axes, strict=True)
        )
        for pair in facts.pairs:
            ax = axes.pop((pair.fraction, pair.alpha))
            both = Study(facts.study.problem, [pair.plain, pair.accelerated])
            draw_panel(ax, both, styles, EPOCH, SUBOPTIMALITY, whole=True)
            ax.set_title(pair.name)
        for ax in axes.values():
            ax.set_axis_off()
        return page.save(folder, name, ("png",))


def _table(facts: _Facts) -> Table:
    rows = [
        [
            pair.name,
            *(_count(_cost(entry, "iteration")) for entry in (pair.plain, pair.accelerated)),
            pair.gain_text,
            *(_count(_cost(entry, "data_passes")) for entry in (pair.plain, pair.accelerated)),
            *(seconds_text(_cost(entry, "seconds")) for entry in (pair.plain, pair.accelerated)),
        ]
        for pair in facts.pairs
    ]
    heads = ["To f − f* ≤ 1e-6", "steps: RSSN", "ARSSN", "fewer", "passes: RSSN", "ARSSN"]
    heads += ["time: RSSN", "ARSSN"]
    return Table(facts.study.problem.title, heads, rows)


def _rivals_table(facts: _Facts) -> Table:
    named = {
        "RSSN, its quickest setting": facts.best("plain"),
        "ARSSN, its quickest setting": facts.best("accelerated"),
        **{entry.label: entry for entry in facts.rivals},
    }
    rows = [
        [name]
        + [_count(_cost(entry, cost)) for cost in ("iteration", "data_passes")]
        + [seconds_text(_cost(entry, "seconds", target)) for target in (1e-3, 1e-6, 1e-9)]
        for name, entry in named.items()
    ]
    heads = ["Method", "steps to 1e-6", "passes to 1e-6", "time to 1e-3", "to 1e-6", "to 1e-9"]
    return Table("", heads, rows)


def _count(value: float) -> str:
    return number_text(value) if math.isfinite(value) else "never"


def _times(ratio: float) -> str:
    return f"{ratio:.2g} ×"


# --- the claims -----------------------------------------------------------------------------


def _claims(facts: _Facts, *, several: bool) -> Iterator[Claim]:
    where = f" on {facts.study.problem.dataset}" if several else ""
    yield _wins(facts, where)
    if len({pair.alpha for pair in facts.pairs}) > 1:
        yield _most(facts, where)
    slow = max(facts.pairs, key=lambda pair: _steps(pair.plain))
    if (claim := _theory(slow, facts.theorem.get((slow.fraction, slow.alpha)), where)) is not None:
        yield claim
    if facts.rivals:
        yield _classical(facts, where)


def _wins(facts: _Facts, where: str) -> Claim:
    gains = {pair.name: pair.gain for pair in facts.pairs}
    lost = [f"{name} ({_times(1 / gain)} as many)" for name, gain in gains.items() if gain < 1]
    won = sum(gain > 1 for gain in gains.values())
    losers = f" It takes more with {'; '.join(lost)}." if lost else ""
    return Claim(
        f"{_PAPER}, abstract",
        f"Nesterov's acceleration improves the convergence of approximate Newton{where}",
        f"With {won} of {len(gains)} settings it takes fewer steps to suboptimality 1e-6, up to "
        f"{_times(max(gains.values()))} fewer.{losers}",
        Verdict.of(won > len(gains) / 2, fully=won == len(gains)),
        "The theory assumes (1 − π) H ⪯ ∇²f ⪯ H with one π for all steps. With few samples and "
        "a small α, H bounds nothing and changes with every draw: momentum then carries the error "
        "of one draw on to the next. The restarts keep the loss from rising (without them such "
        "runs diverge), but the steps they refuse are lost.",
    )


def _most(facts: _Facts, where: str) -> Claim:
    by_alpha: dict[float, list[float]] = {}
    for pair in facts.pairs:
        by_alpha.setdefault(pair.alpha, []).append(math.log(pair.gain))
    means = {alpha: math.exp(np.mean(by_alpha[alpha])) for alpha in sorted(by_alpha)}
    gains = list(means.values())
    listed = ", ".join(f"{_times(gain)} at α = {alpha:g}" for alpha, gain in means.items())
    bounds = ", ".join(f"{facts.l2 / (facts.l2 + alpha):.2g}" for alpha in means)
    return Claim(
        f"{_PAPER}, introduction",
        f"It helps most where the Hessian cannot be approximated well{where}",
        f"Fewer steps by (geometric means over the sample sizes): {listed}.",
        Verdict.of(gains[-1] > gains[0], fully=gains == sorted(gains) and gains[0] > 1),
        f"A larger α is a poorer approximation: 1 − π is about λ / (λ + α), here {bounds}. Where "
        f"the approximation is poor because the sample is small, and α too small to make up for "
        f"that, it is poor in another way than the theory allows, and acceleration does not help.",
    )


def _median_rate(entry: Entry) -> float | None:
    """Return the factor of the gap by step in the linear phase."""
    rates = [rate for record in entry.records if (rate := _rate(record)) is not None]
    return float(np.median(rates)) if rates else None


def _rate(record: RunRecord) -> float | None:
    gaps, high, low = record.column("suboptimality"), *_TAIL
    inside = np.flatnonzero((gaps <= high) & (gaps >= low))
    if inside.size < 3:
        return None
    first, last = inside[0], inside[-1]
    return float((gaps[last] / gaps[first]) ** (1 / (last - first)))


def _theory(pair: _Pair, theorem: Entry | None, where: str) -> Claim | None:
    """Hold the theorem against runs with its constant theta; others say nothing of it."""
    plain, accelerated = (_median_rate(e) for e in (pair.plain, theorem or pair.accelerated))
    if plain is None or accelerated is None:
        return None
    pi = math.sqrt(plain)
    predicted = (1 - math.sqrt(1 - pi)) ** 2
    share = math.log(accelerated) / math.log(predicted)
    momentum = (
        "with the theorem's theta"
        if theorem is not None
        else "but with momentum that grows and restarts, of which the theorem says nothing"
    )
    return Claim(
        f"{_PAPER}, theorem on the rate",
        f"Plain converges like π, accelerated like 1 − √(1 − π){where}",
        f"With {pair.name}, each plain step multiplies the gap f − f* by {plain:.4f}, so π = "
        f"{pi:.4f}; each accelerated step by {accelerated:.4f}, where the theorem's rate of the "
        f"error gives (1 − √(1 − π))² = {predicted:.4f} for the gap.",
        Verdict.of(
            None if theorem is None else accelerated < plain and share > 0.5, fully=share > 0.8
        ),
        f"In logarithms that is {100 * share:.0f}% of the predicted rate, {momentum}. On a "
        f"quadratic, with theta = √(1 − π), the tests find both rates to six digits.",
    )


def _classical(facts: _Facts, where: str) -> Claim:
    """Compare at one setting of each, and at the best of as many as were run of each."""
    ours = facts.settings("accelerated")
    quickest, untuned = best(ours, _TARGET), typical(ours, _TARGET)
    tuned = by_label([*facts.rivals, *facts.tuned])
    at_best = {label: best(settings, _TARGET) for label, settings in tuned.items()}
    ahead = {label: _ahead(quickest, rival) for label, rival in at_best.items()}
    holds = all_of(ahead[label] for label in ahead if label in _FIRST_ORDER)
    fully = all_of([*ahead.values(), *(_ahead(untuned, rival) for rival in facts.rivals)])
    single = "; ".join(f"{entry.label} {_price(entry)}" for entry in facts.rivals)
    several = "; ".join(
        f"{label} ({len(tuned[label])}) {_price(rival)}"
        for label, rival in at_best.items()
        if len(tuned[label]) > 1
    )
    return Claim(
        f"{_PAPER}, abstract",
        f"It performs comparably to or better than classical methods{where}",
        f"To suboptimality 1e-6, one setting each: ARSSN in the median of its {len(ours)} settings "
        f"takes {_price(untuned)}; {single}. In the quickest of several settings: ARSSN "
        f"({len(ours)}) {_price(quickest)}{f'; {several}' if several else ''}.",
        Verdict.of(holds, fully=fully),
        "It holds where ARSSN at its best is ahead of the first-order methods at theirs in every "
        "run, and without a qualification where it is ahead of all methods, with one setting each "
        "as well. Its step costs little more than one of gradient descent, and far fewer are "
        "needed. Against Newton's method with all samples it depends on what the Hessian costs "
        "beside everything else in a step.",
    )


def _ahead(ours: Entry, theirs: Entry) -> bool | None:
    return less(costs(ours, _TARGET), costs(theirs, _TARGET))


def _price(entry: Entry) -> str:
    seconds, passes = (_cost(entry, cost) for cost in ("seconds", "data_passes"))
    if not math.isfinite(seconds):
        return unreached(entry)
    return f"{seconds_text(seconds)} and {_count(passes)} passes"
