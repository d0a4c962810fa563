"""Composes the configuration by Hydra: its errors become sentences, and what it reads is judged."""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import yaml
from hydra._internal.core_plugins import file_config_source, importlib_resources_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from newton_krylov.cli.syntax import quoted_override, unreadable
from newton_krylov.cli.trust import bound_file, bound_name, foreign_folders, judge, too_much
from newton_krylov.cli.unfolding import unfolding_bounded
from newton_krylov.data.table import is_table
from newton_krylov.errors import CombinationError, ConfigError, listed, renamed, suggest
from newton_krylov.registry import entry, import_plugins, names, owners
from newton_krylov.runs.config import GROUPS, check
from newton_krylov.runs.parts import register_parts
from newton_krylov.terminal import say
from newton_krylov.tracking.address import keep

COMPOSITION_ERRORS = (
    HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError,
    AttributeError, KeyError, TypeError,
)  # fmt: skip
"""What Hydra raises on a mistake in a file or an override.

ValueError for group=null, RecursionError for files that name one another as their defaults, the
last three for values of its own keys that it takes as they are, such as `hydra.job.env_copy`.
"""

_MOST_VALUES = 10**6
"""Members of a sweep, and values of one of its keys."""

_AT_LEAST_ONE = [
    f"hydra.sweeper.{key}" for key in ("n_trials", "n_jobs", "max_batch_size")
]  # fmt: skip
"""Numbers of a sweeper's that it does not check itself: with fewer it may never end."""

_SAID_EVERY = 10.0
"""Seconds from one word of how far a sweep's composing is to the next."""

PLUGINS = {
    "hydra/launcher=joblib": "hydra-joblib-launcher",
    "hydra/launcher=ray": "hydra-ray-launcher",
    "hydra/launcher=submitit_local": "hydra-submitit-launcher",
    "hydra/launcher=submitit_slurm": "hydra-submitit-launcher",
    "hydra/sweeper=optuna": "hydra-optuna-sweeper",
}
"""Choices that a package brings which need not be installed."""


class ImportlibResourcesConfigSource(
    importlib_resources_config_source.ImportlibResourcesConfigSource
):
    """Reads the files of Hydra and its plug-ins, and none outside of their folders."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file."""
        bound_name(config_path)
        return super().load_config(config_path)


