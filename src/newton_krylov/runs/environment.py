"""What a run ran in: versions, hardware, and the state of the code."""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from newton_krylov.tracking.address import masked

_PACKAGES = (
    "newton-krylov",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "hydra-core",
    "omegaconf",
    "mlflow",
    "matplotlib",
    "pydantic",
)


def describe(repository: Path) -> dict[str, Any]:
    """Describe the machine, the packages and the code.

    Parameters
    ----------
    repository : Path
        A folder of the code, whose git state is described.

    Returns
    -------
    dict
        Plain values for `environment.json`.
    """
    commit, dirty = _git_state(repository)
    return {
        "packages": _packages(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hostname": platform.node(),
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "command": [sys.executable, *map(masked, sys.argv)],
        "code_checksum": code_checksum(),
        "git_commit": commit,
        "git_dirty": dirty,
    }


def load_average() -> float | None:
    """Return how many processes wanted a processor in the last minute; None if nobody counts."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # Windows has none
        return None


@cache
def code_checksum() -> str:
    """Return the SHA-256 of the program's own modules, names and bytes."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def _packages() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@cache
def _cpu() -> str:
    """Return the processor's name; `platform` knows only its architecture on Linux."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def _git_state(repository: Path) -> tuple[str | None, bool | None]:
    """Return the commit and whether tracked files differ from it; None where git does not know.

    An installed copy may lie in the folder of another project, whose commit is not the code's.
    """
    if _git(repository, "ls-files", "--error-unmatch", ".") is None:
        return None, None
    commit = _git(repository, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    status = _git(repository, "status", "--porcelain", "--untracked-files=no")
    return commit, None if status is None else bool(status)


def _git(repository: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603
            [git, "-C", str(repository), *arguments],
            capture_output=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # the user may be committing
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
