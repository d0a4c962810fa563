"""How well a network does on a split: one forward pass, and less where little has changed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from newton_krylov.data.dataset import Split
from newton_krylov.objectives.network.chunks import Chunks
from newton_krylov.objectives.network.forward import FixedForward, Statistics
from newton_krylov.objectives.network.inputs import Activations, Inputs, Samples
from newton_krylov.objectives.network.layout import Layout, Stage, run
from newton_krylov.objectives.network.loss import Loss
from newton_krylov.objectives.network.passes import Passes

_CALIBRATION = 1000
"""Training samples whose statistics stand for all in batch norm."""


@dataclass
class _Kept:
    """What is known of a split since its last evaluation."""

    X: Tensor  # the split's samples, by which it is recognized
    at: tuple[Tensor, Tensor | None]  # the free weights, and the network's that embed them
    w: Tensor  # the same, whole
    result: tuple[float, float]
    inputs: Inputs  # what the stages in front of `depth` make of the samples
    depth: int


class Evaluator:
    """Evaluates a network on splits, dropout off.

    Batch norm normalizes by the statistics of a fixed part of the training samples at the very
    weights: a function of the weights alone, unlike running averages (Wu and Johnson, "Rethinking
    'Batch' in BatchNorm", 2021, find it more accurate, too).

    Parameters
    ----------
    stages : sequence of Stage
        The network.
    layout : Layout
        Layout of the network's weights.
    loss : Loss
        Loss of outputs and targets.
    training : Samples
        All training samples.
    chunks : Chunks
        Cut the samples, and say how many bytes a split's activations may take.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        layout: Layout,
        loss: Loss,
        training: Samples,
        chunks: Chunks,
    ) -> None:
        self._stages, self._layout, self._loss = stages, layout, loss
        self._training, self._chunks = training, chunks
        self._splits: list[_Kept] = []

    @torch.no_grad()
    def __call__(self, passes: Passes, w: Tensor, split: Split) -> tuple[float, float]:
        """Return mean loss and accuracy; the last answer for each split is kept.

        A split is recognized by its tensor of samples, an argument by its tensor of weights:
        neither may be changed in place. Where only the last layers' weights have changed since the
        last time, and the time before, what the layers in front of them compute is kept as well.

        Parameters
        ----------
        passes : Passes
            Passes of the network, whole or restricted to some layers.
        w : Tensor, shape (passes.dim,)
            Free weights.
        split : Split
            Samples and targets.

        Returns
        -------
        tuple of float
            The loss, and the share of rightly predicted classes; nan for a regression.
        """
        at = w, passes.base
        kept = next((known for known in self._splits if known.X is split.X), None)
        if kept is None:
            whole, samples = passes.embed(w), self._training.like(split.X)
            kept = _Kept(split.X, at, whole, (math.nan, math.nan), samples, 0)
            kept.result = self._evaluate(kept, split)
            self._splits.append(kept)
        elif kept.at[0] is not w or kept.at[1] is not passes.base:
            kept.at = at
            self._advance(kept, passes.embed(w))
            kept.result = self._evaluate(kept, split)
        return kept.result

    def _advance(self, kept: _Kept, w: Tensor) -> None:
        """Take new weights, and keep the activations in front of the first that changed."""
        changed = self._first_change(kept.w, w)
        kept.w = w
        if changed == kept.depth or self._chunks.seen.batch_norm:
            return
        front, kept.depth = self._stages[:changed], changed
        samples = self._training.like(kept.X)
        if not front:
            kept.inputs = samples
            return
        kept.inputs = Activations(samples, front, self._layout.views(w), self._chunks)

    def _first_change(self, before: Tensor, after: Tensor) -> int:
        pairs = list(zip(self._layout.views(before), self._layout.views(after), strict=True))
        for stage in self._stages:
            if any(not torch.equal(*pairs[number]) for number in stage.parameters.values()):
                return stage.number
        return len(self._stages) - 1

    def _evaluate(self, kept: _Kept, split: Split) -> tuple[float, float]:
        tensors, statistics = self._layout.views(kept.w), self._statistics(kept.w)
        stages, classes = self._stages[kept.depth :], not split.y.is_floating_point()
        spans = self._chunks.pieces(len(split), self._stages)
        sums = self._loss.sums(split.y, spans)
        whole, loss, right = [], 0.0, 0.0
        for (start, stop), part in zip(spans, sums, strict=True):
            x = kept.inputs.span(start, stop)
            z = run(stages, tensors, x, FixedForward(statistics=statistics))
            y = split.y[start:stop]
            if self._loss.whole:
                whole.append(z)
            elif part:
                loss += float(self._loss(z, y)) * part
            right += float((z.argmax(1) == y).sum()) if classes and z.ndim > 1 else math.nan
        if self._loss.whole:
            return float(self._loss(torch.cat(whole), split.y)), right / split.y.numel()
        return loss / sum(sums), right / split.y.numel()

    def _statistics(self, w: Tensor) -> Statistics | None:
        if not self._chunks.seen.batch_norm:
            return None
        found: Statistics = {}
        n = len(self._training)
        index = torch.linspace(0, n - 1, min(n, _CALIBRATION), device=w.device).round().long()
        x = self._training.take(index, None).span(0, len(index))
        run(self._stages, self._layout.views(w), x, FixedForward(collect=found))
        return found
