"""What a configuration may say: it is data, and untrusted.

Hydra imports what a `_target_` names and Python's logging what a `class` names, so both are held to
exact lists, wherever they come from. Files outside the program's own folder of configurations
(`--config-dir`, `hydra.searchpath`) are foreign: of Hydra's keys they may set those listed
here, to plain values; they read no environment, choose no server, and keep output below `outputs`.
Everything else comes from the command line. What is judged is the configuration as composed, with
interpolations resolved.
"""

import copy
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from omegaconf.grammar_parser import parse

from newton_krylov.cli.unfolding import MOST, size, spend, unfold
from newton_krylov.errors import ConfigError, UserError
from newton_krylov.files import expand_home
from newton_krylov.records.record import bounded, parse_yaml
from newton_krylov.terminal import inert, one_line

_OUTPUTS = "outputs"
_SHOWN = 200  # characters of a value that a sentence repeats
_LARGEST_FILE = 2**20  # bytes of a file of configuration
_LONGEST = 2**12  # characters of a text with references: OmegaConf takes their square for some
_OF_A_FILE = 2**6  # what a file counts as beside its content: it is looked for, too
_PLUGINS = "hydra_plugins.hydra_"
_CLASSES = {
    "launcher._target_": {
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        f"{_PLUGINS}joblib_launcher.joblib_launcher.JoblibLauncher",
        f"{_PLUGINS}submitit_launcher.submitit_launcher.LocalLauncher",
        f"{_PLUGINS}submitit_launcher.submitit_launcher.SlurmLauncher",
        f"{_PLUGINS}ray_launcher.ray_launcher.RayLauncher",
    },
    "sweeper._target_": {
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        f"{_PLUGINS}optuna_sweeper.optuna_sweeper.OptunaSweeper",
    },
    "sweeper.sampler._target_": {
        f"optuna.samplers.{name}Sampler"
        for name in ("CmaEs", "Grid", "MOTPE", "NSGAII", "Random", "TPE")
    },
}
"""Every class that Hydra may make, by the key that names it."""

_NEVER = ("callbacks", "sweeper.custom_search_space", "launcher.env_setup")
_HANDLERS = {"logging.StreamHandler", "logging.FileHandler", "logging.NullHandler"}
_HANDLER_KEYS = {
    "class", "level", "formatter", "stream", "filename", "mode", "delay", "encoding",
}  # fmt: skip
_FORMATTERS = {None, "logging.Formatter", "colorlog.ColoredFormatter"}
_STREAMS = {None, "ext://sys.stdout", "ext://sys.stderr"}

_RESOLVERS = {"now", "hydra"}
_PLACE = re.compile(r"(?!hydra\.)(?:.*\.)?(uri|mirror|data_dir|path|\w+_path)")
"""Keys of ours that say where something lies or goes: a server, a folder, a file."""

_FILES = re.compile(r"(?:.*\.)?(path|\w+_path)")
"""Those that a foreign file may set, to what lies in its own folder."""

_NEVER_VARIED = {"hydra", "tracking", "data_dir"}

_SET_BY_HYDRA = re.compile(r"runtime\.|overrides\.|searchpath|job\.(override_dirname|config_name)$")
_WORD = re.compile(r"[\w.,:+*=\[\]-]*")
_LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "NOTSET"}
_WORDS = re.compile(
    r"""mode|verbose(\.\d+)?
    |job\.(name|chdir)|job\.config\.override_dirname\.(kv_sep|item_sep|exclude_keys(\.\d+)?)
    |sweeper\.(max_batch_size|n_trials|n_jobs|max_failure_rate|direction(\.\d+)?|study_name)
    |launcher\.(n_jobs|backend|prefer|require|verbose|timeout|batch_size)
    |launcher\.(timeout_min|cpus_per_task|gpus_per_node|tasks_per_node|mem_gb|nodes|name|partition
        |qos|comment|constraint|exclude|gres|cpus_per_gpu|gpus_per_task|mem_per_gpu|mem_per_cpu
        |account|signal_delay_s|max_num_timeout|array_parallelism|stderr_to_stdout)
    |launcher\.ray\.init\.(num_cpus|num_gpus)""",
    re.VERBOSE,
)
"""Keys below `hydra` that a foreign file may set to a number or a word."""

