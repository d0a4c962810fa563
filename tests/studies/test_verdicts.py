"""Every verdict can fall either way: each claim is fed with records for it and against it."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command import ROOT
from run_folders import rows, write_run
from study_runs import (
    ACCURACIES,
    DEFAULTS,
    assignment,
    convex_study,
    dyna_study,
    geometric,
    growing_study,
    multiplier_study,
    run_of,
    transport_study,
    ye_zhang,
)

from newton_krylov.report.records import read_records
from studies.reproduction import convex, dynanewton, growth, nonconvex, pinn, sns
from studies.reproduction import ye_zhang as accelerated
from studies.reproduction.margins import ALONE, less, less_in_every_pair
from studies.reproduction.page import Claim, Section, Verdict

MODULES = (convex, growth, nonconvex, accelerated, dynanewton, sns, pinn)
Write = Callable[[Path], object]


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts need no figures, and these are what takes the time."""
    for module in MODULES:
        if hasattr(module, "_text"):
            monkeypatch.setattr(module, "_text", lambda *_: iter(()))
    monkeypatch.setattr(growth, "draw_scaling", lambda *_, **__: [Path("figure.png")])
    monkeypatch.setattr(accelerated, "_protocol", lambda _: "")


def claims(folder: Path) -> list[Claim]:
    records: dict[str, Any] = {}
    for record in read_records([folder]):
        records.setdefault(record.study, []).append(record)
    sections: list[Section | None] = [module.section(records, folder) for module in MODULES]
    return [claim for section in sections if section is not None for claim in section.claims]


def verdict(folder: Path, beginning: str) -> Verdict:
    (claim,) = (claim for claim in claims(folder) if beginning in claim.quote)
    return claim.verdict


# --- the records ----------------------------------------------------------------------------


def network(folder: Path, changed: dict[str, float], three: float = 4.0) -> None:
    for label, accuracy in (ACCURACIES | changed).items():
        optimizer = {"name": "layerwise_newton", "damping": 0.1}
        minutes = three if "1, 2, 4" in label else 4.0
        run_of(folder / "net" / label.replace("/", "-"), label, accuracy, minutes,
               optimizer=optimizer)  # fmt: skip


def race(folder: Path, newton: tuple[float, float], sgd: tuple[float, float]) -> None:
    """Write the network's study, a race, and a convex study that gradient descent loses."""
    network(folder, {})
    convex_study(folder / "convex", descent_seconds=1.0)
    for label, ends in (("Newton, all layers", newton), ("SGD", sgd)):
        for seed, accuracy in enumerate(ends):
            run_of(folder / "race" / f"{label}{seed}", label, accuracy, seed=seed,
                   name="time_to_accuracy")  # fmt: skip


def momentum(
    folder: Path, plain: dict[float, float], other: dict[float, float], **more: Any
) -> None:
    ye_zhang(folder, plain.__getitem__, other.__getitem__, **more)


def as_in_theory(folder: Path, **more: Any) -> None:
    pi = {0.001: 0.5, 0.1: 0.96}
    momentum(
        folder,
        {alpha: p**2 for alpha, p in pi.items()},
        {alpha: (1 - math.sqrt(1 - p)) ** 2 for alpha, p in pi.items()},
        **more,
    )


SLOW = {0.001: 0.9, 0.1: 0.9}
QUICK = {0.001: 0.5, 0.1: 0.5}
GMRES = DEFAULTS["Newton-GMRES"][0]


def kept(folder: Path, counts: dict[int, int]) -> None:
    assignment(folder)
    for number, iterations in counts.items():
        approx = {"name": "thresholded_sparse", "kept": number}
        transport_study(folder, sns.KEPT, {sns.SNS: (iterations, 0.1)}, hessian_approx=approx)


def large(folder: Path, seconds: float) -> None:
    assignment(folder)
    runs = {sns.SNS: (30, seconds), sns.SINKHORN: (60_000, 60.0)}
    loss = {"name": "entropic_transport", "eta": 4800.0}
    transport_study(folder, sns.LARGE, runs, n=2000, loss=loss)


def digits(folder: Path, study: str, newton: tuple[int, float]) -> None:
    assignment(folder)
    label = sns.SNS_700 if study == sns.L1 else sns.SNS
    runs = {label: newton, sns.SINKHORN: (60_000, 60.0)}
    source = {"name": "transport", "source": "digits"}
    transport_study(folder, study, runs, n=784, dataset=source)


