"""The configuration's groups and choices, read from the files alone: quick, nothing is imported."""

from collections.abc import Iterator, Mapping
from pathlib import Path

_LAST = ("experiment", "method")
_EXAMPLES = """\
Examples
  {prog} solver=cr dataset=a9a
  {prog} solver=gmres solver.restart=20 loss.l2=0.001 stop.epochs=50
  {prog} -m solver=cg,cr,gmres,exact dataset=a9a,w8a    a sweep, compared at its end
  {prog} -m hydra/launcher=joblib hydra.launcher.n_jobs=2 solver=cg,cr
  {prog} experiment=paper_convex                        a whole study
  {prog} -m solver=cg,cr resume=true                    what an interrupted sweep left undone

Options
  -m, --multirun            sweep over all combinations of values with commas
  -cd, --config-dir FOLDER  a folder of your own YAML files, in groups as in conf/
  --cfg job [--resolve]     print the composed configuration, run nothing
  --info searchpath         where files are looked for; also: defaults, plugins, config
  --version                 of newton-krylov
  --hydra-help              Hydra's own keys (launchers, sweepers, folders)
  -sc install=bash          print a script for shell completion; in bash:
                            eval "$({prog} -sc install=bash)"

Results go to outputs/<date>/<time>, and to MLflow: mlflow ui"""


def help_text(config_dir: Path, others: Mapping[str, Mapping[str, str]], prog: str) -> str:
    """Return what `--help` prints.

    Parameters
    ----------
    config_dir : Path
        The folder of groups.
    others : mapping of str to mapping of str to str
        Third parties' choices, which have no files: group to name to a line on it.
    prog : str
        How the command is typed.

    Returns
    -------
    str
        Usage, groups with a line on each choice, the top level's keys, examples.
    """
    lines = [f"Usage: {prog} [-m] [group=choice ...] [key=value ...]", ""]
    for group in groups(config_dir):
        known = {**choices(config_dir, group), **others.get(group, {})}
        width = max(map(len, known))
        lines.append(group)
        lines += [f"  {name:<{width}}  {summary}".rstrip() for name, summary in known.items()]
        lines.append("")
    lines += ["Keys of the top level", *_top_level(config_dir), "", _EXAMPLES.format(prog=prog)]
    return "\n".join(lines)


def groups(config_dir: Path) -> list[str]:
    """Return the groups, whole studies last.

    Parameters
    ----------
    config_dir : Path
        The folder of groups.

    Returns
    -------
    list of str
        Names of folders with YAML files, Hydra's own left out.
    """
    folders = sorted(p.name for p in config_dir.iterdir() if p.is_dir() and any(p.glob("*.yaml")))
    return sorted(folders, key=lambda name: (name in _LAST, name))


def choices(config_dir: Path, group: str) -> dict[str, str]:
    """Return a group's choices with a line on each.

    Parameters
    ----------
    config_dir : Path
        The folder of groups.
    group : str
        One of them.

    Returns
    -------
    dict of str to str
        Name to the first sentence of its file's comment.
    """
    return {path.stem: _summary(path) for path in sorted((config_dir / group).glob("*.yaml"))}


def _summary(path: Path) -> str:
    """Return the first sentence of a YAML file's leading comment."""
    comment = " ".join(_leading_comment(path))
    return comment.partition(". ")[0].rstrip(".")


def _leading_comment(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
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
