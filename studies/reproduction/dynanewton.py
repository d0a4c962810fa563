"""DynaNewton: statistical accuracy in few passes, and what its regularizer does."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from newton_krylov.report.panel import (
    PASSES,
    SECONDS,
    SUBOPTIMALITY,
    Quantity,
    draw_panel,
    seconds_text,
)
from newton_krylov.report.records import RunRecord
from newton_krylov.report.sheet import sheet
from newton_krylov.report.study import Entry, Study, studies
from newton_krylov.report.style import FAINT_TEXT, GREY, line_styles
from newton_krylov.report.tables import Table, number_text
from studies.reproduction.margins import all_of, best, by_label, costs, less, on_problem, unreached
from studies.reproduction.page import Claim, Records, Section, Verdict

STUDY, MULTIPLIER = "dynanewton_2016", "dynanewton_2016_multiplier"
TUNED = "dynanewton_2016_saga", "dynanewton_2016_sgd"
DYNA, NEWTON = "DynaNewton", "Exact Newton"
_PAPER = "Daneshmand, Lucchi and Hofmann (2016)"
_EXCESS = Quantity("suboptimality", "excess test loss", "f_test(w) − f_test(w*)", log=True)
_LOWEST = {SUBOPTIMALITY: 1e-11, _EXCESS: 1e-5}
"""Where the axes end; an excess below that, or below zero, says nothing about the method."""
_FINE = 1e-6


def section(records: Records, figures: Path) -> Section | None:
    """Make the section of DynaNewton; None where it was not run."""
    tuned = [record for name in TUNED for record in records.get(name, ())]
    found = [
        _Facts(study, on_problem(tuned, study.problem)) for study in studies(records.get(STUDY, ()))
    ]
    facts = [each for each in found if each.study.entry(DYNA) and each.study.entry(NEWTON)]
    if not facts:
        return None
    multiplied = studies(records.get(MULTIPLIER, ()))
    claims = [claim for each in facts for claim in _claims(each, several=len(facts) > 1)]
    claims += [_regularizer(study) for study in multiplied[:1]]
    text = [paragraph for each in facts for paragraph in _text(each, figures)]
    text += [_multiplier_table(study).markdown() for study in multiplied]
    return Section("DynaNewton (Daneshmand, Lucchi and Hofmann, 2016)", [_PROTOCOL, *text], claims)


_PROTOCOL = (
    "Logistic regression with λ = 1 / n. DynaNewton starts with as many samples as there are "
    "parameters, doubles them with every Newton step, and regularizes m samples by max(λ, c / m); "
    "once it has all of them it is Newton's method. Statistical accuracy is d / 2n, the expected "
    "excess of the test loss of a maximum-likelihood estimate over the best possible one; the "
    "excess test loss is that over the test loss of the exact minimizer of the training problem. "
    "A pass over the data is one product with X and one with Xᵀ, so a step of Newton's method "
    "takes two (2.5 on new samples): gradient, Hessian, search. Papers on the subject count a step "
    "on m samples as m / n effective passes instead; both are given. From w₀ = 0; medians of the "
    "seeds. The mathematics, and what is a reconstruction: [dynanewton.md](dynanewton.md)."
)


@dataclass(frozen=True)
class _Facts:
    """A study, other steps of its stochastic methods, and what statistical accuracy means."""

    study: Study
    tuned: Sequence[Entry]

    @property
    def accuracy(self) -> float:
        """The expected excess risk of a maximum-likelihood estimate."""
        return self.study.problem.n_features / (2 * self.study.problem.n_samples)

    @property
    def exact_test_loss(self) -> float:
        """The test loss of the run that came nearest to the minimizer; nan without a test set."""
        last = [r.rows[-1] for r in self.study.records if r.rows]
        best = min(last, key=lambda row: row.suboptimality)
        return best.test_loss if best.suboptimality < 1e-9 else math.nan

    def entry(self, label: str) -> Entry:
        entry = self.study.entry(label)
        assert entry is not None
        return entry

    def on_test(self) -> Study:
        """Return the study with the excess test loss in the place of suboptimality."""
        entries = [
            Entry(entry.label, [self._excess(record) for record in entry.records])
            for entry in self.study.entries
        ]
        return Study(self.study.problem, entries)

    def _excess(self, record: RunRecord) -> RunRecord:
        exact = self.exact_test_loss
        rows = [
            replace(row, suboptimality=max(row.test_loss - exact, 1e-16))
            if math.isfinite(row.test_loss - exact)
            else replace(row, suboptimality=math.nan)
            for row in record.rows
        ]
        return replace(record, rows=rows)

    @property
    def tested(self) -> bool:
        return math.isfinite(self.exact_test_loss)


def _cost(entry: Entry, cost: str, target: float) -> float:
    """Return the median cost of a target; inf where it is not reached."""
    return float(np.median(costs(entry, target, cost)))


# --- text, tables, figures ------------------------------------------------------------------


def _text(facts: _Facts, figures: Path) -> Iterator[str]:
    name = facts.study.problem.dataset
    yield _table(facts).markdown()
    drawn = _draw(facts, figures, f"dynanewton-{name}")
    caption = f"Suboptimality and excess test loss against passes and time, {name}"
    yield "\n\n".join(f"![{caption}](figures/{file.name})" for file in drawn)


def _draw(facts: _Facts, folder: Path, name: str) -> list[Path]:
    """Draw both losses against passes and seconds, as far as DynaNewton's rivals matter."""
    kinds = [(facts.study, SUBOPTIMALITY)]
    if facts.tested:
        kinds.append((facts.on_test(), _EXCESS))
    styles = line_styles(entry.label for entry in facts.study.entries)
    title = "DynaNewton on the training and on the test loss"
    key = [(entry.label, styles[entry.label]) for entry in facts.study.entries]
    with sheet(len(kinds), 2, title, facts.study.problem.title, key=key) as page:
        axes = iter(page.axes)
        for study, quantity in kinds:
            for x in (PASSES, SECONDS):
                ax = next(axes)
                draw_panel(ax, study, styles, x, quantity, whole=True)
                if x is PASSES:  # the first stages take hundredths of one
                    ax.set_xscale("log", nonpositive="mask")
                    ax.set_xlim(left=facts.accuracy)
                    ax.xaxis.set_major_formatter("{x:g}")
                ax.axhline(facts.accuracy, color=GREY, linewidth=0.8, zorder=0.6)
                ax.text(
                    0.99, facts.accuracy / 1.3, "d / 2n", transform=ax.get_yaxis_transform(),
                    ha="right", va="top", fontsize=7.5, color=FAINT_TEXT,
                )  # fmt: skip
                ax.set_ylim(bottom=_LOWEST[quantity])
        return page.save(folder, name, ("png",))


