"""Multilayer perceptrons: derivatives pushed forward, and Jacobians as products of factors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise, starmap

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jvp

from newton_krylov.data.equation import Block, Jet
from newton_krylov.operators import RectangularOperator, times_transpose

_ELEMENTWISE = 20
"""What an elementwise product costs, in multiplications of a matrix product."""
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
        if not isinstance(module, nn.Sequential):
            return None
        parts = [part for part in module if not isinstance(part, nn.Flatten)]
        linear = [part for part in parts[::2] if type(part) is nn.Linear]
        between = parts[1::2]
        fits = len(parts) % 2 == 1 and all(type(part) in _ACTIVATIONS for part in between)
        if not fits or len(linear) <= len(between):
            return None
        if any(a.out_features != b.in_features for a, b in pairwise(linear)):
            return None
        if linear[-1].out_features != 1:
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
class _Factors:
    """One block's factors by layer: its inputs A, and the residuals' derivatives by its outputs, G.

    Both have shape (c g, n, width); row i of J for the layer's weights is the sum over the first
    axis of the outer products of G[:, i] and A[:, i].
    """

    A: list[Tensor]
    G: list[Tensor]
    values: int  # channels that a bias enters


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
        residuals, slopes, self._factors = [], [], []
        if pushed is None:
            with torch.no_grad():
                pushed = [network.push(w, block) for block in blocks]
        for block, channels in zip(blocks, pushed, strict=True):
            r, G = _residual_and_slopes(block, channels.jet)
            residuals.append(r)
            slopes.append(_by_coefficients(block, channels.jet))
            with torch.no_grad():
                back = network.pull(w, block, channels, G)
            self._factors.append(_factors(block, channels.inputs, back))
        self.r = torch.cat(residuals)
        self._slopes = torch.cat(slopes)  # the columns of the coefficients
        super().__init__((len(self.r), len(w)), w.dtype, w.device)

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (n,)."""
        layers = self._network.layers(v)
        product = torch.cat([_product(factors, layers) for factors in self._factors])
        return (
            product
            if not self._slopes.numel()
            else product + self._slopes @ v[self._network.size :]
        )

    def rmatvec(self, u: Tensor) -> Tensor:
        """Multiply the transpose by a vector of shape (m,)."""
        parts = torch.split(u, [factors.A[0].shape[1] for factors in self._factors])
        product: Tensor = torch.stack(
            [self._transposed(f, part) for f, part in zip(self._factors, parts, strict=True)]
        ).sum(0)
        return torch.cat((product, self._slopes.T @ u)) if self._slopes.numel() else product

    def _transposed(self, factors: _Factors, u: Tensor) -> Tensor:
        parts = []
        for A, G, biased in zip(factors.A, factors.G, self._network.biases, strict=True):
            H = G * u[:, None]
            parts.append((H.flatten(0, 1).T @ A.flatten(0, 1)).reshape(-1))
            if biased:
                parts.append(H[: factors.values].sum((0, 1)))
        return torch.cat(parts)

    def dense(self) -> Tensor:
        """Form J, shape (m, n)."""
        m, n = self.shape
        J = torch.empty(m, n, dtype=self.dtype, device=self.device)
        J[:, self._network.size :] = self._slopes
        row = 0
        for factors in self._factors:
            count, column = factors.A[0].shape[1], 0
            rows = slice(row, row + count)
            for A, G, biased in zip(factors.A, factors.G, self._network.biases, strict=True):
                width = A.shape[2] * G.shape[2]
                outer = torch.bmm(G.permute(1, 2, 0), A.permute(1, 0, 2))
                J[rows, column : column + width] = outer.reshape(count, width)
                column += width
                if biased:
                    J[rows, column : column + G.shape[2]] = G[: factors.values].sum(0)
                    column += G.shape[2]
            row += count
        return J

    def outer(self) -> Tensor:
        """Form J J', shape (m, m), of the factors where that takes fewer multiplications.

        With G_c, A_c the rows of channel c, a layer's part is the sum over c and e of the products
        (G_c G_e') * (A_c A_e'), element by element: J's rows are as long as a layer has weights,
        those of G and A as it has outputs and inputs.
        """
        K = self._slopes @ self._slopes.T
        ends = list(accumulate((len(f.A[0][0]) for f in self._factors), initial=0))
        places = list(starmap(slice, pairwise(ends)))
        for number, biased in enumerate(self._network.biases):
            layers = [_Layer.of(factors, number, biased) for factors in self._factors]
            for i, a in enumerate(layers):
                for j, b in enumerate(layers[: i + 1]):
                    a.add_products(b, K[places[i], places[j]])
        for place in places:
            for start in range(place.start, place.stop, _tile(K)):
                strip = slice(start, min(start + _tile(K), place.stop))
                K[:start, strip] = K[strip, :start].T
        return K


@dataclass(frozen=True)
class _Layer:
    """One block's factors of one layer; the inputs end in the constant that its bias meets."""

    A: Tensor
    G: Tensor

    @classmethod
    def of(cls, factors: _Factors, number: int, biased: bool) -> "_Layer":
        A, G = factors.A[number], factors.G[number]
        if biased:
            one = A.new_zeros(*A.shape[:2], 1)
            one[: factors.values] = 1
            A = torch.cat((A, one), dim=2)
        return cls(A, G)

    @cached_property
    def rows(self) -> Tensor:
        """J's rows, its weights and biases in another order, shape (n, out (in + 1))."""
        return torch.bmm(self.G.permute(1, 2, 0), self.A.permute(1, 0, 2)).flatten(1)

    def add_products(self, other: "_Layer", K: Tensor) -> None:
        """Add the rows' products with those of another layer; with its own, up to the diagonal."""
        into, out = self.A.shape[2], self.G.shape[2]
        pairs, own = len(self.A) * len(other.A), self is other
        if pairs * (into + out + _ELEMENTWISE) >= into * out:
            K += times_transpose(self.rows) if own else self.rows @ other.rows.T
            return
        tile = _tile(K)
        for i in range(0, K.shape[0], tile):
            for j in range(0, i + 1 if own else K.shape[1], tile):
                part = K[i : i + tile, j : j + tile]
                rows, columns = slice(i, i + tile), slice(j, j + tile)
                for A, G in zip(self.A[:, rows], self.G[:, rows], strict=True):
                    for B, H in zip(other.A[:, columns], other.G[:, columns], strict=True):
                        part.addcmul_(G @ H.T, A @ B.T)


def _tile(K: Tensor) -> int:
    """Return how many rows of products are made at a time: on a CPU what its cache holds."""
    return _TILE if K.device.type == "cpu" else max(K.shape)


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


def _factors(block: Block, inputs: Sequence[Tensor], G: Sequence[Tensor]) -> _Factors:
    n, g, _ = block.points.shape

    def by_residual(T: Tensor) -> Tensor:
        """(c, n g, width) to (c g, n, width)."""
        return T.detach().view(len(T), n, g, -1).transpose(1, 2).reshape(len(T) * g, n, -1)

    return _Factors([by_residual(T) for T in inputs], [by_residual(T) for T in G], g)


def _product(factors: _Factors, layers: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    total = torch.zeros_like(factors.A[0][0, :, 0])
    for A, G, (W, b) in zip(factors.A, factors.G, layers, strict=True):
        total = total + (torch.matmul(A, W.T) * G).sum((0, 2))
        if b is not None:
            total = total + G[: factors.values].sum(0) @ b
    return total
