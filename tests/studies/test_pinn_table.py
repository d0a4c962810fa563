"""The table of differential equations in docs/residuals.md is that of the kept records."""

import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from newton_krylov.report.records import read_records

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = (
    ("Levenberg-Marquardt",),
    ("Energy natural gradient",),
    ("SPRING",),
    ("Gauss-Newton-CG",),
    ("L-BFGS",),
    ("BFGS", "Self-scaled BFGS", "Self-scaled Broyden"),
    (
        "Newton-CG", "Newton-MINRES", "Exact Newton", "Trust region", "ARC",
        "Regularized Newton", "NysNewton-CG",
    ),
    (
        "adam 0.01", "adam 0.001", "adam 0.01, then L-BFGS", "adam 0.001, then L-BFGS",
        "Adam, L-BFGS, NNCG",
    ),
)  # fmt: skip


def number(error: float) -> str:
    return f"{error:.1f}" if error >= 0.995 else f"{error:.1e}".replace("e-0", "e-")


@pytest.mark.slow
def test_the_table_is_that_of_the_records() -> None:
    errors: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in read_records([ROOT / "studies/pinn"]):
        assert record.status == "finished" and record.rows[-1].l2_error is not None
        errors[record.problem.dataset][record.label].append(record.rows[-1].l2_error)
    assert sum(len(seeds) == 3 for methods in errors.values() for seeds in methods.values()) == 200
    page = (ROOT / "docs/residuals.md").read_text(encoding="utf-8")
    for name, methods in errors.items():
        best = [
            min((methods[label] for label in labels), key=statistics.median) for labels in COLUMNS
        ]
        least = min(map(statistics.median, best))
        cells = []
        for seeds in best:
            median = statistics.median(seeds)
            leads = median == least < 0.5  # above that it is no solution
            text = f"**{number(median)}**" if leads else number(median)
            cells.append(f"{text} [{number(min(seeds))} – {number(max(seeds))}]")
        assert f"| `{name}` | {' | '.join(cells)} |" in page, name
