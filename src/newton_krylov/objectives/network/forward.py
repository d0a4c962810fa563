"""A forward pass with nothing left to chance, and whose second derivatives cost what they should.

A linear solve, a line search and a Lanczos run need ONE function. So a network runs under a mode
that catches each call of dropout and batch norm, in modules and in functions alike, and computes it
from the seed, the layer and the sample; any other source of randomness is refused. Convolution,
max-pooling and ReLU are replaced by equals that are differentiated twice without waste, attention,
recurrent layers and weight normalization by such as have a second derivative at all.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor
from torch.overrides import TorchFunctionMode

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.network.convolution import Geometry, convolution
from newton_krylov.objectives.network.kernels import (
    plain_attention,
    plain_recurrence,
    weight_norm,
)
from newton_krylov.objectives.network.noise import Key, Noise
from newton_krylov.objectives.network.piecewise import Window, max_pool2d, relu


@dataclass
class Seen:
    """What a forward pass was seen to do, stage by stage.

    Attributes
    ----------
    dropout, batch_norm : set of int
        Stages with active dropout, and with batch norm by the batch's own statistics, or with
        what else makes a sample's outputs depend on the samples beside it.
    numbers : dict of int to int
        Stage to how many numbers its operations return, all together.
    outputs : dict of int to int
        Stage to how many numbers it returns itself.
    rows : dict of int to int
        Stage to the length of the tensor that it returns; 0 if that is none.
    """

    dropout: set[int] = field(default_factory=set)
    batch_norm: set[int] = field(default_factory=set)
    numbers: dict[int, int] = field(default_factory=dict)
    outputs: dict[int, int] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)


Statistics = dict[Key, tuple[Tensor, Tensor]]
"""Mean and variance of each batch norm's inputs, by call."""

Watch = Callable[[Any, Sequence[Any], dict[str, Any], Any], None]


class FixedForward(TorchFunctionMode):
    """Runs forward passes in which nothing is left to chance or to what ran before.

    Dropout that is in training mode multiplies by the masks of `noise`, or is off without noise.
    Batch norm that is in training mode normalizes by the statistics of its own batch, or by those
    of `statistics`; running averages are neither used nor changed.

    Parameters
    ----------
    noise : Noise or None
        Noise of the samples in the batch.
    statistics : dict, optional
        For batch norm.
    collect : dict, optional
        Takes the statistics of the batch.
    seen : Seen, optional
        Takes what was seen.
    linearized : bool
        Whether the graph is for products with the Jacobian alone (see `convolution`).
    watch : callable, optional
        Shown each call: the function, its arguments and keywords, and what it returned.
    """

    def __init__(
        self,
        noise: Noise | None = None,
        *,
        statistics: Statistics | None = None,
        collect: Statistics | None = None,
        seen: Seen | None = None,
        linearized: bool = False,
        watch: Watch | None = None,
    ) -> None:
        super().__init__()
        self.noise, self.statistics, self.collect, self.seen = noise, statistics, collect, seen
        self.linearized, self.watch = linearized, watch
        self._stage, self._calls = 0, 0

    def leave(self, output: Any) -> None:
        """Say what the stage that was entered returned."""
        if self.seen is not None:
            tensor = isinstance(output, Tensor) and output.ndim > 0
            self.seen.outputs[self._stage] = output.numel() if tensor else 0
            self.seen.rows[self._stage] = len(output) if tensor else 0

    def enter(self, stage: int) -> None:
        """Say which stage runs next."""
        self._stage, self._calls = stage, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FIXED:
            result = _FIXED[func](self, *args, **kwargs)
        elif _is_random(func, args, kwargs):
            raise _random_call(func)
        else:
            result = func(*args, **kwargs)
        if self.watch is not None:
            self.watch(func, args, kwargs, result)
        if self.seen is not None and isinstance(result, Tensor):
            count = self.seen.numbers.get(self._stage, 0)
            self.seen.numbers[self._stage] = count + result.numel()
        return result

    def _key(self) -> Key:
        self._calls += 1
        return self._stage, self._calls

    def drops(self, p: float, training: bool) -> bool:
        """Return whether a call of dropout has masks to draw, and note that it is active."""
        active = training and p > 0
        if active and self.seen is not None:
            self.seen.dropout.add(self._stage)
        return active and self.noise is not None

    def dropout(
        self, x: Tensor, p: float, training: bool, mask: Sequence[int], inplace: bool = False
    ) -> Tensor:
        """Multiply by the masks of a call, one sample's of shape `mask`; x itself without noise."""
        key = self._key() if training and p > 0 else None
        if not self.drops(p, training) or key is None or self.noise is None:
            return x
        if len(x) != len(self.noise.rows):
            raise UnsupportedError(
                f"Dropout meets a tensor of {len(x)} rows in a batch of {len(self.noise.rows)} "
                f"samples: fixed masks need the samples in the first dimension."
            )
        scale = self.noise.scale(key, mask, p, x.device).to(x.dtype)
        return x.mul_(scale) if inplace else x * scale

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
    return mode.dropout(input, p, training, input.shape[1:], inplace)


