"""Fetches runs from MLflow into folders like those under outputs/, to be compared."""

import ast
import csv
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml

from newton_krylov.errors import DataError, suggest
from newton_krylov.records.record import (
    CONFIG,
    ENVIRONMENT,
    SUMMARY,
    SWEEP,
    TRACE,
    read_json,
    write_json,
)
from newton_krylov.records.trace import Row
from newton_krylov.terminal import one_line
from newton_krylov.tracking.address import harmless, keep, revealed
from newton_krylov.tracking.deadline import within
from newton_krylov.tracking.mlflow_sender import LABEL_TAG, Sender

_FILES = (TRACE, CONFIG, SUMMARY, ENVIRONMENT)
_PARENT_TAG = "mlflow.parentRunId"
_THREADS = 8
_PAGE = 1000
_TIMEOUT = 20
_DEADLINE = 60.0  # seconds for an answer, whatever the server does meanwhile
_STATUS = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def fetch(
    place: Path,
    *,
    uri: str | None = None,
    experiment: str | None = None,
    parent: str | None = None,
    query: str | None = None,
) -> dict[Path, str]:
    """Fetch the records of some runs.

    A run whose files were never sent, because it was killed or still goes on, is put together
    from its parameters, metrics and tags.

    Parameters
    ----------
    place : Path
        A folder; each run gets one in it.
    uri : str, optional
        URI of the tracking server or database; MLflow's own default if not given.
    experiment : str, optional
        Name of the experiment to look in; all of them if not given.
    parent : str, optional
        Identifier of the run that the runs are nested in.
    query : str, optional
        Condition in MLflow's query language, as `metrics.loss < 0.4 and params.seed = '0'`.

    Returns
    -------
    dict
        Folder to where the run comes from, in words; in the order in which the runs began.

    Raises
    ------
    DataError
        If there is no such database, server, experiment or run, or the query is wrong.
    """
    server = _Server(Sender(None if uri is None else keep(uri), _TIMEOUT).uri)
    runs = server.ask(lambda: server.find(experiment, parent, query))
    parents = {run.data.tags.get(_PARENT_TAG) for run in runs}
    runs = [run for run in runs if run.info.run_id not in parents]
    folders = [place / f"{i:06d}" for i in range(len(runs))]
    with ThreadPoolExecutor(_THREADS) as pool:
        taken = list(pool.map(server.try_to_take, runs, folders))
    problems = [found for found in taken if isinstance(found, DataError)]
    for problem in problems:
        _log.warning("%s", one_line(str(problem)))
    if problems and not any(found is True for found in taken):
        raise problems[0]
    return {
        folder: f"MLflow run {run.info.run_id}"
        for folder, run, found in zip(folders, runs, taken, strict=True)
        if found is True
    }


