"""The walls between the rooms, read from the imports of every module."""

import ast
from pathlib import Path

import pytest
from command import ROOT

PACKAGE = ROOT / "src" / "newton_krylov"

# Who may know whom, for every room: the rooms of a file's package, from the ground floor up. A room
# may import what is listed for it and nothing else.
LIBRARY = {
    "errors": set(),
    "version": set(),
    "allocator": set(),
    "norms": set(),
    "files": {"errors"},
    "registry": {"errors"},
    "operators": {"errors", "norms"},
    "rectangular": {"errors", "operators"},
    "capabilities": {"errors", "registry"},
    "device": {"capabilities", "errors", "registry"},
    "kernels": {"files"},
    "data": {"capabilities", "errors", "files", "registry"},
    "models": {"data", "errors", "registry"},
    "spectral": {"errors", "norms", "operators"},
    "linear_solvers": {
        "capabilities", "errors", "norms", "operators", "rectangular", "registry",
    },
    "preconditioners": {
        "capabilities", "errors", "linear_solvers", "norms", "operators", "registry", "spectral",
    },
    "objectives": {
        "allocator", "capabilities", "data", "errors", "kernels", "norms", "operators",
        "rectangular", "registry",
    },
    "curvature": {
        "capabilities", "errors", "norms", "objectives", "operators", "registry", "spectral",
    },
    "distributed": {"capabilities", "data", "errors", "objectives", "operators", "registry"},
    "optimizers": {
        "capabilities", "curvature", "errors", "kernels", "linear_solvers", "norms", "objectives",
        "operators", "preconditioners", "rectangular", "registry", "spectral",
    },
    "interfaces": {
        "curvature", "data", "errors", "linear_solvers", "norms", "objectives", "operators",
        "optimizers", "preconditioners", "registry", "spectral",
    },
}  # fmt: skip
BENCH = {
    "terminal": set(),
    "records": {"errors", "files"},
    "tracking": {"errors", "files", "records", "registry", "terminal"},
    # A report reads records and traces, never live objects.
    "report": {"errors", "files", "norms", "records", "spectral", "terminal", "tracking"},
    "runs": {
        "capabilities", "curvature", "data", "device", "distributed", "errors", "files", "models",
        "objectives", "operators", "optimizers", "records", "registry", "report", "spectral",
        "terminal", "tracking",
    },
    "cli": {
        "data", "distributed", "errors", "files", "records", "registry", "report", "runs",
        "terminal", "tracking", "version",
    },
    "calls": {
        "capabilities", "cli", "data", "errors", "files", "models", "objectives", "records",
        "registry", "report", "runs", "terminal",
    },
}  # fmt: skip
# The package's own face: names of all rooms, each imported when it is first used.
FACE = {
    "__init__": {
        "calls", "interfaces", "linear_solvers", "operators", "preconditioners", "spectral",
        "version",
    },
}  # fmt: skip
KNOWN = LIBRARY | BENCH | FACE
STUDIES = {"errors", "files", "records", "report"}
"""What the studies beside the package know of it; the package knows nothing of them."""

# Libraries with a room of their own.
AT_HOME = {
    "mlflow": {"tracking"},
    "hydra": {"cli"},
    "omegaconf": {"cli"},
    "matplotlib": {"calls", "report"},
    "numba": {"kernels"},
    "rich": {"cli", "data", "report", "runs", "terminal", "tracking"},
    "sklearn": {"data", "optimizers", "interfaces"},
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


def test_every_room_is_listed():
    assert {room(path) for path in modules()} == set(KNOWN)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_room_knows_only_the_rooms_it_may(name):
    for path in modules():
        if room(path) != name:
            continue
        for module in imported(path):
            if module.startswith("newton_krylov."):
                known = module.split(".")[1]
                assert known in {*KNOWN[name], name}, f"{path.relative_to(ROOT)} imports {module}"


def test_all_imports_run_one_way():
    """A room stands above every room that it may know: there is no circle, and no way up."""
    floors: list[str] = []
    while len(floors) < len(KNOWN):
        ready = [name for name in KNOWN if name not in floors and KNOWN[name] <= set(floors)]
        assert ready, f"a circle among {sorted(set(KNOWN) - set(floors))}"
        floors += ready


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_no_circle_of_files():
    """Files import one way, too; what is imported late or for types alone counts as well."""
    names = {module_name(path) for path in modules()}
    needs = {}
    for path in modules():
        known = {n if n in names else n.rpartition(".")[0] for n in imported(path)}
        needs[module_name(path)] = known & names
    while ready := [name for name, known in needs.items() if known.isdisjoint(needs)]:
        for name in ready:
            del needs[name]
    assert not needs, f"a circle among {sorted(needs)}, or above one"


def test_the_library_does_not_know_the_bench():
    for name, known in LIBRARY.items():
        assert known <= set(LIBRARY), name


def test_the_studies_stand_beside_the_package():
    for path in modules():
        assert "studies" not in {module.partition(".")[0] for module in imported(path)}, path
    files = sorted((ROOT / "studies").rglob("*.py"))
    assert files
    for path in files:
        ours = {m.split(".")[1] for m in imported(path) if m.startswith("newton_krylov.")}
        assert ours <= STUDIES, f"{path.relative_to(ROOT)} imports {ours - STUDIES}"


@pytest.mark.parametrize("library", sorted(AT_HOME))
def test_a_library_stays_in_its_room(library):
    for path in modules():
        if library in {module.partition(".")[0] for module in imported(path)}:
            assert room(path) in AT_HOME[library], f"{path.relative_to(ROOT)} imports {library}"


@pytest.mark.parametrize("name", ["pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"])
def test_nothing_unpickles(name):
    for path in modules():
        if name in {module.partition(".")[0] for module in imported(path)}:
            # CIFAR-10's own files are pickles: read by an unpickler that finds no class. Joblib
            # starts the processes of its launcher, and is not asked for anything that it can load.
            allowed = {("pickle", "cifar10.py"), ("joblib", "workers.py")}
            assert (name, path.name) in allowed, f"{path} imports {name}"


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