def dyna(folder: Path, **costs: float) -> None:
    dyna_study(folder / "study", **costs)  # type: ignore[arg-type]


def multiplied(folder: Path, cost: Callable[[float], float]) -> None:
    dyna_study(folder / "study")
    multiplier_study(folder / "c", cost)


TABLE: dict[str, tuple[Write, Write]] = {
    # the claim: records for it, records against it
    "GCR doubles": (partial(convex_study, inner=50), partial(convex_study, inner=1)),
    "¼ X Xᵀ": (
        partial(convex_study, step_size=1.0, dataset={"name": "one", "n_samples": 1}),
        convex_study,
    ),
    "threshold of 1e-16": (
        partial(convex_study, descent=[1.0, 1e-8, 1e-17]),
        partial(convex_study, descent=[1.0, 1e-4, 1e-8]),
    ),
    "similar decreasing trend": (
        convex_study,
        partial(convex_study, changed={"Newton-CR": ([1.0, 0.5, 0.4, 0.3, 0.2], 0.004)}),
    ),
    "slightly steeper": (
        convex_study,
        partial(convex_study, changed={"Newton-GMRES": ([*GMRES[:-1], 1e-14], 0.005)}),
    ),
    "wall-clock times": (
        convex_study,
        partial(convex_study, changed={"Newton-GMRES": (GMRES, 0.03)}),
    ),
    "similar training accuracies": (
        convex_study,
        partial(convex_study, accuracies={"Newton-CR": 0.7}),
    ),
    "difference in time will be greater": (
        partial(convex_study, growth=1.0),
        partial(convex_study, changed={"Newton-GMRES": (GMRES, 0.03)}),
    ),
    "O(m n²)": (
        partial(growing_study, exact=lambda d: (d / 1e3) ** 3, krylov=lambda d: (d / 1e4) ** 2),
        partial(growing_study, exact=lambda d: 1.0),
    ),
    "far more effective": (
        partial(network, changed={}),
        partial(network, changed={"Paper's Newton, layer 1": 0.97}),
    ),
    "only the first": (
        partial(network, changed={"Paper's Newton, layer 1": 0.15}),
        partial(network, changed={"Paper's Newton, layer 1": 0.3}),
    ),
    "only the fourth": (
        partial(network, changed={"Paper's Newton, layer 4": 0.14}),
        partial(network, changed={"Paper's Newton, layer 4": 0.3}),
    ),
    "only one layer": (
        partial(network, changed={"Newton, layer 1": 0.5}),
        partial(network, changed={"Paper's Newton, layers 1, 2, 4": 0.5}),
    ),
    "2 hours 47 minutes": (
        partial(network, changed={}, three=33.4),
        partial(network, changed={}, three=4.0),
    ),
    "150%": (
        partial(network, changed={f"Paper's Newton, layer {k}": 0.25 for k in "14"}),
        partial(network, changed={f"Paper's Newton, layer {k}": 0.12 for k in "14"}),
    ),
    "better in convex": (
        partial(race, newton=(0.4, 0.45), sgd=(0.5, 0.6)),
        partial(race, newton=(0.7, 0.75), sgd=(0.5, 0.6)),
    ),
    "improves the convergence": (
        partial(momentum, plain=SLOW, other=QUICK),
        partial(momentum, plain=QUICK, other=SLOW),
    ),
    "helps most": (
        as_in_theory,
        partial(momentum, plain=SLOW, other={0.001: 0.1, 0.1: 0.85}),
    ),
    "Plain converges like": (
        partial(as_in_theory, theta="theory"),
        partial(momentum, plain={0.001: 0.5, 0.1: 0.9}, other={0.001: 0.5, 0.1: 0.97}, theta=0.2),
    ),
    "classical methods": (
        partial(as_in_theory, newton=1.0, gd=2.0),
        partial(momentum, plain=SLOW, other=QUICK, newton=1.0, gd=1e-5),
    ),
    "statistical accuracy": (dyna, partial(dyna, passes=5.0)),
    "It accelerates Newton's method": (dyna, partial(dyna, passes=3.0)),
    "consistently confirm": (
        partial(dyna, passes=0.4),
        partial(dyna, passes=3.0, seconds=1.0),
    ),
    "Increasing strong convexity": (
        partial(multiplied, cost=lambda c: 1.0 if c else 2.0),
        partial(multiplied, cost=lambda c: 1 + c),
    ),
    "n = 500, η = 1200, Sinkhorn-Newton-Sparse takes 29 iterations": (
        assignment,
        partial(assignment, changed={sns.SINKHORN: (40, 60.0)}),
    ),
    "n = 500, η = 1200, Sinkhorn-Newton-Sparse takes 0.34 s": (
        assignment,
        partial(assignment, changed={sns.SINKHORN: (60_000, 0.05)}),
    ),
    "squared Euclidean cost, η = 1200, Sinkhorn-Newton-Sparse takes 53": (
        partial(digits, study=sns.STUDY, newton=(50, 1.0)),
        partial(digits, study=sns.STUDY, newton=(50_000, 1.0)),
    ),
    "squared Euclidean cost, η = 1200, Sinkhorn-Newton-Sparse takes 2.33 s": (
        partial(digits, study=sns.STUDY, newton=(50, 1.0)),
        partial(digits, study=sns.STUDY, newton=(50, 100.0)),
    ),
    "L1 cost, η = 1200, Sinkhorn-Newton-Sparse takes 777": (
        partial(digits, study=sns.L1, newton=(700, 1.0)),
        partial(digits, study=sns.L1, newton=(50_000, 1.0)),
    ),
    "L1 cost, η = 1200, Sinkhorn-Newton-Sparse takes 12.2 s": (
        partial(digits, study=sns.L1, newton=(700, 1.0)),
        partial(digits, study=sns.L1, newton=(700, 100.0)),
    ),
    "orders of magnitude": (partial(large, seconds=0.1), partial(large, seconds=100.0)),
    "fraction 2/n": (
        partial(kept, counts={2: 30, 3: 29, 15: 27}),
        partial(kept, counts={2: 90, 3: 80, 15: 27}),
    ),
    "Sparsity makes": (assignment, partial(assignment, changed={sns.WHOLE: (30, 0.05)})),
}


