"""The paper's convex study by its one command: what must hold whatever the machine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command import PATIENCE

from newton_krylov.report.compare import compare
from newton_krylov.report.records import read_records
from newton_krylov.report.study import Study, studies
from studies.reproduction.generate import generate

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KRYLOV = ("Newton-GMRES", "Newton-CR", "Newton-GCR")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("paper") / "sweep"
    subprocess.run(
        [
            sys.executable, "run.py", "experiment=paper_convex", "repeat=0", "tracking=none",
            f"hydra.sweep.dir={folder}",
        ],
        cwd=ROOT, check=True, timeout=PATIENCE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def study(sweep: Path) -> Study:
    (found,) = studies(read_records([sweep]))
    return found


def suboptimality(study: Study, label: str) -> np.ndarray:
    entry = study.entry(label)
    assert entry is not None, label
    return entry.records[0].column("suboptimality")


def test_all_five_methods_ran_to_their_ends(study: Study) -> None:
    endings = {entry.label: entry.ending for entry in study.entries}
    assert endings == {
        "Gradient descent": "change of the loss <= 1e-16",
        "Exact Newton": "10 epochs",
        **dict.fromkeys(KRYLOV, "10 epochs"),
    }
    assert not any(record.faults for record in study.records)


def test_the_problem_and_its_optimum_are_the_paper_s(study: Study) -> None:
    problem = study.problem
    assert (problem.dataset, problem.n_samples, problem.n_features) == ("a9a", 32561, 124)
    assert dict(problem.parameters) == {"l2": 0.01}
    assert study.optimum == pytest.approx(0.3722017183991679, abs=2e-16)


def test_all_methods_start_at_one_point(study: Study) -> None:
    starts = {record.column("loss")[0] for record in study.records}
    assert max(starts) - min(starts) < 1e-12
    assert min(starts) > 1.0  # U(0,1)^d is far from the optimum


def test_exact_newton_converges_quadratically_and_never_goes_up(study: Study) -> None:
    values = suboptimality(study, "Exact Newton")
    assert len(values) == 11
    assert np.all(np.diff(values) < 0)
    assert values[10] < 1e-11
    late = np.flatnonzero((values < 1e-2) & (values > 1e-8))
    for k in late[late < 10]:
        assert values[k + 1] <= 20 * values[k] ** 2 + 1e-15


@pytest.mark.parametrize("label", KRYLOV)
def test_ten_inner_iterations_do_what_an_exact_solve_does(study: Study, label: str) -> None:
    exact, krylov = suboptimality(study, "Exact Newton"), suboptimality(study, label)
    np.testing.assert_allclose(krylov, exact, rtol=0.5, atol=1e-15)


def test_what_each_method_costs_is_counted(study: Study) -> None:
    last = {entry.label: entry.records[0].rows[-1] for entry in study.entries}
    assert (last["Exact Newton"].hessian_count, last["Exact Newton"].hvp_count) == (10, 0)
    for label in KRYLOV:
        assert last[label].hessian_count == 0
        assert 50 <= last[label].hvp_count <= 110


def test_gradient_descent_to_the_threshold_is_a_benchmark_to_1e_13(study: Study) -> None:
    values = suboptimality(study, "Gradient descent")
    assert 1000 < len(values) < 5000
    assert 0 <= values[-1] < 1e-13
    assert study.benchmark == "Gradient descent"


def test_all_methods_classify_alike(study: Study) -> None:
    for column in ("train_accuracy", "test_accuracy"):
        shares = [record.column(column)[-1] for record in study.records]
        assert max(shares) - min(shares) < 1e-3
        assert min(shares) > 0.84


def test_the_comparison_and_the_page_can_be_made_of_it(sweep: Path, tmp_path: Path) -> None:
    names = {file.name for file in compare([sweep], tmp_path / "comparison")}
    assert {"comparison.csv", "overview.png", "method-newton-cr.svg"} <= names
    page = generate([sweep], tmp_path / "docs").read_text()
    assert "| **holds** |" in page and "1.8286" in page  # lambda_max of the Hessian at zero
