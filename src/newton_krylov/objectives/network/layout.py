"""Where a network's weights lie in the flat vector, and the stages a feed-forward network is of."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import accumulate, pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from newton_krylov.errors import ConfigError, UnsupportedError, suggest
from newton_krylov.objectives.network.forward import FixedForward, no_recomputation
from newton_krylov.objectives.network.private import protected


class Layout:
    """The parameters of a module, one after the other in a flat vector.

    Parameters
    ----------
    module : nn.Module
        Parameters that several modules share are counted once.

    Attributes
    ----------
    names : list of str
        Names of the parameters, as `named_parameters` gives them.
    shapes : list of torch.Size
        Shapes of the parameters.
    slices : list of slice
        Where each lies.
    layers : dict of str to list of int
        Name of the module that owns parameters, to their numbers.
    dim : int
        Length of the flat vector.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = dict(module.named_parameters())
        self.names = list(parameters)
        self.shapes = [p.shape for p in parameters.values()]
        ends = list(accumulate(p.numel() for p in parameters.values()))
        self.slices = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self.dim = ends[-1] if ends else 0
        self.layers: dict[str, list[int]] = {}
        for number, name in enumerate(self.names):
            self.layers.setdefault(name.rpartition(".")[0] or name, []).append(number)

    def block(self, layer: str) -> slice:
        """Return where a layer's weights lie; a module's own parameters are neighbours."""
        numbers = self.layers[layer]
        return slice(self.slices[numbers[0]].start, self.slices[numbers[-1]].stop)

    def views(self, w: Tensor) -> list[Tensor]:
        """Return the parameters as views of the flat vector w, shape (dim,)."""
        return [w[s].view(shape) for s, shape in zip(self.slices, self.shapes, strict=True)]


