"""The page's solver works as it says: by name in a run, and on the zoo."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from cases import CASES, LIMIT, true_residual
from command import QUICK, ROOT, command

from newton_krylov.errors import ConfigError
from newton_krylov.registry import Entry, entry

PAGE = ROOT / "docs" / "extend.md"


@pytest.fixture(scope="module")
def my_solvers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's module as a file of the name that the page gives it."""
    text = PAGE.read_text(encoding="utf-8")
    (name,) = re.findall(r"put it in a module of your own, `(\w+\.py)`", text)
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    path = tmp_path_factory.mktemp("page") / name
    path.write_text(code, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def mr(my_solvers: Path) -> Entry:
    spec = importlib.util.spec_from_file_location("my_solvers", my_solvers)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return entry("solver", "mr")


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.kind in ("definite", "positive_real")], ids=str
)
def test_it_solves_what_the_page_says(mr: Entry, case) -> None:
    A, b = case.system
    rtol = 1e-3 if case.condition <= 1e4 else 1e-1
    result = mr.target(A, b, rtol=rtol, maxiter=5 * LIMIT)
    assert result.converged
    assert true_residual(A, b, result.x) <= 1.1 * rtol * torch.linalg.vector_norm(b)
    norms = result.residual_norms
    assert all(norms[k + 1] <= norms[k] * (1 + 1e-9) for k in range(len(norms) - 1))


def test_it_reports_negative_curvature(mr: Entry) -> None:
    for case in (c for c in CASES if c.kind == "indefinite"):
        result = mr.target(*case.system, rtol=1e-8, maxiter=LIMIT)
        assert result.status == "negative_curvature"


def test_its_keywords_are_checked(mr: Entry) -> None:
    assert mr.validate({}) == {"rtol": 1e-5, "atol": 0.0, "maxiter": None, "relaxation": 1.0}
    with pytest.raises(ConfigError, match="did you mean 'relaxation'"):
        mr.validate({"relaxatoin": 0.9})
    with pytest.raises(ConfigError, match=r"solver.relaxation=-1 is not valid"):
        mr.validate({"relaxation": -1})


@pytest.mark.slow
def test_it_runs_by_name(my_solvers: Path, tmp_path: Path) -> None:
    """Both of the page's commands, on a quicker problem."""
    plugin = {"NEWTON_KRYLOV_PLUGINS": "my_solvers", "PYTHONPATH": str(my_solvers.parent)}
    run = [*QUICK, "solver=mr", "solver.relaxation=0.9", "loss.l2=0.1", "tracking=none"]
    command(*run, "hydra.run.dir=r", cwd=tmp_path, **plugin)
    summary = json.loads((tmp_path / "r" / "summary.json").read_text(encoding="utf-8"))
    assert summary["outcome"] == "converged", summary
