"""Sends records to MLflow. Everything here may be done twice: what is there is not sent again."""

import hashlib
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from newton_krylov.data.files import cache_dir
from newton_krylov.record import Record, flatten
from newton_krylov.trace import Row

RECORD_TAG = "newton_krylov.record"
"""The tag that carries a record's own identifier, by which a second sending finds the first."""

_MAX_METRICS, _MAX_PARAMS, _MAX_TAGS = 1000, 100, 100  # in one request, MLflow's limits
_MAX_PARAM_LENGTH, _MAX_TAG_LENGTH = 6000, 8000
_STATUS = {"finished": "FINISHED", "killed": "KILLED", "interrupted": "KILLED"}


class Sender:
    """A connection to an MLflow server or database.

    Parameters
    ----------
    uri : str or None
        Of the server or database; None is MLflow's own default.
    timeout : int
        Seconds to wait for a server's answer.
    """

    def __init__(self, uri: str | None, timeout: int) -> None:
        self._given = uri
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(timeout)
        # A run must not wait minutes for a server that is gone; the record can be sent later.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

    @cached_property
    def uri(self) -> str:
        """Where the records go, MLflow's default made explicit."""
        import mlflow

        return self._given or str(mlflow.get_tracking_uri())

    def url(self, run_id: str) -> str:
        """Return where a person finds a run: an address, or what to type.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.

        Returns
        -------
        str
            For a terminal.
        """
        if self.uri.startswith("http"):
            experiment = self._client.get_run(run_id).info.experiment_id
            return f"{self.uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
        place = f" --backend-store-uri {self._given}" if self._given else ""
        return f"{run_id} (see it with: mlflow ui{place})"

    @cached_property
    def _client(self) -> Any:
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        with _one_migration(self.uri):
            client = MlflowClient(self.uri)
            client.search_experiments(max_results=1)  # connects, and migrates a new database
        return client

    def experiment(self, name: str) -> str:
        """Return the identifier of the experiment with a name; make it if need be.

        Parameters
        ----------
        name : str
            The study.

        Returns
        -------
        str
            MLflow's identifier.
        """
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another process was quicker
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def create(
        self, name: str, label: str, tags: Mapping[str, Any], started: float, parent: str | None
    ) -> str:
        """Make a run.

        Parameters
        ----------
        name : str
            Of the experiment.
        label : str
            Of the run.
        tags : mapping
            The run's tags.
        started : float
            Seconds since the epoch.
        parent : str or None
            Identifier of the run it is nested in.

        Returns
        -------
        str
            Its identifier.
        """
        tags = {**tags, **({"mlflow.parentRunId": parent} if parent else {})}
        run = self._client.create_run(
            self.experiment(name),
            start_time=_milliseconds(started),
            tags=_texts(tags, _MAX_TAG_LENGTH),
            run_name=label,
        )
        return str(run.info.run_id)

    def find(self, name: str, record_id: str) -> str | None:
        """Return the identifier of the run that a record was sent to before, if any.

        Parameters
        ----------
        name : str
            Of the experiment.
        record_id : str
            The record's own identifier.

        Returns
        -------
        str or None
            MLflow's identifier.
        """
        query = f"tags.`{RECORD_TAG}` = '{record_id}'"
        runs = self._client.search_runs([self.experiment(name)], query, max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def last_step(self, run_id: str) -> int:
        """Return the last iteration that the run has; -1 if none.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.

        Returns
        -------
        int
            An iteration; every row of the trace has a gradient evaluation count.
        """
        history = self._client.get_metric_history(run_id, "gradient_count")
        return max((metric.step for metric in history), default=-1)

    def rows(self, run_id: str, rows: Sequence[Row], started: float) -> None:
        """Send rows of the trace, whole rows in each request.

        The time of a metric is the start plus the optimizer's own seconds: MLflow's axis of
        relative time then shows what the trace shows, and a second sending is recognized.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        rows : sequence of Row
            In order.
        started : float
            Seconds since the epoch.
        """
        from mlflow.entities import Metric

        batch: list[Any] = []
        for row in rows:
            time = _milliseconds(started + row.seconds)
            metrics = [
                Metric(key, float(value), time, row.iteration)
                for key, value in row.metrics().items()
                if math.isfinite(value)
            ]
            if len(batch) + len(metrics) > _MAX_METRICS:
                self._client.log_batch(run_id, metrics=batch)
                batch = []
            batch += metrics
        if batch:
            self._client.log_batch(run_id, metrics=batch)

    def totals(self, run_id: str, values: Mapping[str, Any], time: float, step: int) -> None:
        """Send figures of the whole run; those that are not finite numbers are left out.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        values : mapping
            Metric name to value.
        time : float
            Seconds since the epoch.
        step : int
            The last iteration.
        """
        from mlflow.entities import Metric

        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        metrics = [
            Metric(key, float(value), _milliseconds(time), step)
            for key, value in numbers.items()
            if math.isfinite(value)
        ]
        self._client.log_batch(run_id, metrics=metrics)

    def params(self, run_id: str, plain: Mapping[str, Any]) -> None:
        """Send a configuration, flattened to dotted keys; long values are cut (see its artifact).

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        plain : mapping
            Nested plain values.
        """
        from mlflow.entities import Param

        texts = _texts(flatten(plain), _MAX_PARAM_LENGTH)
        params = [Param(key, text) for key, text in texts.items()]
        for start in range(0, len(params), _MAX_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MAX_PARAMS])

    def tags(self, run_id: str, tags: Mapping[str, Any]) -> None:
        """Set tags of a run.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        tags : mapping
            Values are made text; None is left out.
        """
        from mlflow.entities import RunTag

        entities = [RunTag(key, text) for key, text in _texts(tags, _MAX_TAG_LENGTH).items()]
        for start in range(0, len(entities), _MAX_TAGS):
            self._client.log_batch(run_id, tags=entities[start : start + _MAX_TAGS])

    def files(self, run_id: str, folder: Path) -> None:
        """Send a folder's files and its figures, not the folders of a sweep's jobs.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        folder : Path
            A run's or a sweep's.
        """
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                self._client.log_artifact(run_id, str(path))
        if (folder / "figures").is_dir():
            self._client.log_artifacts(run_id, str(folder / "figures"), "figures")

    def end(self, run_id: str, status: str, time: float) -> None:
        """Say how a run ended.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        status : str
            As in `summary.json`.
        time : float
            Seconds since the epoch.
        """
        mark = _STATUS.get(status, "FAILED")
        self._client.set_terminated(run_id, mark, end_time=_milliseconds(time))


