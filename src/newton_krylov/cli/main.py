"""The command: composes the configuration by Hydra, runs it or a sweep of it, and says how it went.

Nothing heavy is imported before it is needed: `--help` and shell completion answer at once.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from newton_krylov.cli.offers import offer, offer_names, parts_without_files, summaries_of
from newton_krylov.errors import ConfigError, UserError, in_words
from newton_krylov.terminal import inert, output_lost, patiently, say, spoken
from newton_krylov.tracking.address import keep
from newton_krylov.version import __version__

DONE, FAILED, MISTAKE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""Exit codes: all ran; a run failed; the user's mistake; Ctrl-C; SIGTERM."""

_CODES = {
    "finished": DONE,
    "failed": FAILED,
    "skipped": FAILED,
    "interrupted": INTERRUPTED,
    "killed": TERMINATED,
}
_CONFIG = "config"
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
REPOSITORY = Path(__file__).resolve().parent


def main(
    config_dir: Path, arguments: Sequence[str] | None = None, prog: str = "python run.py"
) -> int:
    """Do what the command line says.

    Parameters
    ----------
    config_dir : Path
        The folder of `config.yaml` and the groups.
    arguments : sequence of str, optional
        Instead of the process's own.
    prog : str
        How the command is typed.

    Returns
    -------
    int
        The exit code: 0, or 1 if a run failed, 2 for a mistake of the user's (reported in
        one sentence), 130 or 143 if a signal ended it.
    """
    typed = sys.argv[1:] if arguments is None else arguments
    given = [keep(word) if "tracking" in word else word for word in typed]
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
    if "OMP_WAIT_POLICY" not in os.environ:
        # OpenMP's threads spin for milliseconds before they sleep. Where another program wants a
        # core, each small parallel product then waits for a thread that waits for its turn: tens
        # of times slower. This many turns, some 0.03 ms, cost nothing on an idle machine.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        with patiently():
            code = _command(config_dir, given, prog)
        return FAILED if output_lost() and code == DONE else code
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (UserError, OSError) as error:
        if "RANK" in os.environ:
            from newton_krylov.distributed import is_to_report

            if not is_to_report():
                return MISTAKE
        text = inert(in_words(error)).replace("\n", " ")  # of what is quoted
        print(f"Error: {text}", file=sys.stderr)  # noqa: T201
        return MISTAKE
    except KeyboardInterrupt:  # between the end of a run and that of the program
        print("Interrupted.", file=sys.stderr)  # noqa: T201
        return INTERRUPTED


def _command(config_dir: Path, given: list[str], prog: str) -> int:
    options = _Parser(prog).parse_intermixed_args(given)
    if options.version:
        print(f"newton-krylov {__version__}")  # noqa: T201
        return DONE
    if options.help:
        print(_help(config_dir, options, prog))  # noqa: T201
        return DONE
    if not (options.cfg or options.info or options.hydra_help or options.shell_completion):
        _announce(options.overrides)
    (offer_names if options.shell_completion else offer)(config_dir)
    if options.config_dir is not None and not options.config_dir.is_dir():
        raise ConfigError(f"--config-dir: there is no folder {options.config_dir}.")
    if options.cfg or options.info or options.hydra_help or options.shell_completion:
        shown = (options.multirun, options.cfg, options.info, options.shell_completion)
        if sum(map(bool, shown)) > 1:
            raise ConfigError(
                "Only one of --multirun, --cfg, --info and --shell-completion can be given; "
                "--cfg and --info show a single run."
            )
        foreign = options.config_dir or any("searchpath" in line for line in options.overrides)
        if (options.resolve or options.package) and foreign:
            option = "--resolve" if options.resolve else "--package"
            raise ConfigError(
                f"{option} shows what references come to, environment variables too, which is not "
                f"for files of another folder: leave it out to see them as they stand."
            )
        return _inspect(config_dir, given)
    if options.package or options.resolve:
        raise ConfigError("--package and --resolve are of --cfg, which shows the configuration.")
    overrides = list(options.overrides)
    if options.config_dir is not None:
        overrides.append(f"hydra.searchpath=[{quoted(f'file://{options.config_dir.resolve()}')}]")
    return _run(config_dir, overrides, multirun=options.multirun)


