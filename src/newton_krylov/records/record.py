"""A run's folder: the complete record, readable without any tracking server."""

import json
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import yaml
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike

from newton_krylov.errors import UserError
from newton_krylov.files import atomic_write, is_regular, read_text, remove_parts, sha256_file
from newton_krylov.records.fields import FIELDS
from newton_krylov.records.notes import forget, remember
from newton_krylov.records.spectrum import BLOCKS, DENSITY, SPECTRUM

try:  # a comparison reads hundreds of configurations, and libyaml is ten times as fast
    from yaml import CSafeLoader as SafeLoader
except ImportError:
    from yaml import SafeLoader  # type: ignore[assignment]

TRACE = "trace.csv"
CONFIG = "config.yaml"
OVERRIDES = "overrides.yaml"
SUMMARY = "summary.json"
ENVIRONMENT = "environment.json"
WEIGHTS = "weights.npy"
FIGURES = "figures"
SWEEP = "sweep.json"
LOG = "run.log"
_LOCK = ".lock"
LARGEST, _MOST_NODES, _DEEPEST = 64 * 2**20, 1_000_000, 50  # of a record's JSON and YAML files
_KEPT = ("id", "started", "mlflow_run_id", "tracking_uri")  # of a run that is continued
_KEPT_BY_A_RESTART = ("id",)  # of one that starts over: by it the tracker finds the earlier attempt

Plain = Mapping[str, Any]