def layers_below(layers: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the layers that are, or are parts of, the modules of some names.

    Parameters
    ----------
    layers : iterable of str
        The names of all layers with weights, in the network's order.
    names : iterable of str
        Of layers, or of modules that contain some.

    Returns
    -------
    list of str
        In the order of the names, each once.

    Raises
    ------
    ConfigError
        For a name of which there is no layer, with those that there are.
    """
    known = list(layers)
    found: list[str] = []
    for name in names:
        below = [layer for layer in known if layer == name or layer.startswith(f"{name}.")]
        if not below:
            parents = {layer[:end] for layer in known for end in _dots(layer)}
            hint = suggest(name, {*known, *parents})
            raise ConfigError(f"'{name}' is not a layer of the network{hint}")
        found += below
    return list(dict.fromkeys(found))


def _dots(name: str) -> list[int]:
    """Return where a dotted name's containers end."""
    return [place for place, letter in enumerate(name) if letter == "."]


@dataclass(frozen=True)
class Stage:
    """A part of the network through which a batch passes whole.

    Attributes
    ----------
    number : int
        Index of the stage.
    module : callable
        What it applies: a module, or a function without parameters.
    parameters : dict of str to int
        The module's own name of each parameter, to its number in the layout.
    changing : bool
        Whether the module changes its buffers or attributes as it runs.
    """

    number: int
    module: Callable[..., Any]
    parameters: dict[str, int]
    changing: bool = False

    def reads(self, numbers: Iterable[int]) -> bool:
        """Return whether it has one of these parameters."""
        return not set(numbers).isdisjoint(self.parameters.values())

    def __call__(self, x: Any, tensors: Sequence[Tensor]) -> Any:
        """Apply it, with the parameters given by their numbers."""
        if self.changing:
            with protected(cast(nn.Module, self.module)):
                return self._apply(x, tensors)
        return self._apply(x, tensors)

    def _apply(self, x: Any, tensors: Sequence[Tensor]) -> Any:
        args, keywords = _arguments(self.module, x) if self.number == 0 else ((x,), {})
        if not self.parameters:
            return self.module(*args, **keywords)
        own = {name: tensors[number] for name, number in self.parameters.items()}
        if self.changing:  # a module that changes its weights, too, changes copies
            own = {name: tensor.clone() for name, tensor in own.items()}
        return functional_call(cast(nn.Module, self.module), own, args, keywords)


def _arguments(module: Callable[..., Any], x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Pass a tuple or a dict of inputs as a module takes it: as its arguments, or as one."""
    if not isinstance(module, nn.Module) or not isinstance(x, tuple | dict):
        return (x,), {}
    args, keywords = ((), x) if isinstance(x, dict) else (x, {})
    try:
        signature(module.forward).bind(*args, **keywords)
    except TypeError:
        return (x,), {}
    return args, keywords


def stages_of(module: nn.Module, *, cut: bool = True) -> list[Stage]:
    """Return the stages in the order in which a batch passes them.

    They are the parts of an `nn.Sequential`; the module itself if it is none, or not to be cut.
    """
    numbers = {id(p): k for k, p in enumerate(module.parameters())}
    return [
        Stage(
            place,
            part,
            {n: numbers[id(p)] for n, p in part.named_parameters(remove_duplicate=False)},
        )
        for place, part in enumerate(_parts(module) if cut else [module])
    ]


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    hooked = module._forward_hooks or module._forward_pre_hooks
    if type(module) is nn.Sequential and not hooked:
        for child in module:
            yield from _parts(child)
    else:
        yield module


def run(stages: Sequence[Stage], tensors: Sequence[Tensor], x: Any, mode: FixedForward) -> Any:
    """Pass a batch through stages.

    Parameters
    ----------
    stages : sequence of Stage
        In order.
    tensors : sequence of Tensor
        All the network's parameters, by number.
    x : Tensor, shape (n, ...), or a tuple or dict of such
        Input of the first stage.
    mode : FixedForward
        What is done about dropout and batch norm.

    Returns
    -------
    Tensor, shape (n, ...)
        Output of the last stage; what else it returns is the caller's to refuse.

    Raises
    ------
    UnsupportedError
        If the first stage changes its input, which is data that others will read.
    """
    given = [(t, t._version) for t in tensors_of(x)]
    with no_recomputation(), mode:
        for stage in stages:
            mode.enter(stage.number)
            x = stage(x, tensors)
            mode.leave(x)
    if any(t._version != version for t, version in given):
        raise UnsupportedError(
            "The network changes its input in place: let its first operation return a new tensor."
        )
    return x


def tensors_of(x: Any) -> list[Tensor]:
    """Return the tensors of a structure of tuples, lists and dicts."""
    if isinstance(x, Tensor):
        return [x]
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, tuple | list) else ()
    return [t for part in parts for t in tensors_of(part)]


def mapped(function: Callable[[Tensor], Tensor], x: Any) -> Any:
    """Apply a function to each tensor of a structure of tuples, lists and dicts."""
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, dict):
        return {key: mapped(function, part) for key, part in x.items()}
    if isinstance(x, tuple | list):
        parts = [mapped(function, part) for part in x]
        return tuple(parts) if isinstance(x, tuple) else parts
    return x


def even_spans(n: int, size: int, unit: int = 1) -> list[tuple[int, int]]:
    """Cut n samples into the fewest consecutive spans of at most `size`, as even as can be.

    Parameters
    ----------
    n, size : int
        Positive.
    unit : int
        Cut only at multiples of it, if `size` is one at least.

    Returns
    -------
    list of tuple of int
        First sample and one past the last, of each span.
    """
    unit = unit if size >= unit else 1
    units = -(-n // unit)
    count = -(-units // (size // unit))
    ends = [min(n, units * k // count * unit) for k in range(count + 1)]
    return list(pairwise(ends))


def flat(parts: Sequence[Tensor]) -> Tensor:
    """Lay tensors one after the other in a flat vector."""
    return torch.cat([p.reshape(-1) for p in parts]) if len(parts) > 1 else parts[0].reshape(-1)
