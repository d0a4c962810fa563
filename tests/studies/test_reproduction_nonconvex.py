"""The section on the study of a network, of runs whose numbers a person can check."""

from pathlib import Path
from typing import Any

import pytest
from study_runs import ACCURACIES, run_of

from newton_krylov.report.records import read_records
from studies.reproduction.nonconvex import section
from studies.reproduction.page import Section, Verdict


def made(tmp_path: Path, accuracies: dict[str, float]) -> Section:
    for label, accuracy in accuracies.items():
        three = 16.0 if "124" in label or "1, 2, 4" in label else 4.0
        optimizer = {"name": "layerwise_newton", "damping": 0.1}
        run_of(tmp_path / label.replace("/", "-"), label, accuracy, three, optimizer=optimizer)
    records = {"paper_nonconvex": read_records([tmp_path])}
    made_of = section(records, tmp_path / "figures")
    assert made_of is not None
    return made_of


def verdict(made_of: Section, beginning: str) -> Verdict:
    (claim,) = (claim for claim in made_of.claims if beginning in claim.quote)
    return claim.verdict


def test_each_claim_is_held_against_the_accuracies(tmp_path: Path) -> None:
    of = made(tmp_path, ACCURACIES)
    assert verdict(of, "Gradient descent is far more effective") is Verdict.HOLDS
    assert verdict(of, "only the first") is Verdict.QUALIFIED  # 14% is about 15%
    assert verdict(of, "only the fourth") is Verdict.FAILS  # 30% is not 14%
    assert verdict(of, "only one layer") is Verdict.QUALIFIED  # true of the paper's, not of ours
    assert verdict(of, "2 hours 47 minutes") is Verdict.QUALIFIED
    assert verdict(of, "150%") is Verdict.QUALIFIED  # 30% of 10%: three times
    assert verdict(of, "better in convex") is Verdict.QUALIFIED


def test_the_third_layer_is_none_of_the_three(tmp_path: Path) -> None:
    better = {"Paper's Newton, layer 3": 0.6, "Paper's Newton, layers 1, 2, 4": 0.5}
    of = made(tmp_path, ACCURACIES | better)
    assert verdict(of, "only one layer") is Verdict.FAILS
    (claim,) = (claim for claim in of.claims if "only one layer" in claim.quote)
    assert "none of them, alone: Paper's Newton, layer 3 60.0%." in claim.measured


def test_where_all_layers_win_the_claim_is_qualified(tmp_path: Path) -> None:
    of = made(tmp_path, ACCURACIES | {"Newton, all layers": 0.96})
    assert verdict(of, "Gradient descent is far more effective") is Verdict.QUALIFIED
    assert verdict(of, "better in convex") is Verdict.FAILS


def test_the_clock_decides_where_there_is_a_race(tmp_path: Path) -> None:
    winning = ACCURACIES | {"Newton, all layers": 0.96}
    for label, accuracy in winning.items():
        run_of(tmp_path / "study" / label.replace("/", "-"), label, accuracy)
    for label, accuracy in (("Newton, all layers", 0.4), ("SGD", 0.5)):
        run_of(tmp_path / "race" / label, label, accuracy, name="time_to_accuracy")
    study, race = (read_records([tmp_path / name]) for name in ("study", "race"))
    of = section({"paper_nonconvex": study, "time_to_accuracy": race}, tmp_path / "figures")
    assert of is not None
    assert verdict(of, "better in convex") is Verdict.QUALIFIED
    (claim,) = (claim for claim in of.claims if "better in convex" in claim.quote)
    assert "In equal time, medians: Newton, all layers 40.0%, SGD 50.0%." in claim.measured
    assert "Newton, all layers 96.0% (60 s)" in claim.measured


def test_the_numbers_are_told(tmp_path: Path) -> None:
    of = made(tmp_path, ACCURACIES)
    text = "\n".join([*of.text, *(claim.measured for claim in of.claims)])
    assert "Newton, layer 1 33.0%" in text and "Untrained: 10.0%" in text
    assert "layers 1, 2, 4 16 min" in text and "layer 1 4 min" in text
    assert "τ = 0.1" in text
    for number in "4567":
        assert f"nonconvex-figure-{number}.png" in text
    assert (tmp_path / "figures" / "nonconvex-figure-6.png").stat().st_size > 0


