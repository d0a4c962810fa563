"""Resumes a search by Optuna: finished trials are added to the study instead of being run again.

Hydra's sweeper begins a new study and numbers its trials from 0, whose folders are taken. It is
handed a study that knows the trials of the sweep's folder, and the number of the next one.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins

from newton_krylov.errors import UserError
from newton_krylov.records.record import Record
from newton_krylov.runs.resume import loaded
from newton_krylov.runs.sweep import metric_of

_SWEEPER = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"


@contextmanager
def search_continued(config: Any, folder: Path) -> Iterator[None]:
    """Let Optuna's sweeper, where `resume` is set, continue from the trials that exist.

    Parameters
    ----------
    config : DictConfig
        Configuration of the sweep.
    folder : Path
        Folder of the sweep.
    """
    if config.get("resume") is not True or config.hydra.sweeper._target_ != _SWEEPER:
        yield
        return
    plugins: Any = Plugins.instance()
    make = plugins.instantiate_sweeper

    def instantiate(**context: Any) -> Any:
        sweeper = make(**context)
        sweep = sweeper.sweep

        def go_on(arguments: list[str]) -> None:
            _add_trials(sweeper.sweeper, arguments, folder)
            sweep(arguments)

        sweeper.sweep = go_on
        return sweeper

    plugins.instantiate_sweeper = instantiate
    try:
        yield
    finally:
        del plugins.instantiate_sweeper


def _add_trials(search: Any, arguments: list[str], folder: Path) -> None:
    """Add the trials in a folder to a study; those that were interrupted are run first."""
    import functools

    import optuna
    from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

    if isinstance(search.sampler, functools.partial):
        raise UserError(
            "resume=true does not go on with a grid: give its values as a plain sweep, key=a,b,c."
        )
    search._process_searchspace_config()
    space, fixed = create_params_from_overrides(
        [*search._parse_sweeper_params_config(), *arguments]
    )
    space = {name: values for name, values in space.items() if name not in fixed}
    search.storage = search.storage or optuna.storages.InMemoryStorage()
    search.study_name = search.study_name or "search"
    study = optuna.create_study(
        study_name=search.study_name,
        storage=search.storage,
        sampler=search.sampler,
        directions=search._get_directions(),
        load_if_exists=True,
    )
    while (place := folder / str(search.job_idx)).is_dir() and search.n_trials > 0:
        record = _read(place)
        if record is None:
            trial = study.ask()
            search._configure_trials([trial], space, fixed)
            study.tell(trial, _run(search, {**trial.params, **fixed}))
        else:
            parameters = _parameters(record.overrides, space)
            if parameters is None:
                raise UserError(
                    f"{place} is no trial of this search: {', '.join(space)} are searched."
                )
            value = metric_of(record)
            ended = record.summary.get("status") in ("finished", "failed", "skipped")
            if not ended or record.undrawn:
                value = _run(search, {**parameters, **fixed})
            _add(study, search, space, fixed, parameters, value)
        search.job_idx += 1
        search.n_trials -= 1


def _read(place: Path) -> Record | None:
    """Read a trial's record; None where it was killed before that was whole: it never began."""
    try:
        return loaded(Record, place)
    except UserError as error:
        raise UserError(f"A trial cannot be added to the search: {error}") from error


def _run(search: Any, parameters: dict[str, Any]) -> float:
    """Run the next trial; return what it is told of."""
    lines = tuple(f"{name}={text}" for name, text in parameters.items())
    (returned,) = search.launcher.launch([lines], initial_job_idx=search.job_idx)
    return float(returned.return_value)


def _add(
    study: Any, search: Any, space: Any, fixed: Any, parameters: dict[str, Any], value: float
) -> None:
    """Add a trial to a study, letting a seeded sampler draw what it drew then."""
    import optuna

    trial = study.ask()
    search._configure_trials([trial], space, fixed)
    if trial.params == parameters:
        study.tell(trial, value)
        return
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    with warnings.catch_warnings():  # both are experimental in old versions
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made = optuna.trial.create_trial(params=parameters, distributions=space, value=value)
        study.add_trial(made)


def _parameters(overrides: list[str], space: dict[str, Any]) -> dict[str, Any] | None:
    """Read what a trial was given of the search's parameters; None where something is missing."""
    found: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(overrides):
        name = override.get_key_element()
        if name not in space:
            continue
        text, value = override.get_value_element_as_str(), override.value()
        choices = getattr(space[name], "choices", None)
        if choices is not None:
            value = next((c for c in choices if c == value or str(c) == text), value)
        found[name] = value
    return found if set(found) == set(space) else None
