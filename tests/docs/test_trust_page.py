"""The page of promises: each names tests that exist."""

import re

from command import ROOT

from newton_krylov.optimizers.base import Optimizer
from newton_krylov.registry import entry, names
from newton_krylov.runs.parts import register_parts

PAGE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")


def test_every_promise_names_a_test_that_exists():
    promises = re.findall(r"(?ms)^- .*?(?=^- |^#|\Z)", PAGE)
    assert len(promises) > 20
    for promise in promises:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", promise)
        assert named, promise
        for file, test in named:
            text = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {test}\(", text, re.MULTILINE), (file, test)


def test_the_optimizers_that_start_over_are_named():
    register_parts()
    over = [
        name
        for name in names("optimizer")
        if entry("optimizer", name).target.state_dict is Optimizer.state_dict
        and not name.startswith(("scipy_", "sklearn_"))
    ]
    named = re.search(r"have checkpoints but ([\w,\s]+?), and those of\s+SciPy", PAGE)
    assert named is not None and re.split(r",\s+", named[1]) == sorted(over)