def _channel_dropout(
    mode: FixedForward, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    mask = (input.shape[1], *[1] * (input.ndim - 2))
    return mode.dropout(input, p, training, mask, inplace)


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


def _plain_batch_norm(
    mode: FixedForward,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    return _batch_norm(mode, input, running_mean, running_var, weight, bias, training, eps=eps)


def _attention(mode: FixedForward, *args: Any, **kwargs: Any) -> Tensor:
    """Attend by the one kernel that is differentiated twice."""
    given = signature(_attention_arguments).bind(*args, **kwargs).arguments
    if given.get("dropout_p", 0.0) > 0:
        raise _random_call(F.scaled_dot_product_attention)
    with plain_attention():
        attended: Tensor = F.scaled_dot_product_attention(*args, **kwargs)
    return attended


def _attention_arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> None:
    """Have the arguments of torch's builtin, which has no signature of its own."""


def _multi_head_attention(mode: FixedForward, *args: Any, **kwargs: Any) -> Any:
    """Attend with the dropout of the attention's weights off; its masks have no samples first."""
    bound = signature(F.multi_head_attention_forward).bind(*args, **kwargs)
    bound.apply_defaults()
    if mode.drops(bound.arguments["dropout_p"], bound.arguments["training"]):
        raise UnsupportedError(
            "The network drops attention weights: torch's multi_head_attention_forward() draws "
            "them itself, so they cannot be fixed by a seed. Build it with dropout=0, or let no "
            "noise be drawn (noise=None turns all dropout off)."
        )
    bound.arguments["training"] = False
    with plain_attention():
        return F.multi_head_attention_forward(*bound.args, **bound.kwargs)


def _recurrent(function: Callable[..., Any], mode: FixedForward, *args: Any) -> Any:
    """Run the layers of an LSTM, a GRU or an RNN with dropout between them by fixed masks."""
    packed = not isinstance(args[3], bool)
    # ..., params, has_biases, num_layers, dropout, train, bidirectional, and batch_first unless
    # the sequences are packed.
    first = 3 if packed else 2
    params, has_biases, layers, p, train, both, *rest = args[first:]
    with plain_recurrence() if args[0].is_cuda else nullcontext():
        if not mode.drops(p, train and layers > 1):
            return function(*args[:first], params, has_biases, layers, 0.0, train, both, *rest)
        if packed:
            raise UnsupportedError(
                f"The network draws dropout between the layers of {function.__name__}() on packed "
                f"sequences, where samples do not come first: let no noise be drawn, or pad them."
            )
        x, states, final = args[0], args[1], []
        directions, each = 1 + both, len(params) // layers
        for layer in range(layers):
            at = slice(layer * directions, (layer + 1) * directions)
            start = states[at] if isinstance(states, Tensor) else tuple(s[at] for s in states)
            own = params[layer * each : (layer + 1) * each]
            x, *last = function(x, start, own, has_biases, 1, 0.0, train, both, *rest)
            final.append(last)
            if layer < layers - 1:
                turned = x if rest[0] else x.transpose(0, 1)
                turned = mode.dropout(turned, p, True, turned.shape[1:])
                x = turned if rest[0] else turned.transpose(0, 1)
        return x, *(torch.cat(parts) for parts in zip(*final, strict=True))


def _embedding(
    mode: FixedForward,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Look up with the derivative itself: neither sparse, which has no second one, nor rescaled."""
    return F.embedding(input, weight, padding_idx, max_norm, norm_type)


def _embedding_bag(fixed: FixedForward, /, *args: Any, **kwargs: Any) -> Tensor:
    """Add up what bags of one length look up; torch's own sum has no second derivative."""
    bound = signature(F.embedding_bag).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    if given["input"].ndim != 2 or given["mode"] == "max":
        plain: Tensor = F.embedding_bag(*bound.args, **bound.kwargs)
        return plain
    ids, weight, padding = given["input"], given["weight"], given["padding_idx"]
    found = F.embedding(ids, weight, None, given["max_norm"], given["norm_type"])
    counted = torch.ones_like(found[..., 0])
    if padding is not None:
        counted = (ids != padding % len(weight)).to(found.dtype)
    weights = given["per_sample_weights"]
    total = (found * (counted if weights is None else counted * weights)[..., None]).sum(1)
    return total / counted.sum(1, keepdim=True).clamp_min(1) if given["mode"] == "mean" else total


def _weight_norm(mode: FixedForward, v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    return weight_norm(v, g, dim)


@contextmanager
def no_recomputation() -> Iterator[None]:
    """Let activation checkpoints keep what they would compute again in the backward pass.

    By then the module has other weights than in the forward pass, and dropout and batch norm are
    no longer fixed by the mode.
    """
    library = torch.utils.checkpoint
    own = {name: vars(library)[name] for name in _RECOMPUTING if name in vars(library)}
    try:
        for name in own:
            setattr(library, name, _RECOMPUTING[name])
        yield
    finally:
        for name, value in own.items():
            setattr(library, name, value)


class _Once:
    """Stands for the autograd function of a checkpoint: calls what it is given, and no more."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        return function(*args)


def _once(*args: Any, **kwargs: Any) -> Iterator[None]:
    """Stand for what surrounds a checkpointed call: do nothing before and after it."""
    yield


# What recomputes in torch's two kinds of checkpoints, by names that differ between its versions.
_RECOMPUTING: dict[str, Any] = {
    "CheckpointFunction": _Once,
    "_checkpoint_without_reentrant_generator": _once,
    "_checkpoint_without_reentrant_generator_impl": _once,
}


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


_FIXED: dict[Any, Callable[..., Any]] = {
    F.dropout: _dropout,
    F.dropout1d: _channel_dropout,
    F.dropout2d: _channel_dropout,
    F.dropout3d: _channel_dropout,
    F.batch_norm: _batch_norm,
    torch.batch_norm: _plain_batch_norm,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _multi_head_attention,
    torch.lstm: partial(_recurrent, torch.lstm),
    torch.gru: partial(_recurrent, torch.gru),
    torch.rnn_tanh: partial(_recurrent, torch.rnn_tanh),
    torch.rnn_relu: partial(_recurrent, torch.rnn_relu),
    torch._weight_norm: _weight_norm,
    F.embedding: _embedding,
    F.embedding_bag: _embedding_bag,
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
}


def _random_call(function: Any) -> UnsupportedError:
    return UnsupportedError(
        f"The network calls {function.__name__}(): its value would change from one evaluation "
        f"to the next, and neither a line search nor a Hessian product would be of one "
        f"function. Only dropout can be fixed by a seed; in evaluation mode (module.eval()) most "
        f"networks draw nothing."
    )


def _is_random(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    if function in _PERHAPS_RANDOM:
        return all(
            kwargs.get(name, args[place] if len(args) > place else default)
            for name, (place, default) in _PERHAPS_RANDOM[function].items()
        )
    return function in _ALWAYS_RANDOM
