"""A call's keywords say what one would type."""

from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from newton_krylov.calls.words import overrides_of
from newton_krylov.errors import ConfigError


def test_groups_mappings_and_dotted_keys() -> None:
    words = {
        "solver": {"name": "gmres", "restart": np.int64(20), "rtol": 1e-3},
        "stop": {"epochs": None},
        "loss.l2": np.float32(0.5),
        "resume": True,
        "optimizer": {"layers": ["conv1", "fc"]},
        "dataset.path": Path("/a b/c's.csv"),
        "dataset.target": "größe",
    }
    assert overrides_of(words) == [
        "solver=gmres", "solver.restart=20", "solver.rtol=0.001", "stop.epochs=null",
        "loss.l2=0.5", "resume=true", "optimizer.layers=[conv1,fc]",
        "dataset.path='/a b/c\\'s.csv'", "dataset.target='größe'",
    ]  # fmt: skip


def test_a_list_is_swept_in_a_sweep_and_a_value_in_a_run() -> None:
    words = {"solver": ["cg", "cr"], "optimizer": {"layers": [["a", "b"], ["c"]]}}
    assert overrides_of(words, sweep=True) == ["solver=cg,cr", "optimizer.layers=[a,b],[c]"]
    assert overrides_of({"optimizer.layers": ["a"]}) == ["optimizer.layers=[a]"]


@given(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", categories=["L", "M", "N", "P", "S", "Zs"]))
)
def test_a_value_is_read_back_as_it_was_given(value: object) -> None:
    (line,) = overrides_of({"key": value})
    (override,) = OverridesParser.create().parse_overrides([line])
    assert override.value() == value
    assert type(override.value()) is type(value)


@pytest.mark.parametrize("value", [object(), {1, 2}, np.ones(3)])
def test_what_no_configuration_can_hold_is_a_sentence(value: object) -> None:
    with pytest.raises(ConfigError, match="solver cannot be a"):
        overrides_of({"solver": value})
