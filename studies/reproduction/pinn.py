"""Networks for differential equations: what four papers say of second-order methods for them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from newton_krylov.report.figures import draw_against_costs, slug
from newton_krylov.report.panel import L2_ERROR, seconds_text
from newton_krylov.report.records import RunRecord
from newton_krylov.report.study import Entry, Study, Target, studies
from newton_krylov.report.tables import Table, count_text, number_text
from studies.reproduction.margins import less
from studies.reproduction.page import Claim, Records, Section, Verdict

HARD, WHOLE = "pinn_hard", "pinn"
LM, SPRING, ENERGY = "Levenberg-Marquardt", "SPRING", "Energy natural gradient"
NNCG, ARNCG, LBFGS = "Adam, L-BFGS, NNCG", "Regularized Newton", "L-BFGS"
FREE = "Gauss-Newton-CG"
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
class _Reached:
    """An error that a paper's method came to.

    Attributes
    ----------
    method, where : str
        As the paper calls it, and which paper.
    error, seconds : float
        Relative error, and the time to it on the paper's machine.
    ours : tuple of str
        The same method here.
    kin : tuple of str
        Methods here whose steps differ from it in their damping alone.
    why : str
        What there is to say of ours.
    """

    method: str
    where: str
    error: float
    seconds: float
    ours: tuple[str, ...]
    kin: tuple[str, ...] = ()
    why: str = ""


_DANGEL = "Dangel et al. (NeurIPS 2024), experiments on a workstation GPU"
_GUZMAN = "Guzmán-Cordero et al. (NeurIPS 2025), experiments on a GPU, network of 10,065 weights"
_DAMPED = "Levenberg-Marquardt is the same direction with a damping that follows the gain."


def _arncg(error: float, seconds: float) -> tuple[_Reached, ...]:
    why = "Ours has the paper's structure and a simpler rule for its regularization."
    where = "Zhou et al. (ARNCG), experiments on a P100"
    return (_Reached("ARNCG", where, error, seconds, (ARNCG,), why=why),)


REACHED: Mapping[str, tuple[_Reached, ...]] = {
    "poisson_2d": (
        _Reached("Energy natural gradient", _DANGEL, 1e-6, 94, (ENERGY,), (LM,), _DAMPED),
        _Reached("Hessian-free optimization", _DANGEL, 1e-6, 227, (FREE,)),
    ),
    "poisson_5d": tuple(
        _Reached("Natural gradient in samples", _GUZMAN, *each, (SPRING, ENERGY), (LM,), _DAMPED)
        for each in ((1e-5, 325), (1e-6, 1_887))
    ),
    "convection": _arncg(6.8e-5, 27_000),
    "reaction": _arncg(8.5e-4, 7_200),
    "wave": _arncg(5.0e-3, 87_000),
}

IMPROVED: Mapping[str, tuple[float, float]] = {
    "convection": (4.2e-3, 1.9e-3),
    "reaction": (1.9e-2, 9.9e-3),
    "wave": (5.5e-2, 1.3e-2),
}
"""Errors after Adam and L-BFGS, and after NysNewton-CG from there (Rathore and others 2024)."""

MISSED: Mapping[str, tuple[float, float]] = {"poisson_2d": (9e-5, 1_000)}
"""An error that L-BFGS and Adam never came below, and in how many seconds (Dangel and others)."""

_DANGELS_SIZE: Mapping[str, tuple[tuple[int, ...], int]] = {"poisson_2d": ((64,), 1_020)}
"""Widths of that paper's network and number of its points, where the runs here have the same."""


def section(records: Records, figures: Path) -> Section | None:
    """Make the section of differential equations; None where none was run."""
    runs = [*records.get(HARD, ()), *records.get(WHOLE, ())]
    made = studies(runs)
    if not made:
        return None
    claims = [claim for study in made for claim in _claims(study, _name(study, made))]
    return Section("Differential equations", list(_text(made, figures)), claims)


def _name(study: Study, made: Sequence[Study]) -> str:
    """Return what an equation is called: with its network where it was solved by several."""
    name = study.problem.dataset
    alike = [other for other in made if other.problem.dataset == name]
    return name if len(alike) == 1 else f"{name} ({_network(study)})"


