"""Multilayer perceptrons: derivatives pushed forward, and Jacobians as products of factors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jvp

from newton_krylov.data.equation import Block, Jet
from newton_krylov.operators import RectangularOperator, add_lower, mirrored

_ELEMENTWISE = 100
"""What a product by the factors takes beyond its multiplications, in such multiplications."""
_TILE = 160


@dataclass(frozen=True)
class Activation:
    """An activation s and its derivatives.

    Attributes
    ----------
    forward : callable
        z to s(z) and its first and second derivatives.
    third : callable
        These to the third.
    """

    forward: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    third: Callable[[Tensor, Tensor, Tensor], Tensor]


def _tanh(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.tanh(z)
    slope = 1 - t * t
    return t, slope, -2 * t * slope


def _sigmoid(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = torch.sigmoid(z)
    slope = s * (1 - s)
    return s, slope, slope * (1 - 2 * s)


def _softplus(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s, slope, _ = _sigmoid(z)
    return F.softplus(z), s, slope


_ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.Tanh: Activation(_tanh, lambda t, slope, bend: -2 * (slope * slope + t * bend)),
    nn.Sigmoid: Activation(_sigmoid, lambda s, slope, bend: bend * (1 - 2 * s) - 2 * slope * slope),
    nn.Softplus: Activation(_softplus, lambda z, slope, bend: bend * (1 - 2 * slope)),
}


def _known(part: nn.Module) -> bool:
    """Whether it is one of the activations, with torch's own settings."""
    if isinstance(part, nn.Softplus) and (part.beta, part.threshold) != (1.0, 20.0):
        return False
    return type(part) in _ACTIVATIONS


def _hooked(part: nn.Module) -> bool:
    """Whether calling a module is more than its forward method."""
    return bool(part._forward_hooks or part._forward_pre_hooks)


