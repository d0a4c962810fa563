"""The package as others import it: quick, typed, with names and examples that work."""

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import newton_krylov

SOURCE = Path(newton_krylov.__file__).parent
CACHE = Path(__file__).parents[1] / ".mypy_cache"  # CI has filled it: torch takes a while


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, newton_krylov; dir(newton_krylov);"
        "print([m for m in ('torch', 'numpy', 'scipy', 'sklearn', 'hydra', 'mlflow')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_library_needs_none_of_the_pipelines_packages() -> None:
    """Solvers, curvature and the PyTorch optimizer need torch, SciPy and pydantic alone."""
    code = (
        "import sys, torch\n"
        "from newton_krylov import NewtonKrylov, cg, hessian, lanczos, Nystrom\n"
        "cg(torch.eye(3), torch.ones(3))\n"
        "print([m for m in ('sklearn', 'hydra', 'omegaconf', 'mlflow', 'pandas', 'matplotlib',"
        " 'torchvision', 'rich') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("name", newton_krylov.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(newton_krylov, name)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(newton_krylov)
    module = importlib.import_module(f"newton_krylov.{newton_krylov._HOME[name]}")
    assert getattr(module, name) is value


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname: (node.module or "").removeprefix("newton_krylov.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == newton_krylov._HOME
    assert (SOURCE / "py.typed").exists()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'bicgstab'"):
        newton_krylov.bicgstab  # noqa: B018


def modules_with_examples() -> list[str]:
    return [
        module.name
        for module in pkgutil.walk_packages([str(SOURCE)], "newton_krylov.")
        if not module.ispkg
        and ">>> " in (SOURCE.parent / f"{module.name.replace('.', '/')}.py").read_text("utf-8")
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.slow
def test_a_users_program_type_checks(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import torch\n"
        "from newton_krylov import LinearResult, NewtonKrylov, cg, hessian\n"
        "\n"
        "model = torch.nn.Linear(2, 1)\n"
        "X, y = torch.ones(3, 2), torch.ones(3, 1)\n"
        "H = hessian(model, torch.nn.MSELoss(), X, y)\n"
        "result: LinearResult = cg(H, torch.ones(3), rtol=1e-3)\n"
        "norms: list[float] = result.residual_norms\n"
        "optimizer: torch.optim.Optimizer = NewtonKrylov(model.parameters(), solver='cr')\n"
        "wrong: str = result.iterations\n",
        encoding="utf-8",
    )
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(CACHE), "program.py"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    errors = [line for line in run.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, run.stdout
    assert "program.py:10: error: Incompatible types in assignment" in errors[0]