def _table(facts: _Facts) -> Table:
    test = facts.on_test()
    rows = []
    for entry in facts.study.entries:
        excess = test.entry(entry.label)
        assert excess is not None
        rows.append(
            [
                entry.label,
                *(_count(_cost(entry, "data_passes", t)) for t in (facts.accuracy, _FINE)),
                _count(_cost(excess, "data_passes", facts.accuracy)) if facts.tested else "–",
                *(seconds_text(_cost(entry, "seconds", t)) for t in (facts.accuracy, _FINE)),
                seconds_text(_cost(excess, "seconds", facts.accuracy)) if facts.tested else "–",
            ]
        )
    heads = ["Method", "passes to f − f* ≤ d / 2n", "to 1e-6", "to excess test loss ≤ d / 2n"]
    heads += ["time to f − f* ≤ d / 2n", "to 1e-6", "to excess test loss ≤ d / 2n"]
    remark = f"d / 2n = {facts.accuracy:.1e}."
    return Table(facts.study.problem.title, heads, rows, [remark])


def _count(value: float) -> str:
    return number_text(value) if math.isfinite(value) else "never"


def _multiplier_table(study: Study) -> Table:
    rows = [
        [
            entry.label,
            _count(_cost(entry, "iteration", _FINE)),
            *(_count(_cost(entry, "data_passes", target)) for target in (1e-3, _FINE)),
            number_text(max(r.cost_to(_FINE, "data_passes") for r in entry.records)),
        ]
        for entry in study.entries
    ]
    heads = ["", "steps to 1e-6", "passes to 1e-3", "to 1e-6", "to 1e-6, worst order of samples"]
    return Table(f"The multiplier c and the schedule, {study.problem.title}", heads, rows)


# --- the claims -----------------------------------------------------------------------------


def _claims(facts: _Facts, *, several: bool) -> Iterator[Claim]:
    where = f" on {facts.study.problem.dataset}" if several else ""
    yield _statistical(facts, where)
    yield _savings(facts, where)
    yield _others(facts, where)


def _statistical(facts: _Facts, where: str) -> Claim:
    entries = {entry.label: entry for entry in _judged(facts).entries}
    entry = entries.pop(DYNA)
    passes = _cost(entry, "data_passes", facts.accuracy)
    effective = _cost(entry, "hessian_count", facts.accuracy)
    others = ", ".join(
        f"{label} {_count(_cost(other, 'data_passes', facts.accuracy))}"
        for label, other in entries.items()
    )
    loss = "test loss" if facts.tested else "training loss (there is no test set)"
    return Claim(
        f"{_PAPER}, experiments",
        f"The test error is at statistical accuracy within about one to two passes{where}",
        f"Its {loss} is within d / 2n = {facts.accuracy:.1e} of the minimizer's after "
        f"{_count(effective)} effective passes (Hessians, each counted by its samples), which are "
        f"{_count(passes)} passes over the data as they are counted here. The others' passes: "
        f"{others}.",
        Verdict.of(effective <= 2.2, fully=passes <= 2.2),
        "The samples of all stages but the last add up to about n, so two effective passes take "
        "DynaNewton to the end of its first step on all samples. Each of them reads the data two "
        "and a half times, since a Newton step needs outputs, gradient, Hessian and a search.",
    )


