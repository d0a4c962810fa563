"""Sends records to MLflow. Everything here may be done twice with the same result."""

import json
import logging
import math
import os
import re
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from newton_krylov.errors import UserError
from newton_krylov.records.record import Record, SweepRecord, flatten
from newton_krylov.records.trace import Measured
from newton_krylov.terminal import one_line
from newton_krylov.tracking.address import harmless, masked, revealed
from newton_krylov.tracking.database import is_locked, prepare
from newton_krylov.tracking.deadline import until_unlocked, within

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

RECORD_TAG = "newton_krylov.record"
"""The tag that carries a record's own identifier, by which a second sending finds the first."""

LABEL_TAG = "newton_krylov.label"
"""The tag that carries what tables and figures call a run, which its title may say more of."""

PARENT_TAG = "mlflow.parentRunId"

NOTE_TAG = "mlflow.note.content"
"""The tag that MLflow's pages show as a run's description."""

_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Lets MLflow's interface open an experiment in the mode that shows runs and charts."""

_LAST = "seconds"
"""The metric of a row that is sent last: a row that has it is there whole."""

_DIGEST_LENGTH = 36  # MLflow's limit

DEADLINE = 30.0
"""Seconds that an attempt to send may keep a run waiting."""

_OF_A_FILE = 10
"""How many times the deadline a database file gets: no server stalls there, but this machine's own
processes, of which two dozen may begin at once."""

_LEVELS = {
    "mlflow": "WARNING",
    "mlflow.store.db.utils": "CRITICAL",  # prints what it raises, too
    "alembic": "WARNING",
    "urllib3": "ERROR",
}
"""How loud MLflow's loggers are."""

EVERY_STEP_UP_TO = 128
"""How many steps of a run are all sent; see `wanted`."""

_LOCAL_SERVER = "http://127.0.0.1:5000"
"""Where `mlflow ui` answers."""

_MAX_METRICS, _MAX_PARAMS, _MAX_TAGS = 800, 100, 100  # in one request; MLflow's: 1000 in all
_MAX_PARAM_LENGTH, _MAX_TAG_LENGTH = 6000, 8000
_STATUS = {
    "running": "RUNNING",
    "finished": "FINISHED",
    "killed": "KILLED",
    "interrupted": "KILLED",
}
_RESUMED = ("running", "killed", "interrupted")
# What a run has one value of is a tag: MLflow would draw a metric of one point as a chart. A
# parameter could not change when the run goes on.
_SUMMARY = (
    "status", "outcome", "reason",
    "wall_seconds", "optimum", "optimum_gap_bound", "members", "failed_members",
)  # fmt: skip