_NUMBERS = re.compile(r"sweeper\.sampler\.[a-z0-9]+(_[a-z0-9]+)*")
_PATHS = ("run.dir", "sweep.dir", "sweep.subdir", "output_subdir")
_BELOW_THEM = ("sweep.subdir", "output_subdir")


def judge(config: DictConfig, own: DictConfig | None, typed: Sequence[str]) -> None:
    """Refuse a configuration that would import, call, read or write something foreign."""
    if own is not None:
        _judge_texts(config, typed)
        _judge_resolvers(config, typed)
        _judge_places(config, typed)
    _judge_classes(config)
    if own is not None:
        _judge_keys(config, own)


def may_vary(override: str) -> bool:
    """Return whether a file may say that runs differ in this: it is ours, and leads nowhere."""
    places = override.lstrip("+~").partition("=")[0].split("@")  # a group, and where it goes
    tops = {re.split("[./]", place, maxsplit=1)[0] for place in places}
    leads = any(_PLACE.fullmatch(place) for place in places)
    return tops.isdisjoint(_NEVER_VARIED) and not leads and "$" not in override


def bound_name(name: str) -> None:
    """Refuse a path in a configuration's place: it could read any file as the program's own."""
    if ".." in PurePosixPath(name).parts:
        raise ConfigError(
            f"{one_line(name)[:_SHOWN]} leads out of its folder, where a name should be: files of "
            f"another folder are given by --config-dir."
        )


def bound_file(path: Path, folder: Path) -> None:
    """Refuse a foreign file that blows up, lies elsewhere, or chooses its parts in a hidden way.

    A few bytes of aliases, brackets or digits unfold to gigabytes.
    """
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{path} is a link that leads out of {folder}.")
    if not path.is_file():  # for Hydra there is none either
        return
    if not path.stat().st_size and not os.statvfs(path).f_blocks:  # such as /proc/kmsg
        raise ConfigError(f"{path} is not a regular file.")
    if path.stat().st_size > _LARGEST_FILE:
        raise ConfigError(f"{path} is larger than the {_LARGEST_FILE >> 20} MiB that it may have.")
    try:
        content = bounded(path, _parsed(path.read_bytes()))
    except (UserError, RecursionError) as error:
        raise too_much(path) from error
    except (OSError, ValueError, yaml.YAMLError):
        return  # Hydra says what is wrong with it
    if size(content) > MOST:
        raise too_much(path)
    spend(_OF_A_FILE + size(content))
    for key, text in leaves(content, ""):
        if isinstance(text, str) and "${" in text and len(text) > _LONGEST:
            raise ConfigError(
                f"{path}: {one_line(key).lstrip('.')[:_SHOWN]} has more than the {_LONGEST:,} "
                f"characters that a text with references (${{...}}) may have."
            )
    # Hydra resolves these before there is a configuration to be judged.
    defaults = content.get("defaults") if isinstance(content, dict) else None
    if "${" in str(defaults):
        raise ConfigError(f"{path}: defaults hold a reference (${{...}}), where names should be.")


def _parsed(text: bytes) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError:  # libyaml is the stricter one, and Hydra does not read by it
        return yaml.safe_load(text)


def too_much(path: Path) -> ConfigError:
    """Return the error for a file that a few bytes blow up."""
    return ConfigError(f"{path} unfolds to more than a configuration can be.")


def foreign_folders(config: DictConfig) -> list[Path]:
    """Return where files were looked for outside the program's own folder and Hydra's."""
    return [
        Path(source.path)
        for source in config.hydra.runtime.config_sources
        if source.provider == "command-line" or source.provider.startswith("hydra.searchpath")
    ]


