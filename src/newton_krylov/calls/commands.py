"""`run`, `sweep` and `compare`: the commands as functions, in the words of the configuration."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from newton_krylov.calls.given import named
from newton_krylov.calls.results import Comparison, Run, records_of
from newton_krylov.calls.words import overrides_of
from newton_krylov.cli.main import REPOSITORY
from newton_krylov.cli.session import ComposedRun, compose_run, compose_sweep
from newton_krylov.errors import ConfigError, UserError
from newton_krylov.report.compare import write_comparison
from newton_krylov.report.records import read_records
from newton_krylov.runs.experiment import Job, run_experiment
from newton_krylov.runs.interruption import Interruption, interruptible
from newton_krylov.runs.sweep import Sweep, job_in, run_member
from newton_krylov.terminal import spoken

_INTERRUPTED = ("interrupted", "killed")


def run(**words: Any) -> Run:
    """Run one configuration, as the command `run` does, and return its record.

    Parameters
    ----------
    **words
        The words of the configuration: a group and its choice (`solver="cr"`), or a mapping of
        its keys (`solver={"name": "gmres", "restart": 20}`, `stop={"epochs": 5}`), or dotted keys
        (`**{"loss.l2": 0.1}`). `dataset` may be a data frame, with `dataset.target`, or arrays
        `(X, y)`, `model` a module, `loss` a criterion.

    Returns
    -------
    Run
        Its `trace`, `summary`, `weights`, `figure()`; a notebook shows it.

    Raises
    ------
    ConfigError
        For the first wrong word, in one sentence.
    UserError
        For data that cannot be used, and for a folder that cannot be written.
    KeyboardInterrupt
        If the run was interrupted; its folder has what it had.
    """
    with heard(words):
        composed = compose_run(overrides_of(named(words)))
        record = run_experiment(
            composed.plain, Job(composed.folder, composed.overrides, REPOSITORY)
        )
    if record.summary["status"] in _INTERRUPTED:
        raise KeyboardInterrupt
    return Run(composed.folder)


def sweep(**words: Any) -> Comparison:
    """Run all combinations of values, as the command does with `-m`, and compare them.

    Parameters
    ----------
    **words
        As in `run`; a list is a list of values to try (`solver=["cg", "cr"]`), and a value that is
        a list itself goes into another one. A study by its name (`experiment="peers"`) is a sweep.

    Returns
    -------
    Comparison
        Its `frame` has one row a run, `table` one row a method, `trace` all steps.

    Raises
    ------
    ConfigError
        For the first wrong word, in one sentence, before anything runs.
    UserError
        For a folder that holds another sweep or cannot be written. What fails in a member is in
        its record.
    KeyboardInterrupt
        If it was interrupted; `resume=True` goes on with it.
    """
    with heard(words):
        shared, members = compose_sweep(overrides_of(named(words), sweep=True))

        def carry_out() -> None:
            for member in members:
                run_one(member, shared.folder)

        carry_out_sweep(shared, carry_out, len(members))
    return Comparison(read_records([shared.folder]), shared.folder)


def compare(*given: Any, out: str | Path | None = None) -> Comparison:
    """Compare runs, as the command `compare` does.

    Parameters
    ----------
    *given
        Results of `run` and `sweep`, folders of runs and sweeps, archives of runs.
    out : str or Path, optional
        Gets `comparison.html`, tables and figures; by default nothing is written.

    Returns
    -------
    Comparison
        A notebook shows it.

    Raises
    ------
    ConfigError
        If nothing is given.
    DataError
        For a path without runs.
    """
    if not given:
        raise ConfigError("compare() needs runs: results of run() and sweep(), or folders.")
    found = Comparison(records_of(given), None if out is None else Path(out))
    if found.folder is not None:
        write_comparison(found.studies, found.folder)
    return found


def run_one(member: ComposedRun, folder: Path) -> None:
    """Run a member of the sweep in a folder.

    Parameters
    ----------
    member : ComposedRun
        The member; what goes wrong is in its record.
    folder : Path
        The sweep's.
    """
    run_member(member.plain, job_in(folder, member.folder, member.overrides, REPOSITORY))


@contextmanager
def heard(words: Mapping[str, Any]) -> Iterator[None]:
    """Show what a command shows, or errors only where a call says `quiet=True`."""
    with spoken(quiet=words.get("quiet") is True, json=False):
        yield


def carry_out_sweep(
    shared: ComposedRun, carry_out: Callable[[], None], members: int | None = None
) -> None:
    """Begin a sweep, run its members, and end it with its comparison.

    Parameters
    ----------
    shared : ComposedRun
        What the members have in common.
    carry_out : callable
        Runs them.
    members : int, optional
        How many there are.

    Raises
    ------
    UserError
        For a mistake that is found on the way.
    KeyboardInterrupt
        If it was interrupted.
    """
    with interruptible() as interruption:
        interruption.hold()  # what has begun is ended
        begun = Sweep.begin(shared.folder, shared.plain, shared.overrides, REPOSITORY, members)
        try:
            interruption.obey()
            begun.track()
            carry_out()
        except BaseException as error:
            interruption.hold()
            begun.finish(*_ending(error, interruption))
            raise
        interruption.hold()
        begun.finish()


def _ending(error: BaseException, interruption: Interruption) -> tuple[str, str | None]:
    if isinstance(error, KeyboardInterrupt) or interruption.signal is not None:
        return interruption.status, None
    return "failed", str(error) if isinstance(error, UserError) else type(error).__name__
