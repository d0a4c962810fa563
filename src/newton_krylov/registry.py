"""Names to classes and functions, per configuration group; the typed signature is the schema.

A part (a solver, an optimizer, a data set, ...) registers itself under a group and a name::

    @register("solver", "cg")
    def cg(A, b, *, x0=None, M=None, rtol: NonNegativeFloat = 1e-5): ...

The parameters whose annotations are made of plain values (`bool`, `int`, `float`, `str`,
`Literal`, lists of these, and `None`) are what a configuration may set; the others (operators,
tensors, other parts) are handed over by the code that uses the part. So the signature is the one
source of truth for keys, types, ranges and defaults, and a third party's part is used by name as
ours are.
"""

import functools
import importlib
import importlib.metadata
import inspect
import os
import pkgutil
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pydantic
from pydantic_core import PydanticCustomError

from newton_krylov.errors import ConfigError, listed, renamed, suggest

T = TypeVar("T", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

PLUGIN_VARIABLE = "NEWTON_KRYLOV_PLUGINS"
PLUGIN_ENTRY_POINTS = "newton_krylov.plugins"
_TOO_LARGE = "should be an integer of fewer digits"
_PLAIN = (bool, int, float, str, type(None))
_SEQUENCES = (list, tuple, Sequence)


def _is_plain(annotation: Any) -> bool:
    """Return whether a configuration file can hold a value of this annotated type."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _is_plain(get_args(annotation)[0])
    if origin is Literal:
        return True
    if origin in (Union, types.UnionType):
        return all(_is_plain(arm) for arm in get_args(annotation))
    if origin in _SEQUENCES or origin in (Sequence, types.GenericAlias):
        return all(_is_plain(arm) for arm in get_args(annotation) if arm is not Ellipsis)
    return annotation in _PLAIN


def _refuse_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("truth_value", "should be a number")
    return value


def _refuse_long(value: Any) -> Any:
    if isinstance(value, int) and abs(value) >= 2**63:  # no array is as long
        raise PydanticCustomError("too_long", _TOO_LARGE)
    return value


_ASKED = (pydantic.BeforeValidator(_refuse_truth), pydantic.AfterValidator(_refuse_long))


def _as_number(annotation: Any) -> Any:
    """Return an annotated type whose numbers are neither truth values nor too long; lists, too."""
    if annotation in (int, float):
        return Annotated[(annotation, *_ASKED)]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        number = inner[0] in (int, float)
        return Annotated[
            (inner[0] if number else _as_number(inner[0]), *inner[1:], *(_ASKED if number else ()))
        ]
    if origin in (Union, types.UnionType):
        return Union[tuple(map(_as_number, inner))]  # noqa: UP007 - of a number of arms
    if origin in _SEQUENCES or origin is Sequence:
        return origin[tuple(map(_as_number, inner))]
    return annotation


@dataclass(frozen=True)
class Entry:
    """One registered part.

    Attributes
    ----------
    group, name : str
        Where it is registered.
    target : callable
        The class or function.
    needs : tuple of str
        What it needs other parts to offer; see `capabilities`.
    needs_with : mapping of str to tuple of str
        What a parameter needs besides, where it has another value than its default.
    uses : frozenset of str or None
        The groups whose parts it takes; None reads them from its signature.
    uses_with : mapping of str to tuple of str
        The groups whose parts it uses only where a parameter has another value than its default.
    idle : tuple of str
        Parameters that change nothing, which it has so that it can take the place of others.
    """

    group: str
    name: str
    target: Callable[..., Any]
    needs: tuple[str, ...] = ()
    needs_with: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    uses: frozenset[str] | None = None
    own_offers: tuple[str, ...] | None = None
    uses_with: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    idle: tuple[str, ...] = ()

    @property
    def offers(self) -> frozenset[str] | None:
        """What it offers other parts: as registered, and its class's attribute `offers`.

        None where it declares neither.
        """
        of_class = getattr(self.target, "offers", None)
        if self.own_offers is None and of_class is None:
            return None
        return frozenset(self.own_offers or ()) | frozenset(of_class or ())

    @cached_property
    def parameters(self) -> dict[str, tuple[Any, Any]]:
        """What a configuration may set: name to (annotation, default or `...`)."""
        own = {
            name: (self._hints[name], ... if p.default is p.empty else p.default)
            for name, p in inspect.signature(self.target).parameters.items()
            if name in self._hints and _is_plain(self._hints[name])
        }
        for made in self._assembled.values():
            own = made.parameters | own
        return own

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return get_type_hints(self._annotated, include_extras=True)

    @cached_property
    def _assembled(self) -> dict[str, "Entry"]:
        """The parameters that are made here, of parts and plain values (see `assembled`)."""
        return {
            name: Entry(self.group, self.name, self._hints[name])
            for name in inspect.signature(self.target).parameters
            if self._hints.get(name) in _ASSEMBLED
        }

    @property
    def defaults(self) -> dict[str, Any]:
        """The parameters' defaults; `"???"`, a configuration's word for missing, where none."""
        return {
            name: "???" if default is ... else default
            for name, (_, default) in self.parameters.items()
        }

    @cached_property
    def parts(self) -> frozenset[str]:
        """The parameters that code hands over: operators, tensors, other parts."""
        own = frozenset(inspect.signature(self.target).parameters)
        inner = (made.parts for made in self._assembled.values())
        return own.difference(self.parameters, self._assembled).union(*inner)

    @property
    def _annotated(self) -> Any:
        return self.target.__init__ if inspect.isclass(self.target) else self.target

    @property
    def summary(self) -> str:
        """The first line of the part's docstring."""
        return (inspect.getdoc(self.target) or "").partition("\n")[0]

    @cached_property
    def _schema(self) -> type[pydantic.BaseModel]:
        fields: dict[str, Any] = {
            key: (_as_number(annotation), default)
            for key, (annotation, default) in self.parameters.items()
        }
        config = pydantic.ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)
        with warnings.catch_warnings():  # a parameter may have the name of a method of pydantic's
            warnings.filterwarnings("ignore", "Field name .* shadows an attribute")
            return pydantic.create_model(self.name, __config__=config, **fields)

    def validate(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Check keys, types and ranges; return every parameter, defaults filled in.

        Parameters
        ----------
        config : mapping
            Keyword values as a configuration gives them; a `name` key is ignored.

        Returns
        -------
        dict
            Parameter name to checked value.

        Raises
        ------
        ConfigError
            For an unknown key, a missing one, a wrong type or a value out of range.
        """
        given = {key: value for key, value in config.items() if key != "name"}
        for key in given:
            if key not in self.parameters:
                kind = f"a parameter of {self.group}={self.name}"
                raise ConfigError(
                    renamed(self._full(key))
                    or f"{self._full(key)} is not {kind}{suggest(str(key), self.parameters)}"
                    f"{owners(self.group, str(key))}"
                )
        try:
            checked = self._schema.model_validate(given)
        except pydantic.ValidationError as error:
            raise ConfigError(self._sentence(error)) from None
        return {key: getattr(checked, key) for key in self.parameters}

    def _sentence(self, error: pydantic.ValidationError) -> str:
        """One sentence for the first thing that is wrong."""
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        where = self._full(key)
        if first["type"] == "missing":
            return f"{where} is missing: {self.group}={self.name} needs a value for it."
        ways = {
            _TOO_LARGE if e["type"] == "int_parsing_size" else e["msg"].removeprefix("Input ")
            for e in error.errors()
            if e["loc"][:1] == (key,)
        }
        return f"{where}={first['input']!r} is not valid: it {', or '.join(sorted(ways))}."

    def _full(self, key: str) -> str:
        """Return the key as a user writes it; keys of the top level have no group."""
        return f"{self.group}.{key}" if self.group else key

    def build(self, config: Mapping[str, Any], **parts: Any) -> Any:
        """Make the part: an instance of a class, or a function with its keywords bound.

        Parameters
        ----------
        config : mapping
            Keyword values, checked as in `validate`.
        **parts
            Other parts on offer; those the signature asks for are passed.

        Returns
        -------
        object
            The instance, or a `functools.partial` of the function.
        """
        keywords = self.validate(config)
        keywords |= {key: value for key, value in parts.items() if key in self.parts}
        return self._make(keywords)

    def _make(self, keywords: Mapping[str, Any]) -> Any:
        """Make the part of checked keywords, assembling what is made of several of them."""
        own = {
            name: keywords[name]
            for name in inspect.signature(self.target).parameters
            if name in keywords
        }
        own |= {name: made._make(keywords) for name, made in self._assembled.items()}
        return self.target(**own) if inspect.isclass(self.target) else partial(self.target, **own)


_entries: dict[str, dict[str, Entry]] = {}
_ASSEMBLED: set[type] = set()


def assembled(cls: C) -> C:
    """Mark a class as made of parts and plain values where a registered part takes one.

    A parameter annotated with it stands for the parameters of the class itself: a Newton step, for
    one, of solver, curvature and their like, which several optimizers take.

    Parameters
    ----------
    cls : type
        With an annotated constructor.

    Returns
    -------
    type
        The class unchanged.
    """
    _ASSEMBLED.add(cls)
    return cls


def register(
    group: str,
    name: str,
    *,
    needs: Sequence[str] = (),
    needs_with: Mapping[str, Sequence[str]] | None = None,
    offers: Sequence[str] | None = None,
    uses: Sequence[str] | None = None,
    uses_with: Mapping[str, Sequence[str]] | None = None,
    idle: Sequence[str] = (),
) -> Callable[[T], T]:
    """Register a class or function as `group=name`.

    Parameters
    ----------
    group : str
        The configuration group, for example `"solver"`.
    name : str
        The name by which configurations choose it; equal to the name of its YAML file, if it has
        one.
    needs : sequence of str
        What it needs other parts of a run to offer, in the words of `newton_krylov.capabilities`.
    needs_with : mapping of str to sequence of str, optional
        What one of its parameters needs besides, where it has another value than its default.
    offers : sequence of str, optional
        What it offers other parts, beside what its class's attribute `offers` says; without
        either, nothing is checked of it before it is there.
    uses : sequence of str, optional
        The groups whose parts it takes, where its signature does not say so.
    uses_with : mapping of str to sequence of str, optional
        The groups whose parts it uses only where one of its parameters has another value than its
        default.
    idle : sequence of str
        Parameters that change nothing, which it has so that it can take the place of others.

    Returns
    -------
    callable
        A decorator that returns its argument unchanged.

    Raises
    ------
    ValueError
        If another object holds that name already.
    """

    def decorate(target: T) -> T:
        taken = _entries.setdefault(group, {}).get(name)
        if taken is not None and taken.target.__qualname__ != target.__qualname__:
            raise ValueError(f"{group}={name} is registered already, as {taken.target!r}")
        _entries[group][name] = Entry(
            group,
            name,
            target,
            tuple(needs),
            {key: tuple(words) for key, words in (needs_with or {}).items()},
            None if uses is None else frozenset(uses),
            None if offers is None else tuple(offers),
            {key: tuple(used) for key, used in (uses_with or {}).items()},
            tuple(idle),
        )
        return target

    return decorate


def entry(group: str, name: str) -> Entry:
    """Look up a part.

    Parameters
    ----------
    group, name : str
        As registered.

    Returns
    -------
    Entry
        The part's entry.

    Raises
    ------
    ConfigError
        For an unknown group or name, with the choices and the closest match.
    """
    if group not in _entries:
        raise ConfigError(f"'{group}' is not a group{suggest(group, _entries)}")
    if name not in _entries[group]:
        raise ConfigError(f"{group}={name} is unknown{suggest(str(name), _entries[group])}")
    return _entries[group][name]


def groups() -> list[str]:
    """Return the groups that have a registered part, sorted.

    Returns
    -------
    list of str
        Names.
    """
    return sorted(_entries)


def names(group: str) -> list[str]:
    """Return the registered names of a group, sorted.

    Parameters
    ----------
    group : str
        The configuration group.

    Returns
    -------
    list of str
        Empty for an unknown group.
    """
    return sorted(_entries.get(group, {}))


def owners(group: str, key: str) -> str:
    """Return `"; solver=gcr and gmres have restart"` for a key that other parts of a group have.

    Parameters
    ----------
    group : str
        The configuration group.
    key : str
        A parameter's name.

    Returns
    -------
    str
        The end of a sentence; empty where no registered part of the group has it.
    """
    having = [name for name, part in _entries.get(group, {}).items() if key in part.parameters]
    if not having:
        return ""
    return (
        f"; {group}={listed(sorted(having), 'and')} {'has' if len(having) == 1 else 'have'} {key}"
    )


@functools.cache
def import_modules(package: str) -> None:
    """Import every module of a package, so that its parts register themselves.

    Parameters
    ----------
    package : str
        Dotted name of a package that is imported already.
    """
    path = importlib.import_module(package).__path__
    for module in pkgutil.iter_modules(path, prefix=f"{package}."):
        importlib.import_module(module.name)


def import_plugins() -> None:
    """Import third parties' parts: installed entry points and the modules a variable names.

    Modules come from the entry-point group `newton_krylov.plugins` and from the environment
    variable `NEWTON_KRYLOV_PLUGINS` (comma-separated module names), never from a configuration
    file: a configuration is data and cannot make a program import code.

    Raises
    ------
    ConfigError
        If a module named in the variable cannot be imported.
    """
    for point in importlib.metadata.entry_points(group=PLUGIN_ENTRY_POINTS):
        point.load()
    for module in filter(None, os.environ.get(PLUGIN_VARIABLE, "").split(",")):
        try:
            importlib.import_module(module.strip())
        except ImportError as error:
            raise ConfigError(
                f"{PLUGIN_VARIABLE} names the module '{module}', which cannot be imported: {error}"
            ) from error
