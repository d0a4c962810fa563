"""Networks for differential equations: what four papers say of second-order methods for them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from newton_krylov.report.figures import draw_against_costs, slug
from newton_krylov.report.panel import L2_ERROR, seconds_text
from newton_krylov.report.records import RunRecord
from newton_krylov.report.study import Entry, Study, studies
from newton_krylov.report.tables import Table, count_text, number_text
from studies.reproduction.margins import less
from studies.reproduction.page import Claim, Records, Section, Verdict

HARD, WHOLE = "pinn_hard", "pinn"
LM, SPRING, ENERGY = "Levenberg-Marquardt", "SPRING", "Energy natural gradient"
NNCG, ARNCG, LBFGS = "Adam, L-BFGS, NNCG", "Regularized Newton", "L-BFGS"
ADAM, PAIR = ("adam 0.01", "adam 0.001"), ("adam 0.01, then L-BFGS", "adam 0.001, then L-BFGS")
"""A method at each of its rates, the better of which counts."""

_SEEDS = 3
"""With fewer runs of a method than these a verdict is qualified."""

_SOLVED = 0.5
"""Relative errors above this are no solutions, and say nothing of the methods."""

_RIVALS = (*ADAM, LBFGS, *PAIR)
_NO_GPU = (
    "Not tried at the paper's size: there was no GPU. Networks, points, weights, seconds and "
    "machine are ours (see above), not the paper's, so this says whether the order of the methods "
    "carries over, and nothing of the paper's numbers."
)


@dataclass(frozen=True)
class _Published:
    """What the papers give for an equation: relative errors, with seconds where they say them.

    Attributes
    ----------
    before, after : float
        After Adam and L-BFGS, and after NysNewton-CG from there (Rathore and others 2024).
    regularized : tuple of float
        ARNCG's error and seconds on a P100.
    """

    before: float
    after: float
    regularized: tuple[float, float]


PUBLISHED: Mapping[str, _Published] = {
    "convection": _Published(4.2e-3, 1.9e-3, (6.8e-5, 27_000)),
    "reaction": _Published(1.9e-2, 9.9e-3, (8.5e-4, 7_200)),
    "wave": _Published(5.5e-2, 1.3e-2, (5.0e-3, 87_000)),
}


def section(records: Records, figures: Path) -> Section | None:
    """Make the section of differential equations; None where none was run."""
    runs = [*records.get(HARD, ()), *records.get(WHOLE, ())]
    made = studies(runs)
    if not made:
        return None
    claims: list[Claim] = []
    for study in made:
        claims += _claims(study)
    return Section("Differential equations", list(_text(made, figures)), claims)


def _claims(study: Study) -> Iterator[Claim]:
    """Yield the claims that the runs on an equation say something to."""
    name = study.problem.dataset
    published = PUBLISHED.get(name)
    rows = [
        _ordered(
            study, (LM,), _RIVALS, "Gauss-Newton methods reach errors that Adam and L-BFGS do not",
            "Dangel et al. (NeurIPS 2024), experiments: energy natural gradient at 1e-6 after 94 s "
            "on poisson_2d, L-BFGS and Adam never below 9e-5 in 1,000 s",
            "Here by Levenberg-Marquardt, the same direction with a damping that follows the gain; "
            "the paper's methods search along it.",
        ),
        _ordered(
            study, (SPRING,), (ENERGY,), "Momentum (SPRING) improves the energy natural gradient",
            "Guzmán-Cordero et al. (NeurIPS 2025), experiments",
            "Both solve in the smaller of the spaces of weights and residuals, with one damping.",
        ),
    ]  # fmt: skip
    if published is not None:
        error, seconds = published.regularized
        rows += [
            _ordered(
                study, (NNCG,), PAIR,
                "NysNewton-CG after Adam and L-BFGS improves the solution "
                f"({number_text(published.before, digits=2)} to "
                f"{number_text(published.after, digits=2)})",
                "Rathore et al. (ICML 2024), table of relative errors, network 2-200-200-200-1",
                "Both make the same steps until L-BFGS hands over.",
            ),
            _reached(
                study, (ARNCG,), error,
                f"ARNCG comes to {error:.1e} in {number_text(seconds)} s",
                "Zhou et al. (ARNCG), experiments on a P100",
                "Ours has the paper's structure and a simpler rule for its regularization.",
            ),
        ]  # fmt: skip
    yield from filter(None, rows)


def _ordered(
    study: Study, ours: Sequence[str], theirs: Sequence[str], quote: str, where: str, why: str
) -> Claim | None:
    """Hold methods' last errors against others', after the same seconds."""
    mine, other = _best(study, ours), _best(study, theirs)
    if mine is None or other is None:
        return None
    a, b = mine.last("l2_error"), other.last("l2_error")
    solved = min(np.median(a), np.median(b)) < _SOLVED
    reached = mine.label != NNCG or bool((mine.last("hvp_count") > 0).all())
    answer = less(a, b) if reached and solved else None
    unmade = "" if reached else " Its last part had not begun."
    unmade += "" if solved else " Neither is a solution."
    ratio = float(np.median(b) / np.median(a))
    return Claim(
        where,
        f"{quote}: {study.problem.dataset}",
        f"{_run(study, mine)}: {mine.label} {_errors(mine)}, {other.label} {_errors(other)}, "
        f"{number_text(ratio, digits=3)} times as much.{unmade}",
        Verdict.of(answer, fully=min(len(a), len(b)) >= _SEEDS),
        f"{why} {_NO_GPU}",
    )


def _reached(
    study: Study, ours: Sequence[str], error: float, quote: str, where: str, why: str
) -> Claim | None:
    """Hold a method's last errors against a published one; to miss it in seconds says nothing."""
    mine = _best(study, ours)
    if mine is None:
        return None
    there = bool((mine.last("l2_error") <= error).all())
    return Claim(
        where,
        f"{quote}: {study.problem.dataset}",
        f"{_run(study, mine)}: {mine.label} {_errors(mine)}.",
        Verdict.of(there or None, fully=len(mine.records) >= _SEEDS),
        f"{why} {_NO_GPU}",
    )


