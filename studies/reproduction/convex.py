"""The paper's convex study: its figures 1 to 3, the clock, and what it says of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from newton_krylov.errors import DataError
from newton_krylov.report.figures import draw_against_costs, draw_method, draw_overview, slug
from newton_krylov.report.panel import SUBOPTIMALITY, seconds_text
from newton_krylov.report.records import RunRecord
from newton_krylov.report.results import tables
from newton_krylov.report.study import Array, Entry, Study, studies
from newton_krylov.report.tables import Table, middle, number_text
from studies.reproduction.margins import all_of, less, less_in_every_pair
from studies.reproduction.page import Claim, Records, Section, Verdict

STUDY, STARTS, INNER = "paper_convex", "paper_starts", "paper_inner"
EXACT, GMRES, CR, GCR = "Exact Newton", "Newton-GMRES", "Newton-CR", "Newton-GCR"
DESCENT = "Gradient descent"
_TARGET = 1e-6


def section(records: Records, figures: Path) -> Section | None:
    """Make the section of the convex study; None where it was not run."""
    if not records.get(STUDY):
        return None
    facts = _Facts(
        _only_study(records[STUDY]),
        _only_study(records[STARTS]) if records.get(STARTS) else None,
        _only_study(records[INNER]) if records.get(INNER) else None,
    )
    return Section(
        "The convex case", list(_text(facts, figures)), [make(facts) for make in _CLAIMS]
    )


def _only_study(runs: Sequence[RunRecord]) -> Study:
    """Return the study of the runs' problem; the first one, were there several."""
    return studies(runs)[0]


@dataclass(frozen=True)
class _Facts:
    """The studies that the section draws on, and the numbers that several claims share."""

    study: Study
    starts: Study | None
    inner: Study | None

    def entry(self, label: str) -> Entry:
        entry = self.study.entry(label)
        if entry is None:
            raise DataError(f"The runs of {STUDY} lack the method '{label}', which the page needs.")
        return entry

    @cached_property
    def three(self) -> list[Entry]:
        return [self.entry(label) for label in (EXACT, GMRES, CR)]

    @property
    def epochs(self) -> int:
        return int(middle(self.entry(EXACT).last("iteration")))

    def suboptimality(self, label: str) -> Array:
        """Return a method's suboptimality by epoch, not below the rounding error."""
        curve = self.entry(label).curve("iteration", "suboptimality")
        assert curve is not None
        return np.maximum(curve.y, self.study.floor or 0.0)

    def seconds(self, label: str) -> float:
        return middle(self.entry(label).last("seconds"))

    @property
    def inner_limit(self) -> str:
        """The number m of inner iterations that the study's configuration allows."""
        return str(self.entry(GMRES).records[0].settings.get("solver.maxiter"))


# --- text, tables, figures ------------------------------------------------------------------


def _text(facts: _Facts, figures: Path) -> Iterator[str]:
    yield (
        f"The paper's protocol (section 0.3.1) on {facts.study.problem.title}, a column of ones "
        f"included and regularized like the rest, as the authors' released code has it: gradient "
        f"descent with step 1/λ_max(∇²f(0)) until the loss changes by at most 1e-16; then exact "
        f"Newton, Newton-GMRES, Newton-CR and Newton-GCR for {facts.epochs} epochs with Armijo's "
        f"rule, all from one w₀ ~ U(0,1)^d. The paper gives no number m of inner iterations; here "
        f"m = {facts.inner_limit}. Suboptimality is measured against a certified optimum, and "
        f"against gradient descent's final loss as in the paper. Times are medians of "
        f"{len(facts.entry(EXACT).records)} interleaved repetitions in one process."
    )
    yield from (table.markdown() for table in tables([facts.study]))
    overview = draw_overview(facts.study, figures, "convex-overview", ("png",))
    yield _image("All methods: suboptimality, loss and training accuracy", overview)
    for number, entry in enumerate(facts.three, start=1):
        name = f"convex-{slug(entry.label)}"
        drawn = draw_method(facts.study, entry, figures, name, ("png",))
        yield _image(f"The paper's figure {number}: {entry.label}", drawn)
    if facts.starts is not None:
        yield "**Ten other starts.** The same from ten random w₀, to suboptimality 1e-12:"
        yield _starts_table(facts.starts).markdown()
    if facts.inner is not None:
        yield (
            "**How many inner iterations?** Newton-GMRES from the same w₀ with other limits m "
            "(`solver.maxiter`):"
        )
        yield _inner_table(facts.inner).markdown()
        drawn = draw_against_costs(facts.inner, [SUBOPTIMALITY], figures, "convex-inner", ("png",))
        yield _image("Newton-GMRES with m inner iterations", drawn)


