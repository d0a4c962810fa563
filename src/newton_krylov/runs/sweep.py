"""A sweep: many runs of one command, their parent in the tracker, and their comparison.

The members are run by one of Hydra's launchers, in this process or in others; each reads in
the sweep's own record, in the folder above, to which run of the tracker it belongs.
"""

import logging
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newton_krylov.errors import TakenError, UnsupportedError, UserError
from newton_krylov.records.record import FIGURES, Record, SweepRecord, read_yaml
from newton_krylov.records.trace import COLUMNS
from newton_krylov.registry import import_plugins
from newton_krylov.report.verdict import PLAN, read_race
from newton_krylov.runs.config import build_part, check, label_of
from newton_krylov.runs.console import (
    MemberLine,
    print_members,
    print_places,
    print_verdict,
    say_unused,
)
from newton_krylov.runs.environment import describe
from newton_krylov.runs.experiment import Job, run_experiment
from newton_krylov.runs.parts import register_parts
from newton_krylov.runs.resume import loaded, task_overrides
from newton_krylov.terminal import console, short
from newton_krylov.tracking.base import Tracker

_log = logging.getLogger(__name__)

FAILED = float("inf")
"""What a sweeper receives for a failed run: it minimizes."""


def run_member(plain: Mapping[str, Any], job: Job) -> float:
    """Run a sweep's member; what goes wrong is recorded and does not stop the others.

    Parameters
    ----------
    plain : mapping
        The member's composed configuration.
    job : Job
        Where and for whom.

    Returns
    -------
    float
        What a sweeper minimizes: the metric named by `objective_metric`; inf for a run that
        failed, and for a cost where the run did not converge.

    Raises
    ------
    KeyboardInterrupt
        If a signal ended the run: it ends the sweep, too.
    """
    try:
        record = run_experiment(plain, job)
    except Exception as error:
        _explain(error, plain, job)
        return FAILED
    if record.summary["status"] in ("interrupted", "killed"):
        raise KeyboardInterrupt
    return metric_of(record)


def metric_of(record: Record) -> float:
    """Return what a sweeper receives for a member.

    Parameters
    ----------
    record : Record
        The member's record.

    Returns
    -------
    float
        See `run_member`.
    """
    name, summary = record.config["objective_metric"], record.summary
    value = summary.get(name)
    if summary["status"] != "finished" or value is None or math.isnan(value):
        return FAILED
    if COLUMNS[name].kind != "result" and summary["outcome"] != "converged":
        return FAILED
    return float(value)


def _explain(error: Exception, plain: Mapping[str, Any], job: Job) -> None:
    """Record why a member did not run, unless its own record says so already."""
    if not isinstance(error, UserError):
        _log.info("the run failed", exc_info=error)
    folder = job.folder
    if isinstance(error, TakenError):  # the run that is there stays; this one is named beside it
        folder = _free(folder)
    elif (folder / Record.summary_file).exists():
        return
    status = "skipped" if isinstance(error, UnsupportedError) else "failed"
    label = label_of(plain)
    reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    try:
        record = Record.begin(folder, plain, job.overrides, describe(job.repository), label)
        record.end(status=status, outcome=None, reason=reason)
    except (UserError, OSError) as problem:
        _log.info("no record", exc_info=problem)
    line = f"{folder.name:>4} {label:<28} {status:<11} {reason}"
    console().print(line, markup=False, highlight=False, soft_wrap=True)