class _Server:
    """A tracking server or database to read from."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._gave_up = False
        path = uri.removeprefix("sqlite:///")
        if path != uri and not Path(path).exists():
            raise DataError(f"There is no database {path}; --uri names another one or a server.")
        self._client = self.ask(self._connect)

    def _connect(self) -> Any:
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        client = MlflowClient(revealed(self.uri))
        client.search_experiments(max_results=1)
        return client

    def ask(self, question: Callable[[], _T]) -> _T:
        """Query MLflow; an error becomes one sentence. Who kept silent once is not asked again."""
        if self._gave_up:
            raise DataError(f"MLflow at {self.uri} gave no answer within {_DEADLINE:g} s.")
        try:
            return within(_DEADLINE, question)
        except DataError:
            raise
        except TimeoutError:
            self._gave_up = True
            return self.ask(question)
        except Exception as error:  # a server may answer anything, and make a library raise it
            reason = " ".join(harmless(str(error)).split())[:400]
            raise DataError(
                f"MLflow at {self.uri} says: {reason or type(error).__name__}"
            ) from error

    def find(self, experiment: str | None, parent: str | None, query: str | None) -> list[Any]:
        """Find runs, the oldest first."""
        conditions = [query] if query else []
        if parent is not None:
            place = self._client.get_run(parent).info.experiment_id
            conditions.append(f"tags.`{_PARENT_TAG}` = '{parent}'")
            places = [place]
        else:
            places = self._experiments(experiment)
        found: list[Any] = []
        token: str | None = ""
        while token is not None:
            page = self._client.search_runs(
                places, " and ".join(conditions), max_results=_PAGE,
                order_by=["attributes.start_time ASC"], page_token=token or None,
            )  # fmt: skip
            found += page
            token = page.token or None
        if not found:
            where = f"experiment '{experiment}'" if experiment else f"MLflow at {self.uri}"
            what = f"run nested in {parent}" if parent else "run"
            raise DataError(
                f"There is no {what}{' that the filter finds' * bool(query)} in {where}."
            )
        return found

    def _experiments(self, name: str | None) -> list[str]:
        every = {each.name: str(each.experiment_id) for each in self._client.search_experiments()}
        if name is None:
            return list(every.values())
        if name not in every:
            raise DataError(f"MLflow has no experiment '{name}'{suggest(name, every)}")
        return [every[name]]

    def try_to_take(self, run: Any, folder: Path) -> bool | DataError:
        """Put a run's record into a folder, as `take` does; what is wrong is of this run alone."""
        try:
            return self.take(run, folder)
        except DataError as error:
            return DataError(f"MLflow run {run.info.run_id} is left out: {error}")

    def take(self, run: Any, folder: Path) -> bool:
        """Put a run's record into a folder; return whether it is one, and not a sweep's parent."""
        folder.mkdir(parents=True)
        sent = self.ask(lambda: self._download(run.info.artifact_uri, folder))
        if SWEEP in sent:
            return False
        if CONFIG not in sent:
            text = yaml.safe_dump(_config(run), sort_keys=False)
            (folder / CONFIG).write_text(text, encoding="utf-8")
        if TRACE not in sent:
            self.ask(lambda: self._write_trace(run, folder / TRACE))
        if ENVIRONMENT not in sent:
            write_json(folder / ENVIRONMENT, _environment(run.data.tags))
        _complete(run, folder / SUMMARY)
        return True

    def _download(self, place: str, folder: Path) -> set[str]:
        """Download a record's files from a run's place; return the names of all that were sent.

        MLflow's client looks the run and its models up for every file: more
        work than all the rest of a comparison.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        files: Any = get_artifact_repository(place, tracking_uri=revealed(self.uri))
        sent = {artifact.path for artifact in files.list_artifacts()}
        for name in sent.intersection(_FILES):
            files.download_artifacts(name, str(folder))
        return sent

    def _write_trace(self, run: Any, path: Path) -> None:
        """Write a trace from the histories of the metrics; none where no step was sent."""
        steps: dict[int, dict[str, float]] = {}
        for name in Row.columns():
            if name not in run.data.metrics:
                continue
            for metric in self._client.get_metric_history(run.info.run_id, name):
                steps.setdefault(metric.step, {})[name] = metric.value
        if not steps:
            return
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, Row.columns(), restval="nan")
            writer.writeheader()
            for step, values in sorted(steps.items()):
                writer.writerow({"note": "", **values, "iteration": step})


def _complete(run: Any, path: Path) -> None:
    """Fill in a summary what MLflow knows and the summary, if it was sent at all, does not."""
    summary: dict[str, Any] = {}
    if path.exists():
        with suppress(Exception):  # damaged: the comparison reads it again and says so
            summary = read_json(path)
        if not summary:
            return
    tags = run.data.tags
    optimum = tags.get("optimum", run.data.metrics.get("optimum"))  # once it was a metric
    known = {
        "label": tags.get(LABEL_TAG) or tags.get("mlflow.runName"),
        "outcome": tags.get("outcome"),
        "reason": tags.get("reason"),
        "device": tags.get("device"),
        "optimum": None if optimum is None else float(optimum),
        "mlflow_run_id": run.info.run_id,
    }
    summary = {**known, **{k: v for k, v in summary.items() if v is not None}}
    if summary.get("status") in (None, "running"):
        # MLflow cannot distinguish a run that is still going from one whose process is gone.
        summary["status"] = _STATUS.get(run.info.status, "unfinished")
    write_json(path, summary)


def _environment(tags: Mapping[str, str]) -> dict[str, Any]:
    names = ("git_commit", "git_dirty", "hostname", "python", "platform", "cpu", "threads")
    packages = {k.removeprefix("version."): v for k, v in tags.items() if k.startswith("version.")}
    return {"packages": packages, **{name: tags[name] for name in names if name in tags}}


def _config(run: Any) -> dict[str, Any]:
    """Return the nested configuration that a run's flat parameters describe."""
    config: dict[str, Any] = {}
    for key, text in run.data.params.items():
        *groups, name = key.split(".")
        place = config
        for group in groups:
            inner = place.setdefault(group, {})
            place = inner if isinstance(inner, dict) else place
        place[name] = _value(text)
    return config


def _value(text: str) -> Any:
    """Read a number, a truth value, None or a list back; everything else is text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