def _judge_classes(config: DictConfig) -> None:
    """Hold everything that Hydra or logging would import to the lists above."""
    probe = _probe(config)
    for key in _NEVER:
        if _select(probe, f"hydra.{key}"):
            raise ConfigError(f"hydra.{key} is not allowed here: a configuration is data.")
    for node in ("launcher", "sweeper"):
        for key, value in leaves(_select(probe, f"hydra.{node}"), node):
            if key.rpartition(".")[2] == "_target_" and value not in _CLASSES.get(key, ()):
                raise _no_data(f"hydra.{key}", value)
    for node in ("job_logging", "hydra_logging"):
        _judge_logging(f"hydra.{node}", _select(probe, f"hydra.{node}"))


def _judge_logging(key: str, node: Any) -> None:
    if not isinstance(node, Mapping):
        raise _no_data(key, node)
    for path, value in leaves(node, key):
        last = path.rpartition(".")[2]
        if last in ("()", ".", "factory", "_target_") or (
            "://" in str(value) and value not in _STREAMS
        ):
            raise _no_data(path, value)
    for kind, classes in (("handlers", _HANDLERS), ("formatters", _FORMATTERS)):
        for name, part in (node.get(kind) or {}).items():
            found = part.get("class") if isinstance(part, Mapping) else part
            if found not in classes:
                raise _no_data(f"{key}.{kind}.{name}.class", found)
            if kind == "handlers" and (unknown := set(part) - _HANDLER_KEYS):
                raise _no_data(f"{key}.{kind}.{name}.{min(unknown)}", part[min(unknown)])
    if node.get("filters"):
        raise _no_data(f"{key}.filters", node["filters"])


def _judge_texts(config: DictConfig, typed: Sequence[str]) -> None:
    """Refuse texts that would move a terminal's cursor or hide what they say."""
    for key, text in leaves(OmegaConf.to_container(config, resolve=False), ""):
        line = f"{key}={text}"
        if inert(line) != line and not any(str(text) in given for given in typed):
            raise ConfigError(
                f"{one_line(key).lstrip('.')} holds control characters, which no file may give."
            )


def _judge_resolvers(config: DictConfig, typed: Sequence[str]) -> None:
    """Refuse interpolations that read the environment or hide what they do."""
    for key, text in leaves(OmegaConf.to_container(config, resolve=False), ""):
        if not isinstance(text, str) or "${" not in text or any(text in line for line in typed):
            continue
        if _SET_BY_HYDRA.match(key.removeprefix(".hydra.")):  # out of what was typed
            continue
        if "\\" in text or not set(_resolvers(text)) <= _RESOLVERS:
            given = one_line(f"{key.lstrip('.')}={text[:_SHOWN]}")
            raise ConfigError(
                f"{given} is not allowed in a file: a configuration is data, and reads no "
                f"environment. Give the value on the command line."
            )


def _resolvers(text: str) -> Iterator[str]:
    """Yield the names of an interpolation's resolvers; a name that is itself made up is `?`."""
    try:
        for kind, node in _interpolations(text):
            if kind == "InterpolationResolverContext":
                name = node.resolverName().getText()
                yield "?" if "$" in name else name
            elif "$" in node.getText()[2:]:
                yield "?"
    except OmegaConfBaseException:
        yield "?"


def _interpolations(text: str) -> Iterator[tuple[str, Any]]:
    """Yield the references in a text, inner ones too, each with its kind."""
    nodes = [parse(text)]
    while nodes:
        node = nodes.pop()
        kind = type(node).__name__
        if kind in ("InterpolationResolverContext", "InterpolationNodeContext"):
            yield kind, node
        nodes += getattr(node, "children", None) or []


def _judge_places(config: DictConfig, typed: Sequence[str]) -> None:
    """Refuse a server or a folder that a file chooses, and a file that is not of its folder.

    What is wrong with a file's content is said with a piece of it, and logs are passed on.
    Everything is resolved here as a job would, so that what it comes to is bounded, too.
    """
    folders = [folder.resolve() for folder in foreign_folders(config)]
    given = {line.lstrip("+").partition("=")[0] for line in typed}
    probe = _probe(config)
    instance: Any = HydraConfig.instance()
    before, instance.cfg = instance.cfg, probe
    try:
        for path, value in unfold(probe):
            key = path.lstrip(".")
            if not _PLACE.fullmatch(key) or key in given or value is None:
                continue
            own = _FILES.fullmatch(key) and isinstance(value, str)
            if not own or not _lies_in(expand_home(value), folders):
                raise _from_command_line(key)
            _judge_links(key, expand_home(value), folders)
    finally:
        instance.cfg = before