@pytest.mark.parametrize("missing", list(ACCURACIES))
def test_a_study_that_is_not_whole_makes_a_section_all_the_same(
    missing: str, tmp_path: Path
) -> None:
    of = made(tmp_path, {label: a for label, a in ACCURACIES.items() if label != missing})
    assert of.claims


def test_the_study_on_the_most_images_is_told_of(tmp_path: Path) -> None:
    described = {"name": "cifar10", "n_features": 3072, "checksum": "a"}
    for images, accuracy in ((2000, 0.9), (50_000, 0.2)):
        summary = {"dataset": described | {"n_samples": images, "checksum": str(images)}}
        run_of(tmp_path / str(images), "Newton, layer 1", accuracy, summary=summary)
    of = section({"paper_nonconvex": read_records([tmp_path])}, tmp_path / "figures")
    assert of is not None
    assert "50,000 images" in of.text[0] and "20.0%" in of.text[1]


def test_with_and_without_dropout_are_told_of_together(tmp_path: Path) -> None:
    for label, dropout in (("Newton, layer 4", 0.0), ("SGD", 0.5)):
        run_of(tmp_path / label, label, 0.5, model={"name": "paper_cnn", "dropout": [dropout]})
    of = section({"paper_nonconvex": read_records([tmp_path])}, tmp_path / "figures")
    assert of is not None
    assert "Newton, layer 4" in of.text[1] and "SGD" in of.text[1]


def test_tau_the_digits_and_the_race_are_shown(tmp_path: Path) -> None:
    run_of(tmp_path / "one", "Paper's Newton, layer 1", 0.1)
    for tau, accuracy in ((1e-5, 0.1), (0.1, 0.2)):
        optimizer = {"name": "layerwise_newton", "damping": tau}
        study = {"name": "paper_nonconvex_tau", "optimizer": optimizer}
        run_of(tmp_path / f"tau{tau}", "Paper's Newton, layer 1", accuracy, **study)
    for seed in range(3):
        run_of(tmp_path / f"race{seed}", "SGD", 0.5 + seed / 10, name="time_to_accuracy", seed=seed)
    run_of(tmp_path / "small", "Newton, layer 4", 0.99, name="digits_nonconvex")
    records: dict[str, list[Any]] = {}
    for record in read_records([tmp_path]):
        records.setdefault(record.study, []).append(record)
    of = section(records, tmp_path / "figures")
    assert of is not None
    text = "\n".join(of.text)
    assert "τ = 1e-05" in text and "τ = 0.1" in text and "20.0%" in text
    assert "On a small problem" in text and "99.0%" in text
    assert "3 seeds" in text and "60.0% [50.0% – 70.0%]" in text


def test_a_claim_on_one_layer_is_held_against_every_tau(tmp_path: Path) -> None:
    label = "Paper's Newton, layer 4"
    run_of(tmp_path / "study" / "0", label, 0.3)
    for tau, accuracy in ((1e-5, 0.13), (1.0, 0.09)):
        optimizer = {"name": "layerwise_newton", "damping": tau}
        config = {"name": "paper_nonconvex_tau", "optimizer": optimizer}
        run_of(tmp_path / "taus" / str(tau), label, accuracy, **config)
    study, taus = (read_records([tmp_path / name]) for name in ("study", "taus"))
    of = section({"paper_nonconvex": study, "paper_nonconvex_tau": taus}, tmp_path / "figures")
    assert of is not None
    assert verdict(of, "only the fourth") is Verdict.QUALIFIED  # 13% is about 14%
    (claim,) = (claim for claim in of.claims if "only the fourth" in claim.quote)
    assert "With other τ, on" in claim.measured and "9.0% to 13.0%" in claim.measured


def test_no_runs_make_no_section(tmp_path: Path) -> None:
    assert section({}, tmp_path) is None
