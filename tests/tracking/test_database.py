"""MLflow's database: whole or not there, and recognized where it is neither."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from command import PATIENCE, environment

from newton_krylov.errors import DataError
from newton_krylov.tracking.database import prepare

PREPARE = """
import sys
from newton_krylov.tracking.database import prepare
prepare(sys.argv[1])
"""
KILLED = """
import itertools, os, signal
from sqlalchemy import Engine, event

made = itertools.count(1)

@event.listens_for(Engine, "after_cursor_execute")
def strike(connection, cursor, statement, *_):
    if "CREATE TABLE" in statement and next(made) == %d:
        os.kill(os.getpid(), signal.SIGKILL)

os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # it is whole
"""


def begin(uri: str, cwd: Path, code: str = PREPARE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, uri],
        env=environment(cwd),
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "mlflow.db"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    prepare(f"sqlite:///{path}")
    return path


def test_it_is_made_and_nothing_else_is(whole):
    assert [path.name for path in whole.parent.iterdir()] == ["mlflow.db"]
    before = whole.stat()
    prepare(f"sqlite:///{whole}")
    assert whole.stat() == before


@pytest.mark.parametrize("tables", [5, 10**6])
def test_a_kill_while_it_is_made_leaves_none_and_the_next_makes_it(tables, tmp_path):
    """In the middle, and at the last moment."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    process = begin(uri, tmp_path, KILLED % tables + PREPARE)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and list(tmp_path.glob(".mlflow.db.*.part"))
    assert not (tmp_path / "mlflow.db").exists()
    prepare(uri)
    assert [path.name for path in tmp_path.glob("*mlflow*")] == ["mlflow.db"]


@pytest.mark.slow
def test_first_starts_at_the_same_time_wait_for_one_another(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    processes = [begin(uri, tmp_path) for _ in range(6)]
    for process in processes:
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err


def _half_made(whole: Path, path: Path) -> None:
    path.write_bytes(whole.read_bytes())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")


def _begun(whole: Path, path: Path) -> None:
    path.write_bytes(whole.read_bytes())
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE alembic_version")


BROKEN = {
    "half made": (_half_made, r"is not a whole database .* \(mv mlflow.db mlflow.db.old\)"),
    "begun": (_begun, "is not a whole database"),
    "no database": (lambda _, path: path.write_bytes(b"x" * 5000), "cannot be used as MLflow's"),
    "a folder": (lambda _, path: path.mkdir(), "is no file of a database"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_one_is_a_sentence_that_says_how_to_go_on(name, whole, tmp_path):
    make, sentence = BROKEN[name]
    make(whole, tmp_path / "mlflow.db")
    with pytest.raises(DataError, match=sentence):
        prepare(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_locked_one_is_not_called_damaged(whole, tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_bytes(whole.read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DataError, match="is locked by another process") as error:
            prepare(f"sqlite:///{path}", patience=0.1)
    assert "damaged" not in str(error.value)
    prepare(f"sqlite:///{path}")


def test_an_empty_file_is_none(tmp_path):
    (tmp_path / "mlflow.db").touch()
    prepare(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (tmp_path / "mlflow.db").stat().st_size > 0
