"""What tells a program's functions and modules apart: a text of their content."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

_DESCRIBED: dict[int, tuple[object, str]] = {}
_NUMBERED: dict[int, tuple[object, int]] = {}
# Both are by `id`, which is an object's own as long as the object is kept beside it.
_LIBRARIES = ("torch", "numpy", "scipy", "builtins", "math")
_DEEPEST = 10


def identity(given: object) -> str:
    """Describe a function or a module, such that different ones differ.

    Parameters
    ----------
    given : object
        A function is described once, so that what it counts or remembers changes nothing; a module
        whenever it is given. Where the content says nothing, a number distinguishes the objects.

    Returns
    -------
    str
        Of code, closures, defaults and tensors: the same in another process of the same program.
    """
    if isinstance(given, nn.Module):
        return _described(given, ())
    if id(given) not in _DESCRIBED:
        _DESCRIBED[id(given)] = given, _described(given, ())
    return _DESCRIBED[id(given)][1]


def draws(module: nn.Module) -> bool:
    """Say whether a module draws its weights for every run; one with frozen weights keeps them."""
    resets = callable(getattr(module, "reset_parameters", None))
    return resets and all(parameter.requires_grad for parameter in module.parameters())


def _described(value: Any, above: tuple[int, ...]) -> str:
    """Describe a value that is part of others, whose `id`s are above it."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if id(value) in above:
        return f"above{above.index(id(value))}"
    above = (*above, id(value))
    if _of_library(value):
        return f"{value.__module__}.{value.__qualname__}"
    for kind, parts_of in _PARTS if len(above) <= _DEEPEST else ():
        if isinstance(value, kind):
            return _all(parts_of(value), above)
    known = hasattr(value, "__dict__") and not _of_library(type(value)) and len(above) <= _DEEPEST
    return _all((type(value), vars(value)), above) if known else _number(value)


def _all(values: Iterable[Any], above: tuple[int, ...]) -> str:
    return f"[{','.join(_described(value, above) for value in values)}]"


def _number(value: object) -> str:
    """Return a number of its own for an object of which nothing else is known."""
    return f"{type(value).__name__}{_NUMBERED.setdefault(id(value), (value, len(_NUMBERED)))[1]}"


def _array(value: "Tensor | np.ndarray[Any, Any]") -> Iterable[Any]:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        array = (value if value.dtype.itemsize > 2 else value.float()).numpy()
    else:
        array = value
    content = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
    return str(value.dtype), *array.shape, hashlib.sha256(content).hexdigest()


def _of_library(value: Any) -> bool:
    """Say whether a name is enough."""
    root = str(getattr(value, "__module__", "")).partition(".")[0]
    return hasattr(value, "__qualname__") and root in _LIBRARIES


def _own(base: type) -> list[Any]:
    """Return what a class has of its own: its functions, and its values."""
    kinds = (FunctionType, Tensor, bool, int, float, str, list, tuple, dict)
    return [
        (name, each)
        for name, each in vars(base).items()
        if (isinstance(each, kinds) and not name.startswith("__"))
        or (name in ("__init__", "__call__") and isinstance(each, FunctionType))
    ]


def _function(value: FunctionType) -> Iterable[Any]:
    """Describe code with what it closes over, and what it uses of its own file."""
    cells = [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
    around = value.__globals__
    used = [around[name] for name in value.__code__.co_names if name in around]
    kinds = (Tensor, np.ndarray, bool, int, float, str, list, tuple)
    near = [
        each
        for each in used
        if isinstance(each, kinds)
        or (isinstance(each, FunctionType) and each.__module__ == value.__module__)
    ]
    return value.__code__, cells, value.__defaults__, value.__kwdefaults__, near


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _module(module: nn.Module) -> Iterable[Any]:
    """Describe layers and what they hold, except the weights that a layer draws for every run."""
    tensors = {**module._parameters, **module._buffers}
    held = {
        name: _shape(each) if draws(module) and each is not None else each
        for name, each in tensors.items()
    }
    plain = {k: v for k, v in vars(module).items() if not k.startswith("_")}
    frozen = [n for n, p in module._parameters.items() if p is not None and not p.requires_grad]
    return type(module), held, plain, dict(module._modules), *filter(None, [frozen])


def _shape(tensor: Tensor) -> tuple[int, ...] | None:
    """Return a tensor's shape; None where a lazy module has not found it yet."""
    unknown = isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer)
    return None if unknown else tuple(tensor.shape)


def _class(value: type) -> Iterable[Any]:
    own = [each for base in value.__mro__ if not _of_library(base) for each in _own(base)]
    return value.__qualname__, *own


_PARTS: tuple[tuple[Any, Callable[[Any], Iterable[Any]]], ...] = (
    ((Tensor, np.ndarray), _array),
    (Mapping, lambda value: value.items()),
    ((list, tuple), lambda value: value),
    ((set, frozenset), lambda value: sorted(value, key=repr)),
    (CodeType, lambda code: (code.co_code, code.co_consts, code.co_names, code.co_freevars)),
    (MethodType, lambda method: (method.__func__, method.__self__)),
    (functools.partial, lambda partial: (partial.func, partial.args, partial.keywords)),
    (FunctionType, _function),
    (type, _class),
    (nn.Module, _module),
)
"""What the values of a kind consist of."""
