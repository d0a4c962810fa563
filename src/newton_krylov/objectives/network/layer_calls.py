"""Which layers use the free parameters, and how: what Kronecker factors are made of.

A linear layer z = W a + b, or a convolution, whose product W meets patches of its input, gives a
sample's gradient as a sum over positions of g a', g the gradient by z. Watched while the network
runs are the calls of these two; a parameter that any other function of torch takes, too, or takes
in several ways, has no Kronecker factors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from newton_krylov.objectives.network.layout import tensors_of

_ALIKE = 1e-2
"""Share of its greatest entry by which rounding may move an input from one pass to another."""


class Layer(NamedTuple):
    """A weight, and a bias that is added where the weight is used: indices of free parameters."""

    weight: int
    bias: int | None

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Return [W b] of the free parameters' parts, shape (rows, columns)."""
        W = parts[self.weight]
        W = W.reshape(len(W), -1)
        return W if self.bias is None else torch.cat([W, parts[self.bias][:, None]], 1)

    def separate(self, matrix: Tensor, parts: Sequence[Tensor]) -> None:
        """Write [W b] into the free parameters' parts."""
        W = parts[self.weight]
        W.copy_(matrix[:, : W.numel() // len(W)].reshape(W.shape))
        if self.bias is not None:
            parts[self.bias].copy_(matrix[:, -1])


@dataclass(frozen=True)
class Patches:
    """How a convolution's kernel meets its input: `torch.nn.functional.unfold`'s arguments."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


@dataclass(frozen=True)
class Call:
    """One use of a layer.

    Attributes
    ----------
    x : Tensor
        The input.
    edge : GradientEdge
        The output's place in the graph, where the gradient by it is asked for.
    patches : Patches or None
        Of a convolution.
    bias : bool
        Whether a free bias is added.
    rows : int
        How many rows of the input are one sample's, which follow one another.
    """

    x: Tensor
    edge: GradientEdge
    patches: Patches | None
    bias: bool
    rows: int = 1

    def inputs(self, start: int, stop: int) -> Tensor:
        """Return what the weight meets for some samples, shape (m, positions, columns).

        With a bias, a last column of ones belongs to it.
        """
        x = self.x[start * self.rows : stop * self.rows]
        if self.patches is None:
            a = x.unsqueeze(1)
        else:
            at = self.patches
            x = x if x.ndim == 4 else x.unsqueeze(2)
            a = F.unfold(x, at.kernel, at.dilation, at.padding, at.stride).transpose(1, 2)
        a = a.reshape(stop - start, -1, a.shape[-1])
        return torch.cat([a, a.new_ones(*a.shape[:2], 1)], 2) if self.bias else a

    def gradients(self, g: Tensor, start: int, stop: int) -> Tensor:
        """Lay out gradients by the output for some samples, shape (m, positions, rows)."""
        g = g[start * self.rows : stop * self.rows]
        if self.patches is not None:
            g = g.flatten(2).transpose(1, 2)
        return g.reshape(stop - start, -1, g.shape[-1])


class Watcher:
    """Notes how the free parameters are used while a network runs (see `FixedForward.watch`).

    Parameters
    ----------
    leaves : sequence of Tensor
        The free parameters.
    """

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        self._numbers = {id(leaf): number for number, leaf in enumerate(leaves)}
        self._calls: dict[Layer, list[Call]] = {}
        self._others: set[int] = set()

    def __call__(
        self, function: Any, args: Sequence[Any], keywords: dict[str, Any], result: Any
    ) -> None:
        """Note one call."""
        given = [*args, *keywords.values()]
        used = {self._numbers[id(t)] for t in tensors_of(given) if id(t) in self._numbers}
        if not used:
            return
        call = _call(function, args, keywords, result)
        weight, bias = _parameters(args, keywords)
        layer = Layer(self._numbers.get(id(weight), -1), self._numbers.get(id(bias)))
        if call is None or used != {n for n in layer if n is not None}:
            self._others |= used
            return
        # a bias that is held is no part of the layer
        self._calls.setdefault(layer, []).append(replace(call, bias=layer.bias is not None))

    def found(self) -> dict[Layer, list[Call]]:
        """Return the layers all of whose uses are known, each with its calls."""
        owners: dict[int, set[Layer]] = {}
        for layer in self._calls:
            for number in layer:
                if number is not None:
                    owners.setdefault(number, set()).add(layer)
        return {
            layer: calls
            for layer, calls in self._calls.items()
            if all(n is None or (n not in self._others and len(owners[n]) == 1) for n in layer)
        }


def rows_of(two: Sequence[Call], one: Sequence[Call]) -> list[int] | None:
    """Return how many rows a sample has in each of a layer's calls; None if they are not together.

    Parameters
    ----------
    two, one : sequence of Call
        The layer's calls in a pass of two samples, and in one of the first alone: as where a
        sequence's positions come first, the first sample's rows may not be the first ones.
    """
    counts = [len(call.x) for call in one]
    if len(two) != len(one):
        return None
    for both, first, count in zip(two, one, counts, strict=True):
        if len(both.x) != 2 * count or both.x.shape[1:] != first.x.shape[1:]:
            return None
        if not _alike(both.x[:count], first.x):
            return None
    return counts


def tells_apart(call: Call) -> bool:
    """Say whether a call in a pass of two samples has inputs by which these can be told apart."""
    half = len(call.x) // 2
    return half == 1 or not _alike(call.x[:half], call.x[half : 2 * half])


def _alike(one: Tensor, other: Tensor) -> bool:
    x, y = one.double(), other.double()
    return float((x - y).abs().max()) <= _ALIKE * float(y.abs().max())


def _parameters(args: Sequence[Any], keywords: dict[str, Any]) -> tuple[Any, Any]:
    weight = args[1] if len(args) > 1 else keywords.get("weight")
    return weight, args[2] if len(args) > 2 else keywords.get("bias")


def _call(function: Any, args: Sequence[Any], keywords: dict[str, Any], result: Any) -> Call | None:
    """Return what is to be known of a linear layer's or a convolution's call; None of others."""
    x = args[0] if args else keywords.get("input")
    weight, bias = _parameters(args, keywords)
    if not isinstance(result, Tensor) or not result.requires_grad or not isinstance(x, Tensor):
        return None
    patches = None
    if function in _CONVOLUTIONS:
        patches = _patches(x, weight, args[3:], keywords)
    if patches is None and (function is not F.linear or x.ndim < 2 or x is weight):
        return None
    return Call(x.detach(), get_gradient_edge(result), patches, bias is not None)


_CONVOLUTIONS = (F.conv1d, F.conv2d)


def _patches(
    x: Tensor, weight: Tensor, args: Sequence[Any], keywords: dict[str, Any]
) -> Patches | None:
    """Return how a kernel meets its input; None where it is more than one kernel, or no batch."""
    given = dict(zip(("stride", "padding", "dilation", "groups"), args, strict=False)) | keywords
    if given.get("groups", 1) != 1 or x.ndim != weight.ndim:
        return None
    kernel = tuple(weight.shape[2:])
    dilation = _each(given.get("dilation", 1), len(kernel))
    padding = given.get("padding", 0)
    if padding == "same":
        spread = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(total % 2 for total in spread):
            return None
        padding = tuple(total // 2 for total in spread)
    padding = 0 if padding == "valid" else padding
    stride = _each(given.get("stride", 1), len(kernel))
    return Patches(
        _plane(kernel, 1),
        _plane(stride, 1),
        _plane(_each(padding, len(kernel)), 0),
        _plane(dilation, 1),
    )


def _each(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * count if len(values) == 1 else values


def _plane(values: Sequence[int], first: int) -> tuple[int, int]:
    """Write one number a dimension for two dimensions, the first being of length one if added."""
    return (first, values[0]) if len(values) == 1 else (values[0], values[1])
