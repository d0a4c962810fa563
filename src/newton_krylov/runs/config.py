"""The configuration of a run: what was composed, checked whole before anything is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from newton_krylov.capabilities import idle, refuse_unmet, unused
from newton_krylov.errors import CombinationError, ConfigError, suggest
from newton_krylov.records.trace import shown
from newton_krylov.registry import Entry, entry
from newton_krylov.runs.observer import OWN, Observation
from newton_krylov.runs.runner import Stopping

GROUPS = (
    "dataset",
    "loss",
    "model",
    "solver",
    "hessian_approx",
    "optimizer",
    "line_search",
    "forcing",
    "preconditioner",
    "damping",
    "schedule",
    "device",
    "tracking",
)
"""The groups from each of which a run takes one part."""

OF_THE_COMMAND = ("resume", "quiet", "json")
"""Keys that say how a command goes about its runs; no part of what is run, or of its record."""

if TYPE_CHECKING:
    Metric = str
else:
    Metric = Literal[tuple(c.name for c in shown("axis") if not c.rising and c.name != "iteration")]


@dataclass(frozen=True)
class Settings:
    """The keys of the configuration's top level.

    Attributes
    ----------
    name : str
        The study: MLflow's experiment.
    label : str or None
        What tables and figures call the run; None makes one of its parts' names.
    seed : int
        Seed of the starting point and of everything random.
    repeat : int
        Which repetition of a measurement; changes nothing, so that a sweep over it times the same
        run again.
    start : {"auto", "zeros", "uniform", "normal", "model", "previous"}
        w0: zeros, U(0, 1)^d (the paper's), N(0, 1)^d or the network's own initialization; depends
        on the seed alone. `auto` is `model` for a network, else `zeros`; a checked configuration
        has one of these. `previous`: the weights of the sweep's last member before this one that
        differs from it in the penalty alone, and what `auto` is where there is none.
    optimum : {"certified", "none"}
        Whether suboptimality is measured, against a certified optimum.
    dtype : {"auto", "float64", "float32"}
        Precision of the data and the parameters. `auto` is `float32` for a network, else `float64`;
        a checked configuration has one of these.
    data_dir : str or None
        Where downloaded data lies; None is `newton_krylov.data.default_data_dir()`.
    objective_metric : str
        The column of the last row that a sweeper minimizes.
    benchmark : str or None
        The label of a method of the study whose final loss is a second benchmark of
        suboptimality, beside the certified optimum.
    clock : {"wall", "processor"}
        What the optimizer's seconds are of: the wall's clock, or the time that this process
        computed, which other work on the machine lengthens less.
    checkpoint_seconds : float
        Between two checkpoints, from which an interrupted run can be continued; 0 for one after
        every row of the trace.
    trace_every : int or None
        Steps from one row of the trace to the next; see `runner.spacing` for None.
    resume : bool
        Whether to continue the run in the folder; no part of what is run, so `RunConfig.plain`
        lacks it.
    quiet, json : bool
        Whether errors alone are shown, and whether the result is written as JSON; likewise.
    """

    name: Annotated[str, Field(min_length=1)] = "newton-krylov"
    label: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    repeat: Annotated[int, Field(ge=0)] = 0
    start: Literal["auto", "zeros", "uniform", "normal", "model", "previous"] = "auto"
    optimum: Literal["certified", "none"] = "certified"
    dtype: Literal["auto", "float64", "float32"] = "auto"
    data_dir: str | None = None
    objective_metric: Metric = "loss"
    benchmark: str | None = None
    clock: Literal["wall", "processor"] = "wall"
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 10.0
    trace_every: Annotated[int, Field(ge=1)] | None = None
    resume: bool = False
    quiet: bool = False
    json: bool = False


_SETTINGS = Entry("", "run", Settings)
_STOP = entry("stop", "criteria")
_SPECTRUM = entry("spectrum", "observation")


@dataclass(frozen=True)
class RunConfig:
    """A checked configuration.

    Attributes
    ----------
    plain : dict
        The whole configuration as plain values, defaults filled in.
    settings : Settings
        Top-level settings.
    stopping : Stopping
        When to stop.
    observation : Observation
        What to look at of the curvature's spectrum, and when.
    """

    plain: dict[str, Any]
    settings: Settings
    stopping: Stopping
    observation: Observation

    def name_of(self, group: str) -> str:
        """Return the name of the part chosen from a group."""
        return str(self.plain[group]["name"])

    def options_of(self, group: str) -> dict[str, Any]:
        """Return the chosen part's keyword values."""
        return {key: value for key, value in self.plain[group].items() if key != "name"}

    def entry_of(self, group: str) -> Entry:
        """Return the registry's entry of the part chosen from a group."""
        return entry(group, self.name_of(group))

    @property
    def entries(self) -> dict[str, Entry]:
        """The registry's entries of all parts chosen, by group."""
        return {group: self.entry_of(group) for group in GROUPS}

    def build(self, group: str, **parts: Any) -> Any:
        """Make the part chosen from a group (see `Entry.build`)."""
        return self.entry_of(group).build(self.plain[group], **parts)

    def unused(self, overrides: Sequence[str]) -> list[str]:
        """Say which explicit choices change nothing (see `capabilities.unused`)."""
        options = {group: self.options_of(group) for group in GROUPS}
        return unused(self.entries, overrides, options)

    @property
    def idle(self) -> list[str]:
        """The groups and keys that the run will not use (see `capabilities.idle`)."""
        return idle(self.entries, {group: self.options_of(group) for group in GROUPS})

    @property
    def label(self) -> str:
        """What tables and figures call the run."""
        return label_of(self.plain)


def check(plain: Mapping[str, Any]) -> RunConfig:
    """Check a composed configuration: keys, names, types and ranges, and what excludes what.

    Parameters
    ----------
    plain : mapping
        Plain values, interpolations resolved.

    Returns
    -------
    RunConfig
        With every default filled in.

    Raises
    ------
    ConfigError
        For the first thing that is wrong.
    """
    top = [field.name for field in fields(Settings)]
    known = [*GROUPS, "stop", "spectrum", *top, "verdict"]  # the last is the command's alone
    for key in plain:
        if key not in known:
            raise ConfigError(f"'{key}' is not a key of the configuration{suggest(key, known)}")
    checked: dict[str, Any] = {group: _part(group, plain.get(group)) for group in GROUPS}
    checked["stop"] = _STOP.validate(_mapping("stop", plain.get("stop", {})))
    checked["spectrum"] = _SPECTRUM.validate(_mapping("spectrum", plain.get("spectrum", {})))
    settings = _SETTINGS.validate({key: plain[key] for key in top if key in plain})
    settings["name"] = _study(plain.get("name", Settings.name))
    _choose(settings, checked["loss"])
    _choose_intercept(checked)
    whole = {**checked, **settings}
    for key in OF_THE_COMMAND:
        del whole[key]
    config = RunConfig(
        whole,
        Settings(**settings),
        Stopping(**checked["stop"]),
        Observation(**checked["spectrum"]),
    )
    _refuse_senseless(config)
    return config


def build_part(group: str, node: Any) -> Any:
    """Make one part outside of a run.

    Parameters
    ----------
    group : str
        Name of the group.
    node : mapping
        The group's keys, with `name`.

    Returns
    -------
    object
        See `Entry.build`.

    Raises
    ------
    ConfigError
        For the first thing that is wrong.
    """
    checked = _part(group, node)
    return entry(group, checked["name"]).build(checked)


def _study(name: Any) -> str:
    """Check the study's name; a registry's entry takes the key `name` for its own."""
    if not isinstance(name, str) or not name:
        raise ConfigError(f"name={name!r} is not valid: it should be a text, the study's name.")
    return name


def _part(group: str, node: Any) -> dict[str, Any]:
    node = _mapping(group, node)
    if "name" not in node:
        raise ConfigError(f"{group}.name is missing: choose a part, for example {group}=NAME.")
    return {"name": node["name"], **entry(group, node["name"]).validate(node)}


def _takes_network(loss: Mapping[str, Any]) -> bool:
    return "model" in entry("loss", loss["name"]).parts


def _choose(settings: dict[str, Any], loss: Mapping[str, Any]) -> None:
    """Put in place of `auto` what suits the loss; one may have a dtype of its own."""
    network = _takes_network(loss)
    dtype = getattr(entry("loss", loss["name"]).target, "usual_dtype", None)
    choices = {
        "start": "model" if network else "zeros",
        "dtype": dtype or ("float32" if network else "float64"),
    }
    for key, choice in choices.items():
        if settings[key] == "auto":
            settings[key] = choice


def _choose_intercept(checked: Mapping[str, dict[str, Any]]) -> None:
    """Put the intercept of a table of the user's own in place of `auto`.

    It has no penalty where the loss can leave it out and the optimizer can do without, and is a
    column of ones elsewhere; a network's layers have their own. Who sets either key decides alone.
    """
    dataset, loss, optimizer = (checked[group] for group in ("dataset", "loss", "optimizer"))
    asks, chooses = dataset.get("bias") == "auto", loss.get("intercept") == "auto"
    able = getattr(entry("optimizer", optimizer["name"]).target, "takes_free_intercept", True)
    if chooses:
        loss["intercept"] = "free" if asks and able else "none"
    if asks:
        known = "intercept" in loss
        dataset["bias"] = (chooses and not able) if known else not _takes_network(loss)


def _mapping(key: str, node: Any) -> Mapping[str, Any]:
    if node is None:
        raise ConfigError(f"{key} is missing: choose a part, for example {key}=NAME.")
    if not isinstance(node, Mapping):
        raise ConfigError(f"{key} must be a group of keys, but is {node!r}.")
    return node


def _refuse_senseless(config: RunConfig) -> None:
    stop, loss, model = config.stopping, config.name_of("loss"), config.name_of("model")
    if not _takes_network(config.plain["loss"]):
        if model != "auto":
            raise CombinationError(
                f"model={model} needs a loss of networks, such as loss=cross_entropy; "
                f"loss={loss} is of a linear model."
            )
        if config.settings.start == "model":
            raise CombinationError(f"start=model needs a network, but loss={loss} has none.")
    options = {group: config.options_of(group) for group in GROUPS}
    refuse_unmet(config.entries, options)
    if config.observation.of != OWN:
        observed = entry("hessian_approx", config.observation.of)
        if config.observation.every is not None:
            refuse_unmet({**config.entries, "hessian_approx": observed})
    if stop.suboptimality is not None and config.settings.optimum == "none":
        raise CombinationError(
            "stop.suboptimality needs a certified optimum: set optimum=certified."
        )
    if all(value is None for value in config.plain["stop"].values()):
        raise ConfigError("Nothing would stop the run: set a key of stop, for example stop.epochs.")


def label_of(plain: Mapping[str, Any]) -> str:
    """Return what tables and figures call a run.

    Parameters
    ----------
    plain : mapping
        The run's configuration, possibly a wrong one.

    Returns
    -------
    str
        The configured label; else a Newton method's solver and curvature, any other's own name.
    """
    if plain.get("label"):
        return str(plain["label"])
    names = {
        group: str(plain[group].get("name")) if isinstance(plain.get(group), Mapping) else "none"
        for group in ("optimizer", "solver", "hessian_approx")
    }
    if names["optimizer"] != "newton":
        return names["optimizer"]
    suffix = "" if names["hessian_approx"] == "hvp" else f" ({names['hessian_approx']})"
    return f"newton-{names['solver']}{suffix}"
