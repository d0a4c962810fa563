"""What a network's passes over its samples share: the parts, the spans, and how spans add up."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from newton_krylov.data.dataset import Split
from newton_krylov.objectives.base import Counts
from newton_krylov.objectives.network.chunks import Chunks
from newton_krylov.objectives.network.forward import Watch
from newton_krylov.objectives.network.inputs import Activations, Inputs
from newton_krylov.objectives.network.layout import Layout, Stage, run
from newton_krylov.objectives.network.loss import Loss
from newton_krylov.objectives.network.noise import Noise


@dataclass(frozen=True, eq=False)
class Passes:
    """A network's passes over some samples, as a function of the free parameters.

    Attributes
    ----------
    stages : sequence of Stage
        From the first with a free parameter to the last.
    layout : Layout
        Layout of all the network's parameters.
    numbers : sequence of int
        Indices of the free parameters, ascending.
    base : Tensor or None, shape (layout.dim,)
        The whole network's weights, where some are held.
    inputs : Inputs
        Inputs of the first stage.
    y : Tensor, shape (n, ...)
        Targets.
    loss : Loss
        Loss of outputs and targets.
    l2 : float
        The factor of |w|^2 / 2 over the whole network's weights.
    chunks : Chunks
        Cuts the samples into spans.
    counts : Counts
        Counters of the objective.
    share : float
        The part of all samples that these are; what their evaluations count.
    training : Split or None
        The same samples as a split, where these are all of the training's, without noise.
    """

    stages: Sequence[Stage]
    layout: Layout
    numbers: Sequence[int]
    base: Tensor | None
    inputs: Inputs
    y: Tensor
    loss: Loss
    l2: float
    chunks: Chunks
    counts: Counts
    share: float
    training: Split | None

    # -- other passes of the same network ----------------------------------------------------

    def take(self, index: Tensor, drawn: Noise | None) -> "Passes":
        """Return the passes over some samples, shape (m,), int64; None keeps the noise."""
        return replace(
            self,
            inputs=self.inputs.take(index, drawn),
            y=self.y[index],
            share=self.share * len(index) / self.n,
            training=None,
        )

    def restricted(self, layers: Sequence[str], w: Tensor) -> "Passes":
        """Return the passes as a function of some layers' weights, the others held as in w."""
        base = self.embed(w).detach()
        numbers = numbers_of(self.layout, layers)
        places = [k for k, stage in enumerate(self.stages) if stage.reads(numbers)]
        front, inputs = self.stages[: places[0]], self.inputs
        if front:
            tensors = self.layout.views(base)
            inputs = Activations(inputs, front, tensors, self.chunks)
        return replace(
            self,
            stages=self.stages[places[0] :],
            numbers=numbers,
            base=base,
            inputs=inputs,
            training=None,
        )

    # -- samples and spans -------------------------------------------------------------------

    @property
    def n(self) -> int:
        """How many samples there are."""
        return len(self.y)

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """The spans of samples that pass through the network together; each has a loss."""
        spans = self.chunks.spans(self.n, self.stages)
        weights = self.loss.weights(self.y, spans)
        return [span for span, weight in zip(spans, weights, strict=True) if weight != 0]

    @cached_property
    def _weights(self) -> list[float]:
        return self.loss.weights(self.y, self.spans)

    @property
    def kept_graphs(self) -> int:
        """How many spans' graphs fit in the memory."""
        return self.chunks.kept_graphs(self.spans, self.stages)

    def weight(self, number: int) -> float:
        """Return the factor of one span's loss in that of all: its share of the samples."""
        return self._weights[number]

    def shares(self, number: int) -> Tensor | None:
        """Return what each row of one span's outputs weighs in its loss; None if all alike."""
        return self.loss.shares(self.y[slice(*self.spans[number])])

    # -- the flat vector ---------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return self.chunks.dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.chunks.device

    @cached_property
    def shapes(self) -> list[torch.Size]:
        """Shapes of the free parameters."""
        return [self.layout.shapes[number] for number in self.numbers]

    @cached_property
    def sizes(self) -> list[int]:
        """How many numbers each free parameter has."""
        return [shape.numel() for shape in self.shapes]

    @property
    def dim(self) -> int:
        """How many free weights there are."""
        return sum(self.sizes)

    def split(self, v: Tensor) -> list[Tensor]:
        """Cut a flat vector, shape (dim,), into views of the free parameters' shapes."""
        parts = torch.split(v, self.sizes)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def embed(self, w: Tensor) -> Tensor:
        """Return the whole network's weights, the held ones as they are; w where none is held."""
        if self.base is None:
            return w
        whole = self.base.clone()
        views = self.layout.views(whole)
        for number, part in zip(self.numbers, self.split(w), strict=True):
            views[number].copy_(part)
        return whole

    def leaves(self, w: Tensor) -> list[Tensor]:
        """Return the free parameters at w as leaves of a new graph."""
        return [part.detach().requires_grad_() for part in self.split(w)]

    def tensors(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        """Return all the network's parameters, by number, the free ones being `leaves`."""
        if self.base is None:
            return list(leaves)
        tensors = self.layout.views(self.base)
        for number, leaf in zip(self.numbers, leaves, strict=True):
            tensors[number] = leaf
        return tensors

    # -- evaluations -------------------------------------------------------------------------

    def outputs(
        self,
        leaves: Sequence[Tensor],
        number: int,
        *,
        linearized: bool = False,
        watch: Watch | None = None,
    ) -> Tensor:
        """Run the network on one span of the samples.

        Parameters
        ----------
        leaves : sequence of Tensor
            The free parameters.
        number : int
            Index of the span.
        linearized : bool
            Whether the graph is for products with the Jacobian alone.
        watch : callable, optional
            Shown each call of a function of torch.

        Returns
        -------
        Tensor, shape (n, ...)
            The outputs.
        """
        start, stop = self.spans[number]
        x = self.inputs.span(start, stop)
        mode = self.inputs.mode(start, stop, linearized=linearized, watch=watch)
        outputs: Tensor = run(self.stages, self.tensors(leaves), x, mode)
        return outputs

    def span_loss(self, outputs: Tensor, number: int) -> Tensor:
        """Return the loss of one span, without the regularizer."""
        return self.loss(outputs, self.y[slice(*self.spans[number])])

    def drawn_gradient(self, outputs: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """Return the gradient by one span's outputs of its loss at targets drawn from them."""
        y = self.y[slice(*self.spans[number])]
        return self.loss.drawn_gradient(outputs, y, generator)

    def mean_of(self, spans: Iterable[Sequence[Tensor]]) -> Tensor:
        """Average what belongs to the parameters over the spans, by their samples.

        Parameters
        ----------
        spans : iterable of sequence of Tensor
            For each span, one tensor for each free parameter; consumed one by one.

        Returns
        -------
        Tensor, shape (dim,)
            Flat; never an alias.
        """
        total = torch.empty(self.dim, dtype=self.dtype, device=self.device)
        views = self.split(total)
        for number, parts in enumerate(spans):
            weight = self.weight(number)
            for view, part in zip(views, parts, strict=True):
                if number == 0:
                    torch.mul(part, weight, out=view)
                else:
                    view.add_(part, alpha=weight)
        return total

    def regularized(self, total: Tensor, v: Tensor) -> Tensor:
        """Add l2 v to a tensor, in place, and return it."""
        return total.add_(v, alpha=self.l2) if self.l2 > 0 else total

    def penalty(self, w: Tensor) -> float:
        """Return l2/2 |w|^2 over the whole network's weights."""
        return 0.5 * self.l2 * (_square(w) + self._held_square) if self.l2 > 0 else 0.0

    @cached_property
    def _held_square(self) -> float:
        """The sum of squares of the weights that are held."""
        if self.base is None:
            return 0.0
        free, views = set(self.numbers), self.layout.views(self.base)
        return sum(_square(view) for number, view in enumerate(views) if number not in free)


def numbers_of(layout: Layout, layers: Iterable[str]) -> list[int]:
    """Return the numbers of some layers' parameters, ascending."""
    return sorted({number for layer in layers for number in layout.layers[layer]})


def _square(v: Tensor) -> float:
    """Return |v|^2, summed in float64."""
    return float(v.double().square().sum())
