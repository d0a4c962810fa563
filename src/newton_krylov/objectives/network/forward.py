"""A forward pass with nothing left to chance, and whose second derivatives cost what they should.

A linear solve, a line search and a Lanczos run need ONE function. So a network runs under a mode
that catches each call of dropout and batch norm, in modules and in functions alike, and computes it
from the seed, the layer and the sample; any other source of randomness is refused. Convolution,
max-pooling and ReLU are replaced by equals that are differentiated twice without waste.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.network.convolution import Geometry, convolution
from newton_krylov.objectives.network.noise import Key, Noise
from newton_krylov.objectives.network.piecewise import Window, max_pool2d, relu


@dataclass
class Seen:
    """What a forward pass was seen to do, stage by stage.

    Attributes
    ----------
    dropout, batch_norm : set of int
        Stages with active dropout, and with batch norm by the batch's own statistics.
    numbers : dict of int to int
        Stage to how many numbers its operations return, all together.
    outputs : dict of int to int
        Stage to how many numbers it returns itself.
    """

    dropout: set[int] = field(default_factory=set)
    batch_norm: set[int] = field(default_factory=set)
    numbers: dict[int, int] = field(default_factory=dict)
    outputs: dict[int, int] = field(default_factory=dict)


Statistics = dict[Key, tuple[Tensor, Tensor]]
"""Mean and variance of each batch norm's inputs, by call."""


class FixedForward(TorchFunctionMode):
    """Runs forward passes in which nothing is left to chance or to what ran before.

    Dropout that is in training mode multiplies by the masks of `noise`, or is off without noise.
    Batch norm that is in training mode normalizes by the statistics of its own batch, or by those
    of `statistics`; running averages are neither used nor changed.

    Parameters
    ----------
    noise : Noise or None
        Of the samples in the batch.
    statistics : dict, optional
        For batch norm.
    collect : dict, optional
        Takes the statistics of the batch.
    seen : Seen, optional
        Takes what was seen.
    linearized : bool
        Whether the graph is for products with the Jacobian alone (see `convolution`).
    """

    def __init__(
        self,
        noise: Noise | None = None,
        *,
        statistics: Statistics | None = None,
        collect: Statistics | None = None,
        seen: Seen | None = None,
        linearized: bool = False,
    ) -> None:
        super().__init__()
        self.noise, self.statistics, self.collect, self.seen = noise, statistics, collect, seen
        self.linearized = linearized
        self._stage, self._calls = 0, 0

    def leave(self, output: Tensor) -> None:
        """Say what the stage that was entered returned."""
        if self.seen is not None:
            self.seen.outputs[self._stage] = output.numel()

    def enter(self, stage: int) -> None:
        """Say which stage runs next."""
        self._stage, self._calls = stage, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FIXED:
            result = _FIXED[func](self, *args, **kwargs)
        elif _is_random(func, args, kwargs):
            raise UnsupportedError(
                f"The network calls {func.__name__}(): its value would change from one evaluation "
                f"to the next, and neither a line search nor a Hessian product would be of one "
                f"function. Only dropout can be fixed by a seed."
            )
        else:
            result = func(*args, **kwargs)
        if self.seen is not None and isinstance(result, Tensor):
            count = self.seen.numbers.get(self._stage, 0)
            self.seen.numbers[self._stage] = count + result.numel()
        return result

    def _key(self) -> Key:
        self._calls += 1
        return self._stage, self._calls

    def _dropout(self, x: Tensor, p: float, training: bool, mask: Sequence[int]) -> Tensor:
        if not training or p == 0:
            return x
        key = self._key()
        if self.seen is not None:
            self.seen.dropout.add(self._stage)
        if self.noise is None:
            return x
        if len(x) != len(self.noise.rows):
            raise UnsupportedError(
                f"Dropout meets a tensor of {len(x)} rows in a batch of {len(self.noise.rows)} "
                f"samples: fixed masks need the samples in the first dimension."
            )
        return x * self.noise.scale(key, mask, p, x.device).to(x.dtype)

    def _batch_norm(self, x: Tensor, weight: Any, bias: Any, eps: float) -> Tensor:
        key = self._key()
        if self.seen is not None:
            self.seen.batch_norm.add(self._stage)
        if self.statistics is not None:
            mean, variance = self.statistics[key]
            return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        if self.collect is not None:
            over = [d for d in range(x.ndim) if d != 1]
            variance, mean = torch.var_mean(x, over, correction=0)
            self.collect[key] = mean, variance
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)