def _judged(facts: _Facts) -> Study:
    return facts.on_test() if facts.tested else facts.study


def _savings(facts: _Facts, where: str) -> Claim:
    dyna, newton = facts.entry(DYNA), facts.entry(NEWTON)
    ratios = {
        name: _cost(newton, "data_passes", target) / _cost(dyna, "data_passes", target)
        for name, target in (("d / 2n", facts.accuracy), ("1e-6", _FINE))
    }
    listed = ", ".join(f"{ratio:.2g} times fewer to {name}" for name, ratio in ratios.items())
    return Claim(
        f"{_PAPER}, abstract",
        f"It accelerates Newton's method{where}",
        f"DynaNewton takes fewer passes than exact Newton from the same start: {listed}.",
        Verdict.of(min(ratios.values()) > 1, fully=min(ratios.values()) > 1.5),
        "What is saved are the steps far from the minimum, which are made on few samples. The last "
        "steps are the same, so the saving shrinks with the accuracy that is asked for.",
    )


def _others(facts: _Facts, where: str) -> Claim:
    """Hold DynaNewton's one setting against the others, SAGA and SGD at the best of their steps."""
    dyna = facts.entry(DYNA)
    others = by_label([e for e in facts.study.entries if not e.label.startswith(DYNA)])
    for label, settings in by_label(facts.tuned).items():
        if label in others:
            others[label] += settings

    def ahead(cost: str, target: float) -> bool | None:
        rivals = [best(settings, target, cost) for settings in others.values()]
        own = costs(dyna, target, cost)
        if cost == "seconds":
            return all_of(less(own, costs(rival, target, cost)) for rival in rivals)
        return all(_cost(dyna, cost, target) <= _cost(rival, cost, target) for rival in rivals)

    passes = ahead("data_passes", facts.accuracy)
    time = all_of(ahead("seconds", target) for target in (facts.accuracy, _FINE))
    holds = passes or time
    prices = "; ".join(
        f"{label}{_of_many(settings)} {_price(settings, facts.accuracy)}"
        for label, settings in {DYNA: [dyna], **others}.items()
    )
    return Claim(
        f"{_PAPER}, experiments",
        f"Experiments consistently confirm the savings against other methods{where}",
        f"Time and passes to f − f* ≤ d / 2n, then both to 1e-6: {prices}.",
        Verdict.of(holds, fully=passes and time),
        "Passes and time order the methods differently. A stochastic method reads the data once "
        "where a Newton step reads it twice, but its small batches cost far more time than their "
        "share of a pass; Newton-CG's Hessian products are the cheapest passes of all, and for so "
        "few parameters so is everything that DynaNewton saves.",
    )


def _of_many(settings: Sequence[Entry]) -> str:
    return f" (the best of {len(settings)} steps)" if len(settings) > 1 else ""


def _price(settings: Sequence[Entry], accuracy: float) -> str:
    """Return time and passes to both targets, of the setting that suits each best."""
    found = []
    for target in (accuracy, _FINE):
        entry = best(settings, target, "data_passes")
        seconds, passes = (_cost(entry, cost, target) for cost in ("seconds", "data_passes"))
        reached = math.isfinite(passes)
        found.append(
            f"{seconds_text(seconds)} and {_count(passes)} passes" if reached else unreached(entry)
        )
        if not reached:
            break
    return ", then ".join(found)


def _regularizer(study: Study) -> Claim:
    doubling = {
        float(entry.records[0].settings["optimizer.multiplier"]): entry
        for entry in study.entries
        if entry.records[0].settings["optimizer.schedule"] == "geometric"
    }
    doubling = dict(sorted(doubling.items()))
    spent = {
        c: float(np.mean([record.cost_to(_FINE, "data_passes") for record in entry.records]))
        for c, entry in doubling.items()
    }
    passes = ", ".join(f"{_count(cost)} with c = {c:g}" for c, cost in spent.items())
    shortened = ", ".join(f"{_shortened(entry)}" for entry in doubling.values())
    without, regularized = spent.get(0.0, math.inf), [spent[c] for c in spent if c > 0]
    return Claim(
        f"{_PAPER}, abstract",
        "Increasing strong convexity through regularization accelerates Newton's method",
        f"Mean passes to 1e-6 by the multiplier c of 1 / m, the sample doubling: {passes}. Steps "
        f"that Armijo's rule shortened: {shortened}.",
        Verdict.of(min(regularized) < without, fully=max(regularized) <= 0.9 * without),
        "It holds without a qualification where every c saves a tenth at least. Without it the "
        "steps on few samples are too long. How large it is matters little within a factor of ten; "
        "what suits depends on the scale of the features, with which it competes. The default was "
        "chosen over several data sets: see [dynanewton.md](dynanewton.md).",
    )


def _shortened(entry: Entry) -> str:
    """Return how many steps, over all runs, the search shortened, and of how many."""
    sizes = np.concatenate([record.column("step_size")[1:] for record in entry.records])
    return f"{int((sizes < 1).sum())} of {len(sizes)}"