@pytest.mark.parametrize("claim", list(TABLE))
def test_a_verdict_falls_either_way(claim: str, tmp_path: Path) -> None:
    of, against = TABLE[claim]
    of(tmp_path / "for")
    assert verdict(tmp_path / "for", claim) is Verdict.HOLDS
    against(tmp_path / "against")
    assert verdict(tmp_path / "against", claim) is Verdict.FAILS


def test_every_claim_of_the_page_is_in_the_table() -> None:
    for file in (ROOT / "studies" / "reproduction" / "sections").glob("*.json"):
        for claim in json.loads(file.read_text(encoding="utf-8"))["claims"]:
            quote = claim["quote"]
            tested = (*TABLE, *(beginning for beginning, *_ in ORDERED), REACHED, *TIMED)
            found = [beginning for beginning in tested if beginning in quote]
            assert len(found) == 1, quote


# --- not decided ----------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [("Newton-GMRES",), ("Newton-GMRES", "Newton-CR")])
def test_times_that_differ_from_repetition_to_repetition_decide_nothing(
    labels: tuple[str, ...], tmp_path: Path
) -> None:
    study = convex_study(tmp_path / "study")
    for label in labels:
        for repeat, seconds in ((0, 0.03), (1, 0.015)):
            folder = study / f"{label}-{repeat}"
            (folder / "trace.csv").unlink()
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
            write_run(
                folder, rows(GMRES, step_seconds=seconds), label=label, repeat=repeat,
                name="paper_convex", solver={"name": "gmres", "maxiter": 10},
            )  # fmt: skip
    assert verdict(study, "wall-clock times") is Verdict.UNDECIDED


@pytest.mark.parametrize(("layer", "said"), [("1", "only the first"), ("4", "only the fourth")])
def test_other_images_do_not_decide_on_a_layer(layer: str, said: str, tmp_path: Path) -> None:
    """A sweep on fewer images neither bears a claim out nor lets it fall."""
    label = f"Paper's Newton, layer {layer}"
    network(tmp_path, {label: 0.3})
    for images, expected in ((500, Verdict.UNDECIDED), (1000, Verdict.QUALIFIED)):
        described = {"name": "cifar10", "n_samples": images, "n_features": 20, "checksum": "c"}
        run_of(
            tmp_path / f"tau{images}", label, 0.15 if layer == "1" else 0.14,
            name="paper_nonconvex_tau", summary={"dataset": described},
            optimizer={"name": "layerwise_newton", "damping": 1e-3},
        )  # fmt: skip
        # 15% and 14% exactly would hold without a qualification on the same images.
        measured = verdict(tmp_path, said)
        assert measured is (expected if images == 500 else Verdict.HOLDS)


