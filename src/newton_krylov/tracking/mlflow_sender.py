"""Sends records to MLflow. Everything here may be done twice: what is there is not sent again."""

import hashlib
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from newton_krylov.files import cache_dir
from newton_krylov.records.checkpoint import CHECKPOINT
from newton_krylov.records.record import Record, flatten
from newton_krylov.records.trace import COLUMNS, Measured

RECORD_TAG = "newton_krylov.records.record"
"""The tag that carries a record's own identifier, by which a second sending finds the first."""

EVERY_STEP_UP_TO = 128
"""How many steps of a run are all sent; see `wanted`."""

_MAX_METRICS, _MAX_PARAMS, _MAX_TAGS = 800, 100, 100  # in one request; MLflow's: 1000 in all
_MAX_PARAM_LENGTH, _MAX_TAG_LENGTH = 6000, 8000
_STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "killed": "KILLED",
    "interrupted": "KILLED",
}
# Sent once, at the end: what no axis shows.
_COUNTS = tuple(c.name for c in COLUMNS.values() if c.kind == "count" and "axis" not in c.shown)
_TOTALS = ("wall_seconds", "optimum", "optimum_gap_bound", "members", "failed_members", *_COUNTS)
_ENDING = ("status", "outcome", "reason")


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
        self._experiments: dict[str, str] = {}
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(timeout)
        # A run must not wait minutes for a server that is gone; the record can be sent later.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

    @cached_property
    def uri(self) -> str:
        """Where the records go, MLflow's default made explicit, files by their whole path."""
        import mlflow

        uri = self._given or str(mlflow.get_tracking_uri())
        scheme, _, path = uri.partition(":///")
        return f"{scheme}:///{Path(path).absolute()}" if scheme == "sqlite" else uri

    def url(self, name: str, run_id: str) -> str:
        """Return where a person finds a run: an address, or what to type.

        Parameters
        ----------
        name : str
            Of the experiment.
        run_id : str
            MLflow's identifier.

        Returns
        -------
        str
            For a terminal.
        """
        if self.uri.startswith("http"):
            experiment = self._experiments.get(name, "")
            return f"{self.uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
        place = f" --backend-store-uri {self._given}" if self._given else ""
        return f"run {run_id} (mlflow ui{place})"

    @cached_property
    def _client(self) -> Any:
        from mlflow import MlflowClient

        for name, level in (("mlflow", "WARNING"), ("alembic", "WARNING"), ("urllib3", "ERROR")):
            logging.getLogger(name).setLevel(level)
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
        if name not in self._experiments:
            self._experiments[name] = self._find_experiment(name)
        return self._experiments[name]

    def _find_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another process was quicker
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":  # in MLflow's bin: no run can be added there
            self._client.restore_experiment(found.experiment_id)
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

    def delete(self, run_id: str) -> None:
        """Put a run into MLflow's bin, if it is there.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.delete_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def last_step(self, run_id: str) -> int:
        """Return the last iteration that the run has; -1 if none.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.

        Returns
        -------
        int
            An iteration; every row of the trace has its seconds.
        """
        history = self._client.get_metric_history(run_id, "seconds")
        return max((metric.step for metric in history), default=-1)

    def ended(self, run_id: str) -> bool:
        """Tell whether a run is marked as ended.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.

        Returns
        -------
        bool
            False while it counts as running.
        """
        return str(self._client.get_run(run_id).info.status) != "RUNNING"

    def log(
        self,
        run_id: str,
        *,
        rows: Sequence[Measured] = (),
        started: float = 0.0,
        totals: Mapping[str, Any] | None = None,
        end: float = 0.0,
        step: int = 0,
        plain: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Send rows, totals, parameters and tags in as few requests as MLflow's limits allow.

        The time of a row is the start plus the optimizer's own seconds: MLflow's axis of relative
        time then shows what the trace shows, and a second sending is recognized.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        rows : sequence of Measured
            Of the trace and of what else was observed, in order.
        started, end : float
            Of the run, seconds since the epoch.
        totals : mapping, optional
            Figures of the whole run; those that are not finite numbers are left out.
        step : int
            The totals' iteration.
        plain : mapping, optional
            A configuration, flattened to dotted keys; long values are cut (see its artifact).
        tags : mapping, optional
            Values are made text; None is left out.
        """
        from mlflow.entities import Param, RunTag

        metrics = [*_row_metrics(rows, started), *_metrics(totals or {}, end, step)]
        params = [Param(*item) for item in _texts(flatten(plain or {}), _MAX_PARAM_LENGTH).items()]
        labels = [RunTag(*item) for item in _texts(tags or {}, _MAX_TAG_LENGTH).items()]
        while metrics or params or labels:
            self._client.log_batch(
                run_id, metrics[:_MAX_METRICS], params[:_MAX_PARAMS], labels[:_MAX_TAGS]
            )
            del metrics[:_MAX_METRICS], params[:_MAX_PARAMS], labels[:_MAX_TAGS]

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
            if path.is_file() and not path.name.startswith(".") and path.name != CHECKPOINT:
                self._client.log_artifact(run_id, str(path))
        if (folder / "figures").is_dir():
            self._client.log_artifacts(run_id, str(folder / "figures"), "figures")

    def mark(self, run_id: str, status: str, time: float | None = None) -> None:
        """Say that a run goes on, or how it ended.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        status : str
            As in `summary.json`.
        time : float, optional
            Of the end, seconds since the epoch.
        """
        mark = _STATUS.get(status, "FAILED")
        if mark == "RUNNING":
            self._client.update_run(run_id, mark)
        else:
            end = None if time is None else _milliseconds(time)
            self._client.set_terminated(run_id, mark, end_time=end)