def _image(caption: str, files: Sequence[Path]) -> str:
    return "\n\n".join(f"![{caption}](figures/{file.name})" for file in files)


def _starts_table(study: Study) -> Table:
    rows = []
    for entry in study.entries:
        steps = _steps_to(entry, 1e-12)
        rows.append(
            [
                entry.label,
                f"{np.median(steps):.3g} [{steps.min():.0f} – {steps.max():.0f}]",
                seconds_text(float(np.median(entry.seconds_to(1e-12)))),
                seconds_text(float(np.max(entry.seconds_to(1e-12)))),
            ]
        )
    heads = ["Method", "Epochs to 1e-12: median [range]", "Time: median", "longest"]
    return Table("", heads, rows)


def _steps_to(entry: Entry, target: float) -> Array:
    steps = [record.steps_to(target) for record in entry.records]
    return np.array([np.inf if step is None else step for step in steps])


def _inner_table(study: Study) -> Table:
    rows = [
        [
            str(entry.records[0].settings.get("solver.maxiter")),
            f"{middle(entry.last('suboptimality')):.1e}",
            number_text(middle(entry.last("hvp_count"))),
            seconds_text(middle(entry.last("seconds"))),
        ]
        for entry in study.entries
    ]
    epochs = number_text(middle(study.entries[0].last("iteration")))
    return Table("", ["m", f"f − f* after {epochs} epochs", "Hessian products", "Time"], rows)


# --- the claims -----------------------------------------------------------------------------


def _benchmark(facts: _Facts) -> Claim:
    descent, floor = facts.entry(DESCENT), facts.study.floor or 0.0
    gap = middle(descent.last("suboptimality"))
    below = [e.label for e in facts.three if middle(e.last("suboptimality")) < gap]
    ends = (
        f"{_listed(below)} end{'s' if len(below) == 1 else ''} below it"
        if below
        else "no method ends below it"
    )
    return Claim(
        "section 0.3.1",
        "Gradient descent to a threshold of 1e-16 finds the minimal loss",
        f"It stops after {number_text(middle(descent.last('iteration')))} iterations and "
        f"{seconds_text(middle(descent.last('seconds')))}, {gap:.1e} above the certified optimum; "
        f"after {facts.epochs} epochs {ends}.",
        Verdict.of(gap < 1e-12, fully=gap <= 10 * floor),
        f"A loss near {facts.study.optimum:.4f} has a spacing of 5.6e-17 between neighbouring "
        f"numbers, so 1e-16 stops the descent one or two units from standing still, while the sum "
        f"of all the steps still to come is {gap / 1e-16:.0f} times larger. As a benchmark it "
        f"serves down to a suboptimality of about {10 * gap:.0e}; below that the certified "
        f"optimum is needed.",
    )


def _step(facts: _Facts) -> Claim:
    record = facts.entry(DESCENT).records[0]
    largest = 1 / float(record.column("step_size")[-1])
    l2, n = float(dict(facts.study.problem.parameters)["l2"]), facts.study.problem.n_samples
    printed = (largest - l2) * n + l2
    right = [bool(np.isclose(value, largest, rtol=0.1)) for value in (printed, 1 / largest)]
    return Claim(
        "section 0.3.1",
        "∇²f(0) = ¼ X Xᵀ + λI, and the step is its largest eigenvalue",
        f"The largest eigenvalue of ∇²f(0), by Lanczos, is {largest:.4f}, and 1/{largest:.4f} "
        f"the step. That of the printed matrix (as ¼ XᵀX + λI, which is d by d) is {printed:,.0f}.",
        Verdict.of(any(right), fully=all(right)),
        f"The loss is a mean, so the factor is 1/(4n): without it the step 1/λ₁ would be "
        f"{n:,} times too small, and gradient descent that much slower. That the step is λ₁ "
        f"itself is a slip that the next paragraph of the paper corrects (α = 1/λ₁).",
    )


