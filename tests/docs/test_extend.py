"""The page's parts work as it says: each by name in a run, and the solver on the zoo."""

import importlib.util
import json
import os
import re
from pathlib import Path

import pytest
import torch
from cases import CASES, LIMIT, true_residual
from command import ROOT, command

from newton_krylov.errors import ConfigError
from newton_krylov.registry import Entry, entry
from newton_krylov.runs.config import GROUPS

PAGE = ROOT / "docs" / "extend.md"


def examples() -> dict[str, tuple[str, str]]:
    """The page's examples: the name of a file to its code and to the command that uses it."""
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {}
    for section in sections:
        if named := re.search(r"[Ii]n\s`(my_\w+\.py)`:", section):
            code = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[0]
            (line,) = re.findall(r"^    python run\.py (.*)$", section, re.MULTILINE)
            found[named[1]] = (code, line)
    return found


EXAMPLES = examples()


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's modules as files of the names that the page gives them."""
    folder = tmp_path_factory.mktemp("page")
    for name, (code, _) in EXAMPLES.items():
        (folder / name).write_text(code, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def my_solvers(modules: Path) -> Path:
    return modules / "my_solver.py"


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


def test_there_is_an_example_of_every_kind() -> None:
    kinds = {
        group
        for code, _ in EXAMPLES.values()
        for group in re.findall(r'^@register\("(\w+)"', code, re.MULTILINE)
    }
    assert "@source(" in EXAMPLES["my_dataset.py"][0]
    assert "@linear_solver(" in EXAMPLES["my_solver.py"][0]
    without = {"device", "tracking", "schedule"}  # nobody's to extend but the bench's own
    assert kinds | {"dataset", "solver"} == set(GROUPS) - without


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EXAMPLES))
def test_its_command_runs_and_uses_it(name: str, modules: Path, tmp_path: Path) -> None:
    """One file each: no other part of the page is there."""
    plugin = {"NEWTON_KRYLOV_PLUGINS": Path(name).stem, "PYTHONPATH": str(modules)}
    out, err = command(
        *EXAMPLES[name][1].split(), "tracking=none", "hydra.run.dir=r", cwd=tmp_path,
        **plugin_environment(plugin),
    )  # fmt: skip
    summary = json.loads((tmp_path / "r" / "summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == "finished", (out, err)
    trace = (tmp_path / "r" / "trace.csv").read_text(encoding="utf-8").splitlines()
    head, first, last = (line.split(",") for line in (trace[0], trace[1], trace[-1]))
    loss = head.index("loss")
    assert float(last[loss]) < float(first[loss])
    if "stop.epochs" not in EXAMPLES[name][1]:
        assert summary["outcome"] == "converged", summary


def plugin_environment(plugin: dict[str, str]) -> dict[str, str]:
    """The package is still found where it was."""
    known = os.environ.get("PYTHONPATH")
    return plugin | ({"PYTHONPATH": f"{plugin['PYTHONPATH']}{os.pathsep}{known}"} if known else {})
