"""The configuration's groups and choices, read from the files alone: quick, nothing is imported."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from newton_krylov.errors import ConfigError, suggest
from newton_krylov.files import read_text
from newton_krylov.registry import Entry

_LAST = ("experiment", "method")
_LARGEST_FILE = 2**20
_KEY = re.compile(r"(?P<key>\w+): *(?P<value>[^#]*?) *(?:# *(?P<meaning>.*))?$")
_SPHINX = re.compile(r":param (?:\w+ )?(\w+): *(.*?)(?=\n *:|\n\n|\Z)", re.DOTALL)
_EXAMPLES = """\
Examples
  {prog} solver=cr dataset=a9a
  {prog} solver=gmres solver.restart=20 loss.l2=0.001 stop.epochs=50
  {prog} -m solver=cg,cr,gmres,exact dataset=a9a,w8a    a sweep, compared at its end
  {prog} -m hydra/launcher=joblib hydra.launcher.n_jobs=2 solver=cg,cr
  {prog} experiment=verdict dataset=a9a stop.seconds=1  would a second-order method help?
  {prog} experiment=paper_convex                        a whole study
  {prog} -m solver=cg,cr resume=true                    what an interrupted sweep left undone

Options
  -m, --multirun            sweep over all combinations of values with commas
  -h, --help                this; with choices, as in solver=gmres --help, the keys of these
  -cd, --config-dir FOLDER  a folder of your own YAML files, in groups as in conf/
  --cfg job [--resolve]     print the composed configuration, run nothing
  --info searchpath         where files are looked for; also: defaults, plugins, config
  --version                 of newton-krylov
  --hydra-help              Hydra's own keys (launchers, sweepers, folders)
  -sc install=bash          print a script for shell completion; in bash:
                            eval "$({prog} -sc install=bash)"

Results go to outputs/<date>/<time>, and to MLflow: MLFLOW_DISABLE_TELEMETRY=true mlflow ui"""


def help_text(config_dir: Path, others: Mapping[str, Mapping[str, str]], prog: str) -> str:
    """Return what `--help` prints."""
    lines = [f"Usage: {prog} [-m] [group=choice ...] [key=value ...]", ""]
    for group in groups(config_dir):
        known = dict(sorted({**others.get(group, {}), **choices(config_dir, group)}.items()))
        width = max(map(len, known))
        lines.append(group)
        lines += [f"  {name:<{width}}  {summary}".rstrip() for name, summary in known.items()]
        lines.append("")
    lines += ["Keys of the top level", *_top_level(config_dir), "", _EXAMPLES.format(prog=prog)]
    return "\n".join(lines)


def part_help(
    folders: Sequence[Path], group: str, name: str, others: Mapping[str, Sequence[Entry]]
) -> str:
    """Return what `group=name --help` prints: the part's keys, their defaults and meanings."""
    for folder in folders:
        path = folder / group / f"{name}.yaml"
        if path.is_file():
            text = _text(path)
            summary = " ".join(_leading_comment(path))
            if group in _LAST:
                content = [line for line in text.splitlines() if not line.startswith("#")]
                return "\n".join([f"{group}={name}  {summary}", "", *content])
            return _keys(group, name, summary, [_KEY.match(line) for line in text.splitlines()])
    parts = {part.name: part for part in others.get(group, ())}
    if name not in parts:
        known = {*parts, *(choice for folder in folders for choice in choices(folder, group))}
        raise ConfigError(f"{group}={name} is unknown{suggest(name, known)}")
    part = parts[name]
    doc = inspect.getdoc(part.target) or ""
    of_class = inspect.getdoc(part.target.__init__) if inspect.isclass(part.target) else None
    meanings = {**_meanings(of_class or ""), **_meanings(doc)}
    lines = [
        f"{key}: {_typed(value)}  # {meanings.get(key) or _undescribed(part.parameters[key][0])}"
        for key, value in part.defaults.items()
    ]
    text = _keys(group, name, part.summary, [_KEY.match(line) for line in lines])
    rest = doc.partition("\n")[2].strip()
    return text if meanings or not rest else f"{text}\n\n{rest}"  # it may speak of them there


