"""Registered sources and what configurations say of them."""

import inspect
import re
from pathlib import Path

import pytest
import torch
import yaml

from newton_krylov.data import load_dataset, source
from newton_krylov.data.catalogue import MGH, nist_tables, summaries
from newton_krylov.data.prepare import RawData, Samples
from newton_krylov.errors import ConfigError
from newton_krylov.registry import entry, names

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf" / "dataset"


def configured():
    return {path.stem: path for path in sorted(CONF.glob("*.yaml"))}


def test_every_data_set_has_its_file_and_every_file_its_data_set():
    assert sorted([*configured(), *summaries()]) == names("dataset")


@pytest.mark.parametrize("name", configured())
def test_a_file_gives_every_key_with_its_default_and_a_comment(name):
    text = configured()[name].read_text()
    keys = yaml.safe_load(text)
    assert keys.pop("name") == name
    part = entry("dataset", name)
    assert keys.keys() == part.parameters.keys()
    assert part.validate(keys) == part.validate({})
    first, *lines = text.splitlines()
    assert first.startswith("# ")
    assert all(" # " in line for line in lines[1:])


@pytest.mark.parametrize("name", configured())
def test_a_data_set_says_what_it_is_in_a_line(name):
    summary = entry("dataset", name).summary
    assert summary.endswith(".")
    assert len(summary) < 100


def test_a_third_partys_source_takes_the_common_options():
    @source("of_a_third_party", bias=True)
    def read(*, n: int = 4) -> RawData:
        """Count."""
        X = torch.arange(2.0 * n).view(n, 2).numpy()
        y = torch.arange(n).numpy() % 2
        return RawData(Samples(X, y), None, "binary", 2, "here", str(n))

    data = load_dataset("of_a_third_party", {"n": 6, "test_fraction": 0.5})
    assert data.name == "of_a_third_party"
    assert len(data.train) == 3
    assert data.n_features == 3  # its default has a bias
    assert load_dataset("of_a_third_party", {"bias": False}).n_features == 2
    assert read(n=2, dtype=torch.float32).train.X.dtype is torch.float32
    assert next(iter(inspect.signature(read).parameters)) == "n"


def test_the_pages_example():
    page = (ROOT / "docs" / "data.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    exec(compile(code, "data.md", "exec"), {})
    data = load_dataset("mine", {"rows": 500})
    assert (len(data.train), len(data.test), data.n_features) == (400, 100, 5)
    assert float(data.train.X.std()) == pytest.approx(1, rel=0.01)


def test_the_page_names_every_data_set():
    page = (ROOT / "docs" / "data.md").read_text()
    several = [f"a{k}a" for k in range(2, 8)]  # "`a1a` to `a8a`"
    for family, known in (("nist_misra1a", nist_tables()), ("mgh_rosenbrock", MGH)):
        several += [f"{family.partition('_')[0]}_{problem}" for problem in known]
        assert f"`{family}` and {len(known) - 1} more" in page
    for name in [*configured(), *summaries()]:
        assert f"`{name}`" in page or name in several, name


def test_mistakes_are_one_sentence():
    with pytest.raises(ConfigError, match="dataset=a9b is unknown; did you mean 'a9a'"):
        load_dataset("a9b")
    with pytest.raises(ConfigError, match=r"dataset\.scalings is not a parameter of dataset=a9a; "):
        load_dataset("a9a", {"scalings": "none"})
    with pytest.raises(ConfigError, match=r"dataset\.test_fraction=1\.5 is not valid"):
        load_dataset("a9a", {"test_fraction": 1.5})
