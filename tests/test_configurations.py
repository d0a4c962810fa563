"""Files and registry agree; every preset composes and passes the check."""

import re
import shlex
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import CONF, ROOT
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from newton_krylov import registry
from newton_krylov.capabilities import TABLE
from newton_krylov.data.catalogue import summaries
from newton_krylov.errors import ConfigError, rewritten
from newton_krylov.runs.config import GROUPS, Settings, check

STUDIES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
FILES = [path for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def ours(group: str) -> set[str]:
    """The names that this package registers; a test may have registered others."""
    return {
        name
        for name in registry.names(group)
        if registry.entry(group, name).target.__module__.startswith("newton_krylov.")
    }


def read(path: Path) -> dict[str, Any]:
    node: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return node


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides))
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return dict(plain)


@pytest.mark.parametrize("group", GROUPS)
def test_there_is_a_file_for_every_part_and_a_part_for_every_file(group):
    """Of the data sets of the catalogue, which a name alone chooses, the registration is enough."""
    files = {path.stem for path in (CONF / group).glob("*.yaml")}
    named = set(summaries()) if group == "dataset" else set()
    assert not files & named
    assert files | named == ours(group)


@pytest.mark.parametrize("name", summaries())
def test_a_data_set_without_a_file_has_the_keys_of_its_registration(name):
    node = composed(f"dataset={name}")["dataset"]
    part = registry.entry("dataset", name)
    assert node == {"name": name, **part.defaults}
    assert part.summary.rstrip(".") in summaries()[name]
    if TABLE in part.offers:
        check(composed(f"dataset={name}", "dataset.bias=true"))


def test_a_data_set_without_a_file_refuses_other_keys_and_values():
    with pytest.raises(ConfigCompositionException, match="test_set"):
        composed("dataset=phishing", "dataset.test_set=own")
    with pytest.raises(ConfigError, match=r"dataset\.scaling='x' is not valid"):
        check(composed("dataset=w8a", "dataset.scaling=x"))