def _dropout(
    mode: FixedForward, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    return mode._dropout(input, p, training, input.shape[1:])


def _channel_dropout(
    mode: FixedForward, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    return mode._dropout(input, p, training, (input.shape[1], *[1] * (input.ndim - 2)))


def _batch_norm(
    mode: FixedForward,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, 0.0, eps)
    return mode._batch_norm(input, weight, bias, eps)


def _each(number: int | Sequence[int], dimensions: int) -> list[int]:
    return [number] * dimensions if isinstance(number, int) else list(number)


def _convolution(
    mode: FixedForward,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    over = weight.ndim - 2
    if isinstance(padding, str) or input.ndim != weight.ndim:
        plain: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[over - 1]
        return plain(input, weight, bias, stride, padding, dilation, groups)
    geometry = Geometry(_each(stride, over), _each(padding, over), _each(dilation, over), groups)
    return convolution(input, weight, bias, geometry, linearized=mode.linearized)


def _max_pool2d(
    mode: FixedForward,
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Tensor:
    if input.ndim != 4:
        plain: Callable[..., Tensor] = F.max_pool2d
        return plain(input, kernel_size, stride, padding, dilation, ceil_mode)
    kernel = _each(kernel_size, 2)
    step = kernel if stride is None or stride == () else _each(stride, 2)
    window = Window(kernel, step, _each(padding, 2), _each(dilation, 2), ceil_mode)
    return max_pool2d(input, window)


def _relu(mode: FixedForward, input: Tensor, inplace: bool = False) -> Tensor:
    return F.relu(input, inplace=True) if inplace else relu(input)


_FIXED: dict[Any, Callable[..., Tensor]] = {
    F.dropout: _dropout,
    F.dropout1d: _channel_dropout,
    F.dropout2d: _channel_dropout,
    F.dropout3d: _channel_dropout,
    F.batch_norm: _batch_norm,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
}

_ALWAYS_RANDOM: frozenset[Any] = frozenset(
    (
        *(F.gumbel_softmax, F.fractional_max_pool2d, F.fractional_max_pool3d),
        *(torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal),
        *(torch.rand_like, torch.randn_like, torch.randint_like),
        *(torch.bernoulli, torch.multinomial, torch.poisson),
        *(Tensor.bernoulli, Tensor.multinomial, Tensor.bernoulli_, Tensor.normal_),
        *(Tensor.uniform_, Tensor.random_, Tensor.exponential_),
    )
)

# Functions that are random at times, with the arguments that decide: all must be true.
_PERHAPS_RANDOM: dict[Any, dict[str, tuple[int, Any]]] = {
    F.alpha_dropout: {"training": (2, False), "p": (1, 0.5)},
    F.feature_alpha_dropout: {"training": (2, False), "p": (1, 0.5)},
    F.rrelu: {"training": (3, False)},
    torch.dropout: {"train": (2, True), "p": (1, 0.5)},
    F.scaled_dot_product_attention: {"dropout_p": (4, 0.0)},
    F.multi_head_attention_forward: {"dropout_p": (10, 0.0), "training": (13, True)},
}


def _is_random(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    if function in _PERHAPS_RANDOM:
        return all(
            kwargs.get(name, args[place] if len(args) > place else default)
            for name, (place, default) in _PERHAPS_RANDOM[function].items()
        )
    return function in _ALWAYS_RANDOM
