"""Composes configurations for a program's own calls, and leaves Hydra's global state as it was.

A program may be an application of Hydra's itself, may register parts of its own in Hydra's store,
and may call as often as it likes: so nothing of Hydra's is set up for longer than it takes to
compose, and the runs themselves happen outside.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from newton_krylov.cli.command import configuration_folder
from newton_krylov.cli.main import Command, composed, hydra_at
from newton_krylov.cli.offers import offer
from newton_krylov.cli.verdict import VerdictCommand
from newton_krylov.errors import ConfigError

_OF_HYDRA = ("hydra", "_dummy_empty_config_.yaml")
"""What Hydra itself keeps in its store; anything else is the calling program's."""

_IN_PROCESS = {
    "sweeper": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "launcher": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
}


@dataclass(frozen=True)
class ComposedRun:
    """A run to be carried out.

    Attributes
    ----------
    folder : Path
        Where its record goes.
    overrides : list of str
        What was changed in the configuration.
    plain : dict
        The configuration.
    """

    folder: Path
    overrides: list[str]
    plain: dict[str, Any]


@contextmanager
def session() -> Iterator[Any]:
    """Set Hydra up, and put everything back that it and the caller had set up before.

    Yields
    ------
    Hydra
        With our loader of configurations and every registered part on offer.
    """
    store, plugins = ConfigStore.instance(), Plugins.instance()
    sources = SourcesRegistry.instance().types
    before, repo = dict(Singleton._instances), store.repo
    Singleton._instances.clear()
    Singleton._instances.update({ConfigStore: store, Plugins: plugins})  # type: ignore[dict-item]
    SourcesRegistry.instance().types = dict(sources)
    store.repo = {key: copy.deepcopy(repo[key]) for key in _OF_HYDRA if key in repo}
    try:
        folder = configuration_folder()
        offer(folder)
        with hydra_at(folder) as hydra:
            yield hydra
    finally:
        store.repo = repo
        Singleton._instances.clear()
        Singleton._instances.update(before)


def compose_run(overrides: Sequence[str]) -> ComposedRun:
    """Compose a run's configuration.

    Parameters
    ----------
    overrides : sequence of str
        As on the command line.

    Returns
    -------
    ComposedRun
        Its folder exists.

    Raises
    ------
    ConfigError
        For the first thing that is wrong.
    """
    with session() as hydra:
        command = Command.of(hydra, list(overrides), multirun=False)
        if command.sweep:
            raise ConfigError("That is a sweep or a study of several runs: call sweep().")
        return _shared(command)


def compose_sweep(overrides: Sequence[str]) -> tuple[ComposedRun, list[ComposedRun]]:
    """Compose the configurations of a sweep's members.

    Parameters
    ----------
    overrides : sequence of str
        As on the command line after `-m`.

    Returns
    -------
    tuple of (ComposedRun, list of ComposedRun)
        What the members have in common, in the sweep's folder, which exists; and the members.

    Raises
    ------
    ConfigError
        For the first thing that is wrong.
    """
    with session() as hydra:
        command = Command.of(hydra, list(overrides), multirun=True)
        if command.config.get("verdict") is not None:
            raise ConfigError("That is a verdict: call verdict().")
        return _shared(command), _members(hydra, command.overrides)


def compose_verdict(
    overrides: Sequence[str], run_one: Callable[[list[str]], object]
) -> tuple[ComposedRun, VerdictCommand]:
    """Compose a verdict, and look at its data.

    Parameters
    ----------
    overrides : sequence of str
        As on the command line.
    run_one : callable
        Runs what some overrides compose.

    Returns
    -------
    tuple of (ComposedRun, VerdictCommand)
        What the runs have in common, in the race's folder, which exists; what carries it out.

    Raises
    ------
    UserError
        For the first thing that is wrong.
    """
    with session() as hydra:
        command = Command.of(hydra, list(overrides), multirun=True)
        verdict = VerdictCommand.of(hydra.config_loader, command, run_one)
        return _shared(command), verdict


def compose_members(overrides: Sequence[str]) -> list[ComposedRun]:
    """Compose the members of a part of a sweep.

    Parameters
    ----------
    overrides : sequence of str
        Those of a composed command (`Command.overrides`), and more.

    Returns
    -------
    list of ComposedRun
        At least one.
    """
    with session() as hydra:
        return _members(hydra, list(overrides))


def _shared(command: Command) -> ComposedRun:
    task = list(command.config.hydra.overrides.task)
    return ComposedRun(command.folder, task, composed(command.config))


def _members(hydra: Any, overrides: list[str]) -> list[ComposedRun]:
    loader = hydra.config_loader
    config = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
    for kind, known in _IN_PROCESS.items():
        if config.hydra[kind]._target_ != known:
            raise ConfigError(
                f"A call runs a sweep in this process, one run after the other: leave out "
                f"hydra/{kind}, or type the command."
            )
    parameters = OmegaConf.select(config, "hydra.sweeper.params") or {}
    lines = [f"{key}={value}" for key, value in parameters.items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(
        [*lines, *config.hydra.overrides.task]
    )
    (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [_member(loader, config, number, given) for number, given in enumerate(batch)]


def _member(loader: Any, config: Any, number: int, given: Sequence[str]) -> ComposedRun:
    member = loader.load_sweep_config(config, list(given))
    with open_dict(member):
        member.hydra.job.num, member.hydra.job.id = number, str(number)
    folder = Path(member.hydra.sweep.dir) / str(member.hydra.sweep.subdir)
    return ComposedRun(folder, list(member.hydra.overrides.task), composed(member))
