"""The registry: the signature is the schema, and mistakes are named with what would be right."""

import math
from typing import Annotated, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, NonNegativeFloat, PositiveInt

from newton_krylov import registry
from newton_krylov.errors import ConfigError, suggest
from newton_krylov.registry import Entry, import_plugins, register


class Part:
    """A part for these tests.

    More of it.
    """

    def __init__(
        self,
        operator: torch.Tensor,
        kind: Literal["a", "b"],
        rtol: NonNegativeFloat = 1e-5,
        count: PositiveInt | None = None,
        share: Annotated[float, Field(gt=0, le=1)] = 1.0,
        names: list[str] | None = None,
        on: bool = False,
        widths: tuple[PositiveInt, ...] = (),
        helper: "Part | None" = None,
    ) -> None:
        self.given = {"kind": kind, "rtol": rtol, "count": count, "share": share, "names": names}
        self.operator, self.on, self.widths, self.helper = operator, on, widths, helper


ENTRY = Entry("test_group", "part", Part)


def test_plain_annotations_are_configured_and_the_others_handed_over():
    assert list(ENTRY.parameters) == ["kind", "rtol", "count", "share", "names", "on", "widths"]
    assert {"operator", "helper"} <= ENTRY.parts
    assert ENTRY.summary == "A part for these tests."
    assert ENTRY.defaults == {
        "kind": "???", "rtol": 1e-5, "count": None, "share": 1.0, "names": None, "on": False,
        "widths": (),
    }  # fmt: skip


def test_defaults_are_filled_in_and_values_brought_to_their_types():
    checked = ENTRY.validate({"name": "part", "kind": "a", "rtol": 1, "count": 3.0})
    assert checked == {
        "kind": "a", "rtol": 1.0, "count": 3, "share": 1.0, "names": None, "on": False,
        "widths": (),
    }  # fmt: skip
    assert type(checked["rtol"]) is float and type(checked["count"]) is int


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"kind": "c"}, r"test_group\.kind='c' is not valid: it should be 'a' or 'b'"),
        ({}, r"test_group\.kind is missing: test_group=part needs a value for it"),
        ({"kind": "a", "rtoll": 1}, r"test_group\.rtoll is not a parameter.*did you mean 'rtol'"),
        ({"kind": "a", "rtol": -1}, r"test_group\.rtol=-1 is not valid: it should be greater"),
        ({"kind": "a", "share": 0}, r"share=0 is not valid: it should be greater than 0"),
        ({"kind": "a", "share": 2}, r"share=2 is not valid: it should be less than or equal to 1"),
        ({"kind": "a", "count": 0}, r"count=0 is not valid"),
        ({"kind": "a", "count": 1.5}, r"count=1\.5 is not valid"),
        ({"kind": "a", "count": True}, r"count=True is not valid: it should be a number"),
        ({"kind": "a", "rtol": False}, r"rtol=False is not valid: it should be a number"),
        ({"kind": "a", "share": True}, r"share=True is not valid: it should be a number"),
        ({"kind": "a", "count": 10**400}, r"count=10+ is not valid: it .* of fewer digits"),
        ({"kind": "a", "count": 1e300}, r"count=1e\+300 is not valid: it should be"),
        ({"kind": "a", "rtol": math.inf}, r"rtol=inf is not valid: it should be a finite number"),
        ({"kind": "a", "rtol": math.nan}, r"rtol=nan is not valid: it should be a finite number"),
        ({"kind": "a", "widths": [True]}, r"widths=True is not valid: it should be a number"),
        ({"kind": "a", "names": "x"}, r"names='x' is not valid: it should be a valid list"),
        ({"kind": "a", "names": [1]}, r"names="),
        ({"kind": "a", "on": "perhaps"}, r"on='perhaps' is not valid"),
        ({"kind": "a", "operator": 1}, r"operator is not a parameter"),
        ({"kind": "a", "_target_": "os.system"}, r"_target_ is not a parameter"),
    ],
)
def test_what_is_wrong_is_a_sentence(config, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        ENTRY.validate(config)
    assert "\n" not in str(caught.value)


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(max_size=5)))
def test_any_configuration_is_taken_or_refused_by_a_sentence(config):
    try:
        checked = ENTRY.validate(config)
    except ConfigError as error:
        assert str(error)
    else:
        assert checked.keys() == ENTRY.parameters.keys()


def test_building_gives_an_instance_or_a_function_with_its_keywords():
    operator = torch.eye(2)
    made = ENTRY.build({"kind": "b", "share": 0.5}, operator=operator, unasked=1)
    assert isinstance(made, Part) and made.operator is operator and made.helper is None
    assert made.given["share"] == 0.5

    def solve(A, b, *, steps: PositiveInt = 3):
        return A, b, steps

    bound = Entry("test_group", "solve", solve).build({"steps": 5})
    assert bound(1, 2) == (1, 2, 5)


def test_names_are_looked_up_with_the_closest_match():
    register("test_group", "conjugate")(Part)
    register("test_group", "conjugate")(Part)  # a module may be imported again
    assert registry.names("test_group") == ["conjugate"]
    assert registry.entry("test_group", "conjugate").target is Part
    assert "test_group" in registry.groups() and registry.names("no_group") == []
    with pytest.raises(ConfigError, match="test_group=conjugat is unknown; did you mean 'conjuga"):
        registry.entry("test_group", "conjugat")
    with pytest.raises(ConfigError, match="'test_grop' is not a group; did you mean"):
        registry.entry("test_grop", "x")
    with pytest.raises(ValueError, match="registered already"):
        register("test_group", "conjugate")(Entry)


def test_a_plugin_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setenv(registry.PLUGIN_VARIABLE, "no_such_module_anywhere")
    with pytest.raises(ConfigError, match="names the module 'no_such_module_anywhere'"):
        import_plugins()


@pytest.mark.parametrize(
    ("word", "choices", "sentence"),
    [
        ("gmrs", ["cg", "gmres"], "; did you mean 'gmres'? Choices: cg, gmres"),
        ("xyz", ["b", "a"], ". Choices: a, b"),
        ("x", [], ". Choices: (none)"),
    ],
)
def test_suggestions(word, choices, sentence):
    assert suggest(word, choices) == sentence