def _free(folder: Path) -> Path:
    """Return the first of folder-2, folder-3, ... that is not there."""
    number = 2
    while (place := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return place


def parent_of(folder: Path) -> str | None:
    """Return the tracker's identifier of a sweep.

    Parameters
    ----------
    folder : Path
        Folder of the sweep.

    Returns
    -------
    str or None
        None where it is not tracked.
    """
    try:
        run_id = SweepRecord.load(folder).summary.get("mlflow_run_id")
    except UserError:
        return None
    return None if run_id is None else str(run_id)


@dataclass(frozen=True)
class Member:
    """One run of a sweep, as its folder describes it.

    Attributes
    ----------
    record : Record
        The member's record.
    """

    record: Record

    @property
    def status(self) -> str:
        """As in `summary.json`."""
        return str(self.record.summary.get("status"))

    @property
    def line(self) -> MemberLine:
        """What is shown of it."""
        summary = self.record.summary
        name = str(summary.get("label"))
        return MemberLine(self.record.folder.name, name, self.record.overrides, summary)

    @property
    def unused(self) -> list[str]:
        """Which of its explicit choices changed nothing, in sentences."""
        try:
            return check(self.record.config).unused(self.record.overrides)
        except UserError:  # its configuration was refused, as its record says
            return []

    @property
    def failed(self) -> bool:
        """Whether it should have come to something and did not."""
        return self.status not in ("finished", "skipped")


class Sweep:
    """A sweep between its beginning and its comparison.

    Parameters
    ----------
    record : SweepRecord
        Record of the sweep, begun.
    tracker : Tracker
        Where the sweep's own run shows.
    """

    def __init__(self, record: SweepRecord, tracker: Tracker) -> None:
        self.record, self.tracker = record, tracker
        self._started = time.perf_counter()

    @classmethod
    def begin(
        cls, folder: Path, plain: Mapping[str, Any], overrides: Sequence[str], repository: Path
    ) -> "Sweep":
        """Open the sweep's record and its run in the tracker, before any member starts.

        Parameters
        ----------
        folder : Path
            Folder of the sweep.
        plain : mapping
            The configuration that its members share.
        overrides : sequence of str
            Overrides of the command.
        repository : Path
            A folder of the code.

        Returns
        -------
        Sweep
            Begun.

        Raises
        ------
        UserError
            If the folder holds a sweep that is not to be continued, or cannot be written.
        """
        register_parts()
        import_plugins()
        tracker: Tracker = build_part("tracking", plain.get("tracking"))
        previous = _previous(folder, overrides, resume=bool(plain.get("resume")))
        shared = {key: value for key, value in plain.items() if key != "resume"}
        label = " ".join(task_overrides(overrides)) or "sweep"
        record = SweepRecord.begin(
            folder,
            shared,
            task_overrides(overrides),
            describe(repository),
            label,
            previous,
            tracker.address,
        )
        tracker.start(record, None)
        return cls(record, tracker)

    def finish(self, status: str = "finished", reason: str | None = None) -> list[Member]:
        """Compare the members, show the comparison, and end the record.

        Parameters
        ----------
        status : str
            "finished", or what ended the sweep early.
        reason : str, optional
            Why it ended early.

        Returns
        -------
        list of Member
            In the order of their numbers.
        """
        members = self._members()
        failed = [member for member in members if member.failed]
        self._write(status=status, reason=reason)  # a second signal may cut the rest short
        files = self._compare() if members else []
        # In a race, a setting with which a method diverges is a result.
        broken = failed and not (self.record.folder / PLAN).exists()
        self._write(
            status="failed" if status == "finished" and broken else status,
            outcome=None,
            reason=reason or f"{len(members)} runs, {len(failed)} failed",
            members=len(members),
            drawn=[str(path.relative_to(self.record.folder)) for path in files],
            failed_members=len(failed),
            runs=[_facts(member) for member in members],
            wall_seconds=time.perf_counter() - self._started,
        )
        self.tracker.finish()
        self._print(members, files)
        try:
            self.record.end(tracking_problem=self.tracker.place.problem)
        except OSError as error:
            self._cannot_write(error)
        return members

    def _write(self, **values: Any) -> None:
        """Write to the record; on a full disk the sweep's end is shown all the same."""
        try:
            self.record.update(**values)
        except OSError as error:
            self._cannot_write(error)

    def _cannot_write(self, error: OSError) -> None:
        text = f"{short(self.record.folder)} cannot be written: {error.strerror or error}."
        console(stderr=True).print(text, markup=False, soft_wrap=True)

    def _members(self) -> list[Member]:
        """Read the members' records; one whose process was killed is marked so, and sent."""
        folders = [path.parent for path in self.record.folder.rglob(Record.summary_file)]
        members = []
        for folder in sorted(folders, key=lambda path: (len(path.name), path.name)):
            try:
                record = Record.load(folder)
            except UserError as error:
                _log.info("%s", error)
                continue
            if record.mark_killed():
                self.tracker.send(record)
            members.append(Member(record))
        return members

    def _compare(self) -> list[Path]:
        """Draw and tabulate; a sweep is not lost for a picture of it."""
        from newton_krylov.report.compare import compare
        from newton_krylov.report.verdict import write_verdict

        folder = self.record.folder
        try:
            if (folder / PLAN).exists():
                return write_verdict(folder)
            return compare([folder], folder)
        except Exception as error:
            _log.info("no comparison", exc_info=error)
            console(stderr=True).print(f"The runs could not be compared: {error}", markup=False)
            return []

    def _print(self, members: Sequence[Member], files: Sequence[Path]) -> None:
        """Show the results of the members, and where everything lies."""
        out, place, folder = console(), self.tracker.place, self.record.folder
        say_unused(sentence for member in members for sentence in member.unused)
        if (folder / PLAN).exists():
            print_verdict(out, read_race(folder))
        elif members:
            print_members(out, [member.line for member in members], self._best())
        pages = [file for file in files if file.suffix in (".html", ".md")]
        lines = [("sweep", short(folder)), *(("comparison", short(file)) for file in pages)]
        if (folder / FIGURES).is_dir():
            lines.append(("figures", short(folder / FIGURES)))
        if place.run_id is not None:
            lines.append(("MLflow", str(place.url)))
        if place.problem is not None:
            command = f"python -m newton_krylov.tracking.upload {shlex.quote(short(folder))}"
            lines += [("not tracked", place.problem), ("send it later", command)]
        if self.record.summary["status"] in ("interrupted", "killed"):
            lines.append(("to go on", "repeat the command with resume=true"))
        print_places(out, lines)

    def _best(self) -> str | None:
        """Say what a sweeper that searches has found."""
        try:
            found = read_yaml(self.record.folder / "optimization_results.yaml")
            best = " ".join(f"{key}={value}" for key, value in found["best_params"].items())
            return f"{best}: {self.record.config['objective_metric']} {found['best_value']:g}"
        except (UserError, KeyError, AttributeError, ValueError):
            return None


def _facts(member: Member) -> dict[str, Any]:
    summary = member.record.summary
    keys = ("label", "status", "outcome", "reason", "loss", "suboptimality", "seconds")
    return {"folder": member.record.folder.name, **{key: summary.get(key) for key in keys}}


def _previous(folder: Path, overrides: Sequence[str], *, resume: bool) -> SweepRecord | None:
    if not (folder / SweepRecord.summary_file).exists():
        return None
    if not resume:
        raise UserError(
            f"{folder} holds a sweep already: continue it by resume=true, or choose another folder."
        )
    record = loaded(SweepRecord, folder)
    if record is None:
        return None
    if record.alive:
        raise UserError(f"Another process is writing to {folder}.")
    if sorted(record.overrides) != sorted(task_overrides(overrides)):
        raise UserError(
            f"{folder} holds the sweep {' '.join(record.overrides)}: resume=true continues the "
            f"same command; choose another folder for this one."
        )
    return record
