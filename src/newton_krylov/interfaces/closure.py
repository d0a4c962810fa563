"""A training loop's closure as one function of the weights, with a graph that lasts."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from newton_krylov.objectives.network.kernels import (
    plain_attention,
    plain_recurrence,
    weight_norm,
)

Closure = Callable[[], Any]


class FixedClosure:
    """A closure that sees the same random numbers and the same buffers at every evaluation.

    Buffers (running averages of batch norm, vectors of spectral norm, counters) are found as the
    modules that have them are called; `close` leaves them, like torch's random state, as one
    evaluation would.

    Parameters
    ----------
    closure : callable
        Returns the loss, alone or before the model's outputs that it is a function of; or calls
        `backward` on parts of it and returns their sum.
    device : torch.device
        Whose random state is fixed besides the CPU's.
    """

    def __init__(self, closure: Closure, device: torch.device) -> None:
        self.closure = closure
        self.device = device
        self._random = torch.get_rng_state()
        self._cuda_random = torch.cuda.get_rng_state(device) if self._on_cuda else None
        self._buffers: dict[tuple[int, str], _Buffer] = {}
        self._evaluations = 0
        self.outputs: Tensor | None = None  # of the last evaluation, where the closure returns them
        self._differentiates = False  # whether the closure itself takes derivatives
        self._parts_count = False  # whether the loss is the sum of what backward is called on

    @property
    def _on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def __call__(self, *, graph: bool) -> Tensor:
        """Evaluate at the weights that the model holds.

        Parameters
        ----------
        graph : bool
            Whether the loss is to be differentiated.

        Returns
        -------
        Tensor
            The loss, 0-d.

        Raises
        ------
        ValueError
            If the closure does not return a loss, or returns another than it calls backward on.
        """
        torch.set_rng_state(self._random)
        if self._cuda_random is not None:
            torch.cuda.set_rng_state(self._cuda_random, self.device)
        for buffer in self._buffers.values():
            buffer.reset()
        hook = register_module_forward_pre_hook(self._find_buffers)
        try:
            with (
                torch.set_grad_enabled(graph or self._differentiates),
                _backward_is_later() as caught,
                _twice_differentiable(),
            ):
                returned = self.closure()
        finally:
            hook.remove()
        self.outputs = None
        if isinstance(returned, tuple) and len(returned) == 2:
            returned, self.outputs = returned
        self._differentiates |= caught.differentiates
        loss = self._loss(returned, caught.parts, graph)
        if self._evaluations == 0:
            for buffer in self._buffers.values():
                buffer.keep()
        self._evaluations += 1
        return loss if graph else loss.detach()

    def close(self) -> None:
        """Give the modules their own buffers back, as the first evaluation left them."""
        for buffer in self._buffers.values():
            buffer.close()

    def _find_buffers(self, module: nn.Module, args: Any) -> None:
        for name, tensor in module._buffers.items():
            if tensor is not None and (id(module), name) not in self._buffers:
                self._buffers[id(module), name] = _Buffer(module, name, tensor)

    def _loss(self, returned: Any, parts: list[Tensor], graph: bool) -> Tensor:
        if parts and isinstance(returned, float):
            returned = torch.tensor(returned, dtype=parts[0].dtype)
        if not isinstance(returned, Tensor) or returned.numel() != 1:
            raise ValueError("the closure must return the loss, a tensor of one element")
        loss: Tensor = returned.reshape(())
        if not parts:
            if graph and not loss.requires_grad:
                raise ValueError("the closure's loss does not depend on the parameters given")
            return loss
        total: Tensor = torch.stack([part.to(parts[0].device) for part in parts]).sum()
        _refuse_another_sum(loss, total)
        if graph:
            self._parts_count = not loss.requires_grad
        return total if self._parts_count else loss


def _refuse_another_sum(returned: Tensor, total: Tensor) -> None:
    a, b = float(returned.detach()), float(total.detach())
    eps = max(torch.finfo(t.dtype).eps if t.is_floating_point() else 0.0 for t in (returned, total))
    if math.isfinite(a) and math.isfinite(b) and abs(a - b) > 1000 * eps * max(abs(a), abs(b)):
        raise ValueError(
            f"the closure returned {a:.6g}, but what it called backward on adds up to {b:.6g}: "
            f"NewtonKrylov evaluates and differentiates one loss, so return what backward is "
            f"called on (the sum of the parts, each divided by their number for a mean)"
        )


@dataclass
class _Buffer:
    """A module's buffer: its own tensor, what it held at first, and after one evaluation."""

    module: nn.Module
    name: str
    own: Tensor

    def __post_init__(self) -> None:
        self._before = self.own.detach().clone()
        self._after: Tensor | None = None
        self.reset()

    def reset(self) -> None:
        """Let the module have a fresh copy, which no graph refers to."""
        self.module._buffers[self.name] = self._before.clone()

    def keep(self) -> None:
        """Remember what the evaluation left."""
        left = self.module._buffers[self.name]
        self._after = None if left is None else left.detach().clone()

    def close(self) -> None:
        """Give the module its own tensor back."""
        after = self._before if self._after is None else self._after
        with torch.no_grad():
            if after.shape == self.own.shape and not _same(after, self.own):
                self.own.copy_(after)
            elif after.shape != self.own.shape:
                self.own = after
        self.module._buffers[self.name] = self.own


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


@dataclass
class _Caught:
    """What a closure did with autograd."""

    parts: list[Tensor]
    differentiates: bool = False


@contextmanager
def _backward_is_later() -> Iterator[_Caught]:
    """Catch the closure's calls of backward, which would free the graph, and return their losses.

    Every way to call it ends in one function of torch's.
    """
    module: Any = torch.autograd
    engine, caught = module._engine_run_backward, _Caught([])

    def later(outputs: Any, gradients: Any, *args: Any, **keywords: Any) -> Any:
        if not keywords.get("accumulate_grad"):
            caught.differentiates = True
            return engine(outputs, gradients, *args, **keywords)
        for output, gradient in zip(outputs, gradients, strict=True):
            caught.parts.append((output if gradient is None else output * gradient).sum())
        return ()

    module._engine_run_backward = later
    try:
        yield caught
    finally:
        module._engine_run_backward = engine


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Compute by kernels that have a second derivative, and by the same ones without a graph."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with plain_attention(), _PlainKernels():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


_RECURRENT = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}


class _PlainKernels(TorchFunctionMode):
    """Keeps from cuDNN's recurrent kernels and from torch's weight norm.

    The first have no second derivative, that of the second is wrong.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with ExitStack() as stack:
            if func in _RECURRENT:
                stack.enter_context(plain_recurrence())
            if func is torch._weight_norm:
                return weight_norm(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))