def test_every_registered_group_can_be_configured():
    registered = {group for group in registry.groups() if ours(group)}
    assert registered == {*GROUPS, "stop", "spectrum"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_file_s_keys_are_its_part_s_parameters(path):
    node, entry = read(path), registry.entry(path.parent.name, path.stem)
    assert node.pop("name") == path.stem
    node.pop("defaults", None)  # of other groups
    assert node.keys() == entry.parameters.keys()  # a user sees every key, and no other
    entry.validate(node)


def test_the_top_level_s_keys_are_the_settings():
    top = read(CONF / "config.yaml")
    del top["defaults"], top["hydra"]
    assert top.keys() == {*Settings.__dataclass_fields__, "stop", "spectrum"}
    assert check(composed()).settings == check(composed() | top).settings


TABLE_OF_ONE_S_OWN = ("dataset=table", "dataset.path=t.csv", "dataset.target=y")


@pytest.mark.parametrize(
    ("overrides", "intercept", "bias"),
    [
        (TABLE_OF_ONE_S_OWN, "free", False),
        ((*TABLE_OF_ONE_S_OWN, "loss=poisson"), "free", False),
        ((*TABLE_OF_ONE_S_OWN, "optimizer=sklearn_lbfgs"), "free", False),
        (("dataset=libsvm", "dataset.path=d.svm", "loss=multinomial"), "free", False),
        ((*TABLE_OF_ONE_S_OWN, "loss.intercept=none"), "none", False),
        ((*TABLE_OF_ONE_S_OWN, "dataset.bias=true"), "none", True),
        ((*TABLE_OF_ONE_S_OWN, "dataset.bias=false"), "none", False),
        ((*TABLE_OF_ONE_S_OWN, "dataset.bias=true", "loss.intercept=free"), "free", True),
        ((*TABLE_OF_ONE_S_OWN, "optimizer=sklearn_liblinear"), "none", True),
        ((*TABLE_OF_ONE_S_OWN, "loss=cross_entropy", "model=mlp"), None, False),
        ((), "none", False),
        (("dataset=breast_cancer",), "none", False),
    ],
)
def test_a_table_of_one_s_own_has_an_intercept_without_a_penalty_where_that_can_be(
    overrides, intercept, bias
):
    plain = check(composed(*overrides)).plain
    assert (plain["loss"].get("intercept"), plain["dataset"]["bias"]) == (intercept, bias)


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_composes_and_passes_the_check(study):
    config = check(composed(f"experiment={study}"))
    assert config.settings.name == study  # so that MLflow's experiments are told apart


PROBLEMS = (
    (),
    ("dataset=digits_images", "loss=cross_entropy", "model=paper_cnn"),
    ("dataset=transport", "loss=entropic_transport"),
    ("dataset=poisson_2d", "loss=residual", "model=mlp"),
)
"""A method is for one of these."""


@pytest.mark.parametrize("method", METHODS)
def test_every_method_composes_and_passes_the_check(method):
    said = []
    for problem in PROBLEMS:
        try:
            assert check(composed(*problem, f"method={method}")).label
        except ConfigError as error:
            said.append(str(error))
    assert len(said) < len(PROBLEMS), said


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.slow
def test_every_method_of_a_study_composes_and_passes_the_check(study):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        whole = compose("config", [f"experiment={study}"], return_hydra_config=True)
    parameters = OmegaConf.select(whole, "hydra.sweeper.params") or {}
    lines = [f"{key}={value}" for key, value in parameters.items()]
    first, methods = [], [""]
    for override in OverridesParser.create().parse_overrides(lines):
        name = override.get_key_element()
        sweep = override.is_sweep_override()
        values = [*override.sweep_string_iterator()] if sweep else [override.get_value_string()]
        if name == "method":
            methods = [f"method={value}" for value in values]
        else:
            first.append(f"{name}={values[0]}")
    for method in methods:
        check(composed(f"experiment={study}", *filter(None, [method]), *first))


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_s_file_says_how_to_run_it(study):
    assert (
        f"python run.py experiment={study}" in (CONF / "experiment" / f"{study}.yaml").read_text()
    )


@pytest.mark.parametrize(
    ("key", "new"),
    [
        ("damping", "damping.tau"),
        ("damping_rule", "damping=fixed or damping=marquardt"),
        ("damping_factor", "damping.factor"),
        ("damping_min", "damping.lowest"),
        ("schedule", "schedule=constant, linear or cosine"),
        ("schedule_epochs", "schedule.epochs"),
    ],
)
def test_a_key_of_before_is_answered_with_its_new_name(key, new):
    plain = composed("optimizer=newton")
    plain["optimizer"][key] = 1
    with pytest.raises(ConfigError, match=rf"^optimizer\.{key} is now {new}[^.]*"):
        check(plain)


def test_the_layers_damping_adapts_unless_another_is_chosen():
    assert composed("optimizer=layerwise_newton")["damping"]["name"] == "marquardt"
    assert composed("optimizer=layerwise_newton", "damping=fixed")["damping"]["name"] == "fixed"
    assert composed("method=paper_newton_1")["damping"] == {"name": "fixed", "tau": 0.1}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("optimizer.damping=0.1", "damping.tau=0.1"),
        ("optimizer.damping_rule=levenberg_marquardt", "damping=marquardt"),
        ("optimizer.damping_rule=fixed,levenberg_marquardt", "damping=fixed,marquardt"),
        ("optimizer.damping_factor=1.5", "damping.factor=1.5"),
        ("optimizer.damping_min=3e-5,1e-4", "damping.lowest=3e-5,1e-4"),
        ("optimizer.schedule=linear", "schedule=linear"),
        ("optimizer.schedule=geometric,condition", "optimizer.schedule=geometric,condition"),
        ("optimizer.schedule_epochs=3", "schedule.epochs=3"),
        ("solver.maxiter=25", "solver.maxiter=25"),
        ("run.py", "run.py"),
    ],
)
def test_an_override_of_before_is_written_by_today_s_names(before, now):
    assert rewritten(before) == now
    assert rewritten(now) == now


def page_commands() -> list[str]:
    """The commands of the page of claims, of its blocks and its text, each once."""
    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    found = re.findall(r"^python run\.py (.*?)(?:    # \d+ runs?)?$", page, re.MULTILINE)
    found += re.findall(r"`python run\.py ([^`]*)`", page)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("line", page_commands())
def test_every_command_of_the_page_of_claims_composes(line):
    words = [word for word in shlex.split(line) if word != "-m"]
    parted = [word.partition("=") for word in words]
    comma = re.compile(r",(?![^\[]*\])")  # not those of a list
    each = [[f"{key}={one}" for one in comma.split(value)] for key, _, value in parted]
    for overrides in product(*each):
        check(composed(*overrides))


def documented_commands() -> list[str]:
    """The commands of README.md and the other pages, each once, but those of studies (above).

    docs/extend.md's need its own parts.
    """
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    kept = [page for page in pages if page.stem not in ("extend", "reproduction")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in kept).replace("\\\n", "")
    found = re.findall(r"^    (?:\$ )?python run\.py +(.*)$", text, re.MULTILINE)
    plain = (line.partition(" | ")[0] for line in found)
    words = (shlex.join(shlex.split(line, comments=True)) for line in plain)
    return [line for line in dict.fromkeys(words) if not re.search("experiment=|sweeper=|--", line)]


@pytest.mark.parametrize("line", documented_commands())
def test_every_command_of_the_other_pages_composes(line):
    """Of what is swept the first values."""
    words = [word for word in shlex.split(line) if word != "-m" and not word.startswith("hydra")]
    first = [
        f"{each.get_key_element()}={next(each.sweep_string_iterator())}"
        if each.is_sweep_override()
        else str(each.input_line)
        for each in OverridesParser.create().parse_overrides(words)
    ]
    check(composed(*first))