def _announce(overrides: Sequence[str]) -> None:
    """Show that the command has begun: what it imports takes seconds."""
    given = {key: value.lower() for key, _, value in (line.partition("=") for line in overrides)}
    if given.get("quiet") != "true" and os.environ.get("RANK", "0") == "0":
        text = f"newton-krylov {__version__}: starting (PyTorch takes seconds to import)"
        say(text, stderr=given.get("json") == "true")


def _help(config_dir: Path, options: argparse.Namespace, prog: str) -> str:
    """Return the help on the parts that are chosen, or on everything."""
    from newton_krylov.cli.choices import groups, help_text, part_help, word_help

    known, folders = set(groups(config_dir)), [config_dir]
    if options.config_dir is not None:
        folders.insert(0, options.config_dir)
    chosen = [
        (group, name)
        for group, _, names in (line.partition("=") for line in options.overrides)
        for name in names.split(",")
        if group in known and name
    ]
    if chosen:
        others = parts_without_files(config_dir)
        return "\n\n".join(part_help(folders, *choice, others) for choice in chosen)
    if words := [line.partition("=")[0] for line in options.overrides]:
        summaries = summaries_of(config_dir)
        return "\n\n".join(word_help(config_dir, word, summaries, prog) for word in words)
    return help_text(config_dir, summaries_of(config_dir), prog)


class _Parser(argparse.ArgumentParser):
    """The options; overrides are everything else."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog=prog, add_help=False, allow_abbrev=False)
        self.add_argument("-h", "--help", action="store_true")
        self.add_argument("--version", action="store_true")
        self.add_argument("-m", "--multirun", action="store_true")
        self.add_argument("-cd", "--config-dir", type=Path)
        self.add_argument("-c", "--cfg", choices=("job", "hydra", "all"))
        self.add_argument("-p", "--package")
        self.add_argument("--resolve", action="store_true")
        self.add_argument("-i", "--info", nargs="?", const="all", choices=_INFO)
        self.add_argument("--hydra-help", action="store_true")
        self.add_argument("-sc", "--shell-completion", action="store_true")
        self.add_argument("overrides", nargs="*")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the options."""
        if found := re.match(r"unrecognized arguments: (-+([a-z_.]+=\S*))", message):
            raise ConfigError(f"{found[1]} is no option: type {found[2]}, without dashes.")
        raise ConfigError(f"{message}. See {self.prog} --help.")


def _inspect(config_dir: Path, given: list[str]) -> int:
    """Show what Hydra knows: nothing runs, nothing a configuration names is imported."""
    import hydra

    from newton_krylov.cli.compose import COMPOSITION_ERRORS, explain, read_within_limits
    from newton_krylov.cli.unfolding import unfolding_bounded

    read_within_limits()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let errors come through to be explained here
    arguments, sys.argv[1:] = sys.argv[1:], given
    try:
        with unfolding_bounded():
            hydra.main(version_base="1.3", config_path=str(config_dir), config_name=_CONFIG)(job)()
    except COMPOSITION_ERRORS as error:
        with hydra_at(config_dir) as found:
            raise ConfigError(explain(error, found.config_loader, given)) from error
    except SystemExit as end:  # Hydra has said why
        return MISTAKE if end.code else DONE
    finally:
        sys.argv[1:] = arguments
    return DONE


def _run(config_dir: Path, overrides: list[str], *, multirun: bool) -> int:
    """Run one configuration, or a sweep."""
    from newton_krylov.distributed import silence_other_ranks
    from newton_krylov.runs.interruption import interruptible
    from newton_krylov.tracking.afterwards import settle

    with (
        silence_other_ranks() as hidden,
        interruptible() as interruption,
        hydra_at(config_dir) as hydra,
    ):
        try:
            command = Command.of(hydra, [*overrides, *hidden], multirun=multirun)
            with _spoken(command.config) as write:
                if not hidden:
                    settle()
                code, result = _carry_out(hydra, command, interruption)
                from newton_krylov.records.record import json_text

                write(json_text(result))
            return code
        except (KeyboardInterrupt, Exception) as error:
            # What a signal breaks off inside a library may come out as another error.
            if not isinstance(error, KeyboardInterrupt) and interruption.signal is None:
                raise
            print("Interrupted.", file=sys.stderr)  # noqa: T201
            return _CODES[interruption.status]
        finally:
            interruption.hold()  # all has been written


