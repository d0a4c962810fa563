"""A sweep: many runs of one command, their parent in the tracker, and their comparison.

The members are run by one of Hydra's launchers, in this process or in others; each reads in
the sweep's own record, in the folder above, to which run of the tracker it belongs.
"""

import logging
import math
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from newton_krylov.errors import TakenError, UnsupportedError, UserError, listed
from newton_krylov.files import title_of
from newton_krylov.records.record import (
    FIGURES,
    Record,
    SweepRecord,
    flatten,
    read_json,
    read_yaml,
)
from newton_krylov.records.trace import COLUMNS
from newton_krylov.registry import import_plugins
from newton_krylov.report.folds import CrossValidation, cross_validations
from newton_krylov.report.records import read_records
from newton_krylov.report.study import Study, studies
from newton_krylov.report.tables import count_text
from newton_krylov.report.verdict import PLAN, VERDICT, read_plan, read_race, read_rules
from newton_krylov.runs.config import OF_THE_COMMAND, build_part, label_of
from newton_krylov.runs.console import (
    print_cross_validations,
    print_line,
    print_members,
    print_places,
    print_verdict,
    say_unused,
)
from newton_krylov.runs.environment import describe
from newton_krylov.runs.experiment import Job, run_experiment
from newton_krylov.runs.members import Member, key_of, member_tables
from newton_krylov.runs.parts import register_parts
from newton_krylov.runs.resume import loaded, task_overrides
from newton_krylov.runs.standing import planned, standing
from newton_krylov.terminal import console, say, short
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
        kept = {key: value for key, value in plain.items() if key not in OF_THE_COMMAND}
        record = Record.begin(folder, kept, job.overrides, describe(job.repository), label)
        record.end(status=status, outcome=None, reason=reason)
    except (UserError, OSError) as problem:
        _log.info("no record", exc_info=problem)
    so_far = None if job.sweep is None else standing(job.sweep)
    facts = {"label": label, "status": status, "reason": reason}
    print_line(folder.name, facts, "" if so_far is None else so_far.text)


