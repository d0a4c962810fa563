"""A network with a criterion as an objective of one flat vector, by layers or whole."""

import copy
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from newton_krylov.allocator import keep_freed_memory
from newton_krylov.capabilities import LABELLED, LAYERS, SAMPLE_GRADIENTS, SAMPLES
from newton_krylov.data.dataset import Dataset, Split
from newton_krylov.data.images import Images
from newton_krylov.errors import CombinationError, ConfigError, UnsupportedError, suggest
from newton_krylov.objectives.base import Counts, Objective
from newton_krylov.objectives.network.curvature import Criterion, import_early
from newton_krylov.objectives.network.evaluation import Evaluator
from newton_krylov.objectives.network.forward import FixedForward, Seen
from newton_krylov.objectives.network.inputs import Activations, Inputs, Samples, augmented, dense
from newton_krylov.objectives.network.layout import (
    Layout,
    Stage,
    even_spans,
    run,
    stages_of,
)
from newton_krylov.objectives.network.noise import BLOCK, Noise
from newton_krylov.objectives.network.point import NetworkPoint
from newton_krylov.registry import register

GIB = 2.0**30
# Bytes of activations in one forward pass. On a CPU 128 samples of the paper's network: as fast as
# 1,000 where freed memory is kept, up to a third faster where it is not, and in an eighth of the
# memory. A GPU wants enough samples to be busy.
_CHUNK_BYTES = {"cpu": 128e6, "cuda": 4e9}
_BATCH_NORM_CHUNK = 500
_EVALUATION_SHARE = 0.25  # of the memory, for each split's activations
# A graph that is differentiated twice keeps about three tensors for each that a forward pass makes.
_TENSORS_KEPT = 3