@dataclass(frozen=True)
class Perceptron:
    """Linear layers with activations between them, as functions of one flat vector.

    Attributes
    ----------
    shapes : tuple of (int, int)
        Outputs and inputs of each layer.
    biases : tuple of bool
        Whether a layer has one.
    activations : tuple of Activation
        Behind each layer but the last.
    """

    shapes: tuple[tuple[int, int], ...]
    biases: tuple[bool, ...]
    activations: tuple[Activation, ...]

    @classmethod
    def of(cls, module: nn.Module) -> "Perceptron | None":
        """Return a module as one; None if it is anything else, or has several outputs."""
        if type(module) is not nn.Sequential or any(map(_hooked, module.modules())):
            return None
        parts = [part for part in module if not isinstance(part, nn.Flatten)]
        linear = [part for part in parts[::2] if type(part) is nn.Linear]
        between = parts[1::2]
        fits = len(parts) % 2 == 1 and all(map(_known, between))
        if not fits or len(linear) <= len(between):
            return None
        if any(a.out_features != b.in_features for a, b in pairwise(linear)):
            return None
        held = any(list(part.buffers()) for part in linear)  # frozen weights
        if held or linear[-1].out_features != 1:
            return None
        own = [p for part in linear for p in (part.weight, part.bias) if p is not None]
        if list(map(id, module.parameters())) != list(map(id, own)):  # shared, or made of others
            return None
        return cls(
            tuple((part.out_features, part.in_features) for part in linear),
            tuple(part.bias is not None for part in linear),
            tuple(_ACTIVATIONS[type(part)] for part in between),
        )

    @property
    def size(self) -> int:
        """How many of the parameters are the network's; an equation's coefficients follow."""
        pairs = zip(self.shapes, self.biases, strict=True)
        return sum(out * into + (out if biased else 0) for (out, into), biased in pairs)

    def layers(self, w: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Cut a flat vector into weights and biases, in the order of the module's parameters."""
        found, start = [], 0
        for (out, into), biased in zip(self.shapes, self.biases, strict=True):
            W = w[start : start + out * into].view(out, into)
            start += out * into
            b = w[start : start + out] if biased else None
            start += out if biased else 0
            found.append((W, b))
        return found

    def push(self, w: Tensor, block: Block) -> "Pushed":
        """Push values and derivatives through the layers, all channels at once.

        The channels of a block are u, its k first derivatives and its q sums of second ones:
        with s the activation, z the channels before it and a those behind it,

            a_0 = s(z_0),  a_j = s'(z_0) z_j,  a_m = s'(z_0) z_m + s''(z_0) sum_j S_mj z_j^2,

        a Taylor expansion whose second-order terms are summed before they are pushed on (the
        "forward Laplacian"), so one pass has 1 + k + q channels where a nested derivative has
        1 + 2 k.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            The parameters.
        block : Block
            Points and derivatives.

        Returns
        -------
        Pushed
            The jet, and what the way back needs.
        """
        n, g, d = block.points.shape
        k = 0 if block.directions is None else len(block.directions)
        q = 0 if block.second is None else len(block.second)
        channels = [block.points.reshape(1, n * g, d)]
        if block.directions is not None:
            channels.append(block.directions[:, None].expand(k, n * g, d))
        if q:
            channels.append(block.points.new_zeros(q, n * g, d))
        A = torch.cat(channels)
        inputs, outputs, slopes = [], [], []
        for number, (W, b) in enumerate(self.layers(w)):
            inputs.append(A)
            Z = A @ W.T
            if b is not None:
                Z = torch.cat((Z[:1] + b, Z[1:])) if k else Z + b
            outputs.append(Z)
            if number < len(self.activations):
                found = self.activations[number].forward(Z[0])
                slopes.append(found)
                A = _activated(Z, found, block.second, k)
        u = outputs[-1][..., 0].view(1 + k + q, n, g)
        jet = Jet(block.points, u[0], u[1 : 1 + k], u[1 + k :], block.target, w[self.size :])
        return Pushed(jet, inputs, outputs, slopes)

    def pull(self, w: Tensor, block: Block, pushed: "Pushed", G: Tensor) -> list[Tensor]:
        """Pull derivatives by the last layer's outputs back to the outputs of all layers.

        With b for the derivative by a and c for that by z, s1, s2, s3 the activation's derivatives:

            c_m = s1 b_m,  c_j = s1 b_j + 2 s2 z_j sum_m S_mj b_m,
            c_0 = s1 b_0 + s2 (sum_j z_j b_j + sum_m z_m b_m) + s3 sum_j z_j^2 sum_m S_mj b_m.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            The parameters.
        block : Block
            What was pushed.
        pushed : Pushed
            Its result.
        G : Tensor, shape (c, n g, 1)
            The derivatives by the channels of u.

        Returns
        -------
        list of Tensor, each of shape (c, n g, width)
            First layer first.
        """
        k = 0 if block.directions is None else len(block.directions)
        found, layers = [G], self.layers(w)
        for number in reversed(range(len(self.activations))):
            B = found[0] @ layers[number + 1][0]
            Z, (s, slope, bend) = pushed.outputs[number], pushed.slopes[number]
            C = slope * B
            if k:
                C[0] += bend * (Z[1:] * B[1:]).sum(0)
            if block.second is not None:
                crossed = Z[1 : 1 + k] * _mixed(block.second.T, B[1 + k :])
                C[1 : 1 + k] += 2 * bend * crossed
                third = self.activations[number].third(s, slope, bend)
                C[0] += third * (crossed * Z[1 : 1 + k]).sum(0)
            found.insert(0, C)
        return found


def _activated(Z: Tensor, found: tuple[Tensor, ...], second: Tensor | None, k: int) -> Tensor:
    """Return the channels behind an activation, from those before it."""
    s, slope, bend = found[:3]
    if not k:
        return s[None]
    if second is None:
        return torch.cat((s[None], slope * Z[1:]))
    squares = _mixed(second, Z[1 : 1 + k].square())
    return torch.cat((s[None], slope * Z[1 : 1 + k], slope * Z[1 + k :] + bend * squares))


def _mixed(S: Tensor, Z: Tensor) -> Tensor:
    """Return sum_j S_ij Z_j, shape (rows of S, ...), by one product of matrices."""
    return (S @ Z.flatten(1)).view(len(S), *Z.shape[1:])


@dataclass(frozen=True)
class Pushed:
    """A jet, and the channels before and behind each linear layer, shape (c, n g, width).

    `slopes` are the values and the first and second derivatives of each activation.
    """

    jet: Jet
    inputs: list[Tensor]
    outputs: list[Tensor]
    slopes: Sequence[tuple[Tensor, ...]]


@dataclass(frozen=True)
class _Part:
    """One block's place: its residuals, and the rows of a layer's factors, channel by channel."""

    residuals: slice
    rows: slice
    channels: int
    values: int  # channels that a bias enters: the first ones

    @property
    def size(self) -> int:
        """How many residuals."""
        return len(range(self.residuals.start, self.residuals.stop))

    def channels_first(self, T: Tensor) -> Tensor:
        """Return a factor as the network pushes or pulls it in the shape of `of`."""
        return self.split(T).reshape(self.channels, self.size, -1)

    def split(self, T: Tensor) -> Tensor:
        """View it with shape (channels of a value, values, residuals, width)."""
        return T.detach().view(-1, self.size, self.values, T.shape[-1]).transpose(1, 2)

    def of(self, T: Tensor) -> Tensor:
        """Return its rows of a layer's factor, shape (channels, residuals, width)."""
        return T[self.rows].view(self.channels, self.size, -1)


class FactoredJacobian(RectangularOperator):
    """J of residuals of a perceptron, never formed: products are a few matrix products a layer.

    Residual i depends on its own points alone, so one pass back from the sum of all residuals to
    the layers' outputs gives the factors of every row.

    Parameters
    ----------
    network : Perceptron
        The network.
    blocks : sequence of Block
        The residuals.
    w : Tensor, shape (n,)
        Parameters at which to evaluate.
    pushed : sequence of Pushed, optional
        What pushing each block through the layers gave, if that has been done.

    Attributes
    ----------
    r : Tensor, shape (m,)
        The residuals at w, each times the root of its block's weight.
    """

    def __init__(
        self,
        network: Perceptron,
        blocks: Sequence[Block],
        w: Tensor,
        pushed: "Sequence[Pushed] | None" = None,
    ) -> None:
        self._network = network
        w = w.detach()
        residuals, slopes = [], []
        self._factors: list[tuple[list[Tensor], list[Tensor]]] = []  # by block, then by layer
        if pushed is None:
            with torch.no_grad():
                pushed = [network.push(w, block) for block in blocks]
        for block, channels in zip(blocks, pushed, strict=True):
            r, G = _residual_and_slopes(block, channels.jet)
            residuals.append(r)
            slopes.append(_by_coefficients(block, channels.jet))
            with torch.no_grad():
                back = network.pull(w, block, channels, G)
            self._factors.append((channels.inputs, back))
        self.r = torch.cat(residuals)
        self._slopes = torch.cat(slopes)  # the columns of the coefficients
        self._parts = _parts(blocks, [len(channels.inputs[0]) for channels in pushed])
        super().__init__((len(self.r), len(w)), w.dtype, w.device)

    @cached_property
    def _layers(self) -> "list[_Layer]":
        """The factors by layer, which products want; a dense J wants no copy of them."""
        inputs, back = (zip(*factors, strict=True) for factors in zip(*self._factors, strict=True))
        return [
            _Layer.of(self._parts, A, G, biased)
            for A, G, biased in zip(inputs, back, self._network.biases, strict=True)
        ]

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        total: Tensor | float = 0.0
        for layer, (W, b) in zip(self._layers, self._network.layers(v), strict=True):
            V = W if b is None else torch.cat((W, b[:, None]), dim=1)
            total = total + (layer.A @ V.T).mul_(layer.G).sum(1)
        assert isinstance(total, Tensor)
        product = torch.cat([part.of(total)[..., 0].sum(0) for part in self._parts])
        return product + self._slopes @ v[self._network.size :] if self._slopes.numel() else product

    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector of shape (m,)."""
        rows = torch.cat([u[part.residuals].repeat(part.channels) for part in self._parts])[:, None]
        parts = []
        for layer, biased in zip(self._layers, self._network.biases, strict=True):
            A, G = layer.A, layer.G
            product = (G * rows).T @ A if G.shape[1] < A.shape[1] else G.T @ (A * rows)
            parts += [p.reshape(-1) for p in layer.weights_and_bias(product, biased)]
        if self._slopes.numel():
            parts.append(self._slopes.T @ u)
        return torch.cat(parts)

    def dense(self) -> Tensor:
        """Form J, shape (m, n)."""
        m, n = self.shape
        J = torch.empty(m, n, dtype=self.dtype, device=self.device)
        J[:, self._network.size :] = self._slopes
        for part, factors in zip(self._parts, self._factors, strict=True):
            column = 0
            for *layer, biased in zip(*factors, self._network.biases, strict=True):
                A, G = map(part.channels_first, layer)
                columns = [torch.bmm(G.permute(1, 2, 0), A.permute(1, 0, 2)).flatten(1)]
                if biased:
                    columns.append(G[: part.values].sum(0))
                for place in columns:
                    width = place.shape[1]
                    J[part.residuals, column : column + width] = place
                    column += width
        return J

    def outer(self) -> Tensor:
        """Form J J', shape (m, m), of the factors where that takes less time.

        With G_c, A_c the rows of channel c, a layer's part is the sum over c and e of the products
        (G_c G_e') * (A_c A_e'), element by element: J's rows are as long as a layer has weights,
        those of G and A as it has outputs and inputs.
        """
        K = self._slopes @ self._slopes.T
        for layer in self._layers:
            rows = [
                None if all(layer.quicker(a, b) for b in self._parts) else layer.rows(a)
                for a in self._parts
            ]
            for i, (a, A) in enumerate(zip(self._parts, rows, strict=True)):
                for b, B in zip(self._parts[: i + 1], rows, strict=False):
                    products = K[a.residuals, b.residuals]
                    if A is None or B is None or layer.quicker(a, b):
                        layer.add_products(products, a, b)
                    elif a is b:
                        add_lower(products, A)
                    else:
                        products.addmm_(A, B.T)
        return mirrored(K)


def _parts(blocks: Sequence[Block], channels: Sequence[int]) -> list[_Part]:
    """Return the blocks' places, from how many channels each pushes."""
    parts, residual, row = [], 0, 0
    for block, c in zip(blocks, channels, strict=True):
        n, g, _ = block.points.shape
        parts.append(_Part(slice(residual, residual + n), slice(row, row + c * g * n), c * g, g))
        residual, row = residual + n, row + c * g * n
    return parts


@dataclass(frozen=True)
class _Layer:
    """A layer's factors: its inputs A, and the residuals' derivatives by its outputs, G.

    The rows of both are those of the parts, one after another; residual i's row of J is the sum
    over its channels of the outer products of G's row and A's. A ends in the column that a bias
    meets: ones in the channels of values, else zeros.
    """

    A: Tensor
    G: Tensor

    @classmethod
    def of(
        cls,
        parts: Sequence[_Part],
        inputs: Sequence[Tensor],
        slopes: Sequence[Tensor],
        biased: bool,
    ) -> "_Layer":
        """Put the blocks' channels, shape (c, n g, width), under one another."""

        def stacked(channels: Sequence[Tensor], width: int) -> Tensor:
            own = channels[0].shape[-1]
            T = channels[0].new_empty(parts[-1].rows.stop, width)
            for part, C in zip(parts, channels, strict=True):
                channels_first = part.split(C)
                part.of(T).view(*channels_first.shape[:3], width)[..., :own] = channels_first
            return T

        A = stacked(inputs, inputs[0].shape[-1] + biased)
        if biased:
            A[:, -1] = 0
            for part in parts:
                part.of(A)[: part.values, :, -1] = 1
        return cls(A, stacked(slopes, slopes[0].shape[-1]))

    def weights_and_bias(self, product: Tensor, biased: bool) -> tuple[Tensor, ...]:
        """Cut the last axis, which inputs and the bias's column share."""
        return (product[..., :-1], product[..., -1]) if biased else (product,)

    def rows(self, part: _Part) -> Tensor:
        """Return a part's rows of J in an order of their own, shape (n, outputs * inputs)."""
        A, G = part.of(self.A), part.of(self.G)
        return torch.bmm(G.permute(1, 2, 0), A.permute(1, 0, 2)).flatten(1)

    def quicker(self, a: _Part, b: _Part) -> bool:
        """Return whether products of two parts' rows take less time by the factors."""
        into, out = self.A.shape[1], self.G.shape[1]
        return a.channels * b.channels * (into + out + _ELEMENTWISE) < into * out

    def add_products(self, K: Tensor, a: _Part, b: _Part) -> None:
        """Add the products of two parts' rows by the factors; with its own, up to the diagonal."""
        tile = _TILE if K.device.type == "cpu" else max(K.shape)  # what the cache holds
        pairs = [
            (G, A, H, B)
            for G, A in zip(a.of(self.G), a.of(self.A), strict=True)
            for H, B in zip(b.of(self.G), b.of(self.A), strict=True)
        ]
        for i in range(0, K.shape[0], tile):
            for j in range(0, i + 1 if a is b else K.shape[1], tile):
                part = K[i : i + tile, j : j + tile]
                rows, columns = slice(i, i + tile), slice(j, j + tile)
                for G, A, H, B in pairs:
                    part.addcmul_(G[rows] @ H[columns].T, A[rows] @ B[columns].T)


def _residual_and_slopes(block: Block, jet: Jet) -> tuple[Tensor, Tensor]:
    """Return a block's residuals, and their derivatives by the channels of u, shape (c, n g, 1)."""
    k = len(jet.first)
    with torch.enable_grad():
        u = torch.cat((jet.value[None], jet.first, jet.second)).detach().requires_grad_()
        leaf = replace(jet, value=u[0], first=u[1 : 1 + k], second=u[1 + k :])
        r = block.weight**0.5 * block.residual(leaf)
        (G,) = torch.autograd.grad(r.sum(), u)
    return r.detach(), G.view(len(u), -1, 1)


def _by_coefficients(block: Block, jet: Jet) -> Tensor:
    """Return the residuals' derivatives by the equation's coefficients, shape (n, c)."""
    fixed = Jet(*(getattr(jet, name).detach() for name in vars(jet)))
    c = fixed.coefficients
    if not len(c):
        return jet.x.new_zeros(len(jet.x), 0)

    def residual(c: Tensor) -> Tensor:
        return block.residual(replace(fixed, coefficients=c))

    columns = [jvp(residual, (c,), (e,))[1] for e in torch.eye(len(c)).to(c)]
    slopes: Tensor = block.weight**0.5 * torch.stack(columns, dim=1)
    return slopes.detach()