def _undescribed(hint: Any) -> str:
    """Return what is known of a key whose author has not described it."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    kind = hint.__name__ if isinstance(hint, type) else str(hint)
    return f"{kind.replace('typing.', '')} (not described by its author)"


def word_help(
    config_dir: Path, word: str, others: Mapping[str, Mapping[str, str]], prog: str
) -> str:
    """Return what `WORD --help` prints: a group's choices, or keys of the top level.

    Parameters
    ----------
    config_dir : Path
        Our own files.
    word : str
        A group, a key of the top level, or a key below one (`stop.epochs`).
    others : mapping
        Choices without files, by group: name to summary.
    prog : str
        How the program was called.

    Returns
    -------
    str
        Lines.

    Raises
    ------
    ConfigError
        For another word.
    """
    first = word.partition(".")[0]
    if first in (known := groups(config_dir)):
        named = dict(sorted({**others.get(first, {}), **choices(config_dir, first)}.items()))
        width = max(map(len, named))
        lines = [f"  {name:<{width}}  {summary}".rstrip() for name, summary in named.items()]
        hint = f"The keys of a choice: {prog} {first}={next(iter(named))} --help"
        return "\n".join([f"{first}=", *lines, "", hint])
    lines = [line.removeprefix("  ") for line in _top_level(config_dir)]
    tops = [line.partition(":")[0] for line in lines if line[:1].strip()]
    if first not in tops:
        raise ConfigError(f"{word} is no group and no key{suggest(first, [*known, *tops])}")
    begin = next(i for i, line in enumerate(lines) if line.startswith(f"{first}:"))
    inner = list(takewhile(lambda line: line.startswith(" "), lines[begin + 1 :]))
    found = _KEY.match(lines[begin])
    if found is None or found["value"]:  # a single value, and what goes on in a comment
        return "\n".join([lines[begin], *inner])
    return _keys(first, None, found["meaning"] or "", [_KEY.match(line.strip()) for line in inner])


def _typed(value: Any) -> str:
    """Return a value as one types it: null, true, false."""
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def _keys(group: str, name: str | None, summary: str, found: Iterable[re.Match[str] | None]) -> str:
    """Write a part's keys as one would type them, with their defaults, and what they mean."""
    keys = {
        f"{group}.{match['key']}={match['value'].replace(', ', ',')}": match["meaning"] or ""
        for match in found
        if match is not None and match["key"] not in ("name", "defaults")
    }
    width = max(map(len, keys), default=0)
    lines = [f"  {key:<{width}}  {meaning}".rstrip() for key, meaning in keys.items()]
    head = group if name is None else f"{group}={name}"
    return "\n".join([f"{head}  {summary}", "", *(lines or ["  It has no keys."])])


def _meanings(docstring: str) -> dict[str, str]:
    """Return what a docstring says of each parameter, in NumPy's, Google's or Sphinx's style."""
    section = docstring.partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    found = {name: " ".join(text.split()) for name, text in _SPHINX.findall(docstring)}
    of_google = inspect.cleandoc(docstring.partition("\nArgs:\n")[2].partition("\n\n")[0])
    for part in re.split(r"\n(?=\S)", of_google):
        if described := re.match(r"(\w+)(?: \(.*?\))?: *(.*)", part, re.DOTALL):
            found[described[1]] = " ".join(described[2].split())
    names: list[str] = []
    for line in section.splitlines():
        if line and not line[0].isspace():
            names = [name.strip() for name in line.partition(":")[0].split(",")]
        else:
            found |= {name: f"{found.get(name, '')} {line.strip()}".strip() for name in names}
    return found


def groups(config_dir: Path) -> list[str]:
    """Return the groups, whole studies last."""
    folders = sorted(p.name for p in config_dir.iterdir() if p.is_dir() and any(p.glob("*.yaml")))
    return sorted(folders, key=lambda name: (name in _LAST, name))


def choices(config_dir: Path, group: str) -> dict[str, str]:
    """Return a group's choices with a line on each."""
    return {path.stem: _summary(path) for path in sorted((config_dir / group).glob("*.yaml"))}


def _summary(path: Path) -> str:
    """Return the first sentence of a YAML file's leading comment."""
    comment = " ".join(_leading_comment(path))
    return comment.partition(". ")[0].rstrip(".")


def _text(path: Path) -> str:
    try:
        return read_text(path, _LARGEST_FILE)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a text in UTF-8.") from error


def _leading_comment(path: Path) -> Iterator[str]:
    for line in _text(path).splitlines():
        if not line.startswith("#"):
            return
        text = line.lstrip("# ").rstrip()
        if text and not text.startswith("@package"):
            yield text


def _top_level(config_dir: Path) -> Iterator[str]:
    """Yield the lines of config.yaml that follow the defaults list, up to Hydra's own keys."""
    inside = False
    for line in (config_dir / "config.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("hydra:"):
            return
        if inside and line:
            yield f"  {line}"
        inside = inside or not line