class FileConfigSource(file_config_source.FileConfigSource):
    """Reads files of configuration once it is known what they unfold to."""

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file."""
        bound_name(config_path)
        path = Path(self.path) / self._normalize_file_name(config_path)
        if self.provider != "main":
            bound_file(path, Path(self.path))
        try:
            return super().load_config(config_path)
        except RecursionError as error:  # libyaml ends at a depth at which Hydra's reader goes on
            raise too_much(path) from error
        except OSError as error:
            if isinstance(error, ConfigLoadError):  # there is none
                raise
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_within_limits() -> None:
    """Let Hydra read its files by the classes above.

    They have the names of Hydra's own: it hands the sources on to a launcher's processes, and there
    refuses to register its own beside one of another name.
    """
    for source in (FileConfigSource, ImportlibResourcesConfigSource):
        SourcesRegistry.instance().types[source.scheme()] = source


class CheckedLoader(ConfigLoader):
    """Loads as Hydra's own loader does, in our words and within our limits.

    Parameters
    ----------
    inner : ConfigLoader
        Hydra's own loader.
    """

    def __init__(self, inner: ConfigLoader) -> None:
        self._inner = inner
        self._typed: list[str] = []
        self._said = math.inf
        self._validated: dict[tuple[str, ...], DictConfig] = {}
        self._own: dict[tuple[str, ...], DictConfig] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave what has been composed behind: it goes with every job to another process."""
        return vars(self) | {"_validated": {}, "_own": {}}

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose a configuration."""
        with unfolding_bounded():
            return self._load(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )

    def _load(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool,
        validate_sweep_overrides: bool,
    ) -> DictConfig:
        self._refuse_lists_of_choices(overrides)
        try:
            with warnings.catch_warnings():  # a file named like a part of Hydra's; it is judged
                warnings.filterwarnings("ignore", "(?s).*validated against ConfigStore schema")
                config = self._inner.load_configuration(
                    config_name, overrides, run_mode, from_shell, validate_sweep_overrides
                )
        except COMPOSITION_ERRORS as error:
            raise ConfigError(explain(error, self._inner, overrides)) from error
        self._typed = list(overrides)
        self._judge(config, overrides)
        address = OmegaConf.to_container(config, resolve=False).get("tracking")  # type: ignore[union-attr]
        if isinstance(address, dict) and isinstance(address.get("uri"), str):
            config.tracking.uri = keep(address["uri"])  # Hydra writes it to a file
        return config

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Compose the configuration of a sweep's member; see `load_configuration`.

        Hydra's sweeper composes every member to see that it can be, and its launcher again: the
        second is given what was made for the first. Hundreds take minutes: it says how far it is.
        """
        key = tuple(sweep_overrides)
        if key in self._validated:
            return self._validated.pop(key)
        if not self._validated:
            self._said = monotonic()
        config = self.compose_member(master_config, sweep_overrides)
        self._validated[key] = config
        if monotonic() - self._said >= _SAID_EVERY:
            say(f"composing the runs' configurations: {len(self._validated)} so far")
            self._said = monotonic()
        return config

    def compose_member(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Compose the configuration of a sweep's member and do not keep it; see above."""
        with unfolding_bounded():
            return self._load_member(master_config, sweep_overrides)

    def _load_member(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        self._refuse_lists_of_choices(sweep_overrides)
        try:
            config = self._inner.load_sweep_config(master_config, sweep_overrides)
        except COMPOSITION_ERRORS as error:
            given = [*master_config.hydra.overrides.hydra, *sweep_overrides]
            raise ConfigError(explain(error, self._inner, given)) from error
        self._judge(config, [*_unresolved(master_config.hydra.overrides.hydra), *sweep_overrides])
        return config

    def _refuse_lists_of_choices(self, overrides: Sequence[str]) -> None:
        """Refuse several choices of a group, of which Hydra takes the last."""
        for line in overrides:
            found = re.fullmatch(r"\+*([a-z_]+)=\[(.*)\]", line)
            if found and self._inner.get_group_options(found[1]):
                raise ConfigError(
                    f"{found[1]} takes one choice, not the list [{found[2]}]: to try each, sweep "
                    f"by -m {found[1]}={found[2]}, or from a program by sweep()."
                )

    def _judge(self, config: DictConfig, overrides: Sequence[str]) -> None:
        """Refuse what is no data, and what a foreign file may not say."""
        given = config.hydra.overrides
        recorded = [*_unresolved(given.hydra), *_unresolved(given.task)]
        if sorted(recorded) != sorted(overrides):
            raise ConfigError("hydra.overrides is what the command line says; no file sets it.")
        judge(config, self._of_own_files(config) if foreign_folders(config) else None, self._typed)

    def _of_own_files(self, config: DictConfig) -> DictConfig:
        """Compose `config` again without the files of others, for what Hydra's keys are then."""
        choices = {
            group: choice
            for group, choice in config.hydra.runtime.choices.items()
            if group.startswith("hydra/") and choice is not None
        }
        chosen = [f"{group}={choice}" for group, choice in choices.items()]
        typed = [
            line
            for line in self._typed
            if line.lstrip("+~").startswith("hydra.")
            and not line.lstrip("+").startswith("hydra.searchpath=")
        ]
        key = (*chosen, *typed)
        if key in self._own:
            return self._own[key]
        try:
            found: DictConfig = self._inner.load_configuration(
                "config", list(key), RunMode.MULTIRUN, validate_sweep_overrides=False
            )
        except COMPOSITION_ERRORS as error:
            text = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"A file outside the program's own conf/ brings a part of Hydra's of its own, "
                f"which is not allowed ({', '.join(chosen)}): {text}"
            ) from error
        self._own[key] = found
        return found

    def get_search_path(self) -> ConfigSearchPath:
        """Return where files are looked for."""
        return self._inner.get_search_path()

    def get_sources(self) -> list[ConfigSource]:
        """Return the places of the search path."""
        return list(self._inner.get_sources())

    def list_groups(self, parent_name: str) -> list[str]:
        """Return the groups below a group."""
        return list(self._inner.list_groups(parent_name))

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """Return the choices of a group."""
        return list(
            self._inner.get_group_options(group_name, results_filter, config_name, overrides)
        )

    def compute_defaults_list(
        self, config_name: str | None, overrides: list[str], run_mode: RunMode
    ) -> Any:
        """Return the files that a configuration is made of."""
        return self._inner.compute_defaults_list(config_name, overrides, run_mode)


def explain(error: BaseException, loader: ConfigLoader, overrides: Sequence[str] = ()) -> str:
    """Turn an error of Hydra's into a sentence with the valid choices."""
    text = " ".join(str(error).split())
    of_python: dict[type[BaseException], str] = {
        KeyError: f"hydra.job.env_copy names {error}, which is not set in the environment.",
        RecursionError: "The configuration cannot be composed: a value is nested too deeply, or "
        "its files name one another without an end.",
    }
    if type(error) in of_python:
        return of_python[type(error)]
    if isinstance(error, OverrideParseException):
        return unreadable(str(error.override))
    if isinstance(error, MissingConfigException):
        return _missing_file(error, loader)
    of_list = _of_list(f"{text} {error.__cause__}")
    if sentence := _of_several(text) or _of_choice(text, loader, overrides) or of_list:
        return sentence
    unknown = r"Could not (?:override|delete from config\.) '([^']+)'"
    if found := re.search(unknown, text):
        return _unknown_key(found[1].partition("@")[0], loader, overrides)
    if isinstance(error.__cause__, OmegaConfBaseException):
        text = f"{text}: {str(error.__cause__).partition(chr(10))[0]}".removeprefix(": ")
    return f"The configuration cannot be composed: {text.rstrip('.')}."


def _of_list(text: str) -> str | None:
    """Say what a list was given for."""
    merged = r"Error merging override '?([^=\s]+)=.*Cannot merge DictConfig with ListConfig"
    if not (found := re.search(merged, text)):
        return None
    return f"{found[1]} is a list, and should be a mapping: give its keys, as {found[1]}.KEY=..."


def _of_several(text: str) -> str | None:
    """Say how one key can have several values, where Hydra found several."""
    several = r"(?:Ambiguous value for argument|Sweeping over Hydra.*:) '(([^'=]+)=(.*?))'(?=\W|$)"
    if not (found := re.search(several, text)):
        return None
    line, key, value = found.groups()
    decimal = re.fullmatch(r"-?\d+,\d+", value)
    point = f", or {key}={value.replace(',', '.')} for a decimal number" if decimal else ""
    sweep = "" if key.startswith("hydra.") else "add -m to sweep over them, or "
    return (
        f"{line} gives several values: {sweep}write {key}=[{value}] for a list, "
        f"{quoted_override(key, value)} for one text{point}."
    )


def _of_choice(text: str, loader: ConfigLoader, overrides: Sequence[str]) -> str | None:
    """Explain a choice that has no name, or is made by adding it."""
    if re.search(r"Could not (override|delete) ''", text):
        return "A key is missing before '=': write key=value."
    added = re.search(r"(\S+) appears more than once|force-add .*'\++([^=']+)=", text)
    if added and loader.get_group_options(group := added[1] or added[2]):
        return f"{group} is chosen already: write {group}=NAME, without +."
    if "Config group override must be" not in text:
        return None
    for line in overrides:
        key, _, value = line.partition("=")
        options = loader.get_group_options(key.lstrip("+"))
        if options and value.lower() == "null":
            return f"{line} chooses nothing{suggest('null', options)}"
        if options and value not in options:
            return _unknown_choice(key, value, options, loader)
    return None


def _unresolved(lines: ListConfig) -> list[str]:
    """Return overrides as they were given."""
    found: Any = OmegaConf.to_container(lines, resolve=False)
    return list(map(str, found))


def plain_values(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain values, interpolations resolved, without Hydra's keys.

    Parameters
    ----------
    config : DictConfig
        Composed.

    Returns
    -------
    dict
        Mappings, lists and plain values.

    Raises
    ------
    ConfigError
        If a value is missing or refers to nothing.
    """
    try:
        ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        plain: Any = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)
    except COMPOSITION_ERRORS as error:
        text = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(f"The configuration cannot be resolved: {text}.") from error
    return dict(plain)


def check_sweep(config: DictConfig, loader: CheckedLoader) -> int | None:
    """Check a sweep's lists of values and a study's single values before anything of it starts.

    Returns how many members there will be; None where that is the sweeper's to decide.
    """
    parameters = OmegaConf.select(config, "hydra.sweeper.params") or {}
    lines = [f"{key}={value}" for key, value in parameters.items()]
    given = [*lines, *config.hydra.overrides.task]
    where = [s for s in config.hydra.overrides.hydra if s.startswith("hydra.searchpath=")]
    try:
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(given)
    except (OverrideParseException, RecursionError) as error:
        raise ConfigError(explain(error, loader, given)) from error
    swept: dict[str, list[str]] = {}
    choices: set[str] = set()
    for override in overrides:
        name = override.get_key_element()
        swept[name] = _values(override)  # the last word counts, as it does for the sweeper
        options = loader.get_group_options(override.key_or_group, overrides=where)
        if options and not override.is_delete():
            choices.add(name)
            for value in swept[name]:
                _check_choice(override.key_or_group, value, options, loader, where)
    first = {name: values[0] for name, values in swept.items() if values}
    # Every choice brings keys of its own, which the other values must fit.
    others = [{**first, name: v} for name, vs in swept.items() if name in choices for v in vs[1:]]
    members = [
        loader.compose_member(config, [f"{name}={value}" for name, value in member.items()])
        for member in (first, *others)
    ]
    _check_values({k: values for k, values in swept.items() if k not in choices}, members)
    for key in _AT_LEAST_ONE:
        number = OmegaConf.select(config, key)
        if number is not None and number < 1:
            raise ConfigError(f"{key}={number} is not valid: it should be 1 or more.")
    trials = OmegaConf.select(config, "hydra.sweeper.n_trials")
    if trials is not None:
        return int(trials)
    basic = str(OmegaConf.select(config, "hydra.sweeper._target_")).endswith(".BasicSweeper")
    return _bounded("The sweep", math.prod(map(len, swept.values()))) if basic else None


def _bounded(what: str, count: float) -> int:
    if not count <= _MOST_VALUES:
        raise ConfigError(
            f"{what} has more than {_MOST_VALUES:,} values to try, which no memory holds."
        )
    return int(count)


def _check_values(swept: Mapping[str, Sequence[str]], members: Sequence[DictConfig]) -> None:
    """Refuse a value that no choice of parts takes.

    What the parts make of one another is each member's own affair: one that makes no sense is
    skipped, with its reason.
    """
    register_parts()
    import_plugins()
    configurations = [plain_values(member) for member in members]
    for name, values in swept.items():
        key = name.lstrip("+")
        for value in values:
            if (
                "${" in value
                or key[0] == "~"
                or "@" in key
                or key.partition(".")[0] in ("hydra", "verdict")
            ):
                continue
            (override,) = OverridesParser.create().parse_overrides([f"{key}={value}"])
            refused = []
            for plain in configurations:
                refused.append(_refused(_with(plain, key.split("."), override.value())))
                if refused[-1] is None:
                    break
            else:
                raise ConfigError(str(refused[0]))


def _with(plain: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Return nested values with another one at a path."""
    first, *rest = path
    inner = plain.get(first)
    below = inner if isinstance(inner, dict) else {}
    return {**plain, first: _with(below, rest, value) if rest else value}


def _refused(plain: Mapping[str, Any]) -> str | None:
    """Return which key or value of a configuration is wrong by itself."""
    try:
        check(plain)
    except CombinationError:
        return None
    except ConfigError as error:
        return str(error)
    return None


def _values(override: Override) -> list[str]:
    """Return what a sweep's members get, as it would be typed; nothing for a distribution."""
    if override.is_discrete_sweep():
        value = override.value()
        if isinstance(value, RangeSweep):  # known by its ends
            start, stop, step = value.start or 0, value.stop or 0, value.step
            if not step:
                raise ConfigError(f"{override.input_line} has a step of 0.")
            _bounded(override.get_key_element(), (stop - start) / step)
        return list(override.sweep_string_iterator())
    return [] if override.is_sweep_override() else [override.get_value_element_as_str()]


def _check_choice(
    group: str, value: str, options: Sequence[str], loader: ConfigLoader, where: list[str]
) -> None:
    folder, _, choice = value.rpartition("/")
    known = loader.get_group_options(f"{group}/{folder}", overrides=where) if folder else options
    if choice not in (*known, "null"):
        raise ConfigError(_unknown_choice(group, value, options, loader))


def _missing_file(error: MissingConfigException, loader: ConfigLoader) -> str:
    group, _, name = str(error.missing_cfg_file or "").rpartition("/")
    if not group:
        return f"The configuration cannot be composed: {' '.join(str(error).split())}"
    package = PLUGINS.get(f"{group}={name}")
    if package is not None:
        return f"{group}={name} needs the package {package}: pip install {package}."
    options = error.options or loader.get_group_options(group)
    return _unknown_choice(*_group_and_value(f"{group}/{name}"), options, loader)


def _group_and_value(file: str) -> tuple[str, str]:
    """Split the file that a choice stands for; Hydra's own groups are two levels deep."""
    parts = file.split("/")
    depth = 2 if parts[0] == "hydra" else 1
    return "/".join(parts[:depth]), "/".join(parts[depth:])


def _unknown_choice(group: str, value: str, options: Sequence[str], loader: ConfigLoader) -> str:
    """Say that a group has no such choice; a path is led to the key or the way that takes one."""
    folder = value.rpartition("/")[0]
    if folder.isidentifier() and (inside := loader.get_group_options(f"{group}/{folder}")):
        return f"{group}={value} is unknown{suggest(value, [f'{folder}/{c}' for c in inside])}"
    if (folder or Path(value).suffix) and (way := _way_of_file(group, value)):
        return f"{group}={value} is a path, and {group} takes a name: {way}"
    own = _way_of_own(group, value) if folder or Path(value).suffix else ""
    return f"{group}={value} is unknown{own}{suggest(Path(value).stem if own else value, options)}"


def _way_of_file(group: str, value: str) -> str | None:
    """Say how a file of settings or of data is given; None for another, as of a program."""
    path = Path(value)
    if path.suffix in (".yaml", ".yml"):
        file = f"FOLDER/{group}/{path.stem}.yaml"
        return f"write --config-dir FOLDER {group}={path.stem} with the file at {file}."
    if path.suffix == ".py" or not (readers := _readers(group)):
        return None
    if group == "dataset" and is_table(path):
        return (
            f"write dataset.path={value} with dataset=table, and dataset.target=COLUMN for the "
            "column to predict."
        )
    return f"write {group}.path={value} with {group}={listed(readers, 'or')}."


def _way_of_own(group: str, value: str) -> str:
    """Say how a part of the user's own becomes a name; nothing where a group takes none."""
    if group not in GROUPS:
        return ""
    file = Path(value if value.endswith(".py") else "FILE.py")
    return (
        f'; a part of your own is registered by @register("{group}", "NAME") in a Python file, and '
        f"{group}=NAME is known with NEWTON_KRYLOV_PLUGINS={file.stem} PYTHONPATH={file.parent} "
        f"set (docs/extend.md)"
    )


def _unknown_key(key: str, loader: ConfigLoader, overrides: Sequence[str]) -> str:
    """Name the first part of a dotted key that is wrong, with what would be right there."""
    if sentence := renamed(key):
        return sentence
    config = node = _without(key, loader, overrides)
    parts = key.split(".")
    for depth, part in enumerate(parts):
        above = ".".join(parts[:depth])
        if not isinstance(node, Mapping):
            return f"{key} is not a key: {above} holds a single value."
        if part not in node:
            if depth > 1 and not node:
                group, chosen = parts[0], config[parts[0]].get("name")
                others = [name for name in loader.get_group_options(group) if name != chosen]
                return (
                    f"{above}.{part} is not a key: {above} is empty in {group}={chosen}. Choose "
                    f"{group}={listed(others, 'or')} beside it, or add it by +{above}.{part}=..."
                )
            if depth:
                wrong, where, choices = f"{above}.{part}", f"a key of {above}", set(node)
            else:
                wrong, where = part, "a key of the configuration"
                choices = {*node, *loader.list_groups("")} - {"hydra"}
            sentence = f"{wrong} is not {where}{suggest(part, choices)}"
            return sentence + _owners(parts[0], part) if depth == 1 else sentence
        node = node[part]
    return f"{key} is not a key of the parts chosen."


def _readers(group: str) -> list[str]:
    """Return the names of a group's parts that take a path."""
    register_parts()
    return [name for name in names(group) if "path" in entry(group, name).parameters]


def _owners(group: str, key: str) -> str:
    """Say which other parts of a group have a key."""
    register_parts()
    return owners(group, key)


def _without(key: str, loader: ConfigLoader, overrides: Sequence[str]) -> Any:
    """Compose without the override that failed, or if need be without any."""
    others = [line for line in overrides if re.split("[=@]", line.lstrip("+~"))[0] != key]
    for tried in (others, []):
        try:
            config = loader.load_configuration(
                "config", tried, RunMode.MULTIRUN, validate_sweep_overrides=False
            )
        except COMPOSITION_ERRORS:
            continue
        return OmegaConf.to_container(config, resolve=False)
    return None