def wanted(number: int, every_step_up_to: int) -> bool:
    """Tell whether a row is sent: all at first, then every fourth, every eighth, and so on.

    A method of many quick steps would spend more time on tracking than on steps. What is left out
    does not show in a plot, and the trace among the files has it.

    Parameters
    ----------
    number : int
        Of the row in the trace, from 0.
    every_step_up_to : int
        From twice, four times, ... as many on, the rows are twice as far apart as before.

    Returns
    -------
    bool
        The last row of a trace is sent in any case; the caller sees to it.
    """
    apart = 2 << (number // every_step_up_to).bit_length()
    return number < every_step_up_to or number % apart == 0


def start(sender: Sender, record: Record, parent: str | None) -> str:
    """Make a record's run, with its tags.

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
    return sender.create(name, summary["label"], opening_tags(record), summary["started"], parent)


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


def finish(
    sender: Sender,
    run_id: str,
    record: Record,
    rows: Sequence[Measured],
    last_step: int,
    *,
    with_config: bool,
) -> None:
    """Send what is known at the end of a run: the last rows, totals, reason, files and status.

    Parameters
    ----------
    sender : Sender
        Where to.
    run_id : str
        MLflow's identifier.
    record : Record
        Its summary tells the end.
    rows : sequence of Measured
        That have not been sent.
    last_step : int
        The last iteration; -1 if none.
    with_config : bool
        Whether the parameters are to be sent, too.
    """
    summary = record.summary
    totals = {key: summary[key] for key in _TOTALS if key in summary}
    if last_step >= 0:
        totals["steps"] = last_step
    end = summary["started"] + (summary.get("wall_seconds") or 0.0)
    sender.log(
        run_id,
        rows=rows,
        started=summary["started"],
        totals=totals,
        end=end,
        step=max(last_step, 0),
        plain=record.config if with_config else None,
        tags={key: summary.get(key) for key in _ENDING},
    )
    sender.files(run_id, record.folder)
    sender.mark(run_id, summary["status"], end)


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


def _row_metrics(rows: Iterable[Measured], started: float) -> Iterator[Any]:
    for row in rows:
        values = {key: value for key, value in row.metrics().items() if key not in _COUNTS}
        yield from _metrics(values, started + row.seconds, row.iteration)


def _metrics(values: Mapping[str, Any], time: float, step: int) -> Iterator[Any]:
    from mlflow.entities import Metric

    for key, value in values.items():
        if isinstance(value, int | float) and math.isfinite(value):
            yield Metric(key, float(value), _milliseconds(time), step)


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _texts(values: Mapping[str, Any], limit: int) -> dict[str, str]:
    return {key: str(value)[:limit] for key, value in values.items() if value is not None}