class Record:
    """A run's folder; each file appears whole, or not at all.

    Whoever writes a run holds the folder's lock, which the system lets go of when the process
    dies: so a record that says "running" and is not locked is one of a run that was killed.

    Parameters
    ----------
    folder : Path
        Made if missing.

    Attributes
    ----------
    config, environment, summary : dict
        What the files of these names hold.
    overrides : list of str
        What the user changed in the configuration.
    continued : bool
        Whether it was begun by an earlier process, from which this one goes on.
    restarted : bool
        Whether it was begun by an earlier process, whose place this one takes.
    unwritten : bool
        Whether a part of it could not be written: the disk is full.
    """

    config_file = CONFIG
    summary_file = SUMMARY
    _own_files: tuple[str, ...] = (
        CONFIG, OVERRIDES, SUMMARY, ENVIRONMENT, TRACE, WEIGHTS, SPECTRUM, DENSITY, BLOCKS, FIELDS,
        LOG,
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config: dict[str, Any] = {}
        self.environment: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.overrides: list[str] = []
        self.continued = False
        self.restarted = False
        self.unwritten = False
        self._lock = FileLock(folder / _LOCK)

    @classmethod
    def begin(
        cls,
        folder: Path,
        config: Plain,
        overrides: Sequence[str],
        environment: Plain,
        label: str,
        previous: Self | None = None,
        tracking_uri: str | None = None,
        *,
        restart: bool = False,
    ) -> Self:
        """Open the record of a run that starts now.

        Parameters
        ----------
        folder : Path
            Made if missing.
        config : mapping
            The whole resolved configuration.
        overrides : sequence of str
            What the user changed in it.
        environment : mapping
            What the run runs in.
        label : str
            What to call the run.
        previous : Record, optional
            The same run's, from which it is continued.
        tracking_uri : str, optional
            Where it will be tracked: a kill may come before the tracker has begun.
        restart : bool
            Start over in place of the previous one instead.

        Returns
        -------
        Record
            Locked, its status "running".

        Raises
        ------
        UserError
            If another process is writing it, or the folder cannot be written.
        """
        record = cls(folder)
        record._claim()
        record.config, record.environment = dict(config), dict(environment)
        record.overrides = list(overrides)
        facts: dict[str, Any] = {"id": secrets.token_hex(16), "started": time.time()}
        if previous is not None:
            record.continued, record.restarted = not restart, restart
            kept = _KEPT_BY_A_RESTART if restart else _KEPT
            facts |= {key: previous.summary[key] for key in kept if key in previous.summary}
        remember(folder, facts["id"])
        try:
            _write(folder / cls.config_file, yaml.safe_dump(record.config, sort_keys=False))
            _write(folder / OVERRIDES, yaml.safe_dump(record.overrides))
            write_json(folder / ENVIRONMENT, record.environment)
            if tracking_uri is not None:
                facts["tracking_uri"] = tracking_uri
            record.update(**facts, label=label, status="running")
        except OSError as error:
            record._lock.release(force=True)
            raise UserError(f"{folder} cannot be written: {error.strerror}.") from error
        return record

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a record back.

        Parameters
        ----------
        folder : Path
            Folder of a run.

        Returns
        -------
        Record
            Not locked.

        Raises
        ------
        UserError
            If a file is missing or damaged.
        """
        record = cls(folder)
        record.config = read_yaml(folder / cls.config_file)
        record.environment = read_json(folder / ENVIRONMENT)
        record.summary = read_json(folder / cls.summary_file)
        record.overrides = read_overrides(folder)
        return record

    def _claim(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
            remove_parts(self.folder)
        except Timeout:
            raise UserError(f"Another process is writing to {self.folder}.") from None
        except OSError as error:
            raise UserError(f"{self.folder} cannot be written: {error.strerror}.") from error

    def write_weights(self, w: ArrayLike) -> None:
        """Write the final parameters, shape (dim,), as a NumPy file without pickles."""
        with atomic_write(self.folder / WEIGHTS) as stream:
            np.save(stream, np.asarray(w), allow_pickle=False)
        self.update(weights_checksum=sha256_file(self.folder / WEIGHTS))

    @property
    def weights_damaged(self) -> bool:
        """Whether the final parameters are not those that were written."""
        known, path = self.summary.get("weights_checksum"), self.folder / WEIGHTS
        return known is not None and (not is_regular(path) or sha256_file(path) != known)

    def update(self, **values: Any) -> None:
        """Set keys of the summary and write it."""
        self.summary |= values
        write_json(self.folder / self.summary_file, self.summary)

    def end(self, *, sent: bool = True, **values: Any) -> None:
        """Write the last of the summary, and let go of the folder.

        Parameters
        ----------
        sent : bool
            False where it is tracked without its end: its note stays, by which the next command
            sends the rest.
        **values : object
            The summary's.
        """
        try:
            self.update(**values)
            if sent:
                forget(self.summary["id"])
        finally:
            self._lock.release(force=True)

    @property
    def files(self) -> list[str]:
        """The files that the record is made of, by their names in its folder; not all exist."""
        drawn = self.summary.get("drawn")
        names = [str(name) for name in drawn] if isinstance(drawn, list) else []
        inside = [n for n in names if not Path(n).is_absolute() and ".." not in Path(n).parts]
        return [*self._own_files, *inside]

    @property
    def undrawn(self) -> bool:
        """Whether its run finished, and was killed before its figures were drawn and sent."""
        return self.summary.get("status") == "finished" and "drawn" not in self.summary

    @property
    def alive(self) -> bool:
        """Whether a process is still writing it."""
        if not (self.folder / _LOCK).exists():
            return False
        try:
            with self._lock.acquire(blocking=False):
                return False
        except Timeout:
            return True
        except OSError:  # a folder that cannot be written has no writer
            return False

    def mark_killed(self) -> bool:
        """Mark a run as killed that says it is running while nobody runs it.

        Returns
        -------
        bool
            Whether it was so.

        Raises
        ------
        UserError
            If the summary cannot be read.
        """
        try:
            with self._lock.acquire(blocking=False):
                self.summary = read_json(self.folder / self.summary_file)
                if self.summary.get("status") != "running":
                    return False
                self.update(status="killed", outcome=None, reason="the process was killed")
                return True
        except (Timeout, OSError):
            return False


class SweepRecord(Record):
    """A sweep's folder: its own files beside the folders of its members."""

    config_file = "sweep.yaml"
    summary_file = SWEEP
    _own_files = (
        config_file, OVERRIDES, summary_file, ENVIRONMENT, LOG,
        "multirun.yaml", "optimization_results.yaml",
    )  # fmt: skip


def write_json(path: Path, value: Plain) -> None:
    """Write a mapping as JSON; numbers that are not finite become null.

    Parameters
    ----------
    path : Path
        Replaced at once, so a reader never sees half of it.
    value : mapping
        Plain values.
    """
    _write(path, json_text(value))


def json_text(value: Plain) -> str:
    """Return a mapping as JSON; numbers that are not finite become null.

    Parameters
    ----------
    value : mapping
        Plain values.

    Returns
    -------
    str
        With a line's end.
    """
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping from a JSON file.

    Parameters
    ----------
    path : Path
        Written by `write_json`.

    Returns
    -------
    dict
        The file's content.

    Raises
    ------
    UserError
        If there is none, or it holds something else.
    """
    try:
        value = json.loads(read_text(path, LARGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return _mapping(path, bounded(path, value))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file, as data: nothing in it is executed.

    Parameters
    ----------
    path : Path
        A configuration.

    Returns
    -------
    dict
        The file's content.

    Raises
    ------
    UserError
        If there is none, or it holds something else.
    """
    return _mapping(path, _load_yaml(path))


def flatten(plain: Plain, prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping to dotted keys.

    Parameters
    ----------
    plain : mapping
        Nested mappings of plain values.
    prefix : str
        Before every key.

    Returns
    -------
    dict
        Dotted key to value.
    """
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def read_overrides(folder: Path) -> list[str]:
    """Read what the user changed in a run's configuration.

    Parameters
    ----------
    folder : Path
        A run's or a sweep's.

    Returns
    -------
    list of str
        The overrides.

    Raises
    ------
    UserError
        If there are none, or the file is damaged.
    """
    path = folder / OVERRIDES
    value = _load_yaml(path)
    if not isinstance(value, list):
        raise UserError(f"{path} does not hold a list.")
    return [str(line) for line in value]


def parse_yaml(text: str | bytes) -> Any:
    """Parse YAML as data: nothing in it is executed.

    Parameters
    ----------
    text : str or bytes
        A document.

    Returns
    -------
    object
        Plain values; not yet bounded, see `bounded`.

    Raises
    ------
    yaml.YAMLError
        If it is none.
    """
    return yaml.load(text, Loader=SafeLoader)


def _load_yaml(path: Path) -> Any:
    try:
        return bounded(path, parse_yaml(read_text(path, LARGEST)))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read: {reason}") from error


def bounded(path: Path, value: Any) -> Any:
    """Refuse what a few bytes can blow up: aliases of aliases, depth, numbers of many digits.

    Parameters
    ----------
    path : Path
        Where it was read, for the message.
    value : object
        Plain values.

    Returns
    -------
    object
        The value itself.

    Raises
    ------
    UserError
        If it is more than a record can be.
    """
    nodes, left = [(value, 0)], _MOST_NODES
    while nodes:
        node, depth = nodes.pop()
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise UserError(f"{path} is damaged: it unfolds to more than a record can be.")
        if isinstance(node, int) and abs(node) >= 2**1024:  # beyond any float
            raise UserError(f"{path} is damaged: it holds a number of {len(str(node))} digits.")
        if isinstance(node, dict):
            nodes += [(item, depth + 1) for pair in node.items() for item in pair]
        elif isinstance(node, list | tuple | set):
            nodes += [(item, depth + 1) for item in node]
    return value


def _mapping(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a mapping of keys to values.")
    return value


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as stream:
        stream.write(text.encode())


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