def _free(folder: Path) -> Path:
    """Return the first of folder-2, folder-3, ... that is not there."""
    number = 2
    while (place := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return place


def job_in(sweep: Path, folder: Path, overrides: Sequence[str], repository: Path) -> Job:
    """Return what a member of a sweep receives beside its configuration.

    Parameters
    ----------
    sweep, folder : Path
        Folders of the sweep and of the member.
    overrides : sequence of str
        What the member was given.
    repository : Path
        A folder of the code.

    Returns
    -------
    Job
        With the tracker's identifier of the sweep, where it is tracked.
    """
    try:
        record = SweepRecord.load(sweep)
    except UserError:
        return Job(folder, overrides, repository, sweep=sweep)
    run_id = record.summary.get("mlflow_run_id")
    several = _several(record.overrides)
    own: Sequence[str] = [line for line in overrides if key_of(line) in several]
    title = None
    if (sweep / PLAN).exists():
        run = next((run for run in read_plan(sweep)[0] if run.folder == folder.name), None)
        own, title = ([], None) if run is None else (run.setting, run.title)
    return Job(
        folder, overrides, repository, None if run_id is None else str(run_id), sweep, own, title
    )


def _several(overrides: Sequence[str]) -> list[str]:
    """Return the keys of which a sweep tries several values."""
    return [key_of(line) for line in overrides if _gives_several(line)]


def _title(plain: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """Return what a tracker calls a sweep: short, where the command is long."""
    several, node = _several(overrides), plain.get("dataset")
    named = node if isinstance(node, Mapping) else {}
    path = str(named.get("path") or named.get("name"))
    data = f" on {title_of(path, named.get('target'))}"
    study = next((line for line in overrides if key_of(line) == "experiment"), None)
    what = f"sweep of {listed(several, 'and')}" if several else "sweep"
    if plain.get("verdict"):
        what = "verdict"
    elif study is not None:
        what = study.partition("=")[2]
    return what if "dataset" in several else what + data


def _gives_several(line: str) -> bool:
    """Say whether a key has several values, a=1,2 or a=choice(1,2), and not one list or text."""
    bare = re.sub(r"""\[[^]]*\]|"[^"]*"|'[^']*'""", "", line)
    return "," in bare or "(" in bare


class Sweep:
    """A sweep between its beginning and its comparison.

    Parameters
    ----------
    record : SweepRecord
        Record of the sweep, begun.
    tracker : Tracker
        Where the sweep's own run shows.
    quiet : bool
        Whether errors alone are shown.

    Attributes
    ----------
    unwritten : bool
        Whether its record, or what compares its members, could not be written: the disk is full.
    """

    def __init__(self, record: SweepRecord, tracker: Tracker, *, quiet: bool = False) -> None:
        self.record, self.tracker, self.quiet = record, tracker, quiet
        self._started = time.perf_counter()
        self.unwritten = False
        self.studies: list[Study] = []
        self.validations: list[CrossValidation] = []
        self.damaged: list[str] = []

    @classmethod
    def begin(
        cls,
        folder: Path,
        plain: Mapping[str, Any],
        overrides: Sequence[str],
        repository: Path,
        members: int | None = None,
    ) -> "Sweep":
        """Open the sweep's record, before any member starts.

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
        members : int, optional
            How many there will be, where that is known.

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
        shared = {key: value for key, value in plain.items() if key not in OF_THE_COMMAND}
        command = " ".join(task_overrides(overrides)) or "sweep"
        record = SweepRecord.begin(
            folder,
            shared,
            task_overrides(overrides),
            describe(repository),
            _title(plain, task_overrides(overrides)),
            previous,
            tracker.address,
        )
        record.update(**planned(members, folder))
        runs = "runs" if members is None else count_text(members, "run")
        say(f"{runs} of {command}, into {short(folder)}")
        return cls(record, tracker, quiet=bool(plain.get("quiet")))

    def track(self) -> None:
        """Open its run in the tracker, in which those of its members will be nested."""
        self.tracker.start(self.record, None)

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
        n_failed = len(failed) + len(self.damaged)
        self._write(status=status, reason=reason)  # a second signal may cut the rest short
        say(f"comparing {self._counted(members)}: tables and figures")
        files = self._compare() if members else []
        # In a race, a setting with which a method diverges is a result.
        broken = self.damaged or (failed and not (self.record.folder / PLAN).exists())
        self._write(
            status="failed" if status == "finished" and broken else status,
            outcome=None,
            reason=reason or f"{len(members)} runs, {n_failed} failed",
            members=len(members),
            drawn=[str(path.relative_to(self.record.folder)) for path in files],
            failed_members=n_failed,
            runs=[_facts(member) for member in members],
            parameters=self._parameters(members),
            **_shared_data(members),
            wall_seconds=time.perf_counter() - self._started,
        )
        if self.tracker.place.run_id is not None:
            say("sending the comparison")
        self.tracker.finish()
        self._print(members, files)
        try:
            place = self.tracker.place
            self.record.end(sent=not place.open, tracking_problem=place.problem)
        except OSError as error:
            self._cannot_write(error)
        return members

    def _counted(self, members: Sequence[Member]) -> str:
        """Say how many runs are compared, and of a verdict how many chose the settings."""
        text, folder = count_text(len(members), "run"), self.record.folder
        if not (folder / PLAN).exists():
            return text
        tuning = {run.folder for run in read_plan(folder)[0] if run.stage == "tuning"}
        raced = sum(member.number not in tuning for member in members)
        return f"{count_text(raced, 'run')} of the race, after {len(members) - raced} of tuning"

    @property
    def result(self) -> dict[str, Any]:
        """What came of it: its summary, with its folder, and the verdict where it is one."""
        folder = self.record.folder
        verdict = {"verdict": read_json(folder / VERDICT)} if (folder / VERDICT).exists() else {}
        return {"folder": str(folder), **self.record.summary, **verdict}

    def _parameters(self, members: Sequence[Member]) -> dict[str, Any]:
        """Return what all members have in common, the values that were typed, a verdict's rules."""
        first, *others = [flatten(member.record.config) for member in members] or [{}]
        shared = {k: v for k, v in first.items() if all(other.get(k, ...) == v for other in others)}
        lines = (line for line in self.record.overrides if _gives_several(line))
        several = {key_of(line): line.partition("=")[2] for line in lines}
        folder = self.record.folder
        return shared | several | (read_rules(folder) if (folder / PLAN).exists() else {})

    def _write(self, **values: Any) -> None:
        """Write to the record; on a full disk the sweep's end is shown all the same."""
        try:
            self.record.update(**values)
        except OSError as error:
            self._cannot_write(error)

    def _cannot_write(self, error: OSError) -> None:
        self.unwritten = True
        text = f"{short(self.record.folder)} cannot be written: {error.strerror or error}."
        console(stderr=True).print(text, markup=False, soft_wrap=True)

    def _members(self) -> list[Member]:
        """Read the members' records and note the damaged; a killed one is marked so, and sent."""
        folders = [path.parent for path in self.record.folder.rglob(Record.summary_file)]
        members = []
        for folder in sorted(folders, key=lambda path: (len(path.name), path.name)):
            try:
                record = Record.load(folder)
            except UserError as error:
                self.damaged.append(f"{folder.name}  damaged: {error}")
                continue
            if record.mark_killed():
                self.tracker.send(record)
            members.append(Member(record))
        return members

    def _compare(self) -> list[Path]:
        """Draw and tabulate; a sweep is not lost for a picture of it."""
        from newton_krylov.report.compare import write_comparison
        from newton_krylov.report.verdict import write_verdict

        folder = self.record.folder
        try:
            if (folder / PLAN).exists():
                files = write_verdict(folder)
                self._write(verdict=read_json(folder / VERDICT)["verdict"])
                return files
            self.studies = studies(read_records([folder]))
            self.validations = cross_validations(self.studies)
            if self.validations:
                self._write(cross_validation=[found.facts() for found in self.validations])
            return write_comparison(self.studies, folder)
        except OSError as error:
            self._cannot_write(error)
            return []
        except Exception as error:
            _log.info("no comparison", exc_info=error)
            console(stderr=True).print(f"The runs could not be compared: {error}", markup=False)
            return []

    def _print(self, members: Sequence[Member], files: Sequence[Path]) -> None:
        """Show the results of the members, and where everything lies."""
        out, place, folder = console(), self.tracker.place, self.record.folder
        if self.quiet:
            problems = [*(member.problem for member in members if member.failed), place.problem]
            for problem in filter(None, problems):
                say(problem, stderr=True)
        else:
            say_unused(sentence for member in members for sentence in member.unused)
        if (folder / PLAN).exists():
            print_verdict(out, read_race(folder))
        elif members or self.damaged:
            texts = (member.problem for member in members)
            failures = [*(text for text in texts if text is not None), *self.damaged]
            plain = [study for study in self.studies if not study.records[0].folds]
            print_members(out, member_tables(plain, members), failures, self._best())
            print_cross_validations(out, self.validations)
        pages = [file for file in files if file.suffix in (".html", ".md")]
        lines = [("sweep", short(folder)), *(("comparison", short(file)) for file in pages)]
        if (folder / FIGURES).is_dir():
            lines.append(("figures", short(folder / FIGURES)))
        if place.run_id is not None:
            listed = str(place.url).rpartition("/")[0]  # the page of all runs, which it nests
            lines.append(("MLflow", listed))
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


def _shared_data(members: Sequence[Member]) -> dict[str, Any]:
    """Return the data of all members, where they are the same."""
    data = [found for m in members if (found := m.record.summary.get("dataset")) is not None]
    same = data and all(each == data[0] for each in data)
    return {"dataset": data[0]} if same else {}


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
