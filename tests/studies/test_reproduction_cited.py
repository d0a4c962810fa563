"""The page's sections on Ye and Zhang and on DynaNewton: known traces, known verdicts."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from run_folders import rows, write_run
from study_runs import dyna_study, multiplier_study, ye_zhang

from newton_krylov.errors import DataError
from studies.reproduction.generate import generate
from studies.reproduction.page import Verdict


def verdict_on(page: Path, beginning: str) -> str:
    lines = [line.split(" | ") for line in page.read_text().splitlines() if line.endswith("** |")]
    (found,) = (v for _, quote, v in lines if beginning in quote)
    return found.removesuffix(" |").strip("*")


def as_in_theory(pi: float) -> tuple[float, float]:
    """The factors of the gaps: squares of those of the errors."""
    return pi**2, (1 - math.sqrt(1 - pi)) ** 2


def test_what_theory_says_is_borne_out(tmp_path: Path) -> None:
    pi = {0.001: 0.5, 0.1: 0.96}
    study = ye_zhang(
        tmp_path / "study",
        lambda alpha: as_in_theory(pi[alpha])[0],
        lambda alpha: as_in_theory(pi[alpha])[1],
        newton=1.0, gd=2.0,
    )  # fmt: skip
    page = generate([study], tmp_path / "docs")
    assert verdict_on(page, "improves the convergence") == Verdict.HOLDS
    assert verdict_on(page, "helps most") == Verdict.HOLDS
    assert verdict_on(page, "Plain converges like") == Verdict.HOLDS
    assert verdict_on(page, "classical methods") == Verdict.HOLDS
    text = page.read_text()
    assert "With 2 of 2 settings" in text
    assert "multiplies the gap f − f* by 0.9216, so π = 0.9600" in text
    assert "each accelerated step by 0.6400" in text and "= 0.6400 for the gap" in text
    # 1e-6 = 0.9216^k at k = 170, 0.64^k at k = 31
    assert "| \\|S\\| = 5% of n, α = 0.1 | 170 | 31 | 5.5 × |" in text


@pytest.mark.parametrize(
    ("accelerated", "claim", "verdict"),
    [
        (lambda alpha: 0.97, "improves the convergence", Verdict.FAILS),
        (lambda alpha: 0.97, "Plain converges like", Verdict.FAILS),
        (lambda alpha: {0.001: 0.1, 0.1: 0.9}[alpha], "helps most", Verdict.FAILS),
        (lambda alpha: {0.001: 0.5, 0.1: 0.5}[alpha], "helps most", Verdict.QUALIFIED),
        (lambda alpha: 0.75, "Plain converges like", Verdict.QUALIFIED),
    ],
)
def test_other_rates_turn_the_verdicts(
    tmp_path: Path, accelerated: Callable[[float], float], claim: str, verdict: Verdict
) -> None:
    study = ye_zhang(
        tmp_path / "study", lambda alpha: {0.001: 0.3, 0.1: 0.9216}[alpha], accelerated
    )
    assert verdict_on(generate([study], tmp_path / "docs"), claim) == verdict


def test_a_run_that_does_not_get_there_counts_with_all_its_steps(tmp_path: Path) -> None:
    study = ye_zhang(
        tmp_path / "study", lambda alpha: {0.001: 0.3, 0.1: 0.99}[alpha], lambda _: 0.5
    )
    page = generate([study], tmp_path / "docs").read_text()
    assert "| \\|S\\| = 5% of n, α = 0.1 | never | 20 | ≥ 20 × |" in page
    study = ye_zhang(tmp_path / "other", lambda _: 0.5, lambda _: 0.99)
    page = generate([study], tmp_path / "docs-other").read_text()
    assert "| \\|S\\| = 5% of n, α = 0.1 | 20 | never | – |" in page


def test_quicker_rivals_are_told(tmp_path: Path) -> None:
    study = ye_zhang(tmp_path / "a", lambda _: 0.9, lambda _: 0.5, newton=1e-5, gd=1.0)
    page = generate([study], tmp_path / "docs-a")
    assert verdict_on(page, "classical methods") == Verdict.QUALIFIED
    study = ye_zhang(tmp_path / "b", lambda _: 0.9, lambda _: 0.5, newton=1.0, gd=1e-5)
    assert verdict_on(generate([study], tmp_path / "docs-b"), "classical methods") == Verdict.FAILS


def test_without_pairs_there_is_no_section(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0, 0.1]), name="ye_zhang_2017", label="Exact Newton")
    with pytest.raises(DataError, match="None of these runs"):
        generate([tmp_path], tmp_path / "docs")


# --- DynaNewton -----------------------------------------------------------------------------


def test_passes_and_effective_passes_are_told_and_judged(tmp_path: Path) -> None:
    page = generate([dyna_study(tmp_path / "study")], tmp_path / "docs")
    assert verdict_on(page, "statistical accuracy") == Verdict.HOLDS
    assert verdict_on(page, "accelerates Newton's method") == Verdict.HOLDS
    text = page.read_text()
    assert "within d / 2n = 1.0e-02 of the minimizer's after 0.6 effective passes" in text
    assert "which are 1.2 passes over the data" in text
    assert "The others' passes: Exact Newton 4, SGD 1." in text
    assert "3.3 times fewer to d / 2n, 3.3 times fewer to 1e-6" in text
    assert "| DynaNewton | 1.2 | 2.4 | 1.2 | 20 ms | 40 ms | 20 ms |" in text


@pytest.mark.parametrize(
    ("changed", "claim", "verdict"),
    [
        ({"passes": 2.0}, "statistical accuracy", Verdict.QUALIFIED),
        ({"passes": 5.0}, "statistical accuracy", Verdict.FAILS),
        ({"passes": 1.7}, "accelerates Newton's method", Verdict.QUALIFIED),
        ({"passes": 3.0}, "accelerates Newton's method", Verdict.FAILS),
        ({"passes": 0.4}, "consistently confirm", Verdict.HOLDS),
        ({"passes": 0.4, "seconds": 1.0}, "consistently confirm", Verdict.QUALIFIED),
        ({"passes": 3.0, "seconds": 1.0}, "consistently confirm", Verdict.FAILS),
    ],
)
def test_other_costs_turn_dynanewton_s_verdicts(
    tmp_path: Path, changed: dict[str, float], claim: str, verdict: Verdict
) -> None:
    study = dyna_study(tmp_path / "study", **changed)  # type: ignore[arg-type]
    assert verdict_on(generate([study], tmp_path / "docs"), claim) == verdict


def test_without_a_test_set_the_training_loss_is_told(tmp_path: Path) -> None:
    page = generate([dyna_study(tmp_path / "study", test=False)], tmp_path / "docs").read_text()
    assert "Its training loss (there is no test set) is within" in page
    assert "| DynaNewton | 1.2 | 2.4 | – | 20 ms | 40 ms | – |" in page


def test_the_multiplier_is_told_and_judged(tmp_path: Path) -> None:
    studies = [
        dyna_study(tmp_path / "study"),
        multiplier_study(tmp_path / "c", lambda c: 2 - c / 10),
    ]
    page = generate(studies, tmp_path / "docs")
    assert verdict_on(page, "Increasing strong convexity") == Verdict.QUALIFIED
    text = page.read_text()
    assert "8 with c = 0, 7.6 with c = 1, 4 with c = 10" in text
    assert "Armijo's rule shortened: 0 of 4, 0 of 4, 0 of 4." in text
    studies[1] = multiplier_study(tmp_path / "d", lambda c: 1 + c)
    page = generate(studies, tmp_path / "docs")
    assert verdict_on(page, "Increasing strong convexity") == Verdict.FAILS


def test_every_figure_of_both_sections_is_there(tmp_path: Path) -> None:
    studies = [
        dyna_study(tmp_path / "dyna"),
        ye_zhang(tmp_path / "ye", lambda _: 0.9, lambda _: 0.5, newton=1.0),
    ]
    page = generate(studies, tmp_path / "docs")
    named = [
        part.partition(")")[0]
        for part in page.read_text().split("](")[1:]
        if part.startswith("figures/")
    ]
    assert len(named) == 3
    assert all((page.parent / name).stat().st_size > 5000 for name in named)