def _lies_in(path: Path, folders: Sequence[Path]) -> bool:
    return any(map(path.resolve().is_relative_to, folders))


def _judge_links(key: str, place: Path, folders: Sequence[Path]) -> None:
    """Refuse a folder of data that holds a link to what does not lie in a foreign file's folder."""
    for parent, inner, files in os.walk(place):
        for found in (Path(parent, name) for name in (*inner, *files)):
            if found.is_symlink() and not _lies_in(found, folders):
                raise ConfigError(
                    f"{key} comes from a file outside the program's own conf/, and {found} is a "
                    f"link that leads out of its folder: give {key} on the command line."
                )


def _judge_keys(config: DictConfig, own: DictConfig) -> None:
    """Refuse what foreign files say of Hydra's keys, but for the list."""
    expected = dict(leaves(OmegaConf.to_container(own.hydra, resolve=False), ""))
    probe = _probe(config)
    for path, value in leaves(OmegaConf.to_container(config.hydra, resolve=False), ""):
        key = path.lstrip(".")
        unchanged = path in expected and expected[path] == value
        if not unchanged and not _SET_BY_HYDRA.match(key) and not _may_set(key, value, probe):
            raise _from_command_line(f"hydra.{key}")


def _may_set(key: str, value: Any, probe: DictConfig) -> bool:
    plain = value.name if isinstance(value, Enum) else value
    if key in _PATHS:
        path = str(_select(probe, f"hydra.{key}"))
        return _inside(path) and (key in _BELOW_THEM or path.startswith(f"{_OUTPUTS}/"))
    if key.startswith("sweeper.params."):
        return may_vary(f"{key.removeprefix('sweeper.params.')}={plain}")
    if re.fullmatch(r"(job|hydra)_logging\.(root|handlers\.\w+)\.level", key):
        return plain in _LEVELS
    number = plain is None or isinstance(plain, bool | int | float)
    word = isinstance(plain, str) and bool(_WORD.fullmatch(plain)) and ".." not in plain
    if _WORDS.fullmatch(key):
        return number or word
    return bool(_NUMBERS.fullmatch(key)) and number


def _inside(text: str) -> bool:
    path = PurePosixPath(text)
    parts = path.parts
    hidden = any(part.startswith((".", "~")) for part in parts)
    return not (path.is_absolute() or hidden) and one_line(text) == text


def _probe(config: DictConfig) -> DictConfig:
    """Copy a configuration, with what Hydra fills in when a job starts."""
    probe = copy.deepcopy(config)
    OmegaConf.set_readonly(probe, False)
    with open_dict(probe):
        probe.hydra.runtime.output_dir = f"{_OUTPUTS}/run"
        probe.hydra.job.num, probe.hydra.job.id = 0, "0"
    return probe


def _select(config: DictConfig, key: str) -> Any:
    """Return what lies at a key as plain values, resolved; None where nothing does."""
    try:
        found = OmegaConf.select(config, key)
        return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
    except OmegaConfBaseException as error:
        text = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(f"{key} cannot be resolved: {text}.") from error


def leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and values below a node of plain values."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from leaves(value, f"{key}.{number}")
    else:
        yield key, node


def _no_data(key: str, value: Any) -> ConfigError:
    given = one_line(f"{key}={str(value)[:_SHOWN]}")
    return ConfigError(f"{given} is not allowed: a configuration is data.")


def _from_command_line(key: str) -> ConfigError:
    return ConfigError(
        f"{key} comes from a file outside the program's own conf/, which may not set it or not to "
        f"this value: give it on the command line."
    )
