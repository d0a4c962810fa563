"""A network with a criterion as an objective of one flat vector, by layers or whole."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from newton_krylov.allocator import keep_freed_memory
from newton_krylov.capabilities import LAYERS, LIKELIHOOD, SAMPLE_GRADIENTS, SAMPLES
from newton_krylov.data.dataset import Split
from newton_krylov.data.images import Images
from newton_krylov.errors import ConfigError
from newton_krylov.objectives.base import Counts, Layered
from newton_krylov.objectives.network.chunks import BATCH_NORM_CHUNK, Chunks
from newton_krylov.objectives.network.evaluation import Evaluator
from newton_krylov.objectives.network.graphs import Criterion, import_early
from newton_krylov.objectives.network.inputs import Samples, augmented, readable
from newton_krylov.objectives.network.layout import Layout, layers_below, tensors_of
from newton_krylov.objectives.network.loss import tried
from newton_krylov.objectives.network.noise import Noise
from newton_krylov.objectives.network.passes import Passes
from newton_krylov.objectives.network.point import ByPasses, NetworkPoint
from newton_krylov.objectives.network.private import copied, hold_frozen
from newton_krylov.objectives.network.probe import probe

GIB = 2.0**30
_EVALUATION_SHARE = 0.25  # of the memory, for each split's activations


class Network(ByPasses, Layered):
    """Mean loss of a network's outputs plus an L2 term, as a function of its weights.

    The weights are one flat vector in the order of `named_parameters`; `blocks` says where each
    layer lies. `restricted` frees some layers and holds the others, `subset` binds to a batch;
    both return objectives on which every optimizer, curvature and line search works unchanged.

    An objective is ONE function: the dropout masks of a batch depend on its noise seed and the
    sample alone, batch norm normalizes each span of at most `chunk` samples by the span's own
    statistics, and nothing depends on what was evaluated before: buffers and attributes that a
    forward pass changes are put back after it, and a module whose value changes nevertheless is
    refused. The module given is not changed.

    Parameters
    ----------
    module : nn.Module
        Takes a batch, samples first. Its present weights are the start; a copy is kept. Frozen
        parameters (`requires_grad=False`) are no weights: they stay as they are.
    criterion : callable
        (outputs, targets) -> mean loss over the samples. Where the mean over a batch is not that
        of its parts, weighted by classes at most, all samples pass through the network together.
    X : Tensor, shape (n_samples, ...), or a tuple or dict of such
        Inputs: numbers, or bytes with `images`. A tuple or dict is passed as arguments, if the
        module takes them so, and else as one.
    y : Tensor, shape (n_samples, ...)
        Targets; of shape (n_samples r, ...) where the outputs have r rows for each sample.
    output : callable, optional
        From what the module returns to its outputs, a tensor.
    l2 : float
        The factor lambda >= 0 of |w|^2 / 2, over all of the network's weights.
    chunk : int, optional
        Samples in one forward pass; by default as many as keep the processor's caches and memory
        pages in use, or a GPU busy.
    together : int or None
        The same where a sample's outputs depend on the samples beside it, as with batch norm:
        None takes all.
    memory : float
        Bytes that each of the caches may take: of the graphs that Hessian products reuse, and of
        frozen layers' activations.
    images : Images, optional
        How bytes become inputs.
    channels_last : bool
        Whether images may be given with the channels last in memory, which is faster; a module
        that does not take them so gets them as they are.
    dtype : torch.dtype, optional
        Precision of the weights; by default as they are.
    convex_loss : bool
        Whether the criterion is convex in the outputs.
    free : bool
        Whether frozen parameters are weights like the others.

    Raises
    ------
    UnsupportedError
        If the network has no weights to train, or not of one real type; if it draws random numbers
        other than dropout, changes its input in place, or returns what is no tensor with samples
        first; or if the criterion does not return one number.

    Attributes
    ----------
    passes : Passes
        Over the samples that it is bound to, as a function of its free weights.
    layout : Layout
        Layout of the whole network's weights.
    blocks : dict of str to slice
        Each free layer's place in the flat vector, by the name of the module that owns it.
    """

    offers = frozenset({SAMPLES, SAMPLE_GRADIENTS, LIKELIHOOD, LAYERS})

    def __init__(
        self,
        module: nn.Module,
        criterion: Criterion,
        X: Any,
        y: Tensor,
        *,
        output: Callable[[Any], Tensor] | None = None,
        l2: float = 0.0,
        chunk: int | None = None,
        together: int | None = BATCH_NORM_CHUNK,
        memory: float = 4 * GIB,
        images: Images | None = None,
        channels_last: bool = False,
        dtype: torch.dtype | None = None,
        convex_loss: bool = True,
        free: bool = False,
    ) -> None:
        device = tensors_of(X)[0].device
        if device.type == "cpu":
            keep_freed_memory()
        import_early()
        self._module = copied(module, device, dtype)
        if not free:
            hold_frozen(self._module)
        self._convex_loss = convex_loss
        self.counts, self.layout = Counts(), Layout(self._module)
        self._start = torch.cat([p.detach().reshape(-1) for p in self._module.parameters()])
        dtype = self._start.dtype
        samples = Samples(readable(X), dtype, images, channels_last=channels_last)
        rows = _rows(len(samples), len(y))
        y = y.clone() if y.is_inference() else y
        found = probe(self._module, samples, output, rows)
        loss = tried(criterion, found.outputs, y)
        if rows > 1:
            y, loss = y.view(len(samples), rows, *y.shape[1:]), replace(loss, rows=True)
        chunks = Chunks(found.seen, chunk, together, loss.whole, memory, dtype, device)
        split = isinstance(X, Tensor) and rows == 1 and not found.seen.batch_norm
        self._bind(
            Passes(
                stages=found.stages,
                layout=self.layout,
                numbers=range(len(self.layout.names)),
                base=None,
                inputs=found.samples,
                y=y,
                loss=loss,
                l2=l2,
                chunks=chunks,
                counts=self.counts,
                share=1.0,
                training=Split(X, y) if split else None,
            )
        )
        kept = replace(chunks, memory=memory * _EVALUATION_SHARE)
        self._evaluator = Evaluator(found.stages, self.layout, loss, found.samples, kept)

    def _bind(self, passes: Passes) -> None:
        self.passes = passes
        self.dim, self.dtype, self.device = passes.dim, passes.dtype, passes.device
        self.y, self.n_samples, self.l2 = passes.y, passes.n, passes.l2
        self._blocks = _blocks(passes)
        linear = self._convex_loss and _is_linear(passes)
        self.convexity = passes.l2 if linear else None

    def _over(self, passes: Passes) -> "Network":
        """Return an objective over other passes of the same network."""
        part = copy.copy(self)
        part._bind(passes)
        return part

    @property
    def share(self) -> float:
        """The part of all samples that it is bound to; what its evaluations count."""
        return self.passes.share

    @share.setter
    def share(self, share: float) -> None:
        self._bind(replace(self.passes, share=share))

    def initial(self) -> Tensor:
        """Return the weights that the module came with, shape (dim,).

        Of a restriction, the weights at which it was made.
        """
        whole = self._start if self.passes.base is None else self.passes.base
        views = self.layout.views(whole)
        return torch.cat([views[number].reshape(-1) for number in self.passes.numbers])

    @property
    def blocks(self) -> dict[str, slice]:
        """Each free layer's place in the flat vector."""
        return self._blocks

    def embed(self, w: Tensor) -> Tensor:
        """Return the whole network's weights.

        Parameters
        ----------
        w : Tensor, shape (dim,)
            The free layers' weights.

        Returns
        -------
        Tensor, shape (dim of the whole,)
            With the held layers' weights as they are; `w` itself where none is held.
        """
        return self.passes.embed(w)

    def parameters(self, w: Tensor) -> list[Tensor]:
        """Return the free parameters, each in its own shape, as views of w, shape (dim,)."""
        return self.passes.split(w)

    def kernels(self, w: Tensor) -> list[Tensor]:
        """Return the free kernels of convolutions, each in its own shape, as views of w.

        Of a parametrized one (weight norm) it is what has the kernel's shape.
        """
        names = [self.layout.names[number] for number in self.passes.numbers]
        owners = [self._module.get_submodule(_owner(name)) for name in names]
        parts = zip(owners, self.parameters(w), strict=True)
        return [p for o, p in parts if isinstance(o, _ConvNd) and p.shape[2:] == o.kernel_size]

    def at(self, w: Tensor) -> NetworkPoint:
        """Evaluate at w, shape (dim,)."""
        if w.shape != (self.dim,):
            raise ValueError(f"expected w of shape ({self.dim},), got {tuple(w.shape)}")
        training = self.passes.training
        evaluated = None if training is None else lambda w: self.evaluate(w, training)[0]
        return NetworkPoint(self, w, evaluated)

    # -- other objectives of the same network ------------------------------------------------

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
        drawn = Noise(noise, torch.arange(len(index))) if isinstance(noise, int) else noise
        return self._over(self.passes.take(index, drawn))

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
        random = bool(self.passes.chunks.seen.dropout) or augmented(self.passes.inputs)
        return int(torch.randint(2**62, (), generator=generator)) if random else None

    def restricted(self, layers: Sequence[str], w: Tensor) -> "Network":
        """Free some layers' weights and hold the others.

        Parameters
        ----------
        layers : sequence of str
            Names of free layers, keys of `blocks`, or of modules that contain some; their order
            does not matter.
        w : Tensor, shape (dim,)
            This objective's weights; the other layers are held at theirs.

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
        free = layers_below(self.blocks, layers)
        return self._over(self.passes.restricted(free, w))

    # -- evaluations -------------------------------------------------------------------------

    def rounding(self, value: float) -> float:
        """Return how far a computed value can be off by rounding alone.

        The loss is summed in float64, so what is left is the rounding of the outputs. It is up to
        a third of a unit in the last place of the loss (of the paper's network and of small ones,
        float32 against float64, before and after training) and vanishes with the loss, whose
        derivative by the outputs does.
        """
        return 4 * torch.finfo(self.dtype).eps * max(abs(value), torch.finfo(self.dtype).tiny)

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
        return self._evaluator(self.passes, w, split)

    def accuracy(self, w: Tensor, split: Split) -> float | None:
        """Return the share of the split's samples that w classifies rightly."""
        accuracy = self.evaluate(w, split)[1]
        return None if math.isnan(accuracy) else accuracy

    def data_loss(self, w: Tensor, split: Split) -> float | None:
        """Return the mean loss over the split's samples, without the regularizer."""
        return self.evaluate(w, split)[0]


