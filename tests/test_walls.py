"""The walls between the rooms, read from the imports of every module."""

import ast
from pathlib import Path

import pytest
from command import ROOT

PACKAGE = ROOT / "src" / "newton_krylov"

# Who may know whom. What is not listed is free to know anything: it composes the rooms.
KNOWN = {
    "errors": set(),
    "norms": set(),
    "trace": set(),
    "registry": {"errors"},
    "operators": {"errors"},
    "interruption": set(),
    "console": {"trace"},
    "record": {"data.files", "errors"},
    "data": {"errors", "registry"},
    "models": {"data", "errors", "registry"},
    "linear_solvers": {"errors", "norms", "operators", "registry"},
    "preconditioners": {"errors", "linear_solvers", "operators", "registry"},
    "objectives": {"allocator", "data", "errors", "norms", "operators", "registry"},
    "curvature": {
        "errors", "linear_solvers", "norms", "objectives", "operators", "registry",
        "spectrum.estimators",
    },
    "optimizers": {
        "curvature", "errors", "linear_solvers", "norms", "objectives", "operators",
        "preconditioners", "registry",
    },
    "tracking": {
        "checkpoint", "data.files", "errors", "record", "registry", "spectrum.snapshot", "trace",
    },
    # A report reads records and traces, never live objects.
    "report": {
        "console", "data.files", "errors", "record", "spectrum.density.Density",
        "spectrum.snapshot", "trace", "tracking.mlflow_reader",
    },
}  # fmt: skip

# Libraries with a room of their own.
AT_HOME = {
    "mlflow": {"tracking"},
    "hydra": {"cli", "compose"},
    "omegaconf": {"cli", "compose"},
    "matplotlib": {"report"},
    "sklearn": {"data", "optimizers", "estimator"},
    "torchvision": {"data"},
    "pyhessian": {"curvature"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file; relative imports are not used."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_room_knows_only_the_rooms_before_it(name):
    for path in modules():
        if room(path) != name:
            continue
        for module in imported(path):
            if not module.startswith("newton_krylov."):
                continue
            inner = module.removeprefix("newton_krylov.")
            allowed = any(f"{inner}.".startswith(f"{known}.") for known in {*KNOWN[name], name})
            assert allowed, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("library", sorted(AT_HOME))
def test_a_library_stays_in_its_room(library):
    for path in modules():
        if library in {module.partition(".")[0] for module in imported(path)}:
            assert room(path) in AT_HOME[library], f"{path.relative_to(ROOT)} imports {library}"


@pytest.mark.parametrize("name", ["pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"])
def test_nothing_unpickles(name):
    for path in modules():
        if name in {module.partition(".")[0] for module in imported(path)}:
            # CIFAR-10's own files are pickles: read by an unpickler that finds no class.
            assert (name, path.name) == ("pickle", "cifar10.py"), f"{path} imports {name}"


def test_what_is_loaded_is_data():
    for path in modules():
        source = path.read_text(encoding="utf-8")
        assert "allow_pickle=True" not in source, path
        assert "yaml.load(" not in source or "SafeLoader" in source, path
        for tail in source.split("torch.load(")[1:]:
            assert "weights_only=True" in tail[:200], path


def test_nothing_evaluates_text():
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), path
