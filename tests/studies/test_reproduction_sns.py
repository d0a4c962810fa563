"""The section on Sinkhorn-Newton-Sparse: its numbers and verdicts follow the records."""

from pathlib import Path
from typing import Any

import pytest
from study_runs import TRANSPORT, Runs, assignment, transport_study

from newton_krylov.report.records import read_records
from studies.reproduction import sns
from studies.reproduction.page import Section, Verdict


def make(folder: Path, figures: Path) -> Section:
    records: dict[str, Any] = {}
    for record in read_records([folder]):
        records.setdefault(record.study, []).append(record)
    section = sns.section(records, figures)
    assert section is not None
    return section


def verdicts(section: Section) -> dict[str, tuple[Verdict, str]]:
    return {claim.quote: (claim.verdict, claim.measured) for claim in section.claims}


def find(section: Section, beginning: str) -> tuple[Verdict, str]:
    (found,) = (v for quote, v in verdicts(section).items() if beginning in quote)
    return found


def test_the_numbers_of_the_records_are_held_against_the_published_ones(tmp_path: Path) -> None:
    assignment(tmp_path / "runs")
    section = make(tmp_path / "runs", tmp_path / "figures")
    verdict, text = find(section, "29 iterations where")
    assert verdict is Verdict.HOLDS
    assert "30 against 60,000: 2,000 times fewer (published: 1,938)" in text
    verdict, text = find(section, "0.34 s where")
    assert verdict is Verdict.HOLDS
    assert "100 ms against 60 s: 600 times faster (published: 685)" in text
    verdict, text = find(section, "Sparsity makes")
    assert (verdict, "3 times as long" in text) == (Verdict.HOLDS, True)
    table = next(part for part in section.text if part.startswith("**Random assignment"))
    assert "| Sinkhorn-Newton-Sparse | 30 | 29 | 100 ms |" in table


@pytest.mark.parametrize(
    ("changed", "claim", "verdict"),
    [
        ({sns.SINKHORN: (1_000, 60.0)}, "29 iterations where", Verdict.QUALIFIED),
        ({sns.SINKHORN: (40, 60.0)}, "29 iterations where", Verdict.FAILS),
        ({sns.SINKHORN: (60_000, 1.0)}, "0.34 s where", Verdict.QUALIFIED),
        ({sns.SINKHORN: (60_000, 0.05)}, "0.34 s where", Verdict.FAILS),
        ({sns.WHOLE: (30, 0.05)}, "Sparsity makes", Verdict.FAILS),
    ],
)
def test_other_numbers_turn_the_verdicts(
    tmp_path: Path, changed: Runs, claim: str, verdict: Verdict
) -> None:
    assignment(tmp_path / "runs", changed)
    section = make(tmp_path / "runs", tmp_path / "figures")
    assert find(section, claim)[0] is verdict


def test_all_studies_together_make_all_claims_with_their_figures(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assignment(runs)
    digits = {"name": "transport", "source": "digits"}
    transport_study(runs, sns.STUDY, TRANSPORT, n=784, dataset=digits)
    first = {sns.SNS_700: (750, 1.0), sns.SINKHORN: (6_000, 5.0)}
    transport_study(runs, sns.L1, first, n=784, dataset=digits)
    transport_study(
        runs, sns.LARGE, TRANSPORT, n=2000, converged=False,
        loss={"name": "entropic_transport", "eta": 4800.0},
    )  # fmt: skip
    for kept, iterations in ((2, 60), (3, 30), (15, 27)):
        approx = {"name": "thresholded_sparse", "kept": kept}
        transport_study(runs, sns.KEPT, {sns.SNS: (iterations, 0.1)}, hessian_approx=approx)
    section = make(runs, tmp_path / "figures")
    assert len(section.claims) == 2 + 2 + 2 + 1 + 1 + 1
    verdict, text = find(section, "larger n")
    assert verdict is Verdict.HOLDS
    assert "n = 2,000 and η = 4800" in text and "at least 2,000 times fewer" in text
    verdict, text = find(section, "fraction 2/n")
    assert verdict is Verdict.QUALIFIED
    assert "2 per row: 59, 3 per row: 29, 15 per row: 26" in text
    named = [line.partition("](figures/")[2].rstrip(")") for part in section.text
             for line in part.splitlines() if line.startswith("![")]  # fmt: skip
    assert len(named) == len(set(named)) == 4
    assert all((tmp_path / "figures" / name).stat().st_size > 5000 for name in named)


def test_without_the_study_there_is_no_section(tmp_path: Path) -> None:
    assert sns.section({}, tmp_path) is None
