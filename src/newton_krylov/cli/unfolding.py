"""How much a configuration may unfold to: counted wherever OmegaConf resolves a reference.

A few bytes of references to references unfold to gigabytes, or take hours without an end, and Hydra
resolves some while it composes. So the bound is not on what stands in a configuration but on what
is done with it: every reference that is parsed costs its characters, and every one that is followed
the characters of what it comes to.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from omegaconf import DictConfig, Node, OmegaConf, _utils, base
from omegaconf.errors import OmegaConfBaseException

from newton_krylov.errors import ConfigError

MOST = 2**16
"""Characters of what files and references come to in one composition."""

_A_NODE = 2**4
"""Characters that a key or a value counts as beside its own: OmegaConf takes long to make one."""


class _Count:
    """What has been spent so far."""

    def __init__(self) -> None:
        self.spent = 0

    def add(self, amount: int) -> None:
        self.spent += amount
        if self.spent > MOST:
            raise _too_much()


_current: ContextVar[_Count | None] = ContextVar("unfolding", default=None)


@contextmanager
def unfolding_bounded() -> Iterator[None]:
    """Bound what all that is composed and resolved in here comes to.

    Raises
    ------
    ConfigError
        If it is more than a configuration can be.
    """
    count = _Count()
    token = _current.set(count)
    try:
        with _counting():
            yield
    except Exception as error:
        if count.spent > MOST:  # OmegaConf makes an error of its own of it
            raise _too_much() from error
        raise
    finally:
        _current.reset(token)
    if count.spent > MOST:  # or makes nothing of it
        raise _too_much()


def spend(amount: int) -> None:
    """Count what else a composition takes, such as its files."""
    count = _current.get()
    if count is not None:
        count.add(amount)


def size(value: Any) -> int:
    """Return what plain values count as, in characters; or any number above `MOST`."""
    nodes, total = [value], 0
    while nodes and total <= MOST:
        node = nodes.pop()
        total += _A_NODE
        if isinstance(node, dict):
            nodes += [item for pair in node.items() for item in pair]
        elif isinstance(node, list | tuple):
            nodes += node
        elif isinstance(node, str | bytes):
            total += len(node)
    return total


def unfold(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and values below a node, resolved: what they come to is counted.

    What cannot be resolved is left out: it may be of another choice of parts, or is reported where
    it is used.
    """
    names: Any = config if isinstance(config, DictConfig) else range(len(config))
    try:
        for name in names:
            try:
                value = config[name]
            except OmegaConfBaseException:
                continue
            if OmegaConf.is_config(value):
                yield from unfold(value, f"{key}.{name}")
            else:
                yield f"{key}.{name}", value
    except RecursionError as error:  # in a circle
        raise _too_much() from error


@contextmanager
def _counting() -> Iterator[None]:
    """Let the functions by which OmegaConf resolves anything count; it has no other way in."""
    places = [
        (_utils, "parse", _counted_text),
        (base, "parse", _counted_text),
        (base.Container, "_resolve_node_interpolation", _counted_value),
        (base.Container, "_evaluate_custom_resolver", _counted_value),
    ]
    before = [getattr(owner, name) for owner, name, _ in places]
    for (owner, name, counted), function in zip(places, before, strict=True):
        setattr(owner, name, counted(function))
    try:
        yield
    finally:
        for (owner, name, _), function in zip(places, before, strict=True):
            setattr(owner, name, function)


def _counted_text(parse: Callable[..., Any]) -> Callable[..., Any]:
    def counted(text: str, *args: Any, **kwargs: Any) -> Any:
        spend(len(text))
        return parse(text, *args, **kwargs)

    return counted


def _counted_value(resolve: Callable[..., Any]) -> Callable[..., Any]:
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = resolve(self, *args, **kwargs)
        spend(size(_plain(found)))
        return found

    return counted


def _plain(found: Any) -> Any:
    if OmegaConf.is_config(found):
        return OmegaConf.to_container(found, resolve=False)
    return found._value() if isinstance(found, Node) else found


def _too_much() -> ConfigError:
    return ConfigError(
        f"The configuration unfolds to more than {MOST:,} characters, by its references (${{...}}) "
        f"or its files."
    )
