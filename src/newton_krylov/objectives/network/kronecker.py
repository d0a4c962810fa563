r"""Kronecker factors of a network's Gauss-Newton or Fisher matrix (K-FAC), and their operator.

The block of a layer W, whose samples' gradients are G_i = sum_t g_it a_it', is approximated by
B \otimes A, as v = vec(V) -> B V A, with

    A = mean of a a'          B = sum over samples of g g'

over all positions t of all samples (`expand`), or of one a and one g a sample (`reduce`: the mean
of its a_t, the sum of its g_t). The g are gradients of what stands in for the Fisher matrix: of the
loss at targets drawn from the model, of the columns of a square root of the loss's Hessian by the
outputs, or of the loss itself. Martens and Grosse, "Optimizing neural networks with
Kronecker-factored approximate curvature", 2015; Grosse and Martens, "A Kronecker-factored
approximate Fisher matrix for convolution layers", 2016; Eschenhagen, Immer, Turner, Schneider and
Hennig, "Kronecker-factored approximate curvature for modern neural network architectures", 2023.

With A = Q diag(a) Q' and B = P diag(b) P' the operator is diagonal in the basis P \otimes Q, so
that shifted systems have a closed form. EKFAC puts in the place of b a' what the matrix itself has
on its diagonal in that basis (George, Laurent, Bouthillier, Ballas and Vincent, "Fast approximate
natural gradient descent in a Kronecker-factored eigenbasis", 2018).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from newton_krylov.errors import UnsupportedError
from newton_krylov.objectives.network.layer_calls import (
    Call,
    Layer,
    Watcher,
    rows_of,
    tells_apart,
)
from newton_krylov.objectives.network.layout import run
from newton_krylov.objectives.network.passes import Passes
from newton_krylov.operators import LinearOperator, decomposed, eigh

Fisher = Literal["mc", "ggn", "empirical"]
Sharing = Literal["expand", "reduce"]
Unknown = Literal["diagonal", "refuse"]

_NUMBERS = 2**23
"""How many numbers of unfolded inputs, or of single samples' gradients, are formed at once."""


@dataclass(frozen=True)
class Kronecker:
    """What the factors are of.

    Attributes
    ----------
    fisher : {"mc", "ggn", "empirical"}
        Gradients at targets drawn from the model; all columns of a square root of the loss's
        Hessian by the outputs, a backward pass for each; or gradients at the data's own targets.
    draws : int
        Targets drawn for each sample, with "mc".
    sharing : {"expand", "reduce"}
        Whether the positions at which a weight is used count as samples, or make one of them.
    unknown : {"diagonal", "refuse"}
        What becomes of parameters of which there are no factors: an estimate of their diagonal, or
        an error.
    window : int
        The widest side of which the factor is a matrix. Of wider outputs its diagonal is kept, of
        wider inputs as many rows, evenly spread.
    """

    fisher: Fisher = "mc"
    draws: int = 1
    sharing: Sharing = "expand"
    unknown: Unknown = "diagonal"
    window: int = 1024


