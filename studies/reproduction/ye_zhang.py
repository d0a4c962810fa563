"""Accelerated approximate Newton: with and without momentum, and against the classical methods."""

import math
from collections.abc import Iterator, Sequence
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
from studies.reproduction.page import Claim, Records, Section, Verdict

STUDY = "ye_zhang_2017"
PLAIN, ACCELERATED = "RSSN (plain)", "ARSSN (accelerated)"
RIVALS = ("Exact Newton", "Newton-CG", "Gradient descent", "Nesterov", "SVRG")
_PAPER = "Ye and Zhang (2017), Ye, Luo and Zhang (2020)"
_TARGET = 1e-6
_TAIL = 1e-3, 1e-9
"""Between these suboptimalities a rate of convergence is read off."""


def section(records: Records, figures: Path) -> Section | None:
    """Make the section of accelerated approximate Newton.

    Parameters
    ----------
    records : mapping
        Runs by study; needs `ye_zhang_2017`.
    figures : Path
        Gets the figures.

    Returns
    -------
    Section or None
        None where it was not run with and without acceleration.
    """
    found = [_facts(study) for study in studies(records.get(STUDY, ()))]
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
        f"random ones plus α I, drawn anew for every step, its system solved by conjugate "
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

    @property
    def l2(self) -> float:
        return float(dict(self.study.problem.parameters)["l2"])

    def best(self, which: str) -> Entry:
        """Return the entry of `plain` or `accelerated` that is the first at the target."""
        entries: list[Entry] = [getattr(pair, which) for pair in self.pairs]
        return min(entries, key=lambda entry: _cost(entry, "seconds"))


def _facts(study: Study) -> _Facts:
    groups: dict[tuple[float, float], dict[str, Entry]] = {}
    for entry in study.entries:
        settings = entry.records[0].settings
        if settings.get("hessian_approx.name") != "regularized_subsampled":
            continue
        key = (float(settings["hessian_approx.fraction"]), float(settings["hessian_approx.alpha"]))
        groups.setdefault(key, {})[str(settings["optimizer.name"])] = entry
    pairs = [
        _Pair(*key, Entry(PLAIN, both["newton"].records), Entry(ACCELERATED, _runs(both)))
        for key, both in sorted(groups.items())
        if {"newton", "accelerated_newton"} <= set(both)
    ]
    return _Facts(study, pairs, [e for label in RIVALS if (e := study.entry(label)) is not None])


def _runs(both: dict[str, Entry]) -> Sequence[RunRecord]:
    return both["accelerated_newton"].records


def _cost(entry: Entry, cost: str, target: float = _TARGET) -> float:
    """Return the median cost of the target; inf where it is not reached."""
    return float(np.median([record.cost_to(target, cost) for record in entry.records]))


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
    if (rates := _rates(slow)) is not None:
        yield _theory(slow, *rates, where)
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


def _rates(pair: _Pair) -> tuple[float, float] | None:
    """Return the factors of the gap by step, of both methods, in their linear phase."""
    found = []
    for entry in (pair.plain, pair.accelerated):
        rates = [rate for record in entry.records if (rate := _rate(record)) is not None]
        if not rates:
            return None
        found.append(float(np.median(rates)))
    return found[0], found[1]


def _rate(record: RunRecord) -> float | None:
    gaps, high, low = record.column("suboptimality"), *_TAIL
    inside = np.flatnonzero((gaps <= high) & (gaps >= low))
    if inside.size < 3:
        return None
    first, last = inside[0], inside[-1]
    return float((gaps[last] / gaps[first]) ** (1 / (last - first)))


def _theory(pair: _Pair, plain: float, accelerated: float, where: str) -> Claim:
    pi = math.sqrt(plain)
    predicted = (1 - math.sqrt(1 - pi)) ** 2
    share = math.log(accelerated) / math.log(predicted)
    return Claim(
        f"{_PAPER}, theorem on the rate",
        f"Plain converges like π, accelerated like 1 − √(1 − π){where}",
        f"With {pair.name}, each plain step multiplies the gap f − f* by {plain:.4f}, so π = "
        f"{pi:.4f}; each accelerated step by {accelerated:.4f}, where the theorem's rate of the "
        f"error gives (1 − √(1 − π))² = {predicted:.4f} for the gap.",
        Verdict.of(accelerated < plain and share > 0.5, fully=share > 0.8),
        f"In logarithms that is {100 * share:.0f}% of the predicted rate, with momentum that grows "
        f"and restarts instead of the constant theta = √(1 − π), which would need to know π. On a "
        f"quadratic, with the theorem's theta, the tests find both rates to six digits.",
    )


def _classical(facts: _Facts, where: str) -> Claim:
    ours = facts.best("accelerated")
    time, passes = (_cost(ours, cost) for cost in ("seconds", "data_passes"))
    first_order = [e for e in facts.rivals if e.label in ("Gradient descent", "Nesterov", "SVRG")]
    beaten = [_cost(entry, "seconds") > time for entry in first_order]
    newton = [_cost(entry, "seconds") for entry in facts.rivals if entry not in first_order]
    listed = "; ".join(f"{entry.label} {_price(entry)}" for entry in facts.rivals)
    return Claim(
        f"{_PAPER}, abstract",
        f"It performs comparably to or better than classical methods{where}",
        f"To suboptimality 1e-6 ARSSN in its quickest setting takes {seconds_text(time)} and "
        f"{_count(passes)} passes over the data; {listed}.",
        Verdict.of(all(beaten), fully=time < min(newton, default=math.inf)),
        "Its step costs little more than one of gradient descent, and far fewer are needed. "
        "Against Newton's method with all samples it depends on what the Hessian costs beside "
        "everything else in a step.",
    )


def _price(entry: Entry) -> str:
    seconds, passes = (_cost(entry, cost) for cost in ("seconds", "data_passes"))
    if not math.isfinite(seconds):
        return "does not get there"
    return f"{seconds_text(seconds)} and {_count(passes)} passes"