class Network(Objective):
    """Mean loss of a network's outputs plus an L2 term, as a function of its weights.

    The weights are one flat vector in the order of `named_parameters`; `blocks` says where each
    layer lies. `restricted` frees some layers and holds the others, `subset` binds to a batch;
    both return objectives on which every optimizer, curvature and line search works unchanged.

    An objective is ONE function: the dropout masks of a batch depend on its noise seed and the
    sample alone, batch norm normalizes each span of at most `chunk` samples by the span's own
    statistics, and nothing depends on what was evaluated before. The module given is not changed,
    nor are its buffers.

    Parameters
    ----------
    module : nn.Module
        Takes a batch, samples first. Its present weights are the start; a copy is kept.
    criterion : callable
        (outputs, targets) -> mean loss over the samples.
    X : Tensor, shape (n_samples, ...)
        Inputs: numbers, or bytes with `images`.
    y : Tensor, shape (n_samples, ...)
        Targets.
    l2 : float
        The factor lambda >= 0 of |w|^2 / 2, over all of the network's weights.
    chunk : int, optional
        Samples in one forward pass; by default as many as keep the processor's caches and memory
        pages in use, or a GPU busy.
    memory : float
        Bytes that each of the caches may take: of the graphs that Hessian products reuse, and of
        frozen layers' activations.
    images : Images, optional
        How bytes become inputs.
    dtype : torch.dtype, optional
        Of the weights; by default as they are.
    convex_loss : bool
        Whether the criterion is convex in the outputs.

    Raises
    ------
    UnsupportedError
        If the network has no weights, draws random numbers other than dropout, or changes its
        input in place.

    Attributes
    ----------
    blocks : dict of str to slice
        Each free layer's place in the flat vector, by the name of the module that owns it.
    share : float
        Of all samples; what a subset's evaluations count.
    """

    offers = frozenset({SAMPLES, SAMPLE_GRADIENTS, LAYERS})

    def __init__(
        self,
        module: nn.Module,
        criterion: Criterion,
        X: Tensor,
        y: Tensor,
        *,
        l2: float = 0.0,
        chunk: int | None = None,
        memory: float = 4 * GIB,
        images: Images | None = None,
        dtype: torch.dtype | None = None,
        convex_loss: bool = True,
    ) -> None:
        if X.device.type == "cpu":
            keep_freed_memory()
        import_early()
        if not any(True for _ in module.parameters()):
            raise UnsupportedError("The network has no weights to train.")
        dtype = dtype or next(module.parameters()).dtype
        self._module = copy.deepcopy(module).to(X.device, dtype)
        self._criterion, self._convex_loss = criterion, convex_loss
        self.l2, self._chunk, self.memory = l2, chunk, memory
        self.layout = Layout(self._module)
        self._stages = stages_of(self._module)
        self.dtype, self.device = dtype, X.device
        self.counts, self.share = Counts(), 1.0
        samples = Samples(dense(X), dtype, images)
        self._inputs: Inputs = samples
        self._training = self._inputs, Split(X, y)  # all samples, without noise
        self._base: Tensor | None = None  # the whole network's weights, where some are held
        self._embedded: tuple[Tensor, Tensor] | None = None  # the last argument and its answer
        self._first = 0  # the first stage with a free weight
        self._bind(y)
        self._free(list(self.layout.layers))
        self._seen = self._probe()
        self._evaluator = Evaluator(
            self._stages,
            self.layout,
            criterion,
            samples,
            self._seen,
            self._spans,
            memory * _EVALUATION_SHARE,
        )

    # -- the parts of it ---------------------------------------------------------------------

    def _bind(self, y: Tensor) -> None:
        self.y, self.n_samples = y, len(y)

    def _free(self, layers: Sequence[str]) -> None:
        of_layers = self.layout.layers
        self._numbers = sorted({number for layer in layers for number in of_layers[layer]})
        sizes = [self.layout.shapes[number].numel() for number in self._numbers]
        self.dim = sum(sizes)
        self.blocks, start = {}, 0
        for layer in (name for name in of_layers if name in layers):
            block = self.layout.block(layer)
            stop = start + block.stop - block.start
            self.blocks[layer] = slice(start, stop)
            start = stop
        self.convexity = self.l2 if self._is_convex() else None

    def _is_convex(self) -> bool:
        """Tell whether the outputs are linear in the free weights."""
        last = self._stages[-1]
        own = set(last.parameters.values())
        return (
            self._convex_loss and isinstance(last.module, nn.Linear) and own >= set(self._numbers)
        )

    def _probe(self) -> Seen:
        """Run two samples through the network and note what happens."""
        seen, two = Seen(), torch.arange(min(2, self.n_samples), device=self.device)
        with torch.no_grad():
            x = self._inputs.take(two, None).span(0, len(two))
            run(self._stages, self.layout.views(self.initial()), x, FixedForward(seen=seen))
        for counted in (seen.numbers, seen.outputs):
            counted |= {stage: -(-count // len(two)) for stage, count in counted.items()}
        return seen

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """The spans of samples that pass through the network together."""
        return self._spans(self.n_samples, self._stages[self._first :])

    def _spans(self, n: int, stages: Sequence[Stage]) -> list[tuple[int, int]]:
        if self._seen.batch_norm:  # then the spans are part of what the function is
            return even_spans(n, self._chunk or _BATCH_NORM_CHUNK)
        return even_spans(n, self._chunk or self._suitable_chunk(stages), BLOCK)

    def _suitable_chunk(self, stages: Sequence[Stage]) -> int:
        budget = _CHUNK_BYTES["cpu" if self.device.type == "cpu" else "cuda"]
        chunk = int(budget / self._bytes_per_sample(stages))
        return max(1, chunk // BLOCK * BLOCK or chunk)

    def _bytes_per_sample(self, stages: Sequence[Stage]) -> float:
        numbers = sum(self._seen.numbers.get(stage.number, 0) for stage in stages)
        return max(1, numbers) * torch.finfo(self.dtype).bits / 8

    @property
    def kept_graphs(self) -> int:
        """How many spans' graphs fit in the memory."""
        widest = max(stop - start for start, stop in self.spans)
        per_sample = _TENSORS_KEPT * self._bytes_per_sample(self._stages[self._first :])
        return int(self.memory / (per_sample * widest))

    def initial(self) -> Tensor:
        """Return the weights that the module came with, shape (dim,).

        Of a restriction, the weights at which it was made.
        """
        parameters = list(self._module.parameters())
        known = parameters if self._base is None else self.layout.views(self._base)
        return torch.cat([known[number].detach().reshape(-1) for number in self._numbers])

    def split(self, v: Tensor) -> list[Tensor]:
        """Cut a flat vector, shape (dim,), into views of the free parameters' shapes."""
        sizes = [self.layout.shapes[number].numel() for number in self._numbers]
        shapes = [self.layout.shapes[number] for number in self._numbers]
        return [part.view(shape) for part, shape in zip(torch.split(v, sizes), shapes, strict=True)]

    def embed(self, w: Tensor) -> Tensor:
        """Return the whole network's weights.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Of the free layers.

        Returns
        -------
        Tensor, shape (dim of the whole,)
            With the held layers' weights as they are; `w` itself where none is held.
        """
        if self._base is None:
            return w
        if self._embedded is None or self._embedded[0] is not w:
            whole = self._base.clone()
            views = self.layout.views(whole)
            for number, part in zip(self._numbers, self.split(w), strict=True):
                views[number].copy_(part)
            self._embedded = w, whole
        return self._embedded[1]

    # -- other objectives of the same network ------------------------------------------------

    def _copy(self, *stale: str) -> "Network":
        """Return another objective that shares all but the cached properties named."""
        part = copy.copy(self)
        for name in stale:
            vars(part).pop(name, None)
        return part

    def at(self, w: Tensor) -> NetworkPoint:
        """Evaluate at w, shape (dim,)."""
        if w.shape != (self.dim,):
            raise ValueError(f"expected w of shape ({self.dim},), got {tuple(w.shape)}")
        return NetworkPoint(self, w)

    def subset(self, index: Tensor, *, noise: int | Noise | None = None) -> "Network":
        """Bind the same network to some samples.

        Parameters
        ----------
        index : Tensor, shape (m,), int64
            Sample numbers.
        noise : int, Noise or None
            Turns dropout and augmentation on, drawn from this seed (a `Noise` numbers the samples
            too, which may be a part of a batch's); None leaves the noise as it is in this
            objective: off, or each sample's own masks.

        Returns
        -------
        Network
            The mean over those samples; the regularizer stays.
        """
        part = self._copy("spans")
        part.share = self.share * len(index) / self.n_samples
        drawn = Noise(noise, torch.arange(len(index))) if isinstance(noise, int) else noise
        part._inputs = self._inputs.take(index, drawn)
        part._bind(self.y[index])
        return part

    def batch(self, index: Tensor, generator: torch.Generator) -> "Network":
        """Bind the same network to a mini-batch of the training.

        Parameters
        ----------
        index : Tensor, shape (m,), int64
            Sample numbers.
        generator : torch.Generator
            Seeds dropout and augmentation, where there are any; else it is left alone.

        Returns
        -------
        Network
            The mean over those samples.
        """
        return self.subset(index, noise=self.noise_seed(generator))

    def noise_seed(self, generator: torch.Generator) -> int | None:
        """Return the seed of a mini-batch's dropout and augmentation; None where there are none."""
        random = bool(self._seen.dropout) or augmented(self._inputs)
        return int(torch.randint(2**62, (), generator=generator)) if random else None

    def restricted(self, layers: Sequence[str], w: Tensor) -> "Network":
        """Free some layers' weights and hold the others.

        Parameters
        ----------
        layers : sequence of str
            Of `blocks`; their order does not matter.
        w : Tensor, shape (dim,)
            Of this objective: where the others are held.

        Returns
        -------
        Network
            A function of those layers' weights alone. What the layers in front of them compute is
            computed once.

        Raises
        ------
        ConfigError
            For an unknown layer, or none.
        """
        if not layers:
            raise ConfigError("optimizer.layers is empty: name at least one layer.")
        for layer in layers:
            if layer not in self.blocks:
                raise ConfigError(
                    f"'{layer}' is not a layer of the network{suggest(layer, self.blocks)}"
                )
        part = self._copy("spans", "_held_square")
        part._base, part._embedded = self.embed(w).detach(), None
        part._free(list(layers))
        part._first = min(
            stage.number
            for stage in self._stages
            if not set(part._numbers).isdisjoint(stage.parameters.values())
        )
        front = self._stages[self._first : part._first]
        if front:
            tensors = self.layout.views(part._base)
            part._inputs = Activations(
                self._inputs, front, tensors, self._seen, self._spans, self.memory
            )
        return part

    # -- evaluations -------------------------------------------------------------------------

    def leaves(self, w: Tensor) -> list[Tensor]:
        """Return the free parameters at w as leaves of a new graph."""
        return [part.detach().requires_grad_() for part in self.split(w)]

    def outputs(self, leaves: Sequence[Tensor], number: int, *, linearized: bool = False) -> Tensor:
        """Run the network on one span of the samples.

        Parameters
        ----------
        leaves : sequence of Tensor
            The free parameters.
        number : int
            Of the span.
        linearized : bool
            Whether the graph is for products with the Jacobian alone.

        Returns
        -------
        Tensor, shape (n, ...)
            The outputs.
        """
        start, stop = self.spans[number]
        x = self._inputs.span(start, stop)
        mode = self._inputs.mode(start, stop, linearized=linearized)
        return run(self._stages[self._first :], self._tensors(leaves), x, mode)

    def _tensors(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        if self._base is None:
            return list(leaves)
        tensors = self.layout.views(self._base)
        for number, leaf in zip(self._numbers, leaves, strict=True):
            tensors[number] = leaf
        return tensors

    def span_loss(self, outputs: Tensor, number: int) -> Tensor:
        """Return the mean loss over one span, without the regularizer, in float64.

        The network's own rounding is what it is; that of the loss, which decides in line
        searches, would come on top and costs nothing to avoid.
        """
        return self._criterion(outputs.double(), self.y[slice(*self.spans[number])])

    def weight(self, number: int) -> float:
        """Return the share of the objective's samples that one span has."""
        start, stop = self.spans[number]
        return (stop - start) / self.n_samples

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
        if self._base is None:
            return 0.0
        free, views = set(self._numbers), self.layout.views(self._base)
        return sum(_square(view) for number, view in enumerate(views) if number not in free)

    def rounding(self, value: float) -> float:
        """Return how far a computed value can be off by rounding alone.

        The loss is summed in float64, so what is left is the rounding of the outputs. It is up to
        a third of a unit in the last place of the loss (of the paper's network and of small ones,
        float32 against float64, before and after training) and vanishes with the loss, whose
        derivative by the outputs does.
        """
        return 4 * torch.finfo(self.dtype).eps * max(abs(value), torch.finfo(self.dtype).tiny)

    @property
    def training(self) -> Split | None:
        """The training split, where evaluating it gives this objective's value without l2."""
        inputs, split = self._training
        whole = self._base is None and self._inputs is inputs
        return split if whole and not self._seen.batch_norm else None

    def evaluate(self, w: Tensor, split: Split) -> tuple[float, float]:
        """Return mean loss and accuracy over a split, in evaluation mode.

        Dropout is off; batch norm normalizes by the statistics of the objective's own samples at
        w. The last answer for each split is kept.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            Parameters.
        split : Split
            Samples and targets.

        Returns
        -------
        tuple of float
            The mean loss without the regularizer, and the share of rightly classified samples; nan
            for a regression.
        """
        return self._evaluator(self.embed(w), split)

    def accuracy(self, w: Tensor, split: Split) -> float | None:
        """Return the share of the split's samples that w classifies rightly."""
        accuracy = self.evaluate(w, split)[1]
        return None if math.isnan(accuracy) else accuracy

    def data_loss(self, w: Tensor, split: Split) -> float | None:
        """Return the mean loss over the split's samples, without the regularizer."""
        return self.evaluate(w, split)[0]


Memory = Annotated[PositiveFloat, Field(lt=1e6)]


class DatasetNetwork(Network):
    """A network as the loss of a run: bound to a data set, named in configurations.

    Subclasses name the criterion and the tasks it is for.
    """

    name: str
    tasks: tuple[str, ...]
    alternatives: str

    def __init__(
        self,
        dataset: Dataset,
        model: nn.Module,
        criterion: Criterion,
        *,
        l2: float,
        chunk: int | None,
        memory: float,
    ) -> None:
        if dataset.task not in self.tasks:
            raise CombinationError(
                f"loss={self.name} needs {self.alternatives}; dataset={dataset.name} is no such."
            )
        X = dataset.train.X
        if X.layout is not torch.strided and X.shape.numel() * X.dtype.itemsize > memory * GIB:
            raise CombinationError(
                f"loss={self.name} reads dense samples, and those of dataset={dataset.name} would "
                f"take more than loss.memory={memory:g} GiB."
            )
        super().__init__(
            model,
            criterion,
            X,
            dataset.train.y,
            l2=l2,
            chunk=chunk,
            memory=memory * GIB,
            images=dataset.images,
        )


@register("loss", "cross_entropy", needs=(LABELLED,))
class CrossEntropy(DatasetNetwork):
    """Mean cross entropy of a network's logits: mean(logsumexp(z) - z_y) + l2/2 |w|^2.

    Parameters
    ----------
    dataset : Dataset
        Of classes; images, or a table of features.
    model : nn.Module
        The network, one logit a class.
    l2 : float
        lambda >= 0, over all weights.
    chunk : int or None
        Samples in one forward pass; None chooses.
    memory : float
        GiB that each cache may take: of Hessian graphs, and of frozen layers' activations.
    """

    name = "cross_entropy"
    tasks = ("binary", "multiclass")
    alternatives = "classes, as dataset=cifar10 or digits_images has them"

    def __init__(
        self,
        dataset: Dataset,
        model: nn.Module,
        l2: NonNegativeFloat = 0.0,
        chunk: PositiveInt | None = None,
        memory: Memory = 4.0,
    ) -> None:
        super().__init__(dataset, model, F.cross_entropy, l2=l2, chunk=chunk, memory=memory)


@register("loss", "mse", needs=(LABELLED,))
class MeanSquaredError(DatasetNetwork):
    """Mean squared error of a network's one output: mean((z - y)^2) / 2 + l2/2 |w|^2.

    Parameters
    ----------
    dataset : Dataset
        A regression.
    model : nn.Module
        The network, one output.
    l2 : float
        lambda >= 0, over all weights.
    chunk : int or None
        Samples in one forward pass; None chooses.
    memory : float
        GiB that each cache may take: of Hessian graphs, and of frozen layers' activations.
    """

    name = "mse"
    tasks = ("regression",)
    alternatives = "real-valued targets, as dataset=diabetes has them"

    def __init__(
        self,
        dataset: Dataset,
        model: nn.Module,
        l2: NonNegativeFloat = 0.0,
        chunk: PositiveInt | None = None,
        memory: Memory = 4.0,
    ) -> None:
        super().__init__(dataset, model, _half_mean_square, l2=l2, chunk=chunk, memory=memory)


def _half_mean_square(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs.squeeze(1) - y).square().mean() / 2


def _square(v: Tensor) -> float:
    """Return |v|^2, summed in float64."""
    return float(v.double().square().sum())