def _storage(facts: _Facts) -> Claim:
    m = int(facts.inner_limit)
    ratio = 2 * m / (m + 1)
    return Claim(
        "section 0.2.2",
        "GCR doubles the storage of GMRES",
        f"For m = {m}: GMRES keeps a basis of m + 1 = {m + 1} vectors, GCR the directions p and "
        f"their products A p, 2m = {2 * m} vectors, {ratio:.2f} times as many.",
        Verdict.of(ratio > 1.5, fully=ratio > 1.9),
        "By count it does, but neither is needed here: the Hessian is symmetric, and for "
        "symmetric matrices all of GCR's orthogonalization coefficients but the newest vanish. "
        "What is left is the conjugate residual method, with the same iterates and six vectors "
        "whatever m.",
    )


def _trend(facts: _Facts) -> Claim:
    curves = {entry.label: facts.suboptimality(entry.label) for entry in facts.three}
    steps = [int(np.median(_steps_to(entry, _TARGET))) if np.isfinite(
        np.median(_steps_to(entry, _TARGET))) else -1 for entry in facts.three]  # fmt: skip
    logs = np.log10(np.stack(list(curves.values())))
    apart = float(np.max(logs.max(axis=0) - logs.min(axis=0)))
    reached = min(steps) >= 0
    ends = ", ".join(f"{label} {values[-1]:.1e}" for label, values in curves.items())
    return Claim(
        "section 2.1, figures 1 to 3",
        "The suboptimality of all three methods shows a similar decreasing trend",
        f"After {facts.epochs} epochs: {ends}. "
        + (
            f"They reach {_TARGET:.0e} at epochs {', '.join(map(str, steps))}"
            if reached
            else f"Not all of them reach {_TARGET:.0e}"
        )
        + f", and are nowhere further apart than a factor {10**apart:.2f}.",
        Verdict.of(reached and max(steps) - min(steps) <= 1, fully=True),
        f"With m = {facts.inner_limit} the inner systems are solved well enough for Newton's "
        f"quadratic convergence, whichever solver does it. {_one_method(facts)} The straight "
        f"lines of the paper's figures (from 1.82 to 1.77 in ten epochs) are not the convergence "
        f"of Newton's method. The released code's line search tests f(w + αp) and then steps to "
        f"w − αp, so it always ends at its floor α = 0.05; and its Hessian is that of the first "
        f"124 examples. Run as published, it stands at a loss of 0.564 after 10 epochs, 0.19 above "
        f"the minimum, and what it prints is not what the figures show.",
    )


def _one_method(facts: _Facts) -> str:
    """Say that the Krylov methods are one, and how far apart rounding takes them."""
    text = (
        "The Krylov methods are even one method here: on a symmetric matrix GMRES, CR and GCR all "
        "take the point of least residual from the same subspace."
    )
    gmres = facts.suboptimality(GMRES)
    apart = {
        label: float(np.max(np.abs(facts.suboptimality(label) / gmres - 1)))
        for label in (GCR, CR)
        if facts.study.entry(label) is not None
    }
    if GCR not in apart:
        return text
    return (
        f"{text} GCR, which orthogonalizes against all earlier directions as GMRES does, agrees "
        f"with it to {apart[GCR]:.0e} in suboptimality, CR with its short recurrences, which lose "
        f"orthogonality, to {apart[CR]:.0e}."
    )


def _steeper(facts: _Facts) -> Claim:
    exact, krylov = facts.suboptimality(EXACT), (
        facts.suboptimality(GMRES), facts.suboptimality(CR)
    )  # fmt: skip
    ratios = [float(values[-1] / exact[-1]) for values in krylov]
    # Suboptimalities are known to the rounding error of the loss.
    rounding = 2 * (facts.study.floor or 0.0) / float(exact[-1])
    lower = all_of(None if abs(ratio - 1) <= rounding else ratio > 1 for ratio in ratios)
    few = _inner_suboptimality(facts, "3")
    text = (
        f"After {facts.epochs} epochs GMRES has {ratios[0]:.2f} times and CR {ratios[1]:.2f} times "
        f"the suboptimality of exact Newton."
    )
    if few is not None:
        text += f" With m = 3 inner iterations GMRES is left at {few:.1e}."
    return Claim(
        "section 2.1",
        "Exact Newton has a slightly steeper descent than GMRES and CR",
        text,
        Verdict.of(lower, fully=max(ratios) < 10),
        "Per epoch, an exact solve is the best that a Newton method can do near the optimum, and "
        "an inexact one follows it as closely as its inner tolerance lets it. Per second it is "
        "the other way round (next claim).",
    )


def _inner_suboptimality(facts: _Facts, m: str) -> float | None:
    for entry in facts.inner.entries if facts.inner is not None else ():
        if str(entry.records[0].settings.get("solver.maxiter")) == m:
            return middle(entry.last("suboptimality"))
    return None


