"""A network's own copy of a module, and what a forward pass may not leave behind in it."""

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from newton_krylov.errors import UnsupportedError


class _Detached(TorchFunctionMode):
    """Copies tensors that a module keeps from its last forward pass without their graphs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


def copied(module: nn.Module, device: torch.device, dtype: torch.dtype | None) -> nn.Module:
    """Copy a module to a device; only with a dtype its numbers are cast.

    Raises
    ------
    UnsupportedError
        If it has no weights, or such that do not make one flat vector of real numbers; if it is
        compiled, or cannot be copied.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise UnsupportedError(
                f"The network is wrapped by {type(part).__name__}: give the module inside of it "
                f"(its attribute `module`)."
            )
        if isinstance(part, torch.jit.ScriptModule) or type(part).__name__ == "OptimizedModule":
            which = f"The module '{name}'" if name else "The network"
            raise UnsupportedError(
                f"{which} is compiled ({type(part).__name__}): its weights cannot be replaced in "
                f"a forward pass, nor can it be differentiated twice. Give the module that it was "
                f"compiled from."
            )
    parameters = dict(module.named_parameters())
    if not parameters:
        raise UnsupportedError("The network has no weights to train.")
    for name, parameter in parameters.items():
        if isinstance(parameter, nn.UninitializedParameter):
            raise UnsupportedError(
                f"The weight '{name}' has no shape yet: run the network once on some samples first."
            )
        if not parameter.is_floating_point():
            raise UnsupportedError(
                f"The weight '{name}' is {parameter.dtype}: the curvature is that of a function of "
                f"real numbers. Hold complex weights as pairs (torch.view_as_complex in forward), "
                f"and what is not to be trained as a buffer."
            )
    dtypes = sorted({str(parameter.dtype) for parameter in parameters.values()})
    if dtype is None and len(dtypes) > 1:
        raise UnsupportedError(
            f"The network's weights are of several types, {', '.join(dtypes)}: they make one "
            f"vector, so convert them to one type (such as module.double())."
        )
    try:
        with _Detached():
            own = copy.deepcopy(module)
    except (TypeError, RuntimeError) as error:
        raise UnsupportedError(f"The network cannot be copied: {error}.") from error
    return own.to(device) if dtype is None else own.to(device, dtype)


def hold_frozen(module: nn.Module) -> None:
    """Turn the frozen parameters of a private copy, which no method is to change, into buffers.

    Raises
    ------
    UnsupportedError
        If all are frozen.
    """
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        raise UnsupportedError(
            "All weights of the network are frozen (requires_grad=False): free those to be trained."
        )
    for part in module.modules():
        frozen = {n: p for n, p in part._parameters.items() if p is not None}
        for name, parameter in frozen.items():
            if not parameter.requires_grad:
                del part._parameters[name]
                part.register_buffer(name, parameter.detach())


@contextmanager
def protected(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Give a module copies of its buffers, and put all of its attributes back afterwards.

    Yields a list that holds, afterwards, the submodules that changed something.
    """
    changed: list[nn.Module] = []
    copies: dict[int, Tensor] = {}
    kept = [(part, dict(vars(part)), dict(part._buffers)) for part in module.modules()]
    for part, _, buffers in kept:
        for name, buffer in buffers.items():
            if buffer is not None:
                part._buffers[name] = copies.setdefault(id(buffer), buffer.clone())
    try:
        yield changed
    finally:
        for part, attributes, buffers in kept:
            if _differs(part, attributes, buffers, copies):
                changed.append(part)
            vars(part).clear()
            vars(part).update(attributes)
            part._buffers.clear()
            part._buffers.update(buffers)


def _differs(
    part: nn.Module,
    attributes: dict[str, Any],
    buffers: dict[str, Tensor | None],
    copies: dict[int, Tensor],
) -> bool:
    now = vars(part)
    if now.keys() != attributes.keys() or part._buffers.keys() != buffers.keys():
        return True
    if any(now[name] is not value for name, value in attributes.items()):
        return True
    for name, buffer in buffers.items():
        lent = None if buffer is None else copies[id(buffer)]
        if part._buffers[name] is not lent or (lent is not None and lent._version > 0):
            return True
    return False


def random_states(module: nn.Module, device: torch.device) -> list[Any]:
    """Return the states of all generators that a module might draw from, to be compared."""
    states: list[Any] = [
        random.getstate(),
        _numpy_state(np.random),
        bytes(torch.get_rng_state().numpy()),
    ]
    if device.type == "cuda":
        states.append(bytes(torch.cuda.get_rng_state(device).numpy()))
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, random.Random):
                states.append(value.getstate())
            elif isinstance(value, np.random.Generator):
                states.append(repr(value.bit_generator.state))
            elif isinstance(value, np.random.RandomState):
                states.append(_numpy_state(value))
            elif isinstance(value, torch.Generator):
                states.append(bytes(value.get_state().cpu().numpy()))
    return states


def _numpy_state(generator: Any) -> tuple[Any, ...]:
    _, key, *rest = generator.get_state()
    return key.tobytes(), *rest
