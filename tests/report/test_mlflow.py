"""Runs read back out of MLflow are the runs that were sent: with their files, or without."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from run_folders import rows, write_run

from newton_krylov.errors import DataError
from newton_krylov.records.record import CONFIG, SUMMARY, flatten, read_yaml
from newton_krylov.records.trace import Row
from newton_krylov.report.command import main
from newton_krylov.report.records import RunRecord, read_record, read_records
from newton_krylov.report.results import tables
from newton_krylov.report.study import studies
from newton_krylov.tracking.mlflow_reader import fetch

pytestmark = pytest.mark.slow  # MLflow's first connection to a database takes seconds

TRACE = rows([1.0, 1e-3, 1e-7, 1e-13])


@dataclass(frozen=True)
class Store:
    """A database with a sweep of two runs, and two runs whose files never came."""

    uri: str
    folders: list[Path]
    parent: str
    bare: str
    going: str


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    from mlflow import MlflowClient

    place = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{place / 'mlflow.db'}"
    client = MlflowClient(uri)
    sweep = client.create_experiment("the sweep", artifact_location=(place / "a").as_uri())
    bare = client.create_experiment("bare runs", artifact_location=(place / "b").as_uri())
    parent = client.create_run(sweep, run_name="sweep").info.run_id
    (place / "sweep.json").write_text("{}")
    client.log_artifact(parent, str(place / "sweep.json"))
    folders = []
    for label in ("Newton-CG", "Newton-CR"):
        folders.append(write_run(place / label, TRACE, label=label))
        run = client.create_run(sweep, run_name=label, tags={"mlflow.parentRunId": parent})
        for file in folders[-1].iterdir():
            client.log_artifact(run.info.run_id, str(file))
        client.log_metric(run.info.run_id, "loss", 0.25 if label == "Newton-CG" else 0.5)
        client.set_terminated(run.info.run_id)
    return Store(
        uri, folders, parent, _bare_run(client, bare, folders[0], "KILLED"),
        _bare_run(client, bare, folders[0], None),
    )  # fmt: skip


def _bare_run(client: Any, experiment: str, folder: Path, status: str | None) -> str:
    """Send what the tracker sends while a run goes: parameters, tags and rows."""
    import math

    tags = {"python": "3.11", "version.torch": "2.14.1", "device": "cpu"}
    run_id = str(client.create_run(experiment, run_name="Newton-CG", tags=tags).info.run_id)
    for key, value in flatten(read_yaml(folder / CONFIG)).items():
        client.log_param(run_id, key, str(value))
    for row in TRACE:
        for name, value in row.metrics().items():
            if math.isfinite(value):
                client.log_metric(run_id, name, value, step=row.iteration)
    client.log_metric(run_id, "optimum", 0.25)
    if status is not None:
        client.set_terminated(run_id, status)
    return run_id


def records(place: Path, **choice: Any) -> list[RunRecord]:
    return [read_record(folder, source) for folder, source in fetch(place, **choice).items()]


def test_an_experiment_s_runs_give_the_tables_that_their_folders_give(
    store: Store, tmp_path: Path
) -> None:
    found = records(tmp_path, uri=store.uri, experiment="the sweep")
    here = studies(read_records(store.folders))
    assert [t.rows for t in tables(studies(found))] == [t.rows for t in tables(here)]
    assert all(record.origin.startswith("MLflow run ") for record in found)
    assert not any(record.faults for record in found)


def test_a_parent_s_runs_are_those_nested_in_it(store: Store, tmp_path: Path) -> None:
    found = records(tmp_path, uri=store.uri, parent=store.parent)
    assert [record.label for record in found] == ["Newton-CG", "Newton-CR"]


def test_a_filter_chooses_among_the_runs_of_all_experiments(store: Store, tmp_path: Path) -> None:
    found = records(tmp_path / "a", uri=store.uri, query="metrics.loss > 0.3")
    assert [record.label for record in found] == ["Newton-CR"]
    one = {"uri": store.uri, "experiment": "bare runs", "query": "attributes.status = 'KILLED'"}
    (killed,) = records(tmp_path / "b", **one)
    assert killed.origin == f"MLflow run {store.bare}"


def known(row: Row) -> dict[str, object]:
    """What a row knows: nan equals nothing, itself included."""
    return {key: value for key, value in asdict(row).items() if value == value}


def test_a_run_whose_files_never_came_is_put_together_from_what_was_sent(
    store: Store, tmp_path: Path
) -> None:
    killed, going = records(tmp_path, uri=store.uri, experiment="bare runs")
    assert (killed.status, going.status) == ("killed", "unfinished")
    original = read_record(store.folders[0])
    assert killed.settings == original.settings
    for sent, row in zip(killed.rows, TRACE, strict=True):
        assert known(sent) == known(row)
    assert killed.optimum == 0.25
    assert killed.environment == {"packages": {"torch": "2.14.1"}, "python": "3.11"}


def test_a_damaged_file_in_mlflow_is_a_fault_of_its_run(tmp_path: Path, store: Store) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(store.uri)
    where = client.create_experiment("damaged", artifact_location=(tmp_path / "c").as_uri())
    run_id = client.create_run(where).info.run_id
    (tmp_path / SUMMARY).write_text("{")
    client.log_artifact(run_id, str(tmp_path / SUMMARY))
    (record,) = records(tmp_path / "fetched", uri=store.uri, experiment="damaged")
    assert record.faults[0].startswith(f"MLflow run {run_id}/trace.csv is missing")
    assert record.faults[1].startswith(f"MLflow run {run_id}/summary.json cannot be read")
    assert record.failed


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"experiment": "the swep"}, "no experiment 'the swep'; did you mean 'the sweep'?"),
        ({"parent": "0123456789abcdef0123456789abcdef"}, "not found"),
        ({"query": "loss is small"}, "MLflow at .* says: .*[Ii]nvalid"),
        ({"experiment": "bare runs", "query": "metrics.loss > 9"}, "no run that the filter finds"),
    ],
)
def test_what_cannot_be_found_is_said_in_a_sentence(
    store: Store, tmp_path: Path, choice: dict[str, str], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        fetch(tmp_path, uri=store.uri, **choice)


def test_no_database_is_made_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    with pytest.raises(DataError, match="There is no database"):
        fetch(tmp_path, uri=f"sqlite:///{path}", experiment="x")
    assert not path.exists()


def test_a_server_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"MLflow at http://127\.0\.0\.1:9 says"):
        fetch(tmp_path, uri="http://127.0.0.1:9", experiment="x")


def test_the_command_compares_what_mlflow_has(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("newton_krylov.report.compare.draw_study", lambda *_: [])
    assert main(["--uri", store.uri, "--experiment", "the sweep"]) == 0
    assert "Newton-CR" in capsys.readouterr().out
    page = (tmp_path / "outputs" / "comparison-the-sweep" / "comparison.html").read_text()
    assert "MLflow run " in page and str(tmp_path) not in page
    assert main(["--uri", store.uri, "--experiment", "swep"]) == 2
    assert "Error: MLflow has no experiment 'swep'" in " ".join(capsys.readouterr().err.split())