def _clock(facts: _Facts) -> Claim:
    exact, gmres, cr = (entry.last("seconds") for entry in facts.three)
    ratios = [middle(exact) / middle(times) for times in (gmres, cr)]
    faster = all_of(less_in_every_pair(times, exact) for times in (gmres, cr))
    apart = all_of(less(times, exact) for times in (gmres, cr))
    doubt = ", but not in every repetition" if faster is None else ", though the ranges overlap"
    return Claim(
        "sections 2.1 and 3",
        "The wall-clock times of GMRES and CR are lower than exact Newton's for 10 epochs",
        f"{facts.epochs} epochs take exact Newton {seconds_text(middle(exact))}, GMRES "
        f"{seconds_text(middle(gmres))} and CR {seconds_text(middle(cr))}: exact Newton takes "
        f"{ratios[0]:.1f} and {ratios[1]:.1f} times as long"
        + (f"{doubt}." if apart is None else "."),
        Verdict.of(faster, fully=apart),
        f"Not because of the d³ of inverting a matrix, which is next to nothing at d = "
        f"{facts.study.problem.n_features}: forming the Hessian is what costs, and the Krylov "
        f"methods never do. The paper's own three times (127.8, 127.8 and 127.7 s) are equal, "
        f"since its released code spends nearly all of them in a Python loop over the examples "
        f"that evaluates the loss; they are {127.8 / facts.seconds(EXACT):,.0f} times exact "
        f"Newton's time here.",
    )


def _accuracy(facts: _Facts) -> Claim:
    shares = {e.label: middle(e.last("train_accuracy")) for e in facts.three}
    test = {e.label: middle(e.last("test_accuracy")) for e in facts.three}
    spread = max(shares.values()) - min(shares.values())
    listed = ", ".join(f"{label} {share:.2%}" for label, share in shares.items())
    return Claim(
        "section 3",
        "Exact Newton, GMRES and CR achieve similar training accuracies",
        f"{listed} (on the test set {', '.join(f'{share:.2%}' for share in test.values())}).",
        Verdict.of(spread <= 1e-3),
        "They approach the same minimizer, so they must. On the way there the accuracy is no "
        "guide: it falls in some early epochs while the loss falls too.",
    )


def _longer(facts: _Facts) -> Claim:
    exact, gmres = facts.entry(EXACT), facts.entry(GMRES)
    half = facts.epochs // 2
    gaps, ratios = {}, {}
    for epoch in (1, half, facts.epochs):
        pairs = zip(_seconds_after(exact, epoch), _seconds_after(gmres, epoch), strict=False)
        slow, quick = np.array(list(pairs)).T
        gaps[epoch], ratios[epoch] = slow - quick, slow / quick
    listed = ", ".join(
        f"{seconds_text(middle(gap))} after {epoch} epoch{'s' * (epoch > 1)}"
        for epoch, gap in gaps.items()
    )
    grows = less(gaps[half], gaps[facts.epochs])
    return Claim(
        "section 3",
        "Over a larger number of epochs the difference in time will be greater",
        f"Exact Newton is behind GMRES by {listed}; it takes {middle(ratios[half]):.1f} times as "
        f"long over {half} epochs and {middle(ratios[facts.epochs]):.1f} times over "
        f"{facts.epochs}.",
        Verdict.of(grows, fully=less(ratios[half], ratios[facts.epochs])),
        "The cost of an epoch hardly changes, so the difference grows in proportion and the ratio "
        "stays. But more epochs are of no use: Newton's method is at the rounding error of the "
        f"loss after {_range_of_epochs(facts)}.",
    )


def _seconds_after(entry: Entry, epoch: int) -> Array:
    """Return each run's seconds at an epoch, or at its last one."""
    return np.array([record.column("seconds")[: epoch + 1][-1] for record in entry.records])


def _range_of_epochs(facts: _Facts) -> str:
    entry = facts.starts.entry(EXACT) if facts.starts is not None else None
    if entry is None:
        return f"about {facts.epochs} epochs"
    steps = _steps_to(entry, 1e-12)
    return f"{steps.min():.0f} to {steps.max():.0f} epochs, depending on w₀"


def _listed(labels: Sequence[str]) -> str:
    return " and ".join([", ".join(labels[:-1]), labels[-1]]) if len(labels) > 1 else labels[0]


_CLAIMS = (_storage, _step, _benchmark, _trend, _steeper, _clock, _accuracy, _longer)