def test_adaptive_momentum_does_not_decide_on_the_theorem(tmp_path: Path) -> None:
    as_in_theory(tmp_path, theta="adaptive")
    assert verdict(tmp_path, "Plain converges like") is Verdict.UNDECIDED


def test_accelerated_newton_is_not_shown_at_its_best_against_rivals_at_one(tmp_path: Path) -> None:
    """Its quickest setting takes 0.2 s, its median one 1.32 s, Newton's method 0.7 s."""
    momentum(tmp_path, SLOW, {0.001: 0.5, 0.1: 0.9}, newton=0.1, gd=1.0)
    assert verdict(tmp_path, "classical methods") is Verdict.QUALIFIED
    for number, seconds in enumerate((0.2, 1e-4)):  # and a setting of Newton's that ties
        write_run(
            tmp_path / f"tuned{number}", rows(geometric(0.1), step_seconds=seconds),
            label="Gradient descent", name="ye_zhang_2017_svrg",
            optimizer={"name": "gd", "step_size": seconds},
        )  # fmt: skip
    assert verdict(tmp_path, "classical methods") is Verdict.FAILS


def test_a_stochastic_rival_is_taken_at_the_best_of_its_steps(tmp_path: Path) -> None:
    dyna_study(tmp_path / "study", passes=0.4)
    assert verdict(tmp_path, "consistently confirm") is Verdict.HOLDS
    write_run(
        tmp_path / "sgd", rows([1.0, 1e-7], step_seconds=1e-3, data_passes=0.1), label="SGD",
        name="dynanewton_2016_sgd", optimizer={"name": "sgd", "learning_rate": 8.0},
    )  # fmt: skip
    assert verdict(tmp_path, "consistently confirm") is Verdict.FAILS


def test_a_race_is_judged_at_the_time_that_all_had(tmp_path: Path) -> None:
    """The last epoch of Newton's ends after the time is up, and does not count."""
    network(tmp_path, {})
    stop = {"stop": {"seconds": 190}}
    for seed in range(2):
        run_of(tmp_path / f"n{seed}", "Newton, all layers", 0.9, minutes=8.0, seed=seed,
               name="time_to_accuracy", **stop)  # fmt: skip
        run_of(tmp_path / f"s{seed}", "SGD", 0.4, minutes=4.0, seed=seed,
               name="time_to_accuracy", **stop)  # fmt: skip
    (claim,) = (claim for claim in claims(tmp_path) if "better in convex" in claim.quote)
    assert "In equal time, medians: Newton, all layers 30.0%, SGD 32.5%." in claim.measured


@pytest.mark.parametrize(("ends", "expected"), [(0.6, Verdict.QUALIFIED), (0.5, Verdict.HOLDS)])
@pytest.mark.parametrize("curved", ["kfac", "layerwise_newton"])
def test_a_race_by_epochs_qualifies_where_curvature_is_ahead_in_all_runs(
    tmp_path: Path, curved: str, ends: float, expected: Verdict
) -> None:
    """The runs of seed 0 chose the settings, and are not judged."""
    race(tmp_path, newton=(0.4, 0.45), sgd=(0.5, 0.6))
    for label, name, accuracy in (("Curved", curved, ends), ("Muon", "muon", 0.55)):
        for seed in range(3):
            end = 0.9 if seed == 0 and label == "Muon" else accuracy + seed / 100
            run_of(tmp_path / f"{name}{seed}", label, end, seed=seed, name="time_to_accuracy",
                   optimizer={"name": name}, stop={"epochs": 4})  # fmt: skip
    assert verdict(tmp_path, "better in convex") is expected
    (claim,) = (each for each in claims(tmp_path) if "far more effective" in each.quote)
    assert f"Curved {ends + 0.015:.1%}" in claim.measured
    assert ("not decided" in claim.why) is (expected is Verdict.QUALIFIED)


def test_less_has_a_margin() -> None:
    assert less([1.0, 2.0], [3.0, 4.0]) is True
    assert less([3.0, 4.0], [1.0, 2.0]) is False
    assert less([1.0, 3.0], [2.0, 4.0]) is None
    assert less([1.0, math.inf], [2.0, 3.0]) is None
    assert less([1.0, 2.0], [math.inf, math.inf]) is True
    assert less([math.inf], [math.inf]) is None
    assert less([1.0], [ALONE**2 * 0.99]) is None
    assert less([1.0], [ALONE**2 * 1.01]) is True
    assert less_in_every_pair([1.0, 3.0], [2.0, 4.0]) is True
    assert less_in_every_pair([1.0, 5.0], [2.0, 4.0]) is None
    assert less_in_every_pair([3.0, 5.0], [2.0, 4.0]) is False


