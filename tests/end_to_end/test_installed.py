"""The installed command: the wheel alone, from another folder, does what the scripts do."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from command import CONF, QUICK, ROOT, end, environment

import newton_krylov

pytest.importorskip("hatchling")
pytestmark = pytest.mark.slow
HEAVY = ("torch", "numpy", "hydra", "matplotlib", "mlflow")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir")
    pip("wheel", *options, str(place), str(ROOT))
    (found,) = place.glob("newton_krylov-*.whl")
    return found


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    pip("install", "--quiet", "--no-deps", "--no-index", "--target", str(place), str(wheel))
    return place


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def installed(site: Path, *arguments: str, cwd: Path, code: int = 0) -> tuple[str, str]:
    process = subprocess.Popen(
        [sys.executable, str(site / "bin" / "newton-krylov"), *arguments],
        cwd=cwd, env=environment(cwd, PYTHONPATH=str(site)), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    return end(process, code)


def test_the_wheel_has_the_whole_configuration(wheel: Path) -> None:
    ours = {str(path.relative_to(CONF)) for path in CONF.rglob("*.yaml")}
    prefix = "newton_krylov/conf/"
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name.removeprefix(prefix) for name in archive.namelist() if prefix in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    assert shipped == ours
    assert f"Version: {newton_krylov.__version__}\n" in text
    assert "Project-URL: " in text and "Classifier: Programming Language :: Python" in text


def test_it_runs_compares_and_sends_from_any_folder(site: Path, tmp_path: Path) -> None:
    out, _ = installed(
        site, "run", "-m", *QUICK, "solver=cg,cr", "tracking=none", "hydra.sweep.dir=s",
        cwd=tmp_path,
    )  # fmt: skip
    summaries = [json.loads(file.read_text()) for file in tmp_path.glob("s/*/summary.json")]
    assert [summary["outcome"] for summary in summaries] == ["converged"] * 2
    reported = json.loads((tmp_path / "s" / "0" / "environment.json").read_text())
    assert reported["git_commit"] is None  # the code is not a repository's
    out, _ = installed(site, "compare", "s", "--out", "c", cwd=tmp_path)
    assert "newton-cr" in out and "c/comparison.html" in out
    assert (tmp_path / "c" / "comparison.html").stat().st_size > 10_000
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    out, _ = installed(site, "upload", "s", "--uri", uri, cwd=tmp_path)
    assert out.count(" as run ") >= 2


def test_the_user_s_own_configurations_stand_beside_it(site: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine" / "solver"
    own.mkdir(parents=True)
    (own / "careful.yaml").write_text("name: cg\nrtol: 1.0e-12\n")
    run = ["run", "--config-dir", "mine", *QUICK, "solver=careful", "tracking=none"]
    installed(site, *run, "hydra.run.dir=r", cwd=tmp_path)
    assert "rtol: 1.0e-12" in (tmp_path / "r" / "config.yaml").read_text()


def test_it_composes_what_run_py_composes(site: Path, tmp_path: Path) -> None:
    chosen = ["experiment=paper_convex", "dataset=w8a", "--cfg", "job"]
    here = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *chosen],
        cwd=tmp_path, capture_output=True, text=True, check=True, env=environment(tmp_path),
    )  # fmt: skip
    assert installed(site, "run", *chosen, cwd=tmp_path)[0] == here.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, f"newton-krylov {newton_krylov.__version__}"),
        (["run", "--version"], 0, f"newton-krylov {newton_krylov.__version__}"),
        (["--help"], 0, "newton-krylov compare --help"),
        ([], 2, "Usage: newton-krylov COMMAND"),
        (["compare", "--help"], 0, "usage: newton-krylov compare"),
        (["upload", "--help"], 0, "usage: newton-krylov upload"),
        (["run", "--help"], 0, "Usage: newton-krylov run [-m]"),
        (["rum"], 2, "'rum' is not a command; did you mean 'run'?"),
        (["run", "solvr=cg"], 2, "did you mean 'solver'?"),
        (["run", "--nope"], 2, "See newton-krylov run --help."),
        (["compare", "nowhere"], 2, "nowhere is not a folder"),
    ],
)
def test_help_versions_and_mistakes(
    site: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    out, err = installed(site, *arguments, cwd=tmp_path, code=code)
    assert said in (err if code and arguments else out)


def test_without_the_commands_packages_it_is_one_sentence(site: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-S", str(site / "bin" / "newton-krylov"), "compare", "x"],
        cwd=tmp_path, env={"PYTHONPATH": str(site)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, err = end(process, 2)
    assert "newton-krylov compare needs the package" in err and err.count("\n") == 1