class Covariance:
    """The mean of x x' over rows x: as a matrix, or as the rows while they are fewer than columns.

    Parameters
    ----------
    width : int
        Columns.
    window : int
        The most columns of which there is a matrix. Of more, some rows are kept, evenly spread and
        `window` at most.
    """

    def __init__(self, width: int, window: int) -> None:
        self.width, self.wide, self._window = width, width > window, window
        self.rows: list[Tensor] = []
        self._count, self._every = 0, 1
        self._sum: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Add rows, shape (k, width)."""
        place = -self._count % self._every
        self._count += len(x)
        if self._sum is not None:
            self._sum.addmm_(x.T, x)
            return
        self.rows.append(x[place :: self._every])
        if not self.wide and self._count >= self.width:
            whole = self.kept()
            self._sum, self.rows = whole.T @ whole, []
        while self.wide and sum(map(len, self.rows)) > self._window:
            self.rows, self._every = [self.kept()[::2]], 2 * self._every

    def kept(self) -> Tensor:
        """Return the rows of one that is no matrix."""
        return torch.cat(self.rows)

    def matrix(self) -> Tensor:
        """Return the mean as a matrix, shape (width, width)."""
        if self._sum is None:
            rows = self.kept()
            return rows.T @ rows / len(rows)
        return self._sum / self._count

    def eigen(self, *, whole: bool = False) -> tuple[Tensor, Tensor]:
        """Return eigenvalues and eigenvectors (columns), of the range.

        `whole` asks for those of the whole space, which a wide one does not give.
        """
        if self._sum is not None or (whole and not self.wide):
            return eigen(self.matrix())
        rows = self.kept()
        svd = partial(torch.linalg.svd, full_matrices=False)
        _, s, Vh = decomposed(svd, rows.double())
        return (s.square() / len(rows)).to(rows.dtype), Vh.T.contiguous().to(rows.dtype)


Basis = tuple[Tensor | None, Tensor]
"""A layer's P, None for the identity, and Q."""


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues, none negative, and eigenvectors of a semidefinite matrix."""
    values, vectors = eigh(matrix.double())
    return values.clamp_min(0).to(matrix.dtype), vectors.to(matrix.dtype)


def named(f: Passes, numbers: Iterable[int]) -> list[str]:
    """Return the names of free parameters."""
    return [f.layout.names[f.numbers[n]] for n in numbers]


def told(what: str, names: Sequence[str]) -> str:
    """Say of which parameters something is true, if of any."""
    if not names:
        return ""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
    return f"{what}: {shown}"


WIDE = "wider than window"
"""What is told of a weight of which a factor is no matrix."""


@dataclass
class Factors:
    """The two factors of each layer, and the diagonals of what has none.

    Attributes
    ----------
    inputs : dict of Layer to Covariance
        A.
    gradients : dict of Layer to Tensor, shape (rows, rows) or (rows,)
        B, or its diagonal.
    diagonals : dict of int to Tensor
        By the index of a free parameter, in its shape: an unbiased estimate of the diagonal, the
        square of a sum over the samples with random signs (as Sophia's; Liu, Li, Hall, Liang and
        Ma, "Sophia", 2024).
    """

    inputs: dict[Layer, Covariance] = field(default_factory=dict)
    gradients: dict[Layer, Tensor] = field(default_factory=dict)
    diagonals: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class _Uses:
    """One span's calls, and for each backward pass the gradients by what they returned."""

    calls: list[tuple[Layer, Call, int]]
    n: int
    backward: list[tuple[list[Tensor], dict[int, Tensor]]]

    def pieces(self, layer: Layer) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Yield a layer's inputs and gradients, (m, positions, ...), for some samples at a time."""
        own = [(call, place) for known, call, place in self.calls if known == layer]
        width = sum(call.inputs(0, 1).numel() for call, _ in own)
        size = max(1, _NUMBERS // max(1, width))
        for start in range(0, self.n, size):
            stop = min(self.n, start + size)
            a = torch.cat([call.inputs(start, stop) for call, _ in own], 1)
            g = [
                torch.cat([call.gradients(by[place], start, stop) for call, place in own], 1)
                for by, _ in self.backward
            ]
            yield a, g


class FactorPasses:
    """Passes of a network from which Kronecker factors are made; the same whenever repeated.

    Parameters
    ----------
    passes : Passes
        Of the samples.
    w : Tensor, shape (dim,)
        Parameters at which to evaluate.
    how : Kronecker
        What the factors are of.
    seed : int
        Of the draws.
    """

    def __init__(self, passes: Passes, w: Tensor, how: Kronecker, seed: int) -> None:
        if how.fisher == "mc":
            passes.loss.require_likelihood()
        else:
            passes.loss.require_samples()
        self.passes, self._w, self.how, self._seed = passes, w, how, seed

    def factors(self) -> Factors:
        """Sum up over the spans."""
        found = Factors()
        for uses in self._spans():
            for layer in dict.fromkeys(layer for layer, _, _ in uses.calls):
                for a, gradients in uses.pieces(layer):
                    self._add(found, layer, a, gradients)
            for _, unknown in uses.backward:
                for number, g in unknown.items():
                    square = g.square()
                    known = found.diagonals.get(number)
                    found.diagonals[number] = square if known is None else known.add_(square)
        return found

    def _add(self, found: Factors, layer: Layer, a: Tensor, gradients: Sequence[Tensor]) -> None:
        if self.how.sharing == "reduce":
            a, gradients = a.mean(1), [g.sum(1) for g in gradients]
        x = a.flatten(0, -2)
        found.inputs.setdefault(layer, Covariance(x.shape[1], self.how.window)).add(x)
        for g in gradients:
            rows = g.flatten(0, -2)
            wide = rows.shape[1] > self.how.window
            product = rows.square().sum(0) if wide else rows.T @ rows
            known = found.gradients.get(layer)
            found.gradients[layer] = product if known is None else known.add_(product)

    def corrected(self, bases: dict[Layer, Basis]) -> dict[Layer, Tensor]:
        """Return the matrix's own diagonal in each layer's basis, shape (rows, columns).

        Parameters
        ----------
        bases : dict of Layer to tuple of Tensor
            P, shape (rows, rows), None for the identity; and Q, shape (columns, r).
        """
        found: dict[Layer, Tensor] = {}
        for uses in self._spans():
            for layer, (P, Q) in bases.items():
                for a, gradients in uses.pieces(layer):
                    x = a @ Q
                    for g in gradients:
                        y = g if P is None else g @ P
                        if layer not in found:
                            found[layer] = y.new_zeros(y.shape[-1], x.shape[-1])
                        _add_squares(found[layer], y, x)
        return found

    def rows(self) -> dict[Layer, tuple[Tensor, Tensor]]:
        """Return each layer's inputs, and its gradients for each of k vectors.

        Of shapes (n, positions, columns) and (n, k, positions, rows), for all samples at once.
        """
        inputs: dict[Layer, list[Tensor]] = {}
        gradients: dict[Layer, list[Tensor]] = {}
        for uses in self._spans():
            for layer in dict.fromkeys(layer for layer, _, _ in uses.calls):
                for a, g in uses.pieces(layer):
                    inputs.setdefault(layer, []).append(a)
                    gradients.setdefault(layer, []).append(torch.stack(g, 1))
        return {layer: (torch.cat(inputs[layer]), _joined(gradients[layer])) for layer in inputs}

    def _spans(self) -> Iterator[_Uses]:
        """Run the network on each span, and backwards as often as there are vectors."""
        f = self.passes
        for number in range(len(f.spans)):
            entropy = np.random.SeedSequence([self._seed, number]).generate_state(1, np.uint64)[0]
            generator = torch.Generator().manual_seed(int(entropy >> np.uint64(1)))
            with torch.enable_grad():
                leaves = f.leaves(self._w)
                watcher = Watcher(leaves)
                outputs = f.outputs(leaves, number, watch=watcher)
            start, stop = f.spans[number]
            found = self._placed(watcher.found(), stop - start)
            known = {n for layer in found for n in layer}
            unknown = [n for n in range(len(leaves)) if n not in known]
            self._refuse(unknown)
            calls = [(layer, call) for layer, own in found.items() for call in own]
            vectors = self._vectors(outputs, number, generator)
            edges = [call.edge for _, call in calls]
            targets: Any = [*edges, *(leaves[n] for n in unknown)]
            backward = []
            for vector in vectors:
                u = _with_random_signs(vector, generator)
                by = torch.autograd.grad(
                    outputs, targets, u, retain_graph=True, materialize_grads=True
                )
                backward.append(
                    (list(by[: len(edges)]), dict(zip(unknown, by[len(edges) :], strict=True)))
                )
            share = f.share * f.weight(number)
            f.counts.add(gradient=share * len(backward), passes=share * (1 + len(backward)) / 2)
            placed = [(layer, call, place) for place, (layer, call) in enumerate(calls)]
            yield _Uses(placed, stop - start, backward)

    @cached_property
    def _rows(self) -> dict[Layer, list[int] | None] | None:
        """How many rows each sample has in each layer's calls; None where samples meet anyway."""
        f = self.passes
        if f.chunks.seen.batch_norm:
            return None
        key = tuple(f.numbers)
        if key in f.chunks.rows:
            return f.chunks.rows[key]
        two, one = (self._watched(0, count) for count in (min(2, f.n), 1))
        if f.n == 1:
            return {layer: [len(call.x) for call in own] for layer, own in one.items()}
        found = {layer: rows_of(two[layer], own) for layer, own in one.items() if layer in two}
        if all(tells_apart(call) for own in two.values() for call in own):
            f.chunks.rows[key] = found
        return found

    def _watched(self, start: int, stop: int) -> dict[Layer, list[Call]]:
        """Return the calls in a pass of some samples."""
        f = self.passes
        with torch.enable_grad():
            leaves = f.leaves(self._w)
            watcher = Watcher(leaves)
            mode = f.inputs.mode(start, stop, watch=watcher)
            run(f.stages, f.tensors(leaves), f.inputs.span(start, stop), mode)
        return watcher.found()

    def _placed(self, found: dict[Layer, list[Call]], n: int) -> dict[Layer, list[Call]]:
        """Return the layers that meet one sample after the other, with how many rows of each."""
        placed = {}
        for layer, calls in found.items():
            rows = [1] * len(calls) if self._rows is None else self._rows.get(layer)
            if rows is None or [len(call.x) for call in calls] != [n * each for each in rows]:
                continue
            placed[layer] = [
                replace(call, rows=each) for call, each in zip(calls, rows, strict=True)
            ]
        return placed

    def _refuse(self, unknown: Sequence[int]) -> None:
        if unknown and self.how.unknown == "refuse":
            names = named(self.passes, unknown)
            raise UnsupportedError(
                f"Known by layers are linear layers and convolutions, but not how the network uses "
                f"{', '.join(names[:4])}{' and others' if len(names) > 4 else ''}: "
                f"hessian_approx=kfac takes their diagonal (unknown=diagonal), "
                f"hessian_approx=ggn their products (space=weights)."
            )

    def _vectors(self, outputs: Tensor, number: int, generator: torch.Generator) -> list[Tensor]:
        """Return vectors u at the outputs, the sum of whose (J'u)(J'u)' is the matrix."""
        f = self.passes
        weight = f.weight(number)
        if self.how.fisher == "ggn":
            columns = [
                (u * math.sqrt(weight)).to(outputs.dtype) for u in _columns(f, outputs, number)
            ]
            return columns or [torch.zeros_like(outputs)]  # the loss is linear in the outputs
        if self.how.fisher == "mc":
            draws = [f.drawn_gradient(outputs, number, generator) for _ in range(self.how.draws)]
        else:
            z = outputs.detach().requires_grad_()
            with torch.enable_grad():
                draws = [torch.autograd.grad(f.span_loss(z, number), z)[0]]
        shares = f.shares(number)
        even = outputs.new_full((len(outputs),), 1 / len(outputs))
        share = (even if shares is None else shares).to(torch.float64)
        scale = torch.where(share > 0, (weight / (share * len(draws))).sqrt(), 0)
        scale = scale.view(-1, *[1] * (outputs.ndim - 1))
        return [(g.double() * scale).to(outputs.dtype) for g in draws]


def _columns(f: Passes, outputs: Tensor, number: int) -> Iterator[Tensor]:
    """Yield the columns of a square root of the span's loss's Hessian by each row of outputs."""
    with torch.enable_grad():
        z = outputs.detach().double().requires_grad_()
        (gradient,) = torch.autograd.grad(f.span_loss(z, number), z, create_graph=True)
    columns = []
    each = gradient.reshape(len(z), -1)
    if not each.requires_grad:
        return
    for k in range(each.shape[1]):
        (column,) = torch.autograd.grad(
            each[:, k].sum(), z, retain_graph=True, materialize_grads=True
        )
        columns.append(column.reshape(len(z), -1))
    L = torch.stack(columns, 2)
    values, vectors = eigh((L + L.transpose(1, 2)) / 2)
    root = vectors * values.clamp_min(0).sqrt()[:, None, :]
    floor = torch.finfo(outputs.dtype).eps * float(values.abs().max())
    for k in range(root.shape[2]):
        if float(values[:, k].max()) > floor:
            yield root[:, :, k].reshape(z.shape)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Join tensors (m, k, ...) along the samples; where k differs, zeros stand for what lacks."""
    k = max(part.shape[1] for part in parts)
    padded = [
        torch.cat([part, part.new_zeros(len(part), k - part.shape[1], *part.shape[2:])], 1)
        for part in parts
    ]
    return torch.cat(padded)


def _with_random_signs(u: Tensor, generator: torch.Generator) -> Tensor:
    """Give each row of outputs a sign: products of different rows' gradients then cancel."""
    signs = torch.randint(0, 2, (len(u),), generator=generator).mul_(2).sub_(1)
    return u * signs.to(u).view(-1, *[1] * (u.ndim - 1))


def _add_squares(total: Tensor, g: Tensor, a: Tensor) -> None:
    """Add the squares of sum_t g_t a_t' over the samples; g is (m, t, rows), a (m, t, columns)."""
    if a.shape[1] == 1:
        total.addmm_(g[:, 0].square().T, a[:, 0].square())
        return
    size = max(1, _NUMBERS // total.numel())
    for start in range(0, len(a), size):
        part = torch.bmm(g[start : start + size].transpose(1, 2), a[start : start + size])
        total.add_(part.square_().sum(0))


def _eigen_or_own(B: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return eigenvalues and eigenvectors; of a diagonal itself and None, the identity."""
    return (B, None) if B.ndim == 1 else eigen(B)


@dataclass(frozen=True)
class Block:
    r"""One layer's matrix P \otimes Q diag(values) (P \otimes Q)', zero beyond Q's span.

    P is the identity where it is None.
    """

    layer: Layer
    P: Tensor | None
    Q: Tensor
    values: Tensor

    def apply(self, V: Tensor) -> Tensor:
        """Multiply by a matrix in the layer's shape."""
        return self._back(self._into(V) * self.values)

    def solve(self, V: Tensor, shift: float) -> Tensor:
        """Solve with the shifted matrix; without a shift, in its range alone."""
        C = self._into(V)
        if shift == 0.0:
            floor = torch.finfo(V.dtype).eps * max(V.shape)
            keep = self.values > floor * self.values.max()
            return self._back(torch.where(keep, C / torch.where(keep, self.values, 1), 0))
        # (V - P C Q') / shift beyond the span, C / (values + shift) in it, put together.
        inside = self._back(C * (self.values / (self.values + shift)))
        out: Tensor = (V - inside) / shift
        return out

    def diagonal(self) -> Tensor:
        """Return the diagonal in the layer's shape."""
        rows = self.values if self.P is None else self.P.square() @ self.values
        return rows @ self.Q.square().T

    def _into(self, V: Tensor) -> Tensor:
        """Return P'V Q."""
        return (V if self.P is None else self.P.T @ V) @ self.Q

    def _back(self, C: Tensor) -> Tensor:
        """Return P C Q'."""
        return (C if self.P is None else self.P @ C) @ self.Q.T


class KroneckerOperator(LinearOperator):
    """The block-diagonal matrix of Kronecker products plus l2 I, with its inverse.

    Parameters
    ----------
    passes : FactorPasses
        Give the factors.
    corrected : bool
        Whether the eigenvalues are corrected (EKFAC).

    Attributes
    ----------
    blocks : list of Block
        Of each layer with factors: its eigenvectors and eigenvalues.
    without : list of str
        Names of the parameters of which the diagonal stands in for a block.
    wide : list of str
        Names of the weights of which a side is too wide for a matrix as factor.
    """

    def __init__(self, passes: FactorPasses, *, corrected: bool) -> None:
        f = passes.passes
        super().__init__(f.dim, f.dtype, f.device)
        self._f = f
        factors = passes.factors()
        # The samples' own gradients, by which EKFAC corrects, leave the range of reduced inputs.
        whole = corrected and passes.how.sharing == "reduce"
        eigens = {
            layer: (_eigen_or_own(B), factors.inputs[layer].eigen(whole=whole))
            for layer, B in factors.gradients.items()
        }
        bases = {layer: (P, Q) for layer, ((_, P), (_, Q)) in eigens.items()}
        if corrected:
            values = passes.corrected(bases)
        else:
            values = {layer: torch.outer(b, a) for layer, ((b, _), (a, _)) in eigens.items()}
        self.blocks = [Block(layer, *bases[layer], values[layer]) for layer in bases]
        self._diagonals = factors.diagonals
        self.without = named(f, factors.diagonals)
        wide = [k for k, A in factors.inputs.items() if A.wide or bases[k][0] is None]
        self.wide = named(f, (layer.weight for layer in wide))

    def matvec(self, v: Tensor) -> Tensor:
        """Multiply by a vector of shape (dim,)."""
        return self._mapped(
            v,
            lambda block, V: block.apply(V).add_(V, alpha=self._f.l2),
            lambda d, x: (d + self._f.l2) * x,
        )

    def solve(self, b: Tensor, shift: float = 0.0) -> Tensor:
        """Solve (A + shift I) x = b, b of shape (dim,); where A is singular, in its range."""
        total = self._f.l2 + shift
        return self._mapped(
            b,
            lambda block, V: block.solve(V, total),
            lambda d, x: torch.where(d + total != 0, x / (d + total), 0),
        )

    def diagonal(self) -> Tensor:
        """Return the diagonal, shape (dim,)."""
        return self._mapped(
            torch.ones(self.shape[0], dtype=self.dtype, device=self.device),
            lambda block, V: block.diagonal().add_(self._f.l2),
            lambda d, x: d + self._f.l2,
        )

    def _mapped(
        self,
        v: Tensor,
        block: Callable[[Block, Tensor], Tensor],
        diagonal: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Apply a function to each layer's matrix [W b], and one to parameters without factors."""
        out = torch.empty_like(v)
        parts, outs = self._f.split(v), self._f.split(out)
        for one in self.blocks:
            one.layer.separate(block(one, one.layer.joined(parts)), outs)
        for number, d in self._diagonals.items():
            outs[number].copy_(diagonal(d, parts[number]))
        return out