def _rows(n: int, targets: int) -> int:
    """Return how many targets each of n samples has."""
    if n == 0:
        raise ValueError("there are no samples")
    if targets == 0 or targets % n:
        raise ValueError(f"{n} inputs, but {targets} targets")
    return targets // n


def _owner(name: str) -> str:
    """Return the module whose parameter it is by name, or, parametrized, whose it stands for."""
    path = name.split(".")
    return ".".join(path[: path.index("parametrizations") if "parametrizations" in path else -1])


def _blocks(passes: Passes) -> dict[str, slice]:
    """Return where each layer that is free as a whole lies in the flat vector."""
    of_layers, free = passes.layout.layers, set(passes.numbers)
    layers = [layer for layer, numbers in of_layers.items() if free.issuperset(numbers)]
    shapes = passes.layout.shapes
    lengths = [sum(shapes[k].numel() for k in of_layers[layer]) for layer in layers]
    places = pairwise(accumulate(lengths, initial=0))
    return {layer: slice(*place) for layer, place in zip(layers, places, strict=True)}


def _is_linear(passes: Passes) -> bool:
    """Return whether the outputs are linear in the free weights."""
    last = passes.stages[-1]
    own = set(last.parameters.values())
    return isinstance(last.module, nn.Linear) and own >= set(passes.numbers)