class Sender:
    """A connection to an MLflow server or database.

    Parameters
    ----------
    uri : str or None
        URI of the server or database; None is MLflow's own default.
    timeout : int
        Seconds to wait for a server's answer.
    deadline : float
        Seconds for an attempt, however many requests it makes.
    """

    def __init__(self, uri: str | None, timeout: int, deadline: float = DEADLINE) -> None:
        self._given = uri
        self._deadline = deadline
        self._gave_up: str | None = None
        self._experiments: dict[str, str] = {}
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(timeout)
        # A run must not wait minutes for a server that is gone; the record can be sent later.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")

    @cached_property
    def uri(self) -> str:
        """Where the records go, passwords masked, MLflow's default and files' paths whole."""
        import mlflow

        uri = masked(self._given or str(mlflow.get_tracking_uri()))
        scheme, _, path = uri.partition(":///")
        return f"{scheme}:///{Path(path).absolute()}" if scheme == "sqlite" else uri

    def attempt(self, action: Callable[[], _T]) -> _T:
        """Do something with the server, within the deadline.

        Parameters
        ----------
        action : callable
            Calls methods of this sender; see `within`.

        Returns
        -------
        object
            What it returns.

        Raises
        ------
        TimeoutError
            If the server keeps silent: now, or in an earlier attempt of this process.
        Exception
            What MLflow raises, and for a database that cannot be used.
        """
        if self._gave_up is not None:
            raise TimeoutError(self._gave_up)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's of its own libraries, errors by -W error
            import mlflow  # noqa: F401 - seconds that are not the server's

            prepare(self.uri, self._deadline)
            return self._in_time(action)

    def _in_time(self, action: Callable[[], _T]) -> _T:
        seconds = self._deadline * (_OF_A_FILE if self.uri.startswith("sqlite:") else 1)
        try:
            return within(seconds, action)
        except TimeoutError:
            self._gave_up = f"{self.uri} did not take it within {seconds:g} s"
            raise TimeoutError(self._gave_up) from None

    def url(self, name: str, run_id: str) -> str:
        """Return where a person finds a run: an address, or what to type.

        Parameters
        ----------
        name : str
            Name of the experiment.
        run_id : str
            MLflow's identifier.

        Returns
        -------
        str
            For a terminal.
        """
        page = f"#/experiments/{self._experiments.get(name, '')}/runs/{run_id}"
        if self.uri.startswith("http"):
            return f"{self.uri.rstrip('/')}/{page}"
        place = f" --backend-store-uri {masked(self._given)}" if self._given else ""
        # The front page of MLflow's interface shows no runs.
        return f"run {run_id} (mlflow ui{place}) at {_LOCAL_SERVER}/{page}"

    @cached_property
    def _client(self) -> Any:
        from mlflow import MlflowClient

        for name, level in _LEVELS.items():
            logging.getLogger(name).setLevel(level)
        return _Patient(MlflowClient(revealed(self.uri)), self._deadline)

    def experiment(self, name: str) -> str:
        """Return the identifier of the experiment with a name; make it if need be.

        Parameters
        ----------
        name : str
            Name of the study.

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
                return str(self._client.create_experiment(name, tags=_KIND))
            except MlflowException:  # another process was quicker
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":  # in MLflow's bin: no run can be added there
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def create(
        self, name: str, title: str, tags: Mapping[str, Any], started: float, parent: str | None
    ) -> str:
        """Make a run.

        Parameters
        ----------
        name : str
            Name of the experiment.
        title : str
            What to call the run.
        tags : mapping
            The run's tags.
        started : float
            Seconds since the epoch.
        parent : str or None
            Identifier of the run it is nested in.

        Returns
        -------
        str
            The run's identifier.
        """
        tags = {**tags, **({PARENT_TAG: parent} if parent else {})}
        run = self._client.create_run(
            self.experiment(name),
            start_time=_milliseconds(started),
            tags=_texts(tags, _MAX_TAG_LENGTH),
            run_name=title,
        )
        return _identifier(run)

    def find(self, name: str, record_id: str) -> str | None:
        """Return the identifier of the run that a record was sent to before, if any.

        Parameters
        ----------
        name : str
            Name of the experiment.
        record_id : str
            The record's own identifier.

        Returns
        -------
        str or None
            MLflow's identifier.
        """
        query = f"tags.`{RECORD_TAG}` = '{record_id}'"
        runs = self._client.search_runs([self.experiment(name)], query, max_results=1)
        return _identifier(runs[0]) if runs else None

    def delete(self, run_id: str) -> None:
        """Put a run into MLflow's bin.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        """
        self._client.delete_run(run_id)

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
        history = self._client.get_metric_history(run_id, _LAST)
        return max((metric.step for metric in history), default=-1)

    def ended(self, run_id: str) -> bool:
        """Return whether a run is marked as ended.

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
        plain: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Send rows, parameters and tags in as few requests as MLflow's limits allow.

        The time of a row is the start plus the optimizer's own seconds: MLflow's axis of relative
        time then shows what the trace shows, and a second sending is recognized.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        rows : sequence of Measured
            Rows of the trace and of what else was observed, in order.
        started : float
            Start of the run, seconds since the epoch.
        plain : mapping, optional
            A configuration, flattened to dotted keys; long values are cut (see its artifact).
        tags : mapping, optional
            Values are made text; None is left out.
        """
        from mlflow.entities import Param, RunTag

        metrics = list(_row_metrics(rows, started))
        known = self._client.get_run(run_id).data.params if plain else {}  # are never sent twice
        texts = _texts(flatten(plain or {}), _MAX_PARAM_LENGTH)
        params = [Param(*item) for item in texts.items() if item[0] not in known]
        labels = [RunTag(*item) for item in _texts(tags or {}, _MAX_TAG_LENGTH).items()]
        while metrics or params or labels:
            self._client.log_batch(
                run_id, metrics[:_MAX_METRICS], params[:_MAX_PARAMS], labels[:_MAX_TAGS]
            )
            del metrics[:_MAX_METRICS], params[:_MAX_PARAMS], labels[:_MAX_TAGS]

    def files(self, run_id: str, record: Record) -> None:
        """Send the files that a record is made of, whatever else lies in its folder.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        record : Record
            Record of a run or a sweep; links in its folder are not followed.
        """
        for name in record.files:
            path = record.folder / name
            links = [path, *list(path.parents)[: len(Path(name).parts) - 1]]
            if path.is_file() and not any(link.is_symlink() for link in links):
                place = str(Path(name).parent)
                self._client.log_artifact(run_id, str(path), None if place == "." else place)

    def input(self, run_id: str, described: Mapping[str, Any]) -> None:
        """Say which data set a run has used, as MLflow's pages show data sets.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        described : mapping
            As in `summary.json`: name, checksum, source, size; nothing is sent without a checksum.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if not described.get("checksum"):
            return
        facts = {k: v for k, v in described.items() if k not in ("name", "checksum", "source")}
        dataset = Dataset(
            name=str(described.get("name")),
            digest=str(described["checksum"])[:_DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": str(described.get("source"))}),
            profile=json.dumps(facts, default=str),
        )
        tags = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(run_id, datasets=[DatasetInput(dataset, tags)])

    def nest(self, run_id: str, parent: str | None) -> None:
        """Say to which sweep a run belongs whose own run came later.

        Parameters
        ----------
        run_id, parent : str
            MLflow's identifiers.
        """
        tags = self._client.get_run(run_id).data.tags
        if parent is not None and tags.get(PARENT_TAG) != parent:
            self._client.set_tag(run_id, PARENT_TAG, parent)

    def mark(self, run_id: str, status: str, time: float | None = None) -> None:
        """Say that a run goes on, or how it ended.

        Parameters
        ----------
        run_id : str
            MLflow's identifier.
        status : str
            As in `summary.json`.
        time : float, optional
            Time of the end, in seconds since the epoch.
        """
        mark = _STATUS.get(status, "FAILED")
        if mark == "RUNNING":
            self._client.update_run(run_id, mark)
        else:
            end = None if time is None else _milliseconds(time)
            self._client.set_terminated(run_id, mark, end_time=end)


class _Patient:
    """MLflow's client, each call of which, a transaction, waits for a database that is locked."""

    def __init__(self, client: Any, seconds: float) -> None:
        self._client, self._seconds = client, seconds

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            return until_unlocked(self._seconds, lambda: method(*args, **options))

        return call