def _best(study: Study, labels: Sequence[str]) -> Entry | None:
    """Return the most accurate of some methods, or None where none was run."""
    found = [entry for label in labels if (entry := study.entry(label)) is not None]
    found = [entry for entry in found if np.isfinite(entry.last("l2_error")).all()]
    return min(found, key=lambda e: float(np.median(e.last("l2_error"))), default=None)


def _errors(entry: Entry) -> str:
    values = entry.last("l2_error")
    middle = f"{np.median(values):.1e}"
    return middle if len(values) == 1 else f"{middle} [{values.min():.1e} – {values.max():.1e}]"


def _run(study: Study, entry: Entry) -> str:
    """Say what was run: network, points, seconds, seeds."""
    record = entry.records[0]
    hidden = "-".join(str(width) for width in record.config["model"]["hidden"])
    seconds = seconds_text(float(np.median(entry.last("seconds"))))
    inputs, points = study.problem.n_features, study.problem.n_samples
    return (
        f"{inputs}-{hidden}-1, {number_text(points)} points, {seconds} of {_clock(record)}, "
        f"{count_text(len(entry.records), 'seed')}"
    )


def _clock(record: RunRecord) -> str:
    return "processor time" if record.config.get("clock") == "processor" else "wall-clock time"


def _text(made: Sequence[Study], figures: Path) -> Iterator[str]:
    """Yield the protocol, and a table and a figure for each equation."""
    load = max(record.load for study in made for record in study.records)
    cores = made[0].records[0].cores
    yield (
        "Every method has the same points, blocks, weights and first weights of the network, and "
        "the same seconds on one thread; Adam, alone and before L-BFGS, counts at the better of "
        "its rates. The error is ‖u − u*‖ / ‖u*‖ on points that no residual is taken at. These are "
        "small networks on a processor. Where seconds are of processor time, the machine had other "
        f"work: its load average was up to {load:.0f} on {count_text(cores, 'core')}. Weights of "
        "blocks, the drawing of points and the window in time were chosen by watching the error, "
        "and are not the papers'."
    )
    for study in made:
        name = study.problem.dataset
        (file,) = draw_against_costs(
            study, (L2_ERROR,), figures, f"pinn-{slug(name)}", formats=("png",)
        )
        yield f"**{study.problem.title}**"
        yield _table(study).markdown()
        yield f"![Error of the solution, {name}](figures/{file.name})"


def _table(study: Study) -> Table:
    targets = study.targets[:5]
    heads = [
        "Method",
        "Seeds",
        "Error",
        "Loss",
        "Steps",
        "a step",
        *(f"to {t.name}" for t in targets),
    ]
    rows = [
        [
            entry.label,
            str(len(entry.records)),
            _errors(entry),
            f"{np.median(entry.last('loss')):.1e}",
            number_text(float(np.median(entry.last("iteration")))),
            _seconds(
                float(np.median(entry.last("seconds") / np.maximum(entry.last("iteration"), 1)))
            ),
            *(_seconds(float(np.median(entry.cost_to(target)))) for target in targets),
        ]
        for entry in study.ranked
    ]
    return Table("", heads, rows, ["Medians; ranges of the seeds in brackets."])


def _seconds(value: float) -> str:
    return seconds_text(value) if np.isfinite(value) else "never"