def _carry_out(hydra: Any, command: "Command", interruption: Any) -> tuple[int, dict[str, Any]]:
    """Run what the command asks for; return its exit code, and its result as one mapping."""
    if command.config.get("verdict") is not None:
        from newton_krylov.cli.verdict import VerdictCommand

        # Its mistakes are found here, before the folder holds anything.
        run_one = partial(hydra.multirun, _CONFIG, member)
        verdict = VerdictCommand.of(hydra.config_loader, command, run_one)
        return _sweep(command, interruption, verdict.judge)
    if command.sweep:
        return _sweep(command, interruption, partial(_multirun, hydra, command))
    return _single(hydra, command)


@contextmanager
def _spoken(config: Any) -> Iterator[Callable[[str], None]]:
    """Let what is shown go where the configuration says; see `terminal.spoken`."""
    for key in ("quiet", "json"):
        if not isinstance(config[key], bool):
            raise ConfigError(f"{key}={config[key]} is not valid: it should be true or false.")
    with spoken(quiet=config.quiet, json=config.json) as write:
        yield write


@dataclass(frozen=True)
class Command:
    """What to run, and in which folder: composing again would give the folder another time."""

    overrides: list[str]
    sweep: bool
    folder: Path
    config: Any
    members: int | None = None

    @classmethod
    def of(cls, hydra: Any, overrides: list[str], *, multirun: bool) -> "Command":
        """Compose the command, check it, and make its folder."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from newton_krylov.cli.compose import check_sweep
        from newton_krylov.distributed import check_launch

        loader = hydra.config_loader
        config = loader.load_configuration(_CONFIG, overrides, RunMode.MULTIRUN)
        sweep = multirun or config.hydra.mode == RunMode.MULTIRUN
        check_launch(config.device.name, sweep=sweep, resume=bool(config.get("resume")))
        members = check_sweep(config, loader) if sweep else None
        HydraConfig.instance().set_config(config)
        kind = "sweep" if sweep else "run"
        key = f"hydra.{kind}.dir"
        folder = Path(config.hydra[kind].dir).absolute()
        if config.get("resume") is True and not any(
            line.startswith(f"{key}=") for line in overrides
        ):
            from newton_krylov.runs.resume import latest

            folder = latest(folder.parents[1], list(config.hydra.overrides.task), sweep=sweep)
        _make(folder)
        mode = RunMode.MULTIRUN if sweep else RunMode.RUN
        pinned = [*overrides, f"hydra.mode={mode.name}", f"{key}={quoted(str(folder))}"]
        return cls(pinned, sweep, folder, config, members)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}.") from error
    except ValueError as error:  # a zero byte
        raise ConfigError(f"{str(folder)!r} is not the name of a folder: {error}.") from error


def _single(hydra: Any, command: Command) -> tuple[int, dict[str, Any]]:
    found: list[Any] = []

    def task(config: Any) -> None:
        try:
            found.append(job(config))
        except Exception as error:  # raised below, without Hydra's own report
            found.append(error)

    hydra.run(_CONFIG, task, command.overrides)
    (result,) = found
    if isinstance(result, Exception):
        raise result
    status = result.summary["status"]
    if command.config.quiet and status != "finished":
        print(f"Error: {status}: {result.summary.get('reason')}", file=sys.stderr)  # noqa: T201
    code = FAILED if status == "finished" and result.unwritten else _CODES[status]
    return code, {"folder": str(command.folder), **result.summary}


def _multirun(hydra: Any, command: Command) -> None:
    from newton_krylov.cli.search import search_continued

    with search_continued(command.config, command.folder):
        hydra.multirun(_CONFIG, member, command.overrides)


def _sweep(
    command: Command, interruption: Any, carry_out: Callable[[], None]
) -> tuple[int, dict[str, Any]]:
    from newton_krylov.runs.sweep import Sweep

    processes: AbstractContextManager[None] = nullcontext()
    if "joblib" in str(command.config.hydra.launcher.get("_target_")):
        from newton_krylov.runs.workers import ending_workers

        processes = ending_workers()
    overrides = list(command.config.hydra.overrides.task)
    verdict = command.config.get("verdict") is not None
    interruption.hold()  # what has begun is ended
    sweep = Sweep.begin(
        command.folder,
        composed(command.config),
        overrides,
        REPOSITORY,
        None if verdict else command.members,
    )
    status, reason = "finished", None
    try:
        interruption.obey()
        sweep.track()
        with processes:
            carry_out()
    except KeyboardInterrupt:
        status = interruption.status
    except Exception as error:  # a launcher's or sweeper's: members' own are in their records
        if interruption.signal is not None:  # it broke off a library's work
            status = interruption.status
        else:
            status, reason = (
                "failed",
                str(error) if isinstance(error, UserError) else _launcher_failure(error),
            )
    finally:
        interruption.hold()
        members = sweep.finish(status, reason)
    if reason is not None:
        print(f"Error: {reason}", file=sys.stderr)  # noqa: T201
    if status != "finished":
        return _CODES[status], sweep.result
    ran = any(one.status == "finished" for one in members)
    finished = ran and sweep.record.summary["status"] == "finished" and not sweep.unwritten
    return DONE if finished else FAILED, sweep.result


def _launcher_failure(error: Exception) -> str:
    """Return how a launcher failed: a worker that was killed, a queue that refused a job."""
    logging.getLogger(__name__).info("the sweep broke off", exc_info=error)
    text = " ".join(str(error).split())[:300].rstrip(".")
    return f"the sweep broke off: {type(error).__name__}: {text}. Go on by resume=true."


def job(config: Any) -> Any:
    """Run what Hydra composed."""
    from newton_krylov.runs.experiment import run_experiment

    return run_experiment(composed(config), _job())


def member(config: Any) -> float:
    """Run a sweep's member; Hydra's launchers call it, perhaps in another process."""
    from newton_krylov.runs.sweep import run_member

    with _spoken(config):
        return run_member(composed(config), _job())


def _job() -> Any:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from newton_krylov.runs.experiment import Job

    hydra = HydraConfig.get()
    os.chdir(
        hydra.runtime.cwd
    )  # hydra.job.chdir or not: paths are from where the command was typed
    folder, overrides = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
    if hydra.mode != RunMode.MULTIRUN:
        return Job(folder, overrides, REPOSITORY)
    from newton_krylov.runs.sweep import job_in

    return job_in(Path(hydra.sweep.dir), folder, overrides, REPOSITORY)


def composed(config: Any) -> dict[str, Any]:
    """Return a configuration as plain values; the tracker's password goes no further than here."""
    from newton_krylov.cli.compose import plain_values

    plain = plain_values(config)
    if isinstance(plain.get("tracking"), dict) and isinstance(plain["tracking"].get("uri"), str):
        plain["tracking"]["uri"] = keep(plain["tracking"]["uri"])
    return plain


@contextmanager
def hydra_at(config_dir: Path) -> Iterator[Any]:
    """Set Hydra up with our loader of configurations."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from newton_krylov.cli.compose import CheckedLoader, read_within_limits

    read_within_limits()
    with initialize_config_dir(str(config_dir), job_name="run", version_base="1.3"):
        found = GlobalHydra.instance().hydra
        if found is None:
            raise RuntimeError("Hydra has not been initialized")
        found.config_loader = CheckedLoader(found.config_loader)
        yield found


def quoted(text: str) -> str:
    """Quote a text for Hydra's grammar, where a backslash counts before a quotation mark alone."""
    before_quotes = re.sub(r"(\\*)'", r"\1\1\\'", text)
    whole = re.sub(r"(\\+)$", r"\1\1", before_quotes)
    return f"'{whole}'"