def start(sender: Sender, record: Record, parent: str | None) -> str:
    """Make a record's run: its parameters and tags.

    Parameters
    ----------
    sender : Sender
        Where to.
    record : Record
        With configuration and environment.
    parent : str or None
        Identifier of the sweep's run.

    Returns
    -------
    str
        MLflow's identifier of the new run.
    """
    name, summary = record.config["name"], record.summary
    run_id = sender.create(
        name, summary["label"], opening_tags(record), summary["started"], parent
    )
    sender.params(run_id, record.config)
    return run_id


def opening_tags(record: Record) -> dict[str, Any]:
    """Return the tags that are known when a run starts.

    Parameters
    ----------
    record : Record
        With environment and summary.

    Returns
    -------
    dict
        Tag to value.
    """
    environment, summary = record.environment, record.summary
    dataset = summary.get("dataset") or {}
    return {
        RECORD_TAG: summary["id"],
        "git_commit": environment.get("git_commit"),
        "git_dirty": environment.get("git_dirty"),
        "hostname": environment.get("hostname"),
        "python": environment.get("python"),
        "platform": environment.get("platform"),
        "cpu": environment.get("cpu"),
        "threads": environment.get("threads"),
        "device": summary.get("device"),
        "dataset_checksum": dataset.get("checksum"),
        "folder": str(record.folder),
        "mlflow.source.name": "run.py",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": environment.get("git_commit"),
        **{f"version.{k}": v for k, v in (environment.get("packages") or {}).items()},
    }


def finish(sender: Sender, run_id: str, record: Record, last_step: int) -> None:
    """Send what is known at the end of a run: totals, reason, files and status.

    Parameters
    ----------
    sender : Sender
        Where to.
    run_id : str
        MLflow's identifier.
    record : Record
        Its summary tells the end.
    last_step : int
        The last iteration.
    """
    summary = record.summary
    keys = ("wall_seconds", "optimum", "optimum_gap_bound")
    totals = {key: summary[key] for key in keys if key in summary}
    end = summary["started"] + (summary.get("wall_seconds") or 0.0)
    sender.totals(run_id, {**totals, "steps": last_step}, end, max(last_step, 0))
    sender.tags(run_id, {key: summary.get(key) for key in ("status", "outcome", "reason")})
    sender.files(run_id, record.folder)
    sender.end(run_id, summary["status"], end)


@contextmanager
def _one_migration(uri: str) -> Iterator[None]:
    """Let one process at a time open a database: two that migrate a new one crash each other."""
    if not uri.startswith("sqlite:"):
        yield
        return
    place = cache_dir() / "mlflow"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:
        yield
        return
    with FileLock(place / f"{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock", timeout=60):
        yield


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _texts(values: Mapping[str, Any], limit: int) -> dict[str, str]:
    return {key: str(value)[:limit] for key, value in values.items() if value is not None}