ORDERED = [
    ("Gauss-Newton methods", pinn.LM, pinn.LBFGS),
    ("Momentum (SPRING)", pinn.SPRING, pinn.ENERGY),
    ("NysNewton-CG after", pinn.NNCG, pinn.PAIR[0]),
]
REACHED = "ARNCG comes to"
"""Claims on equations: a method's error is less than another one's, or as small as published."""
TIMED = (
    "Energy natural gradient comes to", "Hessian-free optimization comes to",
    "Natural gradient in samples comes to", "never come below",
)  # fmt: skip
"""And as fast, or what rivals did not reach."""


def equation(
    folder: Path, errors: dict[str, list[float]], products: float = 9.0, name: str = "reaction"
) -> None:
    """Runs on an equation that end at these errors, a seed each."""
    for label, found in errors.items():
        for seed, error in enumerate(found):
            write_run(
                folder / pinn.slug(label) / str(seed),
                rows([1.0, 0.1], l2_error=error, hvp_count=products), label=label, optimum=None,
                seed=seed, name=pinn.HARD, dataset={"name": name},
                model={"name": "mlp", "hidden": [4]}, summary={"dataset": {"name": name}},
            )  # fmt: skip


ERRORS = {
    pinn.LM: [1e-6, 2e-6, 3e-6], pinn.LBFGS: [1e-2, 2e-2, 3e-2], pinn.SPRING: [1e-5, 2e-5, 3e-5],
    pinn.ENERGY: [1e-4, 2e-4, 3e-4], pinn.NNCG: [1e-3, 2e-3, 3e-3], pinn.PAIR[0]: [0.1, 0.2, 0.3],
    pinn.ARNCG: [8e-4, 7e-4, 6e-4],
}  # fmt: skip


@pytest.mark.parametrize(("beginning", "ours", "theirs"), ORDERED)
def test_an_equation_s_error_is_less_more_or_undecided(tmp_path, beginning, ours, theirs):
    mixed = ERRORS[ours][:2] + ERRORS[theirs][2:]
    for name, errors, expected in (
        ("for", {}, Verdict.HOLDS),
        ("against", {ours: ERRORS[theirs], theirs: ERRORS[ours]}, Verdict.FAILS),
        ("one", {ours: ERRORS[ours][:1]}, Verdict.QUALIFIED),
        ("mixed", {ours: mixed}, Verdict.UNDECIDED),
    ):
        equation(tmp_path / name, ERRORS | errors)
        assert verdict(tmp_path / name, beginning) is expected, name


def test_a_published_error_that_is_missed_in_seconds_is_no_verdict(tmp_path):
    equation(tmp_path / "there", ERRORS)
    assert verdict(tmp_path / "there", REACHED) is Verdict.HOLDS
    equation(tmp_path / "not", ERRORS | {pinn.ARNCG: [1e-2, 1e-5, 1e-5]}, products=0.0)
    assert verdict(tmp_path / "not", REACHED) is Verdict.UNDECIDED
    assert verdict(tmp_path / "not", "NysNewton-CG after") is Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("ours", "kin", "expected"),
    [
        (1e-7, 1e-2, Verdict.HOLDS),
        (1e-2, 1e-7, Verdict.QUALIFIED),
        (1e-2, 1e-2, Verdict.UNDECIDED),
    ],
)
def test_a_published_time_is_held_against_the_paper_s_method_and_its_kin(
    tmp_path, ours, kin, expected
):
    """Another damping of the same direction that gets there is said to be another one."""
    equation(tmp_path, {pinn.ENERGY: [ours] * 3, pinn.LM: [kin] * 3}, name="poisson_2d")
    assert verdict(tmp_path, "Energy natural gradient comes to 1.0e-06 in 94 s") is expected


def test_what_rivals_never_came_below_is_decided_by_one_that_does(tmp_path):
    for name, errors, expected in (
        ("below", [1e-2, 8e-5, 1e-2], Verdict.FAILS),
        ("above", [1e-2, 2e-4, 1e-2], Verdict.UNDECIDED),  # in a fraction of the paper's time
    ):
        equation(tmp_path / name, {pinn.LM: [1e-7] * 3, pinn.LBFGS: errors}, name="poisson_2d")
        assert verdict(tmp_path / name, "never come below 9e-05 in 1,000 s") is expected, name