def _claims(study: Study, name: str) -> Iterator[Claim]:
    """Yield the claims that the runs on an equation say something to."""
    problem = study.problem.dataset
    rows = [
        _ordered(
            study, name, (LM,), _RIVALS,
            "Gauss-Newton methods reach errors that Adam and L-BFGS do not",
            "Dangel et al. (NeurIPS 2024), experiments: energy natural gradient at 1e-6 after 94 s "
            "on poisson_2d, L-BFGS and Adam never below 9e-5 in 1,000 s",
            "Here by Levenberg-Marquardt, the same direction with a damping that follows the gain; "
            "the paper's methods search along it.",
        ),
        _missed(study, name) if problem in MISSED else None,
        _ordered(
            study, name, (SPRING,), (ENERGY,),
            "Momentum (SPRING) improves the energy natural gradient",
            "Guzmán-Cordero et al. (NeurIPS 2025), experiments",
            "Both solve in the smaller of the spaces of weights and residuals, with one damping.",
        ),
    ]  # fmt: skip
    if problem in IMPROVED:
        before, after = (number_text(error, digits=2) for error in IMPROVED[problem])
        rows += [
            _ordered(
                study, name, (NNCG,), PAIR,
                f"NysNewton-CG after Adam and L-BFGS improves the solution ({before} to {after})",
                "Rathore et al. (ICML 2024), table of relative errors, network 2-200-200-200-1",
                "Both make the same steps until L-BFGS hands over.",
            ),
        ]  # fmt: skip
    rows += [_reached(study, name, published) for published in REACHED.get(problem, ())]
    yield from filter(None, rows)


def _ordered(
    study: Study,
    name: str,
    ours: Sequence[str],
    theirs: Sequence[str],
    quote: str,
    where: str,
    why: str,
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
        f"{quote}: {name}",
        f"{_run(study, mine)}: {mine.label} {_errors(mine)}, {other.label} {_errors(other)}, "
        f"{number_text(ratio, digits=3)} times as much.{unmade}",
        Verdict.of(answer, fully=min(len(a), len(b)) >= _SEEDS),
        f"{why} {_differs(study, where)}",
    )


def _reached(study: Study, name: str, published: _Reached) -> Claim | None:
    """Hold a method's time to an error against the published one; to miss it says nothing."""
    found = [e for e in (_best(study, published.ours), _best(study, published.kin)) if e]
    if not found or found[0].label not in published.ours:
        return None
    target = Target("l2_error", published.error, "")
    times = {entry.label: entry.cost_to(target) for entry in found}
    there = [entry for entry in found if (times[entry.label] <= published.seconds).all()]
    alike = bool(there) and there[0].label in published.ours
    enough = bool(there) and len(there[0].records) >= _SEEDS
    each = ", ".join(
        f"{entry.label} {_errors(entry)}"
        + (f" (there after {_seconds(float(np.median(times[entry.label])))})" * (entry in there))
        for entry in found
    )
    return Claim(
        published.where,
        f"{published.method} comes to {published.error:.1e} in "
        f"{number_text(published.seconds)} s: {name}",
        f"{_run(study, found[0])}: {each}.",
        Verdict.of(bool(there) or None, fully=alike and enough),
        f"{published.why} {_differs(study, published.where)}".strip(),
    )


def _missed(study: Study, name: str) -> Claim | None:
    """Hold the least errors of L-BFGS and Adam against one that they never came below."""
    error, seconds = MISSED[study.problem.dataset]
    found = [e for label in (*ADAM, LBFGS) if (e := study.entry(label)) is not None]
    if not found:
        return None
    below = [e for e in found if np.isfinite(e.cost_to(Target("l2_error", error, ""))).any()]
    long = all((e.last("seconds") >= seconds).all() for e in found)
    each = ", ".join(f"{entry.label} {_errors(entry)}" for entry in found)
    return Claim(
        _DANGEL,
        f"L-BFGS and Adam never come below {error:.0e} in {number_text(seconds)} s: {name}",
        f"{_run(study, found[0])}: {each}.",
        Verdict.of(False if below else long or None),
        f"Seconds are fewer than the paper's: to miss it in these decides nothing. "
        f"{_differs(study, _DANGEL)}",
    )


def _differs(study: Study, where: str) -> str:
    """Say what differs from a paper's runs."""
    ran = tuple(study.records[0].config["model"]["hidden"]), study.problem.n_samples
    if where[:6] != _DANGEL[:6] or ran != _DANGELS_SIZE.get(study.problem.dataset):
        return _NO_GPU
    return (
        "The network and the number of points are the paper's. The machine (one thread of a "
        "processor), the drawing of points, first weights and settings of methods are ours."
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
    seconds = seconds_text(float(np.median(entry.last("seconds"))))
    points, seeds = number_text(study.problem.n_samples), count_text(len(entry.records), "seed")
    return f"{_network(study)}, {points} points, {seconds} of {_clock(record)}, {seeds}"


def _network(study: Study) -> str:
    """Write the network by its widths."""
    widths = study.records[0].config["model"]["hidden"]
    return "-".join(map(str, (study.problem.n_features, *widths, 1)))


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
        name = _name(study, made)
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