def _identifier(run: Any) -> str:
    """Return a run's identifier, which goes into addresses, records and what is shown."""
    found = str(run.info.run_id)
    if not re.fullmatch(r"[\w-]{1,256}", found, re.ASCII):
        raise UserError(f"the server gave {one_line(found[:80])!r} as the identifier of a run")
    return found


def log_failure(error: Exception) -> str:
    """Log an error with its traceback, and return it as one line without passwords.

    Parameters
    ----------
    error : Exception
        An error of MLflow's, or ours.

    Returns
    -------
    str
        A sentence's worth.
    """
    _log.info("tracking failed: %s", harmless("".join(traceback.format_exception(error))))
    text = " ".join(harmless(str(error)).split()).rstrip(".")
    if is_locked(error):
        return "the database is locked by another process that writes to it"
    if found := re.search(r"\(\w+\.\w*Error\) (.+?) \[SQL: ", text):
        return f"the database says: {found[1]}"
    known = isinstance(error, UserError | TimeoutError)
    return text if known else f"{type(error).__name__}: {text}"[:300].rstrip()


def wanted(number: int, every_step_up_to: int) -> bool:
    """Return whether a row is sent: all at first, then every fourth, every eighth, and so on.

    A method of many quick steps would spend more time on tracking than on steps. What is left out
    does not show in a plot, and the trace among the files has it.

    Parameters
    ----------
    number : int
        Index of the row in the trace, from 0.
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
        Connection to the server.
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
    title = str(summary.get("title") or summary["label"])
    return sender.create(name, title, opening_tags(record), summary["started"], parent)


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
        LABEL_TAG: summary["label"],
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
        "mlflow.source.name": _source(environment),
        "mlflow.source.type": "LOCAL",
        NOTE_TAG: note(record),
        "mlflow.source.git.commit": environment.get("git_commit"),
        **{f"version.{k}": v for k, v in (environment.get("packages") or {}).items()},
    }


def _source(environment: Mapping[str, Any]) -> str:
    """Return what was started: the command, without the Python that ran it."""
    words = environment.get("command")
    script = words[1] if isinstance(words, list) and len(words) > 1 else "run.py"
    return Path(str(script)).name


def parameters(record: Record) -> dict[str, Any]:
    """Return the parameters of a run, or those that a sweep's members have in common.

    Parameters
    ----------
    record : Record
        With configuration and summary.

    Returns
    -------
    dict
        Plain values; none of a sweep that may go on, or was killed while it was compared.
    """
    if not isinstance(record, SweepRecord):
        return record.config
    if record.summary["status"] in _RESUMED:
        return {}  # those of all its members may be others, and what MLflow has stays
    return record.summary.get("parameters") or {}


def note(record: Record) -> str:
    """Describe a run or a sweep in Markdown, as MLflow's page shows it above everything else.

    Parameters
    ----------
    record : Record
        With configuration and summary; what is not known yet is left out.

    Returns
    -------
    str
        A few lines.
    """
    summary = record.summary
    data, outcome = summary.get("dataset") or {}, summary.get("outcome")
    label = str(summary.get("label"))
    where = f" on {data['name']}" if data.get("name") else ""
    lines = [f"**{label}**" + ("" if label.endswith(where) else where)]
    if data.get("n_samples"):
        lines[0] += f" ({data['n_samples']:,} samples, {data.get('n_features', 0):,} features)"
    if outcome or summary.get("status") not in (None, "running"):
        lines.append(f"{outcome or summary['status']}: {summary.get('reason')}")
    if summary.get("verdict"):
        lines.append(summary["verdict"])
    lines += [found["text"] for found in summary.get("cross_validation") or ()]
    if record.overrides:
        lines.append(f"`{' '.join(record.overrides)}`")
    return "\n\n".join(lines)


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
        Connection to the server.
    run_id : str
        MLflow's identifier.
    record : Record
        Record whose summary describes the end.
    rows : sequence of Measured
        That have not been sent.
    last_step : int
        The last iteration; -1 if none.
    with_config : bool
        Whether the parameters are to be sent, too.
    """
    summary = record.summary
    known = {key: summary.get(key) for key in _SUMMARY}
    steps = last_step if last_step >= 0 else None
    end = summary["started"] + (summary.get("wall_seconds") or 0.0)
    sender.log(
        run_id,
        rows=rows,
        started=summary["started"],
        plain=parameters(record) if with_config else None,
        tags={**(summary.get("found") or {}), **known, "steps": steps, NOTE_TAG: note(record)},
    )
    sender.input(run_id, summary.get("dataset") or {})
    sender.mark(run_id, summary["status"], end)
    sender.files(run_id, record)


def _row_metrics(rows: Iterable[Measured], started: float) -> Iterator[Any]:
    for row in rows:
        values = dict(row.metrics())
        if _LAST in values:
            values[_LAST] = values.pop(_LAST)
        yield from _metrics(values, started + row.seconds, row.iteration)


def _metrics(values: Mapping[str, Any], time: float, step: int) -> Iterator[Any]:
    from mlflow.entities import Metric

    for key, value in values.items():
        if isinstance(value, int | float) and math.isfinite(value):
            yield Metric(key, float(value), _milliseconds(time), step)


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _texts(values: Mapping[str, Any], limit: int) -> dict[str, str]:
    return {key: _text(value)[:limit] for key, value in values.items() if value is not None}


def _text(value: Any) -> str:
    """Return a value's one text: a tuple's is that of the list which is read back from a file."""
    return str(_listed(value))


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value
